//! What becomes of an edit, of new facts, of an answer and of silence.
//!
//! Pure.

use super::super::target::{Footprint, Source, Target};
use super::{Baseline, CUT_OFF_KEPT, Change, Clock, Effect, Newest, Phase, QUESTION, Rollout};
use crate::routing::node_facts::Facts;

impl Rollout {
    pub(super) fn read(&mut self, newest: Newest, now: Clock) -> Vec<Effect> {
        if self.newest == newest {
            return Vec::new();
        }
        self.newest = newest;
        self.misfits.clear();
        let Newest::Good(loaded) = &self.newest else {
            return Vec::new();
        };
        match self.phase {
            Phase::Starting => return Vec::new(),
            Phase::Inherited { .. } if self.is_rejected(&loaded.revision) => return Vec::new(),
            Phase::Inherited { .. } => {
                self.rejected = None;
                // What the earlier agent left was not made from this one, which is not to be blamed for it.
                self.unsettled = true;
                return self.begin_edit(now);
            }
            _ => {}
        }
        let revision = loaded.revision.as_str();
        // Another one came, also where that is known already.
        self.rejected = self.rejected.take().filter(|rejected| rejected == revision);
        // It was gone for a while; what is known of it still holds.
        let known = match &self.phase {
            Phase::RollingBack { change } | Phase::RolledBack { change, .. } => {
                change.target.revision() == Some(revision) && self.is_edit(change)
            }
            Phase::Confirming { change, .. } => change.target.revision() == Some(revision),
            _ => false,
        };
        let in_force = self.confirmed_target().and_then(Target::revision) == Some(revision);
        if known || self.is_rejected(revision) || (in_force && matches!(self.phase, Phase::Settled))
        {
            if !known && in_force {
                self.rejected = None;
                self.follow_source();
                return vec![Effect::AskForNode, Effect::Pass];
            }
            return vec![Effect::Pass];
        }
        self.held = None;
        self.cut_off.clear();
        if in_force {
            return self.return_to_confirmed();
        }
        self.unsettled |= self.may_be_cause();
        self.begin_edit(now)
    }

    /// The edit was taken back by hand: what was confirmed before needs no new verdict.
    pub(super) fn return_to_confirmed(&mut self) -> Vec<Effect> {
        self.unsettled |= self.may_be_cause();
        self.put_back();
        self.follow_source();
        // Labels may have changed with it.
        vec![Effect::AskForNode, Effect::Pass]
    }

    /// Goes back to what is confirmed. Whatever else a link brings meanwhile is a change.
    pub(super) fn put_back(&mut self) {
        self.target = Some(self.before());
        self.phase = match self.confirmed {
            Some(_) => Phase::Settled,
            None => Phase::Writing { guarded: None },
        };
    }

    /// An adopted target whose configuration has come to be known is that configuration.
    pub(super) fn follow_source(&mut self) {
        let Newest::Good(loaded) = &self.newest else {
            return;
        };
        let targets = self
            .target
            .iter_mut()
            .chain(self.confirmed.as_mut().map(|c| &mut c.target));
        for target in targets.filter(|t| t.revision() == Some(&loaded.revision)) {
            target.source = Source::Config(loaded.clone());
        }
    }

    pub(super) fn begin_edit(&mut self, now: Clock) -> Vec<Effect> {
        if self.has_api {
            self.phase = Phase::Asking {
                until: now + QUESTION,
                edit: true,
            };
            return vec![Effect::AskForNode];
        }
        self.target = self.candidate();
        self.phase = Phase::Writing { guarded: None };
        vec![Effect::Pass]
    }

    /// The question before a change is over. An edit that has vanished meanwhile leaves what is there, unless that was never confirmed
    /// and may be what silences the API server.
    pub(super) fn begin_writing(&mut self, edit: bool, guarded: Option<Baseline>) {
        if edit {
            let new = self
                .candidate()
                .filter(|target| self.is_other_source(target));
            if new.is_none() && self.unsettled {
                return self.put_back();
            }
            self.target = new.or_else(|| self.candidate()).or(self.target.take());
        }
        self.phase = match self.target {
            Some(_) => Phase::Writing { guarded },
            None => Phase::Settled,
        };
    }

