//! How the gateways of a set share its flows: weights, and how a gateway leaves without breaking connections.
//!
//! Pure. Which gateways may carry anything is `resolve`'s. A gateway that leaves stays in its resilient group with a
//! weight so small that it gets no new bucket: its idle buckets move at once, the others when they have been idle.
//! For that a gateway may have several nexthop objects in a group (`duplicate`s), of which only this file knows the use.
//! The kernel is the record: a gateway that drains and is not in the group has left already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Failback, Strategy};
use crate::net::nexthop_id;
use crate::routing::batch::IDLE_TIMER;
use crate::routing::state::{Kernel, Leaving, Member, NexthopKind};

/// The highest weight that iproute2 6.1 takes.
const HIGHEST_WEIGHT: u32 = 256;
/// The weight of a gateway that leaves.
const LEAVING: u32 = 1;
/// The most members of a group, and of them the most that get new flows. iproute2 has room for about 120 in a command, and every
/// route that is read lists all of them.
const MOST_MEMBERS: usize = 100;
const MOST_ACTIVE: u32 = 64;
/// The most objects of one gateway that gets new flows.
const MOST_OBJECTS: u32 = 32;
/// The idle time of a group that a gateway begins to leave, in seconds: nothing moves yet. Sockets of the node itself look their route
/// up once; each write of the group makes them look again, which is what the kernel counts as use.
const FROZEN_IDLE: u32 = 86_400;
/// How long that lasts at most, in seconds.
const LONGEST_FREEZE: u64 = 10;
/// The shortest idle time of a set with `drainTimeout`, in seconds.
const SHORTEST_IDLE: u64 = 5;

/// A gateway that may carry flows.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its address.
    pub gateway: IpAddr,
    /// Its nexthop object.
    pub id: u32,
    /// Its configured weight.
    pub weight: u32,
    /// Whether it shall leave.
    pub drain: bool,
    /// Its objects in the group; none where the group does not have it.
    pub now: Vec<Carries>,
}

/// What an object of a gateway carries in the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Carries {
    /// The object.
    pub id: u32,
    /// Whether it was leaving already.
    pub leaving: bool,
    /// What is left of it, where that was read.
    pub left: Option<Leaving>,
}

impl Candidate {
    /// Whether it gets new flows.
    fn is_in_use(&self) -> bool {
        self.now.iter().any(|object| !object.leaving)
    }

    fn was_leaving(&self) -> bool {
        !self.now.is_empty() && !self.is_in_use()
    }
}

/// What is asked of a set.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How its gateways share.
    pub strategy: Strategy,
    /// After this time a gateway leaves by force; zero is never.
    pub drain_timeout: Duration,
    /// The buckets of its group, where it is resilient, which leaving gently needs.
    pub buckets: Option<u32>,
    /// The group's idle time, where a gateway leaves it already.
    pub idle: Option<u32>,
}

/// Who carries the flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shared {
    /// All members of the group, each with its gateway; sorted by member.
    pub members: Vec<(IpAddr, Member)>,
    /// Gateways that get new flows.
    pub active: Vec<IpAddr>,
    /// Gateways that should leave and cannot, because there is no other.
    pub stuck: Vec<IpAddr>,
    /// Seconds without a packet after which a bucket counts as idle.
    pub idle: u32,
}

/// Whether a member of such a group is one that leaves: no configured weights give such a group.
pub fn is_leaving(member: Member, members: &[Member]) -> bool {
    let highest = members.iter().map(|m| m.weight).max().unwrap_or(0);
    member.weight == LEAVING && highest > HIGHEST_WEIGHT / 2
}

/// Whether a gateway leaves a group with all that it has in it. For one that stays, an object more than needed may leave.
pub fn has_leaving(members: &[Member], gateway: impl Fn(u32) -> Option<IpAddr>) -> bool {
    let of = |leaving: bool| {
        let chosen = move |m: &&Member| is_leaving(**m, members) == leaving;
        let gateways = members.iter().filter(chosen);
        gateways
            .filter_map(|m| gateway(m.id))
            .collect::<BTreeSet<IpAddr>>()
    };
    !of(true).is_subset(&of(false))
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
    let going = going(candidates, &chosen, terms);
    Shared {
        members: members(&chosen, &going, terms),
        active: chosen.iter().map(|c| c.gateway).collect(),
        stuck: chosen.iter().filter(|_| stuck).map(|c| c.gateway).collect(),
        idle: if going.is_empty() {
            IDLE_TIMER
        } else {
            let left = candidates
                .iter()
                .flat_map(|c| &c.now)
                .filter_map(|o| o.left);
            let since = left.map(|left| left.since).max().unwrap_or_default();
            idle_while_leaving(idle_time(terms.drain_timeout), terms.idle, since)
        },
    }
}

/// The idle time of a group that a gateway leaves. It changes by a second in each quarter of it, so that the group is written again.
fn idle_while_leaving(idle: u32, now: Option<u32>, since: Duration) -> u32 {
    let quarter = u64::from(idle / 4).max(1);
    let turn = since.as_secs() / quarter;
    match now {
        None => FROZEN_IDLE,
        Some(FROZEN_IDLE) if since.as_secs() < quarter.min(LONGEST_FREEZE) => FROZEN_IDLE,
        // An agent or a command that has just started does not know for how long.
        Some(now) if turn == 0 && (idle..=idle + 1).contains(&now) => now,
        Some(_) => idle + u32::from(turn % 2 == 1),
    }
}

