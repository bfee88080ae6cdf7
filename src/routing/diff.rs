//! The diff: what to write so that the kernel's state becomes the wanted one.
//!
//! Pure. Keyed as the kernel keys routes. Wanted state is `resolve`'s, writing and verifying
//! `apply`'s. Nothing that lacks our protocol number is ever in a plan.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::net::nexthop_id;
use crate::net::prefix::Family;
use crate::routing::batch::{BUCKETS, LEAK_GUARD_METRIC, Line, Ownership};
use crate::routing::share;
use crate::routing::state::{Kernel, Member, Nexthop, NexthopKind, OwnRoute, Resilient, RouteKey};

mod describe;
mod wanted;

pub use describe::describe_now;
pub use wanted::{Wanted, WantedGroup, WantedNexthop};

/// What to write, in order. Empty when the kernel has what is wanted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Nexthop objects to write: `(id, what)`.
    pub nexthops: Vec<(u32, WantedNexthop)>,
    /// Objects that block others: ids that must be something of another kind.
    pub clear: Vec<u32>,
    /// Groups to write.
    pub groups: Vec<GroupWrite>,
    /// Routes to write; leak guards before what they guard.
    pub replace: Vec<RouteWrite>,
    /// Routes that go; leak guards last.
    pub delete: Vec<OwnRoute>,
    /// Groups that go and take all of their routes along; those are in `dropped`.
    pub delete_groups: Vec<u32>,
    /// Routes that go with their group: one command instead of thousands.
    pub dropped: Vec<OwnRoute>,
    /// Objects of ours that nothing uses. Not part of the difference: they carry no traffic.
    pub unused: Vec<u32>,
    /// What blocks a change and is not ours to change, with the words for a report.
    pub conflicts: Vec<Conflict>,
    /// Routes that would go if the read were certain; see [`Kernel::uncertain_v6`].
    pub postponed: usize,
}

/// A group that gets other members, or is new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupWrite {
    /// Its id.
    pub id: u32,
    /// Its members.
    pub members: Vec<Member>,
    /// The kernel refuses to change the type of a group or its buckets, so one that exists keeps its.
    pub resilient: Option<Resilient>,
    /// Whether it exists.
    pub exists: bool,
}

/// A route that is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteWrite {
    /// The route.
    pub route: OwnRoute,
    /// Whether the key exists with another target.
    pub exists: bool,
}

/// Something foreign in the place of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// A route with our key.
    Route(RouteKey, u8),
    /// A nexthop object with our id.
    Nexthop(u32, u8),
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Route(key, protocol) => write!(
                f,
                "{} metric {} belongs to route protocol {protocol}, and two routes cannot have one prefix and metric",
                key.prefix, key.metric
            ),
            Self::Nexthop(id, protocol) => {
                write!(f, "nexthop id {id} belongs to route protocol {protocol}")
            }
        }
    }
}

impl Plan {
    /// Whether the kernel has all that is wanted and nothing of ours beside it that carries traffic.
    pub fn is_empty(&self) -> bool {
        self.nexthops.is_empty()
            && self.clear.is_empty()
            && self.groups.is_empty()
            && !self.touches_routes()
    }

    /// Whether nothing is left to do either: no removal waits for a read that is certain.
    pub fn is_done(&self) -> bool {
        self.is_empty() && self.postponed == 0
    }

    /// Whether a route is written, removed, or goes with its group.
    pub fn touches_routes(&self) -> bool {
        !(self.replace.is_empty() && self.delete.is_empty() && self.delete_groups.is_empty())
    }

