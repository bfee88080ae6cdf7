//! What the kernel has of ours, as something that can be kept up although the configuration that made it is not known: an agent
//! started while the newest configuration is refused, clashes on this node, or was rolled back.
//!
//! Pure. Routes stay as they are. Groups are probed and re-pointed as far as the kernel shows their gateways: a group's members, and,
//! where a family has one group only, the gateways' objects beside it. Weights and drained gateways are read from the groups, and
//! from records of gateways that have left. What the kernel does not show (names, checks, `whenDown`) comes from a
//! set of the same name in the newest configuration, else from the defaults, of which `hold` never takes a route away.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Config, Failback, HealthCheck, RouteSet, Share, Strategy, WhenDown};
use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};
use crate::routing::batch::Ownership;
use crate::routing::resolve::{Inputs, Resolution, groups_only};
use crate::routing::share;
use crate::routing::state::{Kernel, NexthopKind, OwnRoute, Target};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adopted {
    /// The revision that it was made from, by its record in the kernel.
    pub revision: Option<String>,
    /// A set for each group, so that probing and choosing gateways is the same as with a configuration.
    pub config: Config,
    routes: Vec<OwnRoute>,
    /// The read may have left IPv6 routes out: those that are found later were there too.
    uncertain_v6: bool,
}

impl Adopted {
    /// Whether nothing of ours was there.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty() && !self.uncertain_v6
    }

    /// Reads it from the kernel. `newest` is the newest configuration where it could be parsed; `made_from_it` whether the kernel's
    /// groups were made from it, so that a gateway which it names and which is in no group was taken out.
    pub fn from(
        kernel: &Kernel,
        ownership: &Ownership,
        newest: Option<&Config>,
        made_from_it: bool,
    ) -> Self {
        let ours: BTreeMap<u32, &NexthopKind> = kernel
            .nexthops
            .iter()
            .filter(|(_, nexthop)| nexthop.protocol == ownership.protocol)
            .map(|(id, nexthop)| (*id, &nexthop.kind))
            .collect();
        // Beside a route of ours there is always an object: a group, or the record of a revision. Of those every read shows all.
        let is_ours = !(kernel.own.is_empty() && ours.is_empty());
        let records = kernel.records(ownership);
        // One that was taken back later is not in force any more: its record of that goes last.
        let in_force = |revision: &String| !records.contains(&nexthop_id::rejected(revision));
        let mut adopted = Self {
            revision: nexthop_id::applied_revision(&records).filter(in_force),
            routes: kernel.own.clone(),
            uncertain_v6: kernel.uncertain_v6 && is_ours,
            ..Self::default()
        };
        let groups: Vec<Group> = ours
            .iter()
            .filter_map(|(id, kind)| Group::of(*id, kind, &ours, &kernel.own))
            .collect();
        for group in &groups {
            let sibling = groups
                .iter()
                .any(|g| g.id != group.id && g.family == group.family);
            adopted.add(group, &ours, newest, made_from_it, sibling);
        }
        adopted
    }

    fn add(
        &mut self,
        group: &Group,
        ours: &BTreeMap<u32, &NexthopKind>,
        newest: Option<&Config>,
        made_from_it: bool,
        sibling: bool,
    ) {
        let known = newest.and_then(|config| {
            config
                .sets
                .iter()
                .find(|set| nexthop_id::group(&set.name, group.family) == group.id)
        });
        let spares = group.spares(ours).filter(|gateway| match known {
            Some(set) => made_from_it && set.gateways.contains(gateway),
            None => !sibling,
        });
        let spares: BTreeSet<IpAddr> = spares.collect();
        let gateways = group.gateways.iter().copied();
        let mut gateways: Vec<IpAddr> = gateways.chain(spares).collect();
        if let Some(set) = known {
            // In listed order, as the strategy means it.
            gateways.sort_by_key(|gateway| set.gateways.iter().position(|g| g == gateway));
        }
        let strategy = if group.weights.len() == 1 && gateways.len() > 1 {
            Strategy::Failover {
                failback: Failback::Never,
            }
        } else {
            Strategy::Balance
        };
        let name = known.map_or_else(|| nexthop_id::unknown_set(group.id), |set| set.name.clone());
        let destinations = group.destinations.iter().copied();
        let shares = group.shares(&gateways, ours);
        if let Some(set) = self.config.sets.iter_mut().find(|set| set.name == name) {
            set.gateways.extend(gateways);
            set.destinations.extend(destinations);
            return;
        }
        self.config.sets.push(RouteSet {
            name,
            gateways,
            shares: known.map_or(shares, |set| set.shares.clone()),
            drain_timeout: known.map_or(Duration::ZERO, |set| set.drain_timeout),
            destinations: destinations.collect(),
            except: Vec::new(),
            strategy: known.map_or(strategy, |set| set.strategy),
            when_down: known.map_or(WhenDown::Hold, |set| set.when_down),
            leak_guard: false,
            health_check: known.map_or_else(HealthCheck::default, |set| set.health_check.clone()),
            node_selector: None,
        });
    }

    /// What the kernel shall have: its routes as they were found, through the gateways that can carry them now.
    pub fn resolve(&self, inputs: &Inputs<'_>) -> Resolution {
        let late = |r: &&OwnRoute| {
            r.key.prefix.family() == Family::V6 && self.routes.binary_search(r).is_err()
        };
        let seen_late = inputs.kernel.own.iter().filter(|_| self.uncertain_v6);
        let seen_late: Vec<&OwnRoute> = seen_late.filter(late).collect();
        let all = || self.routes.iter().chain(seen_late.iter().copied());
        let mut resolution = groups_only(inputs, |id| {
            all().filter(|r| r.target == Target::Nexthop(id)).count()
        });
        let wanted = &resolution.wanted;
        let leads = |route: &&OwnRoute| match &route.target {
            Target::Nexthop(id) => {
                wanted.groups.contains_key(id) || wanted.nexthops.contains_key(id)
            }
            Target::Blackhole | Target::Stray(_) => true,
        };
        let mut routes: Vec<OwnRoute> = all().filter(leads).cloned().collect();
        routes.sort();
        resolution.wanted.routes = routes;
        resolution
    }
}

