//! Random nodes, and the promise of `select` in its plainest form: ask everybody, take the best. Shared by the
//! properties beside the code and by the comparison with a real kernel in `tests/it`.

use std::cmp::Reverse;
use std::net::IpAddr;

use proptest::prelude::*;

use super::{Family, Prefix, Selected};

/// Our metric in all of these.
pub(crate) const METRIC: u32 = 4242;

/// A node: what is protected, what others route, and what the sets want.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) family: Family,
    pub(crate) protected: Vec<Prefix>,
    /// Prefix and metric; distinct.
    pub(crate) foreign: Vec<(Prefix, u32)>,
    pub(crate) sets: Vec<Set>,
    /// Addresses to try beside the ends of all prefixes.
    pub(crate) more: Vec<u128>,
}

#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) destinations: Vec<Prefix>,
    pub(crate) except: Vec<Prefix>,
    pub(crate) in_force: bool,
}

/// Where an address goes; the number is that of the foreign route or the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Foreign(usize),
    Ours(usize),
    Nowhere,
}

impl World {
    /// The prefixes of the sets that are in force, each with the number of its set.
    pub(crate) fn in_force(&self, selected: &[Selected]) -> Vec<(Prefix, usize)> {
        let in_force = selected
            .iter()
            .enumerate()
            .filter(|(index, _)| self.sets[*index].in_force);
        in_force
            .flat_map(|(index, s)| s.install.iter().map(move |prefix| (*prefix, index)))
            .collect()
    }

    /// What the module promises for an address.
    pub(crate) fn promised(&self, address: IpAddr) -> Way {
        let within = |all: &[Prefix]| all.iter().any(|p| p.contains(address));
        let mut best = (None, Way::Nowhere);
        let mut offer = |rank: (u8, bool, Reverse<u32>, bool), way| {
            if best.0 < Some(rank) {
                best = (Some(rank), way);
            }
        };
        for (index, (prefix, metric)) in self.foreign.iter().enumerate() {
            if prefix.contains(address) {
                offer(
                    (prefix.len(), false, Reverse(*metric), true),
                    Way::Foreign(index),
                );
            }
        }
        if !within(&self.protected) {
            for (index, set) in self
                .sets
                .iter()
                .enumerate()
                .filter(|(_, set)| set.in_force && !within(&set.except))
            {
                for prefix in set.destinations.iter().filter(|p| p.contains(address)) {
                    offer(
                        (prefix.len(), prefix.len() == 0, Reverse(METRIC), false),
                        Way::Ours(index),
                    );
                }
            }
        }
        best.1
    }

    /// What the kernel does with the foreign routes and these of ours: the longest prefix, then the lowest metric.
    pub(crate) fn looked_up(&self, installed: &[(Prefix, usize)], address: IpAddr) -> Way {
        let foreign = self
            .foreign
            .iter()
            .enumerate()
            .map(|(index, (prefix, metric))| (*prefix, *metric, Way::Foreign(index)));
        let ours = installed
            .iter()
            .map(|(prefix, set)| (*prefix, METRIC, Way::Ours(*set)));
        let best = foreign
            .chain(ours)
            .filter(|(prefix, ..)| prefix.contains(address))
            .max_by_key(|(prefix, metric, _)| (prefix.len(), Reverse(*metric)));
        best.map_or(Way::Nowhere, |(_, _, way)| way)
    }

    /// Every address where the answer can change, and its neighbours; and some more.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let of_sets = self
            .sets
            .iter()
            .flat_map(|set| set.destinations.iter().chain(&set.except));
        let all = self
            .protected
            .iter()
            .chain(self.foreign.iter().map(|(prefix, _)| prefix))
            .chain(of_sets);
        let mut values: Vec<u128> = self.more.clone();
        for prefix in all {
            let (first, last) = prefix.range();
            values.extend([first, last, first.wrapping_sub(1), last.wrapping_add(1)]);
        }
        let mut addresses: Vec<IpAddr> = values
            .into_iter()
            .map(|value| self.family.address(value))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}

/// Where the prefixes of a world lie: `bits` low bits vary above `base`. Few bits meet every edge, all of them every width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) family: Family,
    pub(crate) bits: u8,
    pub(crate) base: u128,
}

impl Space {
    pub(crate) fn prefix(self) -> impl Strategy<Value = Prefix> {
        (any::<u128>(), 0..=self.bits).prop_map(move |(value, host_bits)| {
            let low = if self.bits == 128 {
                u128::MAX
            } else {
                (1 << self.bits) - 1
            };
            let width = self.family.bits();
            Prefix::masked(
                self.family.address(self.base & !low | value & low),
                width - host_bits,
            )
        })
    }

    /// As `prefix`, and now and then a default.
    fn wide(self) -> impl Strategy<Value = Prefix> {
        prop_oneof![9 => self.prefix(), 1 => Just(self.family.everything())]
    }

    pub(crate) fn world(self) -> impl Strategy<Value = World> {
        let metric = prop_oneof![Just(1_u32), Just(100), Just(METRIC), Just(5000)];
        let set = (
            prop::collection::vec(self.wide(), 0..6),
            prop::collection::vec(self.prefix(), 0..3),
            prop::bool::weighted(0.9),
        );
        (
            prop::collection::vec(self.prefix(), 0..4),
            prop::collection::vec((self.wide(), metric), 0..8),
            prop::collection::vec(set, 1..5),
            prop::collection::vec(any::<u128>(), 4),
        )
            .prop_map(move |(protected, mut foreign, sets, more)| {
                foreign.sort_unstable();
                foreign.dedup();
                let mut seen = std::collections::BTreeSet::new();
                let sets = sets
                    .into_iter()
                    .map(|(mut destinations, except, in_force)| {
                        destinations.retain(|prefix| seen.insert(*prefix));
                        Set {
                            destinations,
                            except,
                            in_force,
                        }
                    })
                    .collect();
                World {
                    family: self.family,
                    protected,
                    foreign,
                    sets,
                    more,
                }
            })
    }
}
