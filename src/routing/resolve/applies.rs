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
                let there = |family| {
                    self.kernel
                        .nexthops
                        .contains_key(&nexthop_id::group(&set.name, family))
                };
                if Family::BOTH.into_iter().any(there) || self.is_guarded(set) {
                    Applies::Yes
                } else {
                    Applies::NotYet
                }
            }
        }
    }

    /// Whether the kernel has leak guards of this set, which outlive its group.
    fn is_guarded(&self, set: &RouteSet) -> bool {
        let own = &self.kernel.own;
        let of_another = |prefix: &Prefix| {
            let mut others = self
                .config
                .sets
                .iter()
                .filter(|other| other.name != set.name && other.leak_guard);
            others.any(|other| other.destinations.binary_search(prefix).is_ok())
        };
        set.leak_guard
            && set.destinations.iter().any(|destination| {
                let from = own.partition_point(|route| route.key.prefix < *destination);
                let inside = own[from..]
                    .iter()
                    .take_while(|route| destination.covers(route.key.prefix));
                let mut guards = inside
                    .filter(|route| route.key == self.ownership.leak_guard_key(route.key.prefix));
                guards
                    .any(|guard| guard.key.prefix == *destination || !of_another(&guard.key.prefix))
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
