//! Routes that another program left and that take what ours would, each with the command that deletes it.
//!
//! Pure. Operators of the same trade install routes with metric 0, which always win against ours. They are never deleted by
//! us: the person who ended that operator decides.

use std::collections::BTreeMap;

use crate::net::prefix::{Family, Prefix};
use crate::routing::batch::Ownership;
use crate::routing::diff::Wanted;
use crate::routing::state::{ForeignRoute, Kernel};

/// Route protocols that hosts and their network managers use for what a node needs: kernel, ra, dhcp.
const OF_THE_NODE: [u8; 3] = [2, 9, 16];

/// Foreign routes of exactly our prefixes with a lower metric, in the order of prefixes.
pub fn of<'k>(wanted: &Wanted, kernel: &'k Kernel, ownership: &Ownership) -> Vec<&'k ForeignRoute> {
    let mut by_prefix: BTreeMap<Prefix, Vec<&ForeignRoute>> = BTreeMap::new();
    for route in kernel.foreign.iter().filter(|route| wins(route, ownership)) {
        by_prefix.entry(route.key.prefix).or_default().push(route);
    }
    let ours = wanted
        .routes
        .iter()
        .filter(|route| route.key.metric == ownership.metric);
    ours.filter_map(|route| by_prefix.get(&route.key.prefix))
        .flatten()
        .copied()
        .collect()
}

/// The one of exactly this prefix.
pub fn of_prefix<'k>(
    prefix: Prefix,
    kernel: &'k Kernel,
    ownership: &Ownership,
) -> Option<&'k ForeignRoute> {
    let mut routes = kernel.foreign.iter().filter(|route| wins(route, ownership));
    routes.find(|route| route.key.prefix == prefix)
}

/// Whether a route wins against ours of the same prefix, and is none that the node needs.
fn wins(route: &ForeignRoute, ownership: &Ownership) -> bool {
    route.key.table == ownership.table
        && route.key.tos == 0
        && route.key.metric < ownership.metric
        && !OF_THE_NODE.contains(&route.protocol)
        && !route.key.prefix.is_everything()
}

/// The command that deletes the route.
pub fn delete_command(route: &ForeignRoute) -> String {
    let family = match route.key.prefix.family() {
        Family::V4 => "",
        Family::V6 => "-6 ",
    };
    let table = match route.key.table {
        254 => String::new(),
        table => format!(" table {table}"),
    };
    format!("ip {family}route del {route}{table}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::state::{OwnRoute, RouteKey, Target};

    fn key(prefix: &str, metric: u32) -> RouteKey {
        RouteKey {
            prefix: prefix.parse().unwrap(),
            metric,
            table: 254,
            tos: 0,
        }
    }

    #[test]
    fn a_route_of_another_operator_is_named_with_the_command_that_deletes_it() {
        let ownership = Ownership::DEFAULT;
        let foreign = |prefix: &str, metric, protocol| ForeignRoute {
            protocol,
            ..ForeignRoute::via(prefix.parse().unwrap(), metric, "10.116.0.9", "eth1")
        };
        let kernel = Kernel {
            foreign: vec![
                foreign("203.0.113.0/24", 0, 4),
                foreign("203.0.113.0/24", 5000, 4),
                foreign("198.51.100.0/24", 0, 2),
                foreign("192.0.2.0/24", 0, 4),
            ],
            ..Kernel::default()
        };
        let own = |prefix| OwnRoute {
            key: key(prefix, 4242),
            target: Target::Nexthop(1),
        };
        let wanted = Wanted {
            routes: vec![own("198.51.100.0/24"), own("203.0.113.0/24")],
            ..Wanted::default()
        };
        let commands: Vec<String> = of(&wanted, &kernel, &ownership)
            .into_iter()
            .map(delete_command)
            .collect();
        assert_eq!(
            commands,
            ["ip route del 203.0.113.0/24 via 10.116.0.9 dev eth1 proto static metric 0"]
        );
    }
}
