//! What the kernel is made equal to, and what of it an answer of the API server has confirmed.
//!
//! Pure values. When which target is in force is `rollout`'s.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use crate::config::Config;
use crate::net::prefix::{Family, value_of};
use crate::routing::adopt::Adopted;
use crate::routing::batch::Ownership;
use crate::routing::diff::{Wanted, WantedNexthop};
use crate::routing::node_facts::Facts;
use crate::routing::state::{Kernel, NexthopKind, OwnRoute, RouteKey, Target as RouteTarget};

/// A configuration that passed its check.
#[derive(Debug, PartialEq)]
pub struct Loaded {
    /// Its revision.
    pub revision: String,
    /// Its content.
    pub config: Config,
}

/// Where routes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A configuration.
    Config(Arc<Loaded>),
    /// What the kernel had of ours, where the configuration that made it is not known any more; may be nothing.
    Adopted(Arc<Adopted>),
}

impl PartialEq for Source {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Config(a), Self::Config(b)) => a.revision == b.revision,
            (Self::Adopted(a), Self::Adopted(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

/// A source of routes together with what is known of the node. An edit and a change of labels are the same thing: another target.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Where the routes come from.
    pub source: Source,
    /// What is known of the node.
    pub facts: Facts,
}

impl Target {
    /// The revision, where it is known.
    pub fn revision(&self) -> Option<&str> {
        match &self.source {
            Source::Config(loaded) => Some(&loaded.revision),
            Source::Adopted(adopted) => adopted.revision.as_deref(),
        }
    }

    /// The configuration, where it is known.
    pub fn config(&self) -> Option<&Arc<Loaded>> {
        match &self.source {
            Source::Config(loaded) => Some(loaded),
            Source::Adopted(_) => None,
        }
    }
}

/// Everything that can lead packets elsewhere: a sorted hash of each route and of each gateway that has a nexthop object, its own or a
/// duplicate. Blackhole nexthops are no part of it, nor are groups' members: what health does with confirmed gateways is no change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Sorted.
    hashes: Arc<[u64]>,
    /// Any IPv6 route counts as part of it; see [`Footprint::or_any_v6`].
    any_v6: bool,
}

impl Footprint {
    /// Of a wanted state.
    pub fn of(wanted: &Wanted) -> Self {
        let gateways = wanted.nexthops.values().filter_map(|what| match what {
            WantedNexthop::Via(gateway, dev) => Some(gateway_hash(*gateway, dev)),
            WantedNexthop::Blackhole(_) => None,
        });
        Self::from_parts(&wanted.routes, gateways)
    }

    /// Of what the kernel has of ours.
    pub fn found(kernel: &Kernel, ownership: &Ownership) -> Self {
        let ours = kernel.nexthops.values();
        let ours = ours.filter(|nexthop| nexthop.protocol == ownership.protocol);
        let gateways = ours.filter_map(|nexthop| match &nexthop.kind {
            NexthopKind::Via { gateway, dev } => Some(gateway_hash(*gateway, dev)),
            _ => None,
        });
        Self::from_parts(&kernel.own, gateways)
    }

    fn from_parts(routes: &[OwnRoute], gateways: impl Iterator<Item = u64>) -> Self {
        let mut hashes = Vec::with_capacity(routes.len());
        hashes.extend(routes.iter().map(route_hash));
        hashes.extend(gateways);
        hashes.sort_unstable();
        hashes.dedup();
        Self {
            hashes: hashes.into(),
            any_v6: false,
        }
    }

    /// Of a read that may have left IPv6 routes out: nobody knows which of those were there. Their gateways' objects are known.
    #[must_use]
    pub fn or_any_v6(self) -> Self {
        Self {
            any_v6: true,
            ..self
        }
    }

    /// The same, or [`Self::or_any_v6`] where this read may have left IPv6 routes out.
    #[must_use]
    pub fn of_read(self, kernel: &Kernel) -> Self {
        if kernel.uncertain_v6 {
            self.or_any_v6()
        } else {
            self
        }
    }

    /// Whether it was made from a read that may have left routes out.
    pub const fn is_uncertain(&self) -> bool {
        self.any_v6
    }

    /// The same, in the memory of the other where that is equal.
    #[must_use]
    pub fn shared_with(self, other: &Self) -> Self {
        if self == *other { other.clone() } else { self }
    }

    /// Whether there is something in it that `confirmed` has not.
    pub fn exceeds(&self, confirmed: &Self) -> bool {
        self.beyond_hashes(confirmed).next().is_some()
    }

    /// What of it `confirmed` has not.
    #[must_use]
    pub fn beyond(&self, confirmed: &Self) -> Self {
        Self {
            hashes: self.beyond_hashes(confirmed).collect(),
            any_v6: self.any_v6,
        }
    }