/// A group of ours.
struct Group {
    id: u32,
    family: Family,
    gateways: BTreeSet<IpAddr>,
    /// Weights of those that get new flows.
    weights: BTreeMap<IpAddr, u32>,
    destinations: Vec<Prefix>,
}

impl Group {
    /// Gateways that the kernel has for this family and that carry nothing of this group.
    fn spares(&self, ours: &BTreeMap<u32, &NexthopKind>) -> impl Iterator<Item = IpAddr> {
        let gateways = ours.values().filter_map(|kind| gateway_of(kind));
        gateways.filter(|gateway| {
            Family::of(*gateway) == self.family && !self.gateways.contains(gateway)
        })
    }

    /// What can be seen of what was asked of its gateways: weights, and which are drained.
    fn shares(
        &self,
        gateways: &[IpAddr],
        ours: &BTreeMap<u32, &NexthopKind>,
    ) -> BTreeMap<IpAddr, Share> {
        let weights: Vec<u32> = self.weights.values().copied().collect();
        let scaled = self.weights.keys().zip(share::scale(&weights, false));
        let weights: BTreeMap<&IpAddr, u32> = scaled.collect();
        let is_drained = |gateway: &IpAddr| {
            let records = ours.iter().filter(|(id, _)| nexthop_id::is_drained(**id));
            let mut recorded = records.filter_map(|(_, kind)| gateway_of(kind));
            self.gateways.contains(gateway) || recorded.any(|recorded| recorded == *gateway)
        };
        let share = |gateway: &IpAddr| Share {
            weight: weights.get(gateway).map_or(1, |weight| *weight.min(&100)),
            drain: !weights.contains_key(gateway) && is_drained(gateway),
        };
        gateways.iter().map(|g| (*g, share(g))).collect()
    }

    fn of(
        id: u32,
        kind: &NexthopKind,
        ours: &BTreeMap<u32, &NexthopKind>,
        routes: &[OwnRoute],
    ) -> Option<Self> {
        let NexthopKind::Group { members, .. } = kind else {
            return None;
        };
        let gateways: BTreeSet<IpAddr> = members
            .iter()
            .filter_map(|member| gateway_of(ours.get(&member.id)?))
            .collect();
        let mut weights = BTreeMap::new();
        for member in members.iter().filter(|m| !share::is_leaving(**m, members)) {
            if let Some(gateway) = ours.get(&member.id).and_then(|kind| gateway_of(kind)) {
                *weights.entry(gateway).or_default() += member.weight;
            }
        }
        let destinations: Vec<Prefix> = routes
            .iter()
            .filter(|route| route.target == Target::Nexthop(id))
            .map(|route| route.key.prefix)
            .collect();
        let by_gateway = gateways.first().map(|gateway| Family::of(*gateway));
        let family = by_gateway.or_else(|| destinations.first().map(|prefix| prefix.family()))?;
        Some(Self {
            id,
            family,
            gateways,
            weights,
            destinations,
        })
    }
}

const fn gateway_of(kind: &NexthopKind) -> Option<IpAddr> {
    match kind {
        NexthopKind::Via { gateway, .. } => Some(*gateway),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