    /// The IPv6 blackholes, whose batch lines cannot state their family.
    pub fn v6_blackholes(&self) -> impl Iterator<Item = Line<'_>> {
        self.nexthops.iter().filter_map(|(id, what)| match what {
            WantedNexthop::Blackhole(Family::V6) => Some(Line::BlackholeNexthop { id: *id }),
            _ => None,
        })
    }

    /// All other lines that write, in the order in which they must run: nexthops, groups, routes. [`Plan::deletions`] come
    /// after them, and only when all of these ran.
    pub fn writes(&self) -> impl Iterator<Item = Line<'_>> {
        let clear = self.clear.iter().map(|id| Line::DeleteNexthop { id: *id });
        let nexthops = self.nexthops.iter().filter_map(|(id, what)| match what {
            WantedNexthop::Via(gateway, dev) => Some(Line::Gateway {
                id: *id,
                gateway: *gateway,
                dev,
            }),
            WantedNexthop::Blackhole(Family::V4) => Some(Line::BlackholeNexthop { id: *id }),
            WantedNexthop::Blackhole(Family::V6) => None,
        });
        let groups = self.groups.iter().map(|g| Line::Group {
            id: g.id,
            members: &g.members,
            resilient: g.resilient,
        });
        let replace = self.replace.iter().map(|w| Line::Route {
            key: w.route.key,
            target: &w.route.target,
            exists: w.exists,
        });
        clear.chain(nexthops).chain(groups).chain(replace)
    }

    /// What goes: groups with their routes, then single routes.
    pub fn deletions(&self) -> impl Iterator<Item = Line<'_>> {
        let delete = self.delete.iter().map(|r| Line::DeleteRoute {
            key: r.key,
            target: &r.target,
        });
        let drop = self
            .delete_groups
            .iter()
            .map(|id| Line::DeleteNexthop { id: *id });
        drop.chain(delete)
    }
}

/// Compares. `resilient` is whether new groups are made so. With an uncertain read nothing of IPv6 goes, and no object.
pub fn diff(wanted: &Wanted, kernel: &Kernel, ownership: &Ownership, resilient: bool) -> Plan {
    let mut plan = Plan::default();
    diff_nexthops(wanted, kernel, ownership, resilient, &mut plan);
    diff_routes(wanted, kernel, &mut plan);
    drop_whole_groups(wanted, kernel, ownership, &mut plan);
    find_unused(wanted, kernel, ownership, &mut plan);
    plan
}

/// What to write so that exactly these `records` of revisions are there; see `nexthop_id`.
pub fn records_to(
    records: &BTreeSet<u32>,
    kernel: &Kernel,
    ownership: &Ownership,
) -> Vec<Line<'static>> {
    let there = kernel.records(ownership);
    // In the place of somebody else's object there is no record: `replace` would change what is not ours.
    let is_free = |id: &&u32| !kernel.nexthops.contains_key(id);
    let new = records.difference(&there).filter(is_free);
    let new = new.map(|id| Line::BlackholeNexthop { id: *id });
    // A change that is recorded as rejected and as unconfirmed counts as taken out of the kernel: that it was rejected goes first.
    let old = there.difference(records).copied();
    let (first, last): (Vec<u32>, Vec<u32>) = old.partition(|id| nexthop_id::is_rejected(*id));
    let delete = |id| Line::DeleteNexthop { id };
    let first = first.into_iter().map(delete);
    first
        .chain(new)
        .chain(last.into_iter().map(delete))
        .collect()
}

/// Nexthops and groups alone: all that a change of health or gateway needs while the groups stay.
pub fn diff_nexthops(
    wanted: &Wanted,
    kernel: &Kernel,
    ownership: &Ownership,
    resilient: bool,
    plan: &mut Plan,
) {
    let mut taken = HashSet::new();
    let mut is_free = |id, group| {
        let is_free = is_free(id, group, kernel, ownership, plan);
        if !is_free {
            taken.insert(id);
        }
        is_free
    };
    let nexthops = wanted
        .nexthops
        .iter()
        .filter(|(id, _)| is_free(**id, false));
    let nexthops: Vec<_> = nexthops
        .map(|(id, what)| (*id, what.clone()))
        .filter(|(id, what)| {
            kernel
                .kind(*id)
                .and_then(|there| WantedNexthop::as_found(*id, there))
                .as_ref()
                != Some(what)
        })
        .collect();
    let groups = wanted.groups.iter().filter(|(id, _)| is_free(**id, true));
    let groups: Vec<_> = groups.collect();
    plan.nexthops = nexthops;
    let writes = groups.into_iter().filter_map(|(id, group)| {
        let there = match kernel.kind(*id) {
            Some(NexthopKind::Group { members, resilient }) => Some((members, *resilient)),
            _ => None,
        };
        let buckets = match there {
            Some((_, resilient)) => resilient.map(|r| r.buckets),
            None => resilient.then_some(BUCKETS),
        };
        // Somebody else's object in a group of ours would send our packets to somebody else's gateway. Duplicates serve buckets alone.
        let of_use = |m: &&Member| {
            !taken.contains(&m.id) && (buckets.is_some() || !nexthop_id::is_duplicate(m.id))
        };
        let members: Vec<Member> = group.members.iter().filter(of_use).copied().collect();
        let same = |(now, resilient): (&Vec<Member>, Option<Resilient>)| {
            *now == members && resilient.is_none_or(|r| r.idle == group.idle)
        };
        let idle = group.idle;
        (!members.is_empty() && !there.is_some_and(same)).then(|| GroupWrite {
            id: *id,
            members: share::arranged(&members),
            resilient: buckets.map(|buckets| Resilient { buckets, idle }),
            exists: there.is_some(),
        })
    });
    plan.groups.extend(writes);
}

