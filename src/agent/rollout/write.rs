//! What a pass may write, and what follows from what it wrote.
//!
//! Pure.

use std::collections::BTreeSet;

use super::super::target::{Footprint, Target};
use super::{Baseline, Change, Clock, Confirmed, Effect, Phase, QUESTION, Rollout, Written};
use crate::net::nexthop_id;

impl Written {
    /// What of it counts as there.
    fn there(self) -> Footprint {
        if self.left {
            self.installed
        } else {
            self.planned
        }
    }
}

impl Rollout {
    /// A target that was not followed so far; [`reviewed`](Self::reviewed) takes what it would make.
    pub fn to_review(&self) -> Option<Target> {
        let facts = self.held.as_ref()?;
        let candidate = self.candidate()?;
        let settled = matches!(self.phase, Phase::Settled);
        (settled && self.facts != *facts && Some(&candidate) != self.target.as_ref())
            .then_some(candidate)
    }

    /// What the target of [`to_review`](Self::to_review) would make: the same routes are still rejected, others are tried.
    pub fn reviewed(&mut self, planned: &Footprint) {
        if self.has_cut_off(planned) {
            self.held = Some(self.facts.clone());
        } else {
            self.review_failed();
        }
    }

    /// The target of [`to_review`](Self::to_review) clashes: it is followed, so that the clash is reported.
    pub fn review_failed(&mut self) {
        self.held = None;
        self.target = self.candidate();
    }

    /// Whether this cut off the API server before, or what of it was not confirmed did: beside other confirmed routes it is the same.
    fn has_cut_off(&self, planned: &Footprint) -> bool {
        !self.cut_off.is_empty()
            && self
                .fingerprints(planned)
                .iter()
                .any(|print| self.cut_off.contains(print))
    }

    /// Of all of it, and of what is not confirmed.
    pub(super) fn fingerprints(&self, planned: &Footprint) -> Vec<u64> {
        let confirmed = self.confirmed_footprint();
        let beyond = confirmed.map(|confirmed| planned.beyond(confirmed));
        let all = [Some(planned.clone()), beyond].into_iter().flatten();
        all.filter(|part| !part.is_empty())
            .map(|part| part.fingerprint())
            .collect()
    }

    /// Before a pass writes `planned`: what it may write at the most (`None`: all of it), and what is to be done.
    pub fn admit(&mut self, planned: &Footprint, now: Clock) -> (Option<Footprint>, Vec<Effect>) {
        let limit = self.confirmed_footprint().cloned();
        let exceeded = limit.as_ref().is_some_and(|limit| planned.exceeds(limit));
        let cuts_off = self.has_cut_off(planned);
        match &self.phase {
            Phase::RollingBack { .. } | Phase::RolledBack { .. } | Phase::Asking { .. } => {
                (limit.filter(|_| exceeded), Vec::new())
            }
            // Others were asked about than a link has made of them meanwhile.
            Phase::Writing { guarded: Some(_) } if cuts_off && !self.is_new_source() => {
                self.phase = Phase::Settled;
                self.held = Some(self.facts.clone());
                (limit, Vec::new())
            }
            Phase::Confirming { change, .. } if cuts_off && !self.is_new_source() => {
                let grows = limit
                    .as_ref()
                    .is_none_or(|limit| planned.beyond(limit).exceeds(&change.footprint));
                let change = change.clone();
                if grows {
                    // By what was taken back before.
                    return (Some(change.footprint), Vec::new());
                }
                // No more is left of it than what was taken back before: the verdict is known.
                self.target = Some(self.before());
                self.phase = Phase::RollingBack { change };
                (limit, vec![Effect::Pass])
            }
            Phase::Settled if exceeded && self.is_guarded() => {
                if cuts_off {
                    let facts = &self.facts;
                    self.held.get_or_insert_with(|| facts.clone());
                    return (limit, Vec::new());
                }
                self.held = None;
                self.phase = Phase::Asking {
                    until: now + QUESTION,
                    edit: false,
                };
                (limit, vec![Effect::AskForNode])
            }
            _ => (None, Vec::new()),
        }
    }