    fn beyond_hashes(&self, confirmed: &Self) -> impl Iterator<Item = u64> {
        let mut there = confirmed.hashes.iter().peekable();
        self.hashes.iter().copied().filter(move |hash| {
            while there.next_if(|other| *other < hash).is_some() {}
            there.peek() != Some(&hash) && !(confirmed.any_v6 && is_of_v6_route(*hash))
        })
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// What this had, `allowed` still has, and `now` has not: counts of routes and of nexthop objects.
    pub fn missing_in(&self, now: &Self, allowed: &Self) -> (usize, usize) {
        if Arc::ptr_eq(&self.hashes, &now.hashes) {
            return (0, 0);
        }
        let has = |of: &Self, hash: &u64| of.hashes.binary_search(hash).is_ok();
        let gone = self
            .hashes
            .iter()
            .filter(|hash| !has(now, hash) && has(allowed, hash));
        gone.fold((0, 0), |(routes, nexthops), hash| match hash & 1 {
            0 => (routes + 1, nexthops),
            _ => (routes, nexthops + 1),
        })
    }

    /// Without these routes.
    #[must_use]
    pub fn without<'a>(&self, routes: impl Iterator<Item = &'a OwnRoute>) -> Self {
        let mut missing: Vec<u64> = routes.map(route_hash).collect();
        if missing.is_empty() {
            return self.clone();
        }
        missing.sort_unstable();
        let stays = |hash: &&u64| missing.binary_search(hash).is_err();
        Self {
            hashes: self.hashes.iter().filter(stays).copied().collect(),
            any_v6: self.any_v6,
        }
    }

    /// Takes out of `wanted` whatever is not in this footprint.
    pub fn restrict(&self, wanted: &mut Wanted) {
        let has = |hash: u64| {
            self.hashes.binary_search(&hash).is_ok() || (self.any_v6 && is_of_v6_route(hash))
        };
        wanted.nexthops.retain(|_, what| match what {
            WantedNexthop::Via(gateway, dev) => has(gateway_hash(*gateway, dev)),
            WantedNexthop::Blackhole(_) => true,
        });
        let nexthops = &wanted.nexthops;
        for group in wanted.groups.values_mut() {
            group
                .members
                .retain(|member| nexthops.contains_key(&member.id));
        }
        wanted.groups.retain(|_, group| !group.members.is_empty());
        let groups = &wanted.groups;
        wanted.routes.retain(|route| {
            let leads_on = match &route.target {
                RouteTarget::Nexthop(id) => groups.contains_key(id) || nexthops.contains_key(id),
                _ => true,
            };
            leads_on && has(route_hash(route))
        });
    }

    /// One number for all of it, to recognise it again.
    pub fn fingerprint(&self) -> u64 {
        hash(&self.hashes)
    }
}

/// Even for routes and odd for nexthops, so that they can be counted apart; the next bit is an IPv6 route's. In one piece, because there
/// may be 250,000 of them.
fn route_hash(route: &OwnRoute) -> u64 {
    let RouteKey {
        prefix,
        metric,
        table,
        tos,
    } = route.key;
    let (kind, id, words) = match &route.target {
        RouteTarget::Nexthop(id) => (0, *id, ""),
        RouteTarget::Blackhole => (1, 0, ""),
        RouteTarget::Stray(words) => (2, 0, words.as_str()),
    };
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&value_of(prefix.address()).to_ne_bytes());
    bytes[16..20].copy_from_slice(&metric.to_ne_bytes());
    bytes[20..24].copy_from_slice(&table.to_ne_bytes());
    bytes[24..28].copy_from_slice(&id.to_ne_bytes());
    bytes[28..].copy_from_slice(&[prefix.len(), prefix.family() as u8, tos, kind]);
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    hasher.write(words.as_bytes());
    hasher.finish() & !3 | u64::from(prefix.family() == Family::V6) << 1
}

const fn is_of_v6_route(hash: u64) -> bool {
    hash & 3 == 2
}

/// Of whichever object leads to it.
fn gateway_hash(gateway: IpAddr, dev: &str) -> u64 {
    hash(&(gateway, dev)) | 1
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::state::Nexthop;

    #[test]
    fn what_was_wanted_and_what_the_kernel_has_of_it_leave_one_footprint() {
        let ownership = Ownership::DEFAULT;
        let gateway: IpAddr = "10.116.0.5".parse().unwrap();
        let route = OwnRoute {
            key: ownership.key("203.0.113.0/24".parse().unwrap()),
            target: RouteTarget::Nexthop(200),
        };
        let wanted = Wanted {
            nexthops: [(100, WantedNexthop::Via(gateway, "eth1".into()))].into(),
            routes: vec![route.clone()],
            ..Wanted::default()
        };
        let via = |protocol| Nexthop {
            kind: NexthopKind::Via {
                gateway,
                dev: "eth1".into(),
            },
            protocol,
        };
        let mut kernel = Kernel {
            own: vec![route],
            nexthops: [(100, via(230)), (101, via(12))].into(),
            ..Kernel::default()
        };
        assert_eq!(
            Footprint::found(&kernel, &ownership),
            Footprint::of(&wanted)
        );
        let primary = kernel.nexthops.remove(&100);
        kernel.nexthops.insert(102, via(230));
        assert!(primary.is_some());
        assert_eq!(
            Footprint::found(&kernel, &ownership),
            Footprint::of(&wanted),
            "a duplicate leads there too"
        );
        let other = NexthopKind::Via {
            gateway: "10.116.0.6".parse().unwrap(),
            dev: "eth1".into(),
        };
        let protocol = 230;
        let other = Nexthop {
            kind: other,
            protocol,
        };
        kernel.nexthops.insert(103, other);
        assert_ne!(
            Footprint::found(&kernel, &ownership),
            Footprint::of(&wanted)
        );
    }
}