/// Whether an object of ours can have this id. What is of another kind has to go first, but not if somebody else's routes would go
/// with it.
fn is_free(id: u32, group: bool, kernel: &Kernel, ownership: &Ownership, plan: &mut Plan) -> bool {
    let Some(there) = kernel.nexthops.get(&id) else {
        return true;
    };
    let is_it = matches!(there.kind, NexthopKind::Group { .. }) == group
        && there.kind != NexthopKind::Other;
    let ours = there.protocol == ownership.protocol;
    if ours && !is_it && kernel.uncertain_v6 {
        return false;
    }
    if !ours || (!is_it && is_lent(id, kernel, ownership)) {
        plan.conflicts.push(Conflict::Nexthop(id, there.protocol));
        return false;
    }
    if !is_it {
        plan.clear.push(id);
    }
    true
}

/// Whether routes or groups of others use this object, by a group of ours that they use too.
fn is_lent(id: u32, kernel: &Kernel, ownership: &Ownership) -> bool {
    let theirs = |(group, n): (&u32, &Nexthop)| {
        n.kind.members().iter().any(|m| m.id == id)
            && (n.protocol != ownership.protocol || kernel.lent.contains(group))
    };
    kernel.lent.contains(&id) || kernel.nexthops.iter().any(theirs)
}

fn diff_routes(wanted: &Wanted, kernel: &Kernel, plan: &mut Plan) {
    let theirs: HashMap<RouteKey, u8> =
        kernel.foreign.iter().map(|r| (r.key, r.protocol)).collect();
    let blocked = blocked(wanted, kernel, plan);
    // Of each, leak guards are the second.
    let mut written = (Vec::new(), Vec::new());
    let mut gone = (Vec::new(), Vec::new());
    let mut have = &kernel.own[..];
    let mut go = |route: &OwnRoute| {
        if kernel.uncertain_v6 && route.key.prefix.family() == Family::V6 {
            plan.postponed += 1;
        } else {
            of_kind(&mut gone, route.key).push(route.clone());
        }
    };
    for want in &wanted.routes {
        let before = have.iter().take_while(|r| r.key < want.key).count();
        have[..before].iter().for_each(&mut go);
        have = &have[before..];
        // More than one where somebody appended siblings: `replace` would change only the first.
        let siblings = have.iter().take_while(|r| r.key == want.key).count();
        let (siblings, rest) = have.split_at(siblings);
        have = rest;
        if matches!(siblings, [alone] if alone.target == want.target) {
            continue;
        }
        let right = siblings.iter().position(|r| r.target == want.target);
        let theirs = theirs.get(&want.key);
        let blocked = want
            .target
            .nexthop()
            .is_some_and(|id| blocked.contains(&id));
        // One alone is changed in place. Of several the kernel changes the first, and only it knows which that is.
        let kept = right.or((siblings.len() == 1 && theirs.is_none() && !blocked).then_some(0));
        let others = siblings
            .iter()
            .enumerate()
            .filter(|(n, _)| Some(*n) != kept);
        others.for_each(|(_, route)| go(route));
        if right.is_some() {
            continue;
        }
        if let Some(protocol) = theirs {
            plan.conflicts.push(Conflict::Route(want.key, *protocol));
        } else if !blocked {
            of_kind(&mut written, want.key).push(RouteWrite {
                route: want.clone(),
                exists: !siblings.is_empty(),
            });
        }
    }
    have.iter().for_each(go);
    // Leak guards come before the routes that they guard, and go after them.
    plan.replace = one_after_the_other(written.1, written.0);
    // A stray's target may name several siblings, of which the kernel takes the first that it finds: the one that names most goes first.
    gone.0
        .sort_unstable_by(|a: &OwnRoute, b| (a.key, &b.target).cmp(&(b.key, &a.target)));
    plan.delete = one_after_the_other(gone.0, gone.1);
}

