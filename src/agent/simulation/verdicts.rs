//! What must hold of gateways after a restart: one that an earlier agent had taken out carries nothing before it answers.

use std::collections::BTreeSet;

use super::super::rollout::Newest;
use super::history::Action;
use super::node::{GATEWAYS, OURS, read};
use super::rules::Verdict;
use super::world::World;
use crate::config::{Probe, RouteSet, Strategy};
use crate::net::nexthop_id;
use crate::net::prefix::Family;
use crate::routing::state::{Kernel, NexthopKind};

impl World {
    /// Which gateways are dead and carry nothing, although a set that balances flows has them. A restarted agent can only know that where
    /// the kernel was made from the configuration that it reads.
    pub(super) fn expect_verdicts(&mut self) {
        self.rules.taken_out.clear();
        let kernel = self.state.borrow().model.dump(&OURS);
        let Newest::Good(loaded) = read(self.directory) else {
            return;
        };
        let records = kernel.records(&OURS);
        let is_of_another =
            |id: &u32| nexthop_id::is_unconfirmed(*id) || nexthop_id::is_rejected(*id);
        let applied = nexthop_id::applied_revision(&records);
        if applied.as_deref() != Some(&loaded.revision) || records.iter().any(is_of_another) {
            return;
        }
        let sets = &loaded.config.sets;
        let all: BTreeSet<_> = sets.iter().flat_map(|set| set.gateways.clone()).collect();
        let ids = nexthop_id::gateways(&all);
        for (n, (gateway, _)) in GATEWAYS.iter().enumerate() {
            let family = Family::of(*gateway);
            let had_it = |set: &RouteSet| {
                set.strategy == Strategy::Balance
                    && set.health_check.probe != Probe::None
                    && set.gateways.contains(gateway)
                    && !set.share(*gateway).drain
                    && kernel
                        .nexthops
                        .contains_key(&nexthop_id::group(&set.name, family))
            };
            if let Some(id) = ids.get(gateway)
                && !self.alive[n]
                && kernel.nexthops.contains_key(id)
                && !carries(&kernel, *id)
                && sets.iter().any(had_it)
            {
                self.rules.taken_out.push((n, *id));
            }
        }
    }

    pub(super) fn expect_of_verdicts(&mut self, action: Action) {
        // Another that dies may leave a set that holds its routes with dead ones only.
        if matches!(action, Action::Edit(_) | Action::Gateway(..)) {
            self.rules.taken_out.clear();
        }
    }

    pub(super) fn check_verdicts(&mut self) -> Verdict {
        self.rules.taken_out.retain(|(n, _)| !self.alive[*n]);
        if self.rules.taken_out.is_empty() {
            return Ok(());
        }
        let kernel = self.state.borrow().model.dump(&OURS);
        let mut taken_out = self.rules.taken_out.iter();
        taken_out.find(|(_, id)| carries(&kernel, *id)).map_or(Ok(()), |(n, _)| {
            let gateway = GATEWAYS[*n].0;
            Err(format!("{gateway} was taken out before a restart, has not answered since, and carries flows again"))
        })
    }
}

/// Whether a gateway's object, or a duplicate of it, is in a group.
fn carries(kernel: &Kernel, gateway: u32) -> bool {
    let of_gateway = |id: u32| {
        id == gateway
            || (1..=nexthop_id::DUPLICATES).any(|n| nexthop_id::duplicate(gateway, n) == id)
    };
    kernel.nexthops.values().any(|nexthop| match &nexthop.kind {
        NexthopKind::Group { members, .. } => members.iter().any(|member| of_gateway(member.id)),
        _ => false,
    })
}
