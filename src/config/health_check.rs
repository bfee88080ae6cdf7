//! `healthCheck`: how gateways are probed.
//!
//! Pure. Which of its keys go together is decided here; probing is `probe`'s.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::fields::{Fields, Keys, Reader};
use super::problem::{Path, quoted};
use super::yaml::Node;
use super::{HealthCheck, Probe};
use crate::net::prefix::Family;

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_hours(1);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(1);
const COUNT: RangeInclusive<u32> = 1..=100;

const KEYS: Keys = Keys {
    known: &[
        "type",
        "port",
        "interval",
        "timeout",
        "failures",
        "successes",
        "target",
    ],
    hint: |key| match key {
        "fall" | "failureThreshold" => Some("did you mean `failures`?"),
        "rise" | "successThreshold" => Some("did you mean `successes`?"),
        "period" | "periodSeconds" => Some("did you mean `interval`?"),
        "timeoutSeconds" => Some("did you mean `timeout`?"),
        _ => None,
    },
};

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Icmp,
    Tcp,
    None,
}

impl Default for HealthCheck {
    /// What a set without `healthCheck` gets.
    fn default() -> Self {
        Self {
            probe: Probe::Icmp,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            failures: 3,
            successes: 5,
            target: None,
        }
    }
}

pub(crate) fn read(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    gateways: &[IpAddr],
) -> Option<HealthCheck> {
    let fields = reader.fields(node, path, &KEYS)?;
    let mut check = HealthCheck::default();
    let kind = match fields.get("type") {
        None => Some(Kind::Icmp),
        Some(node) => reader.one_of(
            node,
            &path.key("type"),
            &[
                ("icmp", Kind::Icmp),
                ("tcp", Kind::Tcp),
                ("none", Kind::None),
            ],
        ),
    };
    for (key, range, value) in [
        ("interval", INTERVAL, &mut check.interval),
        ("timeout", TIMEOUT, &mut check.timeout),
    ] {
        if let Some(node) = fields.get(key) {
            *value = reader
                .duration(node, &path.key(key), range)
                .unwrap_or(*value);
        }
    }
    if fields.get("timeout").is_none() {
        // One probe at a time: with a shorter interval a second's wait would be what is waited for, three times.
        check.timeout = check.timeout.min(check.interval);
    }
    for (key, value) in [
        ("failures", &mut check.failures),
        ("successes", &mut check.successes),
    ] {
        if let Some(node) = fields.get(key) {
            *value = reader.number(node, &path.key(key), COUNT).unwrap_or(*value);
        }
    }
    if let Some(node) = fields.get("target") {
        check.target = target(reader, node, &path.key("target"), gateways);
        if kind == Some(Kind::None) {
            reader.problem(
                node.at,
                &path.key("target"),
                "is never probed with `type: none`; leave it out, or choose `icmp` or `tcp`",
            );
        }
    }
    check.probe = probe(reader, &fields, path, kind)?;
    Some(check)
}

/// What a kind and its port make; nothing where they do not fit.
fn probe(
    reader: &mut Reader<'_>,
    fields: &Fields<'_, '_>,
    path: &Path<'_>,
    kind: Option<Kind>,
) -> Option<Probe> {
    let port = fields
        .get("port")
        .map(|node| (node, reader.number(node, &path.key("port"), 1..=65_535)));
    match (kind?, port) {
        (Kind::Tcp, None) => reader.problem(
            fields.at,
            path,
            "`type: tcp` needs a `port`, like `port: 443`",
        ),
        (Kind::Tcp, Some((_, port))) => return Some(Probe::Tcp(u16::try_from(port?).ok()?)),
        (Kind::Icmp | Kind::None, Some((node, _))) => {
            reader.problem(
                node.at,
                &path.key("port"),
                "is only for `type: tcp`; leave it out, or write `type: tcp`",
            );
        }
        (Kind::Icmp, None) => return Some(Probe::Icmp),
        (Kind::None, None) => return Some(Probe::None),
    }
    None
}

/// An address to probe through the gateways of its family.
fn target(
    reader: &mut Reader<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    gateways: &[IpAddr],
) -> Option<IpAddr> {
    let target = reader.address(node, path, "a target")?;
    let shown = quoted(&target.to_string());
    let family = Family::of(target);
    let why = if target.is_unspecified() || target.is_loopback() || target.is_multicast() {
        format!("{shown} is not an address that a gateway forwards to")
    } else if gateways.contains(&target) {
        format!(
            "{shown} is a gateway of this set; leave `target` out to probe the gateways themselves"
        )
    } else if !gateways.is_empty()
        && !gateways
            .iter()
            .any(|gateway| Family::of(*gateway) == family)
    {
        format!("{shown} is {family}, but the set has no {family} gateway to probe it through")
    } else {
        return Some(target);
    };
    reader.problem(node.at, path, why);
    None
}