    /// The records that the kernel should hold before anything else of the next pass is written.
    pub fn records(&self) -> BTreeSet<u32> {
        let mut records = BTreeSet::new();
        let in_force = match &self.phase {
            Phase::Starting | Phase::Inherited { .. } => return records,
            Phase::Confirming { .. }
            | Phase::Writing {
                guarded: Some(_), ..
            } => self.confirmed_target(),
            _ => self.target.as_ref(),
        };
        if let Some(revision) = in_force.and_then(Target::revision) {
            records.extend(nexthop_id::applied(revision));
        }
        let of = |target: &Target, record: fn(&str) -> u32| target.revision().map(record);
        match &self.phase {
            Phase::Writing { guarded: Some(_) } | Phase::Confirming { .. } => {
                records.extend(
                    self.target
                        .as_ref()
                        .and_then(|t| of(t, nexthop_id::unconfirmed)),
                );
            }
            Phase::RollingBack { change } | Phase::RolledBack { change, .. }
                if self.is_edit(change) =>
            {
                records.extend(of(&change.target, nexthop_id::unconfirmed));
                if matches!(self.phase, Phase::RolledBack { whole: true, .. }) {
                    // What is tried once more is not rejected yet.
                    let is_tried_again = change.baseline == Baseline::Unsettled;
                    let rejected = of(&change.target, nexthop_id::rejected);
                    records.extend(rejected.filter(|_| !is_tried_again));
                }
            }
            _ => {}
        }
        records.extend(self.rejected.as_deref().map(nexthop_id::rejected));
        records
    }

    /// The same, with what of those that are `there` has to stay: while a change is undecided all, but not that it was once rejected, nor
    /// once all of it is out what was in force before what there is now.
    pub fn records_beside(&self, there: BTreeSet<u32>) -> BTreeSet<u32> {
        let mut records = self.records();
        let is_decided = matches!(
            self.phase,
            Phase::Settled | Phase::Writing { guarded: None }
        );
        if is_decided && !self.unsettled {
            return records;
        }
        let written = matches!(self.phase, Phase::Writing { .. } | Phase::Confirming { .. });
        let target = self.target.as_ref().filter(|_| written);
        let outdated = target.and_then(Target::revision).map(nexthop_id::rejected);
        let is_out = matches!(self.phase, Phase::RolledBack { whole: true, .. });
        let holds = |id: &u32| Some(*id) != outdated && !(is_out && nexthop_id::is_applied(*id));
        records.extend(there.into_iter().filter(holds));
        records
    }

    /// Whether health may re-point groups: they are the target's, and nothing holds them back.
    pub const fn may_repoint(&self) -> bool {
        !matches!(self.phase, Phase::Starting | Phase::Inherited { .. })
    }

