//! Which gateways an earlier agent had taken out of service, as far as the kernel shows it.
//!
//! Pure.

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Builder, Inputs, resolve};
use crate::config::{Failback, RouteSet, Strategy, WhenDown};
use crate::health::{HealthView, ProbeKey};
use crate::net::nexthop_id;
use crate::net::prefix::Family;

/// Gateways that the kernel shows to have been taken out by an earlier agent: their object exists, their
/// set's group exists, and they are not in it although the strategy would have them there.
///
/// Only where the kernel's state was made from this configuration: after an edit, what a group lacks means nothing.
pub fn taken_out_before(inputs: &Inputs<'_>, revision: &str) -> BTreeSet<ProbeKey> {
    let records = inputs.kernel.records(inputs.ownership);
    // While a change is unconfirmed, the record of what was applied before is still there.
    let of_another = records.iter().any(|id| nexthop_id::is_unconfirmed(*id));
    let applied = nexthop_id::applied_revision(&records);
    let made_from_it = records.contains(&nexthop_id::unconfirmed(revision))
        || (applied.as_deref() == Some(revision) && !of_another);
    if made_from_it {
        taken_out(inputs)
    } else {
        BTreeSet::new()
    }
}

/// [`taken_out_before`], where the kernel's state is known to be made from this configuration.
pub fn taken_out(inputs: &Inputs<'_>) -> BTreeSet<ProbeKey> {
    // Selecting the prefixes takes time: only where a group is missing is it asked whether there would be one.
    let if_healthy = LazyCell::new(|| {
        resolve(&Inputs {
            health: &HealthView::new(),
            ..*inputs
        })
        .map(|all| all.wanted.groups)
        .unwrap_or_default()
    });
    let (mut out, mut in_use) = (BTreeSet::new(), BTreeSet::new());
    let sets: Vec<&RouteSet> = inputs.applicable().collect();
    let builder = Builder::new(inputs, &sets);
    for set in &sets {
        for family in Family::BOTH.into_iter().filter(|family| {
            set.destinations
                .iter()
                .any(|prefix| prefix.family() == *family)
        }) {
            let group = nexthop_id::group(&set.name, family);
            let gateways = || set.gateways.iter().filter(|g| Family::of(**g) == family);
            let carries = |g: &IpAddr| builder.carries(group, *g).iter().any(|c| !c.leaving);
            let active = gateways().position(carries);
            let existed = |g: &IpAddr| {
                builder
                    .ids
                    .get(g)
                    .is_some_and(|id| inputs.kernel.nexthops.contains_key(id))
            };
            let none_in_use = match inputs.kernel.nexthops.get(&group) {
                Some(_) => active.is_none(),
                None => set.when_down == WhenDown::Withdraw && if_healthy.contains_key(&group),
            };
            // A drained one is not there because it left.
            let stays = |(_, g): &(usize, &IpAddr)| !set.share(**g).drain;
            for (n, gateway) in gateways().enumerate().filter(stays) {
                let key = ProbeKey {
                    gateway: *gateway,
                    check: set.health_check.clone(),
                };
                let passed_over = match set.strategy {
                    Strategy::Balance => active.is_some(),
                    Strategy::Failover { failback } => {
                        failback != Failback::Never && active.is_some_and(|a| n < a)
                    }
                };
                if !builder.carries(group, *gateway).is_empty() {
                    // A set that holds its routes uses what is down.
                    in_use.extend(Some(key).filter(|_| set.when_down != WhenDown::Hold));
                } else if existed(gateway) && (none_in_use || passed_over) {
                    out.insert(key);
                }
            }
        }
    }
    // One verdict is every set's.
    out.retain(|key| !in_use.contains(key));
    out
}
