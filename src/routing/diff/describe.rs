//! A plan in words, as `diff` prints it.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::{GroupWrite, Plan, Wanted, WantedNexthop};
use crate::net::nexthop_id;
use crate::routing::batch::LEAK_GUARD_METRIC;
use crate::routing::share;
use crate::routing::state::{Kernel, Member, OwnRoute, Target};

impl Wanted {
    /// Gateways of a group or nexthop in words, as `diff` prints them: `via 10.116.0.5, 10.116.0.6`.
    pub fn describe(&self, target: &Target) -> String {
        describe(
            target,
            |id| {
                self.groups
                    .get(&id)
                    .map(|group| group.members.clone())
                    .or_else(|| {
                        self.nexthops
                            .contains_key(&id)
                            .then(|| vec![Member::equal(id)])
                    })
                    .unwrap_or_default()
            },
            |id| {
                self.nexthops
                    .get(&id)?
                    .gateway()
                    .map(|gateway| gateway.to_string())
            },
        )
    }
}

/// The same of what the kernel has now.
pub fn describe_now(kernel: &Kernel, target: &Target) -> String {
    describe(
        target,
        |id| match kernel.members(id) {
            [] if kernel.nexthops.contains_key(&id) => vec![Member::equal(id)],
            members => members.to_vec(),
        },
        |id| kernel.gateway(id).map(|gateway| gateway.to_string()),
    )
}

fn describe(
    target: &Target,
    members: impl Fn(u32) -> Vec<Member>,
    gateway: impl Fn(u32) -> Option<String>,
) -> String {
    match target {
        Target::Blackhole => "blackhole".to_owned(),
        Target::Stray(words) => words.trim().to_owned(),
        Target::Nexthop(id) => {
            let members = members(*id);
            let mut weights: BTreeMap<String, u32> = BTreeMap::new();
            let mut draining: BTreeSet<String> = BTreeSet::new();
            for member in &members {
                match gateway(member.id) {
                    Some(gateway) if share::is_leaving(*member, &members) => {
                        draining.insert(gateway);
                    }
                    Some(gateway) => *weights.entry(gateway).or_default() += member.weight,
                    None => {}
                }
            }
            let first = weights.values().next().copied();
            let equal = weights.values().all(|weight| Some(*weight) == first);
            let describe = |(gateway, weight): (&String, &u32)| {
                if equal {
                    gateway.clone()
                } else {
                    format!("{gateway} weight {weight}")
                }
            };
            let only_draining = draining.iter().filter(|g| !weights.contains_key(*g));
            let only_draining = only_draining.map(|gateway| format!("{gateway} draining"));
            let gateways = weights.iter().map(describe).chain(only_draining);
            let gateways: Vec<String> = gateways.collect();
            if gateways.is_empty() {
                "blackhole".to_owned()
            } else {
                format!("via {}", gateways.join(", "))
            }
        }
    }
}