    pub(super) fn written(&mut self, written: Written, now: Clock) -> Vec<Effect> {
        let Some(target) = self.target.clone() else {
            return Vec::new();
        };
        let left = written.left;
        match std::mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Settled => {
                self.kept_up(target, written);
                Vec::new()
            }
            Phase::Writing { guarded: None } => {
                // What is left is a change of its own, when it comes.
                let unsettled = self.unsettled && left;
                self.accept(target, written.there());
                self.unsettled = unsettled;
                Vec::new()
            }
            Phase::Writing {
                guarded: Some(baseline),
            } => self.begin_confirming(target, baseline, written, now),
            Phase::Confirming {
                mut change,
                until,
                answered,
                ..
            } => {
                change.target = target;
                self.go_on_confirming(change, until, answered, written, now)
            }
            Phase::RollingBack { change } => {
                self.phase = Phase::RolledBack {
                    change,
                    until: now + self.within,
                    whole: !left,
                };
                vec![Effect::Ask]
            }
            Phase::RolledBack {
                change,
                until,
                whole,
            } => {
                self.phase = Phase::RolledBack {
                    change,
                    until,
                    whole: whole || !left,
                };
                Vec::new()
            }
            other @ (Phase::Starting | Phase::Asking { .. } | Phase::Inherited { .. }) => {
                self.phase = other;
                Vec::new()
            }
        }
    }

    /// What is known of silence after a write: once all of a change is there, what an earlier one left is gone, and silence is this one's.
    /// An edit that brings nothing is not blamed for silence from before it.
    fn baseline_after(&self, baseline: Baseline, written: &Written) -> Baseline {
        let confirmed = self.confirmed_footprint();
        let brings = confirmed.map_or(!written.planned.is_empty(), |confirmed| {
            written.planned.exceeds(confirmed)
        });
        match baseline {
            Baseline::Unsettled if !written.left && (brings || !self.is_new_source()) => {
                Baseline::Answered
            }
            other => other,
        }
    }

    /// Nothing was undecided.
    fn kept_up(&mut self, target: Target, written: Written) {
        self.unsettled &= written.left;
        let is_new = self.confirmed.as_ref().is_none_or(|confirmed| {
            confirmed.target != target || confirmed.footprint.is_uncertain()
        });
        // What is held back is not in the kernel.
        if is_new && !written.left && self.held.is_none() {
            self.confirmed = Some(Confirmed {
                target,
                footprint: written.planned,
            });
        }
    }

    fn begin_confirming(
        &mut self,
        target: Target,
        baseline: Baseline,
        written: Written,
        now: Clock,
    ) -> Vec<Effect> {
        if !written.changed && !written.left && baseline != Baseline::Unsettled {
            self.accept(target, written.planned);
            return vec![Effect::StopAsking];
        }
        let change = Change {
            target,
            baseline: self.baseline_after(baseline, &written),
            footprint: written.planned,
        };
        self.confirm(change, now, now + self.within, Some(written.installed))
    }

    fn go_on_confirming(
        &mut self,
        mut change: Change,
        until: Clock,
        answered: bool,
        written: Written,
        now: Clock,
    ) -> Vec<Effect> {
        change.baseline = self.baseline_after(change.baseline, &written);
        if !self.has_cut_off(&written.planned) {
            change.footprint = written.planned;
        }
        if answered && !written.changed && !written.left {
            self.accept(change.target, change.footprint);
            return vec![Effect::StopAsking];
        }
        let installed = Some(written.installed);
        if written.changed {
            // Where nothing was heard since the change began, more of it is no reason to wait longer.
            let until = if answered { now + self.within } else { until };
            return self.confirm(change, now, until, installed);
        }
        self.phase = Phase::Confirming {
            change,
            until,
            installed,
            answered,
        };
        Vec::new()
    }

    /// Part of it may be in the kernel, and may be what silences the API server.
    pub(super) fn write_unknown(&mut self, planned: Footprint, now: Clock) -> Vec<Effect> {
        let Some(target) = self.target.clone() else {
            return Vec::new();
        };
        let later = now + self.within;
        let (baseline, until) = match &self.phase {
            Phase::Writing {
                guarded: Some(baseline),
            } => (*baseline, later),
            Phase::Confirming {
                change,
                until,
                answered,
                ..
            } => (change.baseline, if *answered { later } else { *until }),
            _ => return Vec::new(),
        };
        let change = Change {
            target,
            footprint: planned,
            baseline,
        };
        self.confirm(change, now, until, None)
    }

    /// Waits for an answer to what was written, at least as long as a question may take: a run of `ip` may have hung until then.
    fn confirm(
        &mut self,
        change: Change,
        now: Clock,
        until: Clock,
        installed: Option<Footprint>,
    ) -> Vec<Effect> {
        self.phase = Phase::Confirming {
            change,
            until: until.max(now + QUESTION),
            installed,
            answered: false,
        };
        vec![Effect::Ask]
    }

    pub(super) fn accept(&mut self, target: Target, footprint: Footprint) {
        self.confirmed = Some(Confirmed { target, footprint });
        self.phase = Phase::Settled;
        self.unsettled = false;
    }
}
