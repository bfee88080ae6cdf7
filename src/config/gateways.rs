//! `gateways` and the keys beside it that decide how they share the flows.
//!
//! Pure. Which of them carry what at a time is `routing::share`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::fields::{Fields, Keys, LINK_LOCAL, Reader};
use super::problem::{Path, quoted};
use super::yaml::{Node, Value};
use super::{Failback, Share, Strategy};

/// Most gateways of one set.
const MAX_GATEWAYS: usize = 16;
/// Weights of gateways.
const WEIGHT: RangeInclusive<u32> = 1..=100;
/// Times after which a gateway leaves by force; zero is never.
const DRAIN_TIMEOUT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(7 * 24);

const GATEWAY: Keys = Keys {
    known: &["address", "weight", "drain"],
    hint: |key| match key {
        "ip" | "gateway" | "host" | "via" => Some("did you mean `address`?"),
        "drainTimeout" | "healthCheck" | "failback" => {
            Some("it goes to the set, beside `gateways`")
        }
        _ => None,
    },
};

/// The gateways of a set.
#[derive(Debug)]
pub(crate) struct Gateways {
    /// In listed order.
    pub(crate) addresses: Vec<IpAddr>,
    /// Those that have other than the default.
    pub(crate) shares: BTreeMap<IpAddr, Share>,
    pub(crate) strategy: Strategy,
    pub(crate) drain_timeout: Duration,
    /// A key that has no effect with this strategy.
    pub(crate) idle_key: Option<&'static str>,
}

pub(crate) fn read(reader: &mut Reader<'_>, fields: &Fields<'_, '_>, path: &Path<'_>) -> Gateways {
    let (addresses, shares) = list(reader, fields, path);
    let (strategy, idle_failback) = strategy(reader, fields, path);
    let drain_timeout = fields
        .get("drainTimeout")
        .and_then(|node| reader.duration(node, &path.key("drainTimeout"), DRAIN_TIMEOUT));
    let weighted = shares.values().any(|share| share.weight != 1);
    let idle_weight = weighted && strategy != Strategy::Balance;
    Gateways {
        addresses,
        shares,
        strategy,
        drain_timeout: drain_timeout.unwrap_or_default(),
        idle_key: if idle_weight {
            Some("weight")
        } else {
            idle_failback.then_some("failback")
        },
    }
}

/// The strategy, and whether `failback` is given to no effect.
fn strategy(reader: &mut Reader<'_>, fields: &Fields<'_, '_>, path: &Path<'_>) -> (Strategy, bool) {
    let choices = [("balance", false), ("failover", true)];
    let failover = fields
        .get("strategy")
        .and_then(|node| reader.one_of(node, &path.key("strategy"), &choices))
        .unwrap_or(false);
    let failback = fields
        .get("failback")
        .and_then(|node| failback(reader, node, &path.key("failback")))
        .unwrap_or(Failback::AtOnce);
    if failover {
        (Strategy::Failover { failback }, false)
    } else {
        (Strategy::Balance, failback != Failback::AtOnce)
    }
}

fn failback(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<Failback> {
    match &node.value {
        Value::Bool(true) => Some(Failback::AtOnce),
        Value::Bool(false) => Some(Failback::Never),
        Value::Text(text) if text == "drain" => Some(Failback::Drain),
        _ => {
            reader.wrong_kind(node, path, "`true` or `false`, without quotes, or `drain`");
            None
        }
    }
}

fn list(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_>,
    path: &Path<'_>,
) -> (Vec<IpAddr>, BTreeMap<IpAddr, Share>) {
    let (mut gateways, mut shares) = (Vec::new(), BTreeMap::new());
    let Some(node) = fields.get("gateways") else {
        reader.problem(
            fields.at,
            path,
            "has no `gateways`; one is needed, like `gateways: [10.116.0.5]`",
        );
        return (gateways, shares);
    };
    let path = path.key("gateways");
    let Some(nodes) = reader.list(node, &path, "a list of addresses, like `[10.116.0.5]`") else {
        return (gateways, shares);
    };
    if nodes.is_empty() || nodes.len() > MAX_GATEWAYS {
        let count = nodes.len();
        let message = format!("has {count} gateways; a set has 1 to {MAX_GATEWAYS}");
        reader.problem(node.at, &path, message);
    }
    for (i, node) in nodes.iter().take(MAX_GATEWAYS).enumerate() {
        let path = path.index(i);
        let Some((gateway, share)) = gateway(reader, node, &path) else {
            continue;
        };
        let shown = quoted(&gateway.to_string());
        if let Err(why) = check_gateway(gateway) {
            reader.problem(node.at, &path, format!("{shown} {why}"));
        } else if gateways.contains(&gateway) {
            reader.problem(node.at, &path, format!("{shown} is listed twice; keep one"));
        } else {
            gateways.push(gateway);
            if share != Share::default() {
                shares.insert(gateway, share);
            }
        }
    }
    (gateways, shares)
}

/// An address, or an object with one.
fn gateway(reader: &mut Reader<'_>, node: &Node<'_>, path: &Path<'_>) -> Option<(IpAddr, Share)> {
    let has_values = |(_, value): &(Node<'_>, Node<'_>)| !matches!(value.value, Value::Null);
    // `{fd00::5}` and the like are slips of the pen, which `address` answers.
    if !matches!(&node.value, Value::Map(entries) if entries.iter().any(has_values)) {
        return Some((reader.address(node, path, "a gateway")?, Share::default()));
    }
    let fields = reader.fields(node, path, &GATEWAY)?;
    let mut share = Share::default();
    if let Some(node) = fields.get("weight") {
        let weight = reader.number(node, &path.key("weight"), WEIGHT);
        share.weight = weight.unwrap_or(share.weight);
    }
    if let Some(node) = fields.get("drain") {
        let drain = reader.boolean(node, &path.key("drain"));
        share.drain = drain.unwrap_or(share.drain);
    }
    let Some(node) = fields.get("address") else {
        let message = "has no `address`; one is needed, like `{ address: 10.116.0.5 }`";
        reader.problem(fields.at, path, message);
        return None;
    };
    let gateway = reader.address(node, &path.key("address"), "a gateway")?;
    Some((gateway, share))
}

fn check_gateway(gateway: IpAddr) -> Result<(), &'static str> {
    match gateway {
        _ if gateway.is_unspecified() => {
            Err("is the unspecified address; a gateway is a neighbour's address")
        }
        _ if gateway.is_loopback() => {
            Err("is a loopback address; a gateway is a neighbour's address")
        }
        _ if gateway.is_multicast() => {
            Err("is a multicast address; a gateway is a neighbour's address")
        }
        IpAddr::V4(v4) if v4.is_broadcast() => {
            Err("is the broadcast address; a gateway is a neighbour's address")
        }
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err(LINK_LOCAL),
        _ => Ok(()),
    }
}
