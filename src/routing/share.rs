//! How the gateways of a set share its flows: weights, and how a gateway leaves without cutting anybody.
//!
//! Pure. Which gateways may carry anything is `resolve`'s. A gateway that leaves stays in its resilient group with a
//! weight so small that it gets no new bucket: its idle buckets move at once, the others when they have been idle.
//! The kernel is the record: a gateway that drains and is not in the group has left already.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Failback, Strategy};
use crate::routing::batch::IDLE_TIMER;
use crate::routing::state::{Kernel, Leaving, Member, NexthopKind};

/// The highest weight that iproute2 6.1 takes.
const HIGHEST_WEIGHT: u32 = 256;
/// The weight of a gateway that leaves.
const LEAVING: u32 = 1;
/// The shortest idle time of a set with `drainTimeout`, in seconds.
const SHORTEST_IDLE: u64 = 5;

/// A gateway that may carry flows.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its address.
    pub gateway: IpAddr,
    /// Its configured weight.
    pub weight: u32,
    /// Whether it shall leave.
    pub drain: bool,
    /// What it carries now; absent where the group does not have it.
    pub now: Option<Carries>,
}

/// What a gateway carries in the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Carries {
    /// Whether it was leaving already.
    pub leaving: bool,
    /// What is left of it, where that was read.
    pub left: Option<Leaving>,
}

/// What is asked of a set.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How its gateways share.
    pub strategy: Strategy,
    /// After this time a gateway leaves by force; zero is never.
    pub drain_timeout: Duration,
    /// Whether its group is resilient, which leaving gently needs.
    pub gentle: bool,
}

/// Who carries the flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// Gateways that get new flows, and their weights in the group.
    pub active: Vec<(IpAddr, u32)>,
    /// Gateways that keep the flows they have until those are idle.
    pub leaving: Vec<IpAddr>,
    /// Gateways that should leave and cannot, because there is no other.
    pub stuck: Vec<IpAddr>,
    /// Seconds without a packet after which a bucket counts as idle.
    pub idle: u32,
}

impl Shared {
    /// All members with their weights.
    pub fn members(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        let leaving = self.leaving.iter().map(|gateway| (*gateway, LEAVING));
        self.active.iter().copied().chain(leaving)
    }
}

/// Whether a member of such a group is one that leaves: no configured weights give such a group.
pub fn is_leaving(member: Member, members: &[Member]) -> bool {
    let highest = members.iter().map(|m| m.weight).max().unwrap_or(0);
    member.weight == LEAVING && highest > HIGHEST_WEIGHT / 2
}

/// Members that leave our groups, by group and member, with the groups' idle times.
pub fn leaving(kernel: &Kernel, protocol: u8) -> BTreeMap<(u32, u32), u32> {
    let mut all = BTreeMap::new();
    for (id, nexthop) in kernel
        .nexthops
        .iter()
        .filter(|(_, n)| n.protocol == protocol)
    {
        if let NexthopKind::Group {
            members,
            resilient: Some(resilient),
        } = &nexthop.kind
        {
            let leaving = members.iter().filter(|m| is_leaving(**m, members));
            all.extend(leaving.map(|m| ((*id, m.id), resilient.idle)));
        }
    }
    all
}

/// Seconds without a packet after which a bucket is idle. With a time limit, most flows should leave before it.
pub fn idle_time(drain_timeout: Duration) -> u32 {
    if drain_timeout.is_zero() {
        return IDLE_TIMER;
    }
    let seconds = (drain_timeout.as_secs() / 4).max(SHORTEST_IDLE);
    u32::try_from(seconds).map_or(IDLE_TIMER, |idle| idle.min(IDLE_TIMER))
}

/// Shares the flows among candidates, which are in listed order and at least one.
pub fn share(candidates: &[Candidate], terms: &Terms) -> Shared {
    let staying: Vec<&Candidate> = candidates.iter().filter(|c| !c.drain).collect();
    let stuck = staying.is_empty();
    let pool = if stuck {
        candidates.iter().collect()
    } else {
        staying
    };
    let chosen: Vec<&Candidate> = match terms.strategy {
        Strategy::Balance => pool,
        Strategy::Failover { failback } => first(&pool, failback).into_iter().collect(),
    };
    let is_chosen = |c: &Candidate| chosen.iter().any(|other| other.gateway == c.gateway);
    let leaving: Vec<IpAddr> = candidates
        .iter()
        .filter(|c| !is_chosen(c) && leaves_gently(c, terms))
        .map(|c| c.gateway)
        .collect();
    let weights: Vec<u32> = match terms.strategy {
        Strategy::Balance => chosen.iter().map(|c| c.weight).collect(),
        Strategy::Failover { .. } => vec![1; chosen.len()],
    };
    let scaled = scale(&weights, !leaving.is_empty());
    Shared {
        active: chosen.iter().map(|c| c.gateway).zip(scaled).collect(),
        idle: if leaving.is_empty() {
            IDLE_TIMER
        } else {
            idle_time(terms.drain_timeout)
        },
        leaving,
        stuck: chosen.iter().filter(|_| stuck).map(|c| c.gateway).collect(),
    }
}

/// The one that takes all. The kernel remembers which one is in use, over a restart too.
fn first<'a>(pool: &[&'a Candidate], failback: Failback) -> Option<&'a Candidate> {
    let in_use = pool
        .iter()
        .filter(|c| c.now.is_some_and(|now| !now.leaving));
    let stays = in_use
        .take(1)
        .next()
        .filter(|_| failback == Failback::Never);
    stays.or_else(|| pool.first()).copied()
}

/// Whether a gateway that gets no new flows keeps those that it has.
fn leaves_gently(candidate: &Candidate, terms: &Terms) -> bool {
    let Some(now) = candidate.now.filter(|_| terms.gentle) else {
        return false;
    };
    let returns_gently = matches!(
        terms.strategy,
        Strategy::Failover {
            failback: Failback::Drain
        }
    );
    let is_done = now.left.is_some_and(|left| {
        left.busy == 0 || (!terms.drain_timeout.is_zero() && left.since >= terms.drain_timeout)
    });
    (candidate.drain || returns_gently || now.leaving) && !is_done
}

/// Weights as small as they can be, or as large where somebody shall get next to nothing beside them.
fn scale(weights: &[u32], large: bool) -> Vec<u32> {
    let common = weights
        .iter()
        .copied()
        .fold(0, greatest_common_divisor)
        .max(1);
    let highest = weights.iter().map(|w| w / common).max().unwrap_or(1).max(1);
    let factor = if large { HIGHEST_WEIGHT / highest } else { 1 };
    weights.iter().map(|w| w / common * factor.max(1)).collect()
}

const fn greatest_common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests;
