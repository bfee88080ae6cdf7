//! Which gateways have come to carry nothing.
//!
//! Pure. What a gateway still carries is read from the kernel and is in the status.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::report::status::{GatewayState, Status};

/// Drained gateways that carry nothing any more and did before, or were not drained before. What an earlier agent
/// knew is not reported: such a gateway is not in `before`.
pub fn drained(before: &Status, after: &Status) -> Vec<IpAddr> {
    let before = empty(before);
    empty(after)
        .into_iter()
        .filter(|(gateway, is_empty)| *is_empty && before.get(gateway) == Some(&false))
        .map(|(gateway, _)| gateway)
        .collect()
}

/// Gateways, and whether each is drained and carries nothing in any set.
fn empty(status: &Status) -> BTreeMap<IpAddr, bool> {
    let mut gateways = BTreeMap::new();
    for gateway in status.sets.iter().flat_map(|set| &set.gateways) {
        let is_empty = gateway.state == GatewayState::Draining && gateway.buckets == Some(0);
        *gateways.entry(gateway.address).or_insert(true) &= is_empty;
    }
    gateways
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::tests::{example, set};

    /// The gateway in two sets.
    fn status(of_sets: [(GatewayState, Option<u32>); 2]) -> Status {
        let sets = of_sets.map(|(state, buckets)| {
            let mut set = set("a", &[("10.116.0.5", state)]);
            set.gateways[0].buckets = buckets;
            set
        });
        Status {
            sets: sets.into(),
            ..example()
        }
    }

    #[test]
    fn a_gateway_is_drained_once_when_the_last_set_has_nothing_on_it() {
        const DONE: (GatewayState, Option<u32>) = (GatewayState::Draining, Some(0));
        let up = status([(GatewayState::Up, None); 2]);
        let unread = status([(GatewayState::Draining, None), DONE]);
        let busy = status([(GatewayState::Draining, Some(3)), DONE]);
        let done = status([DONE, DONE]);
        let here = vec!["10.116.0.5".parse::<IpAddr>().unwrap()];
        let none = Vec::<IpAddr>::new();
        assert_eq!(drained(&up, &busy), none);
        assert_eq!(drained(&unread, &busy), none);
        assert_eq!(drained(&busy, &done), here);
        assert_eq!(drained(&up, &done), here, "nothing was busy");
        assert_eq!(drained(&done, &done), none, "reported before");
        assert_eq!(drained(&done, &up), none, "undrained");
        let started = Status {
            sets: Vec::new(),
            ..example()
        };
        assert_eq!(
            drained(&started, &done),
            none,
            "an earlier agent reported it"
        );
    }
}