    pub(super) fn learned(&mut self, facts: Facts) -> Vec<Effect> {
        if self.facts == facts {
            return Vec::new();
        }
        self.facts = facts;
        self.misfits.clear();
        match &self.phase {
            Phase::Asking { edit: false, .. }
            | Phase::Writing { .. }
            | Phase::Confirming { .. } => {
                if let Some(target) = &mut self.target {
                    target.facts = self.facts.clone();
                }
            }
            Phase::Settled | Phase::Asking { .. } => {}
            Phase::Starting
            | Phase::RollingBack { .. }
            | Phase::RolledBack { .. }
            | Phase::Inherited { .. } => return Vec::new(),
        }
        vec![Effect::Pass]
    }

    pub(super) fn answered(&mut self) -> Vec<Effect> {
        match std::mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Asking { edit, .. } => {
                self.begin_writing(edit, self.is_guarded().then_some(Baseline::Answered));
                vec![Effect::StopAsking, Effect::Pass]
            }
            Phase::Confirming { change, until, .. } => {
                // What it confirms is what the next read still shows.
                self.phase = Phase::Confirming {
                    change,
                    until,
                    installed: None,
                    answered: true,
                };
                vec![Effect::StopAsking, Effect::Pass]
            }
            Phase::RolledBack { change, .. } if change.baseline != Baseline::Answered => {
                // It may have come up by itself meanwhile, or what an earlier change left was the cause: tried once more, now that it
                // is known to answer.
                self.target = Some(self.here(change.target.source));
                self.phase = Phase::Writing {
                    guarded: Some(Baseline::Answered),
                };
                vec![Effect::StopAsking, Effect::Pass]
            }
            Phase::RolledBack { change, .. } => {
                self.reject(&change);
                self.unsettled = false;
                vec![Effect::StopAsking, Effect::Pass]
            }
            Phase::Inherited { found, .. } => self.inherit(found),
            other => {
                self.phase = other;
                Vec::new()
            }
        }
    }

    pub(super) fn reject(&mut self, change: &Change) {
        if self.is_edit(change) {
            // What an earlier agent left and nobody has the configuration of cannot come again.
            let revision = change.target.config().map(|loaded| loaded.revision.clone());
            self.rejected = revision.or(self.rejected.take());
        } else {
            self.held = Some(change.target.facts.clone());
        }
        self.cut_off.extend(self.fingerprints(&change.footprint));
        let oldest = self.cut_off.len().saturating_sub(CUT_OFF_KEPT);
        self.cut_off.drain(..oldest);
    }

    pub(super) fn tick(&mut self, now: Clock) -> Vec<Effect> {
        if self.deadline().is_none_or(|until| until > now) {
            return Vec::new();
        }
        match std::mem::replace(&mut self.phase, Phase::Settled) {
            Phase::Asking { edit, .. } => self.begin_writing(edit, self.silent_baseline()),
            Phase::Confirming {
                change,
                installed,
                answered: true,
                until,
            } => match installed {
                Some(installed) => self.accept(change.target, installed),
                None => {
                    self.phase = Phase::Confirming {
                        change,
                        until: until + QUESTION,
                        installed,
                        answered: true,
                    };
                }
            },
            Phase::Confirming { change, .. } => {
                self.target = Some(self.before());
                self.phase = Phase::RollingBack { change };
            }
            Phase::RolledBack { change, .. } => {
                self.unsettled = false;
                self.target = Some(self.here(change.target.source));
                self.phase = Phase::Writing { guarded: None };
            }
            Phase::Inherited { found, alone, .. } => {
                let newest = self.newest_to_follow();
                let change = Change {
                    target: self.here(newest.unwrap_or(Source::Adopted(found))),
                    footprint: Footprint::default(),
                    baseline: if alone {
                        Baseline::Answered
                    } else {
                        Baseline::Unknown
                    },
                };
                self.target = Some(self.before());
                self.phase = Phase::RollingBack { change };
            }
            other => self.phase = other,
        }
        vec![Effect::StopAsking, Effect::Pass]
    }

    /// What silence before a change means.
    pub(super) fn silent_baseline(&self) -> Option<Baseline> {
        let is_bare = self.confirmed_footprint().is_none_or(Footprint::is_empty);
        let never = is_bare && matches!(self.facts, Facts::NotYet { .. });
        let baseline = if self.unsettled {
            Some(Baseline::Unsettled)
        } else {
            never.then_some(Baseline::Unknown)
        };
        baseline.filter(|_| self.is_guarded())
    }
}
