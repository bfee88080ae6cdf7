//! What the kernel is made equal to, and what of it an answer of the API server has confirmed.
//!
//! Pure values. When which target is in force is `rollout`'s.

use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

use crate::config::Config;
use crate::routing::adopt::Adopted;
use crate::routing::diff::{Wanted, WantedNexthop};
use crate::routing::node_facts::Facts;
use crate::routing::state::{OwnRoute, Target as RouteTarget};

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

/// Everything that can lead packets elsewhere: a sorted hash of each route and of each gateway's nexthop object. Blackhole nexthops
/// are no part of it, nor are groups' members: what health does with confirmed gateways is no change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint(Vec<u64>);

impl Footprint {
    /// Of a wanted state.
    pub fn of(wanted: &Wanted) -> Self {
        let routes = wanted.routes.iter().map(route_hash);
        let gateways = wanted
            .nexthops
            .iter()
            .filter(|(_, what)| leads(what))
            .map(|(id, what)| nexthop_hash(*id, what));
        let mut hashes: Vec<u64> = routes.chain(gateways).collect();
        hashes.sort_unstable();
        Self(hashes)
    }

    /// Whether there is something in it that `confirmed` has not.
    pub fn exceeds(&self, confirmed: &Self) -> bool {
        let mut there = confirmed.0.iter().peekable();
        self.0.iter().any(|hash| {
            while there.next_if(|other| *other < hash).is_some() {}
            there.peek() != Some(&hash)
        })
    }

    /// What this had, `allowed` still has, and `now` has not: counts of routes and of nexthop objects.
    pub fn missing_in(&self, now: &Self, allowed: &Self) -> (usize, usize) {
        let has = |of: &Self, hash: &u64| of.0.binary_search(hash).is_ok();
        let gone = self
            .0
            .iter()
            .filter(|hash| !has(now, hash) && has(allowed, hash));
        gone.fold((0, 0), |(routes, nexthops), hash| match hash & 1 {
            0 => (routes + 1, nexthops),
            _ => (routes, nexthops + 1),
        })
    }

    /// Without these routes.
    #[must_use]
    pub fn without<'a>(mut self, routes: impl Iterator<Item = &'a OwnRoute>) -> Self {
        let mut missing: Vec<u64> = routes.map(route_hash).collect();
        missing.sort_unstable();
        self.0.retain(|hash| missing.binary_search(hash).is_err());
        self
    }

    /// Takes out of `wanted` whatever is not in this footprint.
    pub fn restrict(&self, wanted: &mut Wanted) {
        let has = |hash: u64| self.0.binary_search(&hash).is_ok();
        wanted
            .nexthops
            .retain(|id, what| !leads(what) || has(nexthop_hash(*id, what)));
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
        hash(&self.0)
    }
}

const fn leads(what: &WantedNexthop) -> bool {
    matches!(what, WantedNexthop::Via(..))
}

/// Even for routes and odd for nexthops, so that they can be counted apart.
fn route_hash(route: &OwnRoute) -> u64 {
    hash(route) & !1
}

fn nexthop_hash(id: u32, what: &WantedNexthop) -> u64 {
    hash(&(id, what)) | 1
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
