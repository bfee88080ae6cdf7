//! Which gateways carry a set's routes of one family: health, `whenDown`, and what the kernel has.
//!
//! Pure. How the chosen ones share the flows is `share`'s.

use std::net::IpAddr;

use super::{Builder, Examined};
use crate::config::{RouteSet, WhenDown};
use crate::health::{Health, ProbeKey, State};
use crate::net::nexthop_id;
use crate::net::prefix::Family;
use crate::routing::batch::BUCKETS;
use crate::routing::diff::WantedGroup;
use crate::routing::share::{self, Candidate, Carries, Shared};
use crate::routing::state::{Member, NexthopKind};

/// Which gateways carry a set's routes of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// These.
    Gateways(Shared),
    /// What the kernel has, because nothing better can be had: no gateway is usable and routes are held.
    AsFound(WantedGroup),
    /// Packets are dropped.
    Blackhole,
    /// The routes are withdrawn.
    Withdraw,
    /// There is no gateway that the kernel would take.
    Nothing,
}

impl Builder<'_> {
    pub(super) fn health(&self, set: &RouteSet, gateway: IpAddr) -> Option<&Health> {
        self.inputs.health.get(&ProbeKey {
            gateway,
            check: set.health_check.clone(),
        })
    }

    pub(super) fn is_down(&self, set: &RouteSet, gateway: IpAddr) -> bool {
        self.health(set, gateway)
            .is_some_and(|h| h.state == State::Down)
    }

    /// True when no probe of these gateways has ever been answered: then the probe is the likelier fault.
    pub(super) fn never_answered(&self, set: &RouteSet, gateways: &[IpAddr]) -> bool {
        gateways
            .iter()
            .all(|g| self.health(set, *g).is_none_or(|h| !h.ever_up))
    }

    pub(super) fn choose(&self, set: &RouteSet, family: Family, examined: &Examined) -> Choice {
        let usable = usable(set, family, examined);
        let healthy: Vec<IpAddr> = usable
            .iter()
            .copied()
            .filter(|g| !self.is_down(set, *g))
            .collect();
        let id = nexthop_id::group(&set.name, family);
        if !healthy.is_empty() {
            return Choice::Gateways(self.share(set, id, &healthy));
        }
        let hold = set.when_down == WhenDown::Hold
            || (!usable.is_empty() && self.never_answered(set, &usable));
        match (hold, set.when_down) {
            (true, _) if !usable.is_empty() => Choice::Gateways(self.share(set, id, &usable)),
            (true, _) => {
                let there = self.inputs.kernel.kind(id).and_then(WantedGroup::as_found);
                there.map_or(Choice::Nothing, Choice::AsFound)
            }
            (false, WhenDown::Blackhole) => Choice::Blackhole,
            (false, _) => Choice::Withdraw,
        }
    }

    fn share(&self, set: &RouteSet, group: u32, usable: &[IpAddr]) -> Shared {
        let buckets = match self.inputs.kernel.kind(group) {
            Some(NexthopKind::Group { resilient, .. }) => resilient.map(|r| r.buckets),
            // Where the kernel has no resilient groups, `diff` leaves duplicates out.
            _ => Some(BUCKETS),
        };
        let idle = self.idle_while_left(group);
        let candidate = |gateway: &IpAddr| {
            let share = set.share(*gateway);
            Some(Candidate {
                gateway: *gateway,
                id: *self.ids.get(gateway)?,
                weight: share.weight,
                drain: share.drain,
                now: self.carries(group, *gateway),
            })
        };
        let candidates: Vec<Candidate> = usable.iter().filter_map(candidate).collect();
        let terms = share::Terms {
            strategy: set.strategy,
            drain_timeout: set.drain_timeout,
            buckets,
            idle,
        };
        share::share(&candidates, &terms)
    }

    /// The idle time of a group in the kernel that a gateway leaves.
    fn idle_while_left(&self, group: u32) -> Option<u32> {
        let kernel = self.inputs.kernel;
        let Some(NexthopKind::Group { members, resilient }) = kernel.kind(group) else {
            return None;
        };
        let is_left = share::has_leaving(members, |id| kernel.gateway(id));
        resilient.filter(|_| is_left).map(|r| r.idle)
    }

    /// What a gateway's objects carry of a group in the kernel.
    pub(super) fn carries(&self, group: u32, gateway: IpAddr) -> Vec<Carries> {
        let kernel = self.inputs.kernel;
        let members = kernel.members(group);
        let is_it = |m: &&Member| kernel.gateway(m.id) == Some(gateway);
        let carries = |member: &Member| Carries {
            id: member.id,
            leaving: share::is_leaving(*member, members),
            left: kernel.leaving.get(&(group, member.id)).copied(),
        };
        members.iter().filter(is_it).map(carries).collect()
    }
}

/// The gateways of a family that can be next hops here.
pub(super) fn usable(set: &RouteSet, family: Family, examined: &Examined) -> Vec<IpAddr> {
    let gateways = set.gateways.iter().copied();
    gateways
        .filter(|g| Family::of(*g) == family && examined.get(g).is_some_and(Result::is_ok))
        .collect()
}
