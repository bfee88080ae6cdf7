//! Which sets apply to this node.
//!
//! Pure.

use super::Inputs;
use crate::config::RouteSet;
use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};
use crate::routing::node_facts::Facts;
use crate::routing::node_selector;

/// Whether a set applies to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applies {
    Yes,
    No,
    NobodyToAsk,
    /// Not known, and no trace of it in the kernel.
    NotYet,
}

impl Inputs<'_> {
    pub(super) fn applies(&self, set: &RouteSet) -> Applies {
        let Some(wanted) = &set.node_selector else {
            return Applies::Yes;
        };
        match self.facts {
            Facts::NoCluster => Applies::NobodyToAsk,
            Facts::Known(facts) if node_selector::matches(wanted, &facts.labels) => Applies::Yes,
            Facts::Known(_) => Applies::No,
            // The kernel remembers what an earlier agent knew.
            Facts::NotYet { .. } => {
                if self.has_group(set) || self.is_guarded(set) {
                    Applies::Yes
                } else {
                    Applies::NotYet
                }
            }
        }
    }

    fn has_group(&self, set: &RouteSet) -> bool {
        Family::BOTH.into_iter().any(|family| {
            let id = nexthop_id::group(&set.name, family);
            self.kernel.nexthops.contains_key(&id)
        })
    }

    /// Whether the kernel has leak guards of this set, which outlive its group.
    fn is_guarded(&self, set: &RouteSet) -> bool {
        let own = &self.kernel.own;
        let others = self.config.sets.iter();
        let others = others.filter(|other| other.name != set.name && other.leak_guard);
        let others: Vec<&RouteSet> = others.collect();
        // Where both have it as a destination only one can apply: the one that has more there.
        let of_another = |prefix: &Prefix, is_destination: bool| {
            let has = |other: &&&RouteSet| other.destinations.binary_search(prefix).is_ok();
            let applies = |other: &RouteSet| other.node_selector.is_none() || self.has_group(other);
            let mut others = others.iter().filter(has);
            others.any(|other| !is_destination || applies(other))
        };
        set.leak_guard
            && set.destinations.iter().any(|destination| {
                let from = own.partition_point(|route| route.key.prefix < *destination);
                let inside = own[from..]
                    .iter()
                    .take_while(|route| destination.covers(route.key.prefix));
                let mut guards = inside
                    .filter(|route| route.key == self.ownership.leak_guard_key(route.key.prefix));
                guards.any(|guard| !of_another(&guard.key.prefix, guard.key.prefix == *destination))
            })
    }

    /// The sets that apply to this node.
    pub fn applicable(&self) -> impl Iterator<Item = &RouteSet> {
        self.config
            .sets
            .iter()
            .filter(|set| self.applies(set) == Applies::Yes)
    }
}
