//! What an agent does with what an earlier one left in the kernel, and with a configuration that clashes on this node.
//!
//! Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::target::{Footprint, Source, Target};
use super::{Baseline, Change, Clock, Confirmed, Effect, Misfit, Newest, Phase, Rollout};
use crate::net::nexthop_id;
use crate::routing::adopt::Adopted;
use crate::routing::node_facts::Facts;

impl Rollout {
    /// Whether what the kernel holds has to be adopted, because the newest configuration did not make it.
    pub fn needs_adoption(&self, records: &BTreeSet<u32>) -> bool {
        !self.is_made_from_newest(records)
    }

    pub(super) fn is_made_from_newest(&self, records: &BTreeSet<u32>) -> bool {
        let Newest::Good(loaded) = &self.newest else {
            return false;
        };
        nexthop_id::applied(&loaded.revision)
            .iter()
            .all(|id| records.contains(id))
            && !records.contains(&nexthop_id::rejected(&loaded.revision))
            && !records.iter().any(|id| nexthop_id::is_unconfirmed(*id))
    }

    pub(super) fn found(
        &mut self,
        records: &BTreeSet<u32>,
        footprint: Footprint,
        adopted: Option<Arc<Adopted>>,
        now: Clock,
    ) -> Vec<Effect> {
        let newest = self
            .newest_config()
            .map(|loaded| self.here(Source::Config(loaded)));
        if let Some(target) = newest.clone().filter(|_| self.is_made_from_newest(records)) {
            self.target = Some(target.clone());
            // What it had not brought yet when the earlier agent ended is a change.
            self.confirmed = Some(Confirmed { target, footprint });
            self.phase = Phase::Settled;
            return vec![Effect::Pass];
        }
        let found = adopted.unwrap_or_default();
        let revision = newest.as_ref().and_then(Target::revision);
        let has = |record: fn(&str) -> u32| revision.is_some_and(|r| records.contains(&record(r)));
        let of_newest = has(nexthop_id::unconfirmed);
        let is_rejected = has(nexthop_id::rejected) && self.is_guarded();
        // The newest has both once it is out of the kernel and nobody has answered yet.
        let of_changes = |id: &&u32| nexthop_id::is_unconfirmed(**id);
        let there = records.iter().filter(of_changes).count();
        let there = there - usize::from(is_rejected && of_newest);
        let unconfirmed = if self.is_guarded() { there } else { 0 };
        if is_rejected && unconfirmed == 0 {
            self.confirm_adopted(found, footprint);
            return self.stay_rolled_back(newest, of_newest, now);
        }
        if is_rejected {
            self.rejected = revision.map(str::to_owned);
        }
        if unconfirmed > 0 && (of_newest || is_rejected || newest.is_none()) {
            self.phase = Phase::Inherited {
                until: now + self.within,
                found,
                alone: unconfirmed == 1,
            };
            return vec![Effect::Ask];
        }
        if unconfirmed > 0 {
            // Edited meanwhile; but what is in the kernel may be what silences the API server, and is nothing to go back to.
            self.unsettled = true;
        } else if found.revision.is_some() || !found.is_empty() {
            self.confirm_adopted(found, footprint);
        }
        self.target = self.confirmed_target().cloned();
        if newest.is_some() {
            return self.begin_edit(now);
        }
        self.phase = Phase::Settled;
        vec![Effect::Pass]
    }

    /// The newest configuration was taken back. While it has the record of an unconfirmed one too, the earlier agent ended before the
    /// API server was heard.
    fn stay_rolled_back(
        &mut self,
        newest: Option<Target>,
        is_unheard: bool,
        now: Clock,
    ) -> Vec<Effect> {
        self.target = self.confirmed_target().cloned();
        match newest {
            Some(target) if is_unheard => {
                self.phase = Phase::RolledBack {
                    change: Change {
                        target,
                        footprint: Footprint::default(),
                        baseline: Baseline::Answered,
                    },
                    until: now + self.within,
                    whole: true,
                };
                vec![Effect::Ask, Effect::Pass]
            }
            newest => {
                self.rejected = newest
                    .as_ref()
                    .and_then(Target::revision)
                    .map(str::to_owned);
                self.phase = Phase::Settled;
                vec![Effect::Pass]
            }
        }
    }

    /// The API server answers with what an earlier agent left: what of it the next pass finds is good, what that pass brings is a change.
    pub(super) fn inherit(&mut self, found: Arc<Adopted>) -> Vec<Effect> {
        let source = self.newest_to_follow().unwrap_or(Source::Adopted(found));
        self.target = Some(self.here(source));
        self.phase = Phase::Writing {
            guarded: Some(Baseline::Answered),
        };
        vec![Effect::StopAsking, Effect::Pass]
    }

    /// Without routes it is still a revision to go back to; whatever it makes beyond what is there is a change.
    fn confirm_adopted(&mut self, found: Arc<Adopted>, footprint: Footprint) {
        self.confirmed = Some(Confirmed {
            target: self.here(Source::Adopted(found)),
            footprint,
        });
    }

    pub(super) fn clashed(
        &mut self,
        why: String,
        found: Arc<Adopted>,
        footprint: Footprint,
    ) -> Vec<Effect> {
        let Some(target) = self.target.take() else {
            return Vec::new();
        };
        if let Phase::RollingBack { change } | Phase::RolledBack { change, .. } = &self.phase {
            let facts = change.target.facts.clone();
            return self.rolls_back_with(facts);
        }
        if let Phase::Confirming { change, .. } = &self.phase {
            // With the facts that it was made with; or, where those make it clash now, as it is there.
            let made = Some(change.target.clone()).filter(|made| *made != target);
            self.target = made.or_else(|| Some(self.here(Source::Adopted(found))));
            self.misfits.push(Misfit { target, why });
            return vec![Effect::Pass];
        }
        let is_next = matches!(self.phase, Phase::Writing { .. } | Phase::Asking { .. });
        // What the kernel holds of a change that is undecided may be what silences the API server.
        let takes_back = is_next && self.unsettled;
        if !takes_back && self.confirmed_target().is_none_or(|c| *c == target) {
            let footprint = self.confirmed.take().map_or(footprint, |c| c.footprint);
            self.confirm_adopted(found, footprint);
        }
        self.misfits.push(Misfit { target, why });
        if takes_back {
            self.put_back();
            return vec![Effect::Pass];
        }
        self.target = self.candidate();
        if is_next {
            self.phase = Phase::Settled;
        }
        vec![Effect::Pass]
    }

    /// What was confirmed before the facts were known clashes, because what a change brought looks as if it had been there. That is nothing
    /// to adopt. With the change's facts, what was confirmed makes no more than its footprint; if they clash too, nothing of ours stays.
    fn rolls_back_with(&mut self, facts: Facts) -> Vec<Effect> {
        let before = self.confirmed.take();
        self.confirmed = before
            .filter(|before| before.target.facts != facts)
            .map(|before| Confirmed {
                target: Target {
                    source: before.target.source,
                    facts,
                },
                footprint: before.footprint,
            });
        self.target = Some(self.before());
        vec![Effect::Pass]
    }
}