/// Objects that no route of ours can go through: somebody else has the id, or of all members of the group. It is not even tried.
fn blocked(wanted: &Wanted, kernel: &Kernel, plan: &Plan) -> HashSet<u32> {
    let taken: HashSet<u32> = plan
        .conflicts
        .iter()
        .filter_map(|conflict| match conflict {
            Conflict::Nexthop(id, _) => Some(*id),
            Conflict::Route(..) => None,
        })
        .collect();
    let missing = |(id, group): &(&u32, &WantedGroup)| {
        (!kernel.nexthops.contains_key(id) || plan.clear.contains(id))
            && group.members.iter().all(|m| taken.contains(&m.id))
    };
    let groups = wanted.groups.iter().filter(missing).map(|(id, _)| *id);
    groups.chain(taken.iter().copied()).collect()
}

/// Of a pair the part for leak guards, or the one for all other routes.
const fn of_kind<T>(pair: &mut (Vec<T>, Vec<T>), key: RouteKey) -> &mut Vec<T> {
    if key.metric == LEAK_GUARD_METRIC {
        &mut pair.1
    } else {
        &mut pair.0
    }
}

/// Without a copy where there is nothing to append: a new node's plan is as large as its table.
fn one_after_the_other<T>(mut first: Vec<T>, mut then: Vec<T>) -> Vec<T> {
    if first.is_empty() {
        return then;
    }
    first.append(&mut then);
    first
}

/// Where all routes of a group go, one command takes them along with it.
fn drop_whole_groups(wanted: &Wanted, kernel: &Kernel, ownership: &Ownership, plan: &mut Plan) {
    if kernel.uncertain_v6 {
        // Who else uses a group is not known.
        return;
    }
    let mut uses: HashMap<u32, (usize, usize)> = HashMap::new();
    let not_wanted =
        |id: &u32| !wanted.groups.contains_key(id) && !wanted.nexthops.contains_key(id);
    let count = |route: &OwnRoute| route.target.nexthop().filter(not_wanted);
    for id in kernel.own.iter().filter_map(count) {
        uses.entry(id).or_default().0 += 1;
    }
    for id in plan.delete.iter().filter_map(count) {
        uses.entry(id).or_default().1 += 1;
    }
    let may_go = |id: &u32| {
        kernel
            .nexthops
            .get(id)
            .is_some_and(|n| n.protocol == ownership.protocol)
            && !is_lent(*id, kernel, ownership)
    };
    plan.delete_groups = uses
        .into_iter()
        .filter(|(id, (all, going))| all == going && may_go(id))
        .map(|(id, _)| id)
        .collect();
    plan.delete_groups.sort_unstable();
    let groups = std::mem::take(&mut plan.delete_groups);
    let with_group = |r: &OwnRoute| {
        r.target
            .nexthop()
            .is_some_and(|id| groups.binary_search(&id).is_ok())
    };
    (plan.dropped, plan.delete) = std::mem::take(&mut plan.delete)
        .into_iter()
        .partition(with_group);
    plan.delete_groups = groups;
}

fn find_unused(wanted: &Wanted, kernel: &Kernel, ownership: &Ownership, plan: &mut Plan) {
    if kernel.uncertain_v6 {
        return;
    }
    let used: HashSet<u32> = kernel
        .own
        .chunk_by(|one, next| one.target == next.target)
        .filter_map(|same| same[0].target.nexthop())
        .collect();
    let used = |id: &u32| used.contains(id) || kernel.lent.contains(id);
    let wanted = |id: &u32| wanted.groups.contains_key(id) || wanted.nexthops.contains_key(id);
    let unused = kernel
        .nexthops
        .iter()
        .filter(|(id, n)| n.protocol == ownership.protocol && !used(id) && !wanted(id));
    // Groups before their members, or the members' end would be the groups' change.
    let (groups, singles): (Vec<_>, Vec<_>) =
        unused.partition(|(_, n)| matches!(n.kind, NexthopKind::Group { .. }));
    let kept_members: HashSet<u32> = kernel
        .nexthops
        .iter()
        .filter(|(id, n)| n.protocol != ownership.protocol || !groups.iter().any(|(g, _)| g == id))
        .flat_map(|(_, n)| n.kind.members())
        .map(|m| m.id)
        .collect();
    let singles = singles.into_iter().map(|(id, _)| *id);
    let groups = groups.into_iter().map(|(id, _)| *id);
    plan.unused = groups
        .chain(singles.filter(|id| !kept_members.contains(id)))
        .collect();
}

#[cfg(test)]
mod tests;
