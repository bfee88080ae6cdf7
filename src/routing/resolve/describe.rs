//! What is reported of a set's gateways.
//!
//! Pure.

use std::net::IpAddr;

use super::choice::{Choice, usable};
use super::{Builder, Examined, SetView, milliseconds};
use crate::config::{Probe, RouteSet};
use crate::health::State;
use crate::net::nexthop_id;
use crate::net::prefix::Family;
use crate::report::status::{GatewayState, GatewayStatus, Problem, ProblemKind};
use crate::routing::share::Carries;

impl Builder<'_> {
    pub(super) fn view(&self, set: &RouteSet, examined: &Examined) -> SetView {
        let mut view = SetView::empty(set);
        view.gateways = set
            .gateways
            .iter()
            .map(|g| self.gateway_status(set, *g, examined))
            .collect();
        for (gateway, why) in examined
            .iter()
            .filter_map(|(g, r)| r.as_ref().err().map(|why| (g, why)))
        {
            view.problems.push(Problem::of_set(
                ProblemKind::GatewayUnusable,
                &set.name,
                format!(
                    "gateway {gateway} of set `{}` is left out: it {why}",
                    set.name
                ),
            ));
        }
        view
    }

    fn gateway_status(
        &self,
        set: &RouteSet,
        gateway: IpAddr,
        examined: &Examined,
    ) -> GatewayStatus {
        let mut status = GatewayStatus {
            address: gateway,
            state: GatewayState::Unknown,
            active: false,
            weight: set.share(gateway).weight,
            buckets: None,
            rtt_ms: None,
            reason: None,
        };
        if let Some(Err(why)) = examined.get(&gateway) {
            status.state = GatewayState::Unusable;
            status.reason = Some(why.clone());
        } else if set.health_check.probe == Probe::None {
            status.state = GatewayState::Up;
        } else if let Some(health) = self.health(set, gateway) {
            status.state = match health.state {
                State::Unknown => GatewayState::Unknown,
                State::Up => GatewayState::Up,
                State::Down => GatewayState::Down,
            };
            status.rtt_ms = health.rtt.map(milliseconds);
            status.reason.clone_from(&health.reason);
        }
        self.describe_drain(set, &mut status);
        status
    }

    /// A drained gateway in a report: what it still carries.
    fn describe_drain(&self, set: &RouteSet, status: &mut GatewayStatus) {
        let group = nexthop_id::group(&set.name, Family::of(status.address));
        let now = self.carries(group, status.address);
        let drains = set.share(status.address).drain;
        let leaves = now.iter().all(|object| object.leaving);
        if drains && matches!(status.state, GatewayState::Up | GatewayState::Unknown) {
            status.state = GatewayState::Draining;
        }
        status.buckets = if !now.is_empty() && leaves {
            let busy = |object: &Carries| object.left.map(|left| left.busy);
            now.iter().map(busy).sum()
        } else if drains && now.is_empty() && self.inputs.kernel.nexthops.contains_key(&group) {
            Some(0)
        } else {
            None
        };
    }

    pub(super) fn describe(
        &self,
        set: &RouteSet,
        family: Family,
        choice: &Choice,
        examined: &Examined,
        count: usize,
        view: &mut SetView,
    ) {
        view.wanted += if *choice == Choice::Withdraw {
            0
        } else {
            count
        };
        let active = match choice {
            Choice::Gateways(shared) => Some(shared),
            _ => None,
        };
        for gateway in &mut view.gateways {
            gateway.active |= active.is_some_and(|shared| shared.active.contains(&gateway.address));
            if gateway.active && gateway.state == GatewayState::Draining {
                gateway.state = GatewayState::Up;
            }
        }
        let stuck = active.map_or(&[][..], |shared| &shared.stuck);
        if !stuck.is_empty() {
            let stuck: Vec<String> = stuck.iter().map(ToString::to_string).collect();
            view.problems.push(Problem::of_set(
                ProblemKind::NotDrained,
                &set.name,
                format!(
                    "set `{}` ({family}): {} cannot drain, because no other gateway is healthy, so new flows go there too",
                    set.name,
                    stuck.join(", ")
                ),
            ));
        }
        if let Some(why) = self.describe_down(set, family, choice, examined, view) {
            view.down
                .insert(family, format!("set `{}` ({family}): {why}", set.name));
        }
    }

    /// Why no gateway of a family is healthy, and what becomes of its routes; `None` where one is.
    fn describe_down(
        &self,
        set: &RouteSet,
        family: Family,
        choice: &Choice,
        examined: &Examined,
        view: &SetView,
    ) -> Option<String> {
        let usable = usable(set, family, examined);
        if usable.iter().any(|g| !self.is_down(set, *g)) {
            return None;
        }
        let silent = self.never_answered(set, &usable);
        let why = if usable.is_empty() {
            "none of its gateways is on-link here".to_owned()
        } else if silent {
            "no gateway has answered a probe since the agent started, so the probe is probably blocked or wrong (`healthCheck`), and its routes are held".to_owned()
        } else {
            let reasons = view.gateways.iter().filter(|g| usable.contains(&g.address));
            let reasons = reasons
                .map(|g| format!("{} {}", g.address, g.reason.as_deref().unwrap_or("is down")));
            format!(
                "no gateway is healthy: {}",
                reasons.take(3).collect::<Vec<_>>().join("; ")
            )
        };
        let what = match choice {
            Choice::Gateways(_) if usable.is_empty() || silent => "",
            Choice::Gateways(_) => "; its routes are held",
            Choice::AsFound(_) => "; the routes that are there are held",
            Choice::Blackhole => "; its destinations are blackholed",
            Choice::Withdraw => "; its routes are withdrawn",
            Choice::Nothing => "; no route can be installed",
        };
        Some(format!("{why}{what}"))
    }
}
