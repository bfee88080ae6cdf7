//! Whether a gateway can be a next hop of this node, and through which device.

use std::net::IpAddr;

use super::on_link_by;
use crate::net::prefix::{Family, Prefix};
use crate::routing::batch::{MAIN_TABLE, safe_name};
use crate::routing::state::{ForeignRoute, Kernel, Link, NexthopKind};

/// The device that the gateway is on-link by, or why it cannot be used: a predicate for a person, to be read after the gateway's address.
///
/// On-link as `ip route get` sees it: the longest match among the routes of others in the main table is
/// unicast and straight to a device. Our own routes never count, or a route of ours could make its own
/// gateway look reachable. The main table, because there the kernel validates a next hop, whatever table the
/// route is in.
pub fn next_hop(gateway: IpAddr, kernel: &Kernel) -> Result<Box<str>, String> {
    never(gateway, kernel)?;
    let best = best_matches(gateway, kernel);
    let Some((route, dev)) = best.first().and_then(|r| Some((r, on_link_by(r)?))) else {
        let why = || off_link(gateway, kernel, best.first().copied());
        return by_object(gateway, kernel).ok_or_else(why);
    };
    edge_of(route.key.prefix, gateway, dev)?;
    if let IpAddr::V6(v6) = gateway
        && v6.is_unicast_link_local()
        && let Some(other) = best
            .iter()
            .find_map(|r| on_link_by(r).filter(|d| *d != dev))
    {
        return Err(format!(
            "is link-local, and on-link by several links ({dev}, {other}); use an address that is only on one"
        ));
    }
    if !safe_name(dev) {
        return Err(format!(
            "is on-link by {dev:?}, a device name that cannot be written into a batch of `ip`"
        ));
    }
    match kernel.links.iter().find(|link| *link.name == *dev) {
        None => Err(format!("is on-link by {dev}, which is not there any more")),
        Some(link) if link.loopback => Err(format!("is one of the node's own addresses ({dev})")),
        Some(link) if !link.carries() => Err(down(link)),
        Some(link) => Ok(link.name.clone()),
    }
}

/// What no route can make right: addresses of nobody or of the node, and ends of its subnets.
fn never(gateway: IpAddr, kernel: &Kernel) -> Result<(), String> {
    let reserved =
        matches!(gateway, IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240);
    if gateway.is_unspecified() || gateway.is_loopback() || gateway.is_multicast() || reserved {
        return Err("is not an address that a next hop can have".to_owned());
    }
    for link in &kernel.links {
        // The whole subnet of an address on `lo` is local.
        let own = |(address, len): &(IpAddr, u8)| {
            *address == gateway
                || (link.loopback && *len > 0 && Prefix::masked(*address, *len).contains(gateway))
        };
        if link.addresses.iter().any(own) {
            return Err(format!(
                "is one of the node's own addresses ({})",
                link.name
            ));
        }
        for subnet in link.subnets() {
            edge_of(subnet, gateway, &link.name)?;
        }
        if link.broadcasts.contains(&gateway) {
            return Err(format!("is a broadcast address of {}", link.name));
        }
    }
    Ok(())
}

/// Refuses the network address (in IPv6 the subnet-router anycast address) and the IPv4 broadcast address of
/// a subnet. A /31, /32, /127 or /128 has none (RFC 3021, RFC 6164), nor has the whole address space.
fn edge_of(subnet: Prefix, gateway: IpAddr, dev: &str) -> Result<(), String> {
    let (first, last) = (subnet.address(), subnet.family().address(subnet.range().1));
    if subnet.len() == 0 || subnet.len() + 1 >= subnet.family().bits() {
        Ok(())
    } else if gateway == first {
        Err(format!("is the network address of {subnet} ({dev})"))
    } else if gateway == last && subnet.family() == Family::V4 {
        Err(format!("is the broadcast address of {subnet} ({dev})"))
    } else {
        Ok(())
    }
}

/// The longest matches, of these the ones with the lowest metric: more than one where several links have the same subnet.
fn best_matches(gateway: IpAddr, kernel: &Kernel) -> Vec<&ForeignRoute> {
    let rank = |route: &ForeignRoute| (std::cmp::Reverse(route.key.prefix.len()), route.key.metric);
    let mut best: Vec<&ForeignRoute> = Vec::new();
    for route in kernel
        .foreign
        .iter()
        .filter(|r| r.key.table == MAIN_TABLE && r.key.tos == 0 && r.key.prefix.contains(gateway))
    {
        match best.first().map(|b| rank(route).cmp(&rank(b))) {
            None | Some(std::cmp::Ordering::Less) => best = vec![route],
            Some(std::cmp::Ordering::Equal) => best.push(route),
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    best
}

fn off_link(gateway: IpAddr, kernel: &Kernel, route: Option<&ForeignRoute>) -> String {
    // IPv4 routes vanish with their link, so the link shows it better than the routes that are left.
    let on = |link: &&Link| {
        !link.carries()
            && link
                .subnets()
                .any(|subnet| subnet.len() > 0 && subnet.contains(gateway))
    };
    if let Some(link) = kernel.links.iter().find(on) {
        return down(link);
    }
    match route.map(|route| (route.key.prefix, route)) {
        None => "is not on-link: the node has no route to it".to_owned(),
        Some((prefix, _)) if prefix.is_everything() => {
            "is not on-link: only the node's default route leads to it".to_owned()
        }
        Some((prefix, route)) if route.unicast => {
            format!("is not on-link: the node's route {prefix} leads to it through another router")
        }
        Some((prefix, _)) => {
            format!("is not on-link: the node's route {prefix} drops what is sent to it")
        }
    }
}

fn down(link: &Link) -> String {
    let how = if link.up { "has no carrier" } else { "is down" };
    format!("is on-link by {}, which {how}", link.name)
}

/// The device that a nexthop object in the kernel has for the gateway: the kernel took it, and drops it with its link. Asked when
/// the route to the gateway is missing from a read that may have left it out.
fn by_object(gateway: IpAddr, kernel: &Kernel) -> Option<Box<str>> {
    let asked = kernel.uncertain_v6 && Family::of(gateway) == Family::V6;
    let mut devices = kernel.nexthops.values().filter_map(|n| match &n.kind {
        NexthopKind::Via { gateway: g, dev } if *g == gateway => Some(dev),
        _ => None,
    });
    devices
        .find(|dev| {
            let carries = |link: &Link| link.name == **dev && link.carries();
            asked && kernel.links.iter().any(carries)
        })
        .cloned()
}