/// Objects of gateways that get no new flows and keep those that they have.
fn going(candidates: &[Candidate], chosen: &[&Candidate], terms: &Terms) -> Vec<(IpAddr, u32)> {
    if terms.buckets.is_none() {
        return Vec::new();
    }
    let is_chosen = |c: &Candidate| chosen.iter().any(|other| other.gateway == c.gateway);
    let gently = match terms.strategy {
        Strategy::Balance => false,
        Strategy::Failover { failback } => {
            failback == Failback::Drain || chosen.iter().any(|c| c.was_leaving())
        }
    };
    let leaves = |c: &&Candidate| !is_chosen(c) && (c.drain || gently || c.was_leaving());
    let leaving = candidates.iter().filter(leaves);
    leaving.flat_map(|c| unfinished(c, terms)).collect()
}

/// The members of the group, sorted.
fn members(chosen: &[&Candidate], going: &[(IpAddr, u32)], terms: &Terms) -> Vec<(IpAddr, Member)> {
    let weights: Vec<u32> = match terms.strategy {
        Strategy::Balance => chosen.iter().map(|c| c.weight).collect(),
        Strategy::Failover { .. } => vec![1; chosen.len()],
    };
    let objects = objects_each(&weights, going.len(), terms.buckets);
    let beyond = |c: &&Candidate| {
        let keeps: Vec<u32> = objects_of(c.id, objects).collect();
        let unfinished = unfinished(c, terms).into_iter();
        unfinished.filter(move |(_, id)| !keeps.contains(id))
    };
    let alone = chosen.len() == 1 && going.is_empty();
    let spare: Vec<(IpAddr, u32)> = if alone || terms.buckets.is_none() {
        // What leaves the group of a gateway alone comes back to that gateway.
        Vec::new()
    } else {
        chosen.iter().flat_map(beyond).collect()
    };
    let large = !(going.is_empty() && spare.is_empty());
    let active = chosen.iter().zip(scale(&weights, large));
    let mut members: Vec<(IpAddr, Member)> = active
        .flat_map(|(c, weight)| {
            objects_of(c.id, objects).map(move |id| (c.gateway, Member { weight, id }))
        })
        .collect();
    let room = MOST_MEMBERS.saturating_sub(members.len());
    let leaving = going.iter().chain(&spare).take(room);
    members.extend(leaving.map(|(gateway, id)| {
        let weight = LEAVING;
        (*gateway, Member { weight, id: *id })
    }));
    members.sort_unstable_by_key(|(_, member)| *member);
    members
}

/// A gateway's own object and its duplicates, as many as asked for.
fn objects_of(id: u32, count: u32) -> impl Iterator<Item = u32> {
    std::iter::once(id).chain((1..count).map(move |n| nexthop_id::duplicate(id, n)))
}

/// How many objects each gateway has that gets new flows.
///
/// The kernel (IPv4) does not look at the buckets of a group with one member, so that all of them seem idle when another one
/// joins: a gateway alone has two. And it leaves a gateway the buckets that its share rounds to, however busy the others: beside a
/// gateway that leaves there are so many objects that its share rounds to none.
fn objects_each(weights: &[u32], going: usize, buckets: Option<u32>) -> u32 {
    let Some(buckets) = buckets else {
        return 1;
    };
    let count = u32::try_from(weights.len()).unwrap_or(u32::MAX).max(1);
    let least = if count == 1 { 2 } else { 1 };
    if going == 0 {
        return least;
    }
    // Half of those that leave are written first and half last, see `arranged`; the shares of each half together round to none.
    let going = u32::try_from(going).unwrap_or(u32::MAX);
    let total = buckets.saturating_mul(going.max(2).next_multiple_of(2));
    let each: u32 = scale(weights, true).iter().sum();
    let most = (MOST_ACTIVE / count).min(MOST_OBJECTS);
    total.div_ceil(each.max(1)).min(most).max(least)
}

/// The order in which members are written: half of those that leave come first, and half last. The kernel rounds cumulated shares.
pub fn arranged(members: &[Member]) -> Vec<Member> {
    let (leaving, mut all): (Vec<Member>, Vec<Member>) = members
        .iter()
        .partition(|member| is_leaving(**member, members));
    let (last, first) = leaving.split_at(leaving.len() / 2);
    all.splice(0..0, first.iter().copied());
    all.extend(last);
    all
}

/// The one that takes all. The kernel remembers which one is in use, over a restart too.
fn first<'a>(pool: &[&'a Candidate], failback: Failback) -> Option<&'a Candidate> {
    let mut in_use = pool.iter().filter(|c| c.is_in_use());
    let stays = in_use.next().filter(|_| failback == Failback::Never);
    stays.or_else(|| pool.first()).copied()
}

/// The objects of a gateway that still have something to carry.
fn unfinished(candidate: &Candidate, terms: &Terms) -> Vec<(IpAddr, u32)> {
    let limit = Some(terms.drain_timeout).filter(|limit| !limit.is_zero());
    let is_done = |left: Leaving| left.busy == 0 || limit.is_some_and(|limit| left.since >= limit);
    let unfinished = candidate
        .now
        .iter()
        .filter(|o| !o.left.is_some_and(is_done));
    unfinished.map(|o| (candidate.gateway, o.id)).collect()
}

/// Weights as small as they can be, or as large where somebody shall get next to nothing beside them.
pub fn scale(weights: &[u32], large: bool) -> Vec<u32> {
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