impl Plan {
    /// What changes, a line each: `+ PREFIX via …`, `- …`, `~ …`. A group that is re-pointed changes all of its routes.
    pub fn describe<'a>(
        &'a self,
        wanted: &'a Wanted,
        kernel: &'a Kernel,
    ) -> impl Iterator<Item = String> + 'a {
        let written = self.replace.iter().map(move |w| {
            let prefix = w.route.key.prefix;
            let now = wanted.describe(&w.route.target);
            let guard = if w.route.key.metric == LEAK_GUARD_METRIC {
                " (leak guard)"
            } else {
                ""
            };
            if w.exists {
                format!("~ {prefix} {now}{guard}")
            } else {
                format!("+ {prefix} {now}{guard}")
            }
        });
        let gone = self.dropped.iter().chain(&self.delete).map(move |r| {
            let guard = if r.key.metric == LEAK_GUARD_METRIC {
                " (leak guard)"
            } else {
                ""
            };
            format!(
                "- {} {}{guard}",
                r.key.prefix,
                describe_now(kernel, &r.target)
            )
        });
        written
            .chain(self.repointed(wanted, kernel))
            .chain(self.standbys(wanted))
            .chain(self.other_objects(wanted, kernel))
            .chain(gone)
    }

    /// Gateways that are written and carry nothing for now.
    fn standbys<'a>(&'a self, wanted: &'a Wanted) -> impl Iterator<Item = String> + 'a {
        let idle = |id: &u32| {
            !nexthop_id::is_duplicate(*id) && !wanted.groups.values().any(|group| group.has(*id))
        };
        self.nexthops
            .iter()
            .filter(move |(id, _)| idle(id))
            .filter_map(|(_, what)| match what {
                WantedNexthop::Via(gateway, dev) => Some(format!(
                    "+ gateway {gateway} dev {dev}, which carries nothing for now"
                )),
                WantedNexthop::Blackhole(_) => None,
            })
    }

    /// Gateways that keep their flows and get other nexthop objects.
    fn other_objects(&self, wanted: &Wanted, kernel: &Kernel) -> impl Iterator<Item = String> {
        let is_new = |gateway: &IpAddr| {
            let own = |(id, what): &(u32, WantedNexthop)| {
                !nexthop_id::is_duplicate(*id) && what.gateway() == Some(*gateway)
            };
            self.nexthops.iter().any(own)
        };
        let written = self.nexthops.iter().filter_map(|(_, what)| what.gateway());
        let same = |group: &&GroupWrite| {
            let target = Target::Nexthop(group.id);
            let wanted_members = wanted.groups.get(&group.id).map(|group| &group.members[..]);
            let others = wanted_members != Some(kernel.members(group.id));
            group.exists && others && wanted.describe(&target) == describe_now(kernel, &target)
        };
        let members = self.groups.iter().filter(same).flat_map(|g| &g.members);
        let members = members.filter_map(|m| wanted.nexthops.get(&m.id)?.gateway());
        let mut gateways: BTreeSet<IpAddr> =
            written.filter(|g| !is_new(g)).chain(members).collect();
        // Beside changes of routes nobody wants to know.
        let alone = self.groups.iter().all(|group| same(&group)) && !self.touches_routes();
        if !alone {
            gateways.clear();
        }
        let line = |gateway| format!("~ gateway {gateway} by other nexthop objects");
        gateways.into_iter().map(line)
    }

    fn repointed<'a>(
        &'a self,
        wanted: &'a Wanted,
        kernel: &'a Kernel,
    ) -> impl Iterator<Item = String> + 'a {
        let mut words: HashMap<u32, (String, String)> = HashMap::new();
        for group in self.groups.iter().filter(|g| g.exists) {
            let target = Target::Nexthop(group.id);
            let (now, before) = (wanted.describe(&target), describe_now(kernel, &target));
            if now != before {
                words.insert(group.id, (now, before));
            }
        }
        // A gateway that moved to another device.
        let moved = |id: &u32| kernel.nexthops.contains_key(id);
        for group in wanted.groups.iter().filter(|(_, group)| {
            let mut written = self.nexthops.iter().filter(|(id, _)| moved(id));
            written.any(|(id, _)| group.has(*id))
        }) {
            let target = Target::Nexthop(*group.0);
            words
                .entry(*group.0)
                .or_insert_with(|| (wanted.describe(&target), describe_now(kernel, &target)));
        }
        // One that goes to another group is written itself.
        let stays = |r: &OwnRoute| {
            wanted
                .routes
                .binary_search_by(|w| w.key.cmp(&r.key))
                .is_ok_and(|n| wanted.routes[n].target == r.target)
        };
        // Without a group of which there is something to say, no route is looked at.
        let routes = if words.is_empty() {
            &[][..]
        } else {
            &kernel.own
        };
        routes.iter().filter_map(move |r| {
            let (now, before) = words.get(&r.target.nexthop()?).filter(|_| stays(r))?;
            Some(format!("~ {} {now} (was {before})", r.key.prefix))
        })
    }
}
