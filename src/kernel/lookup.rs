//! Asking the kernel: policy rules by `ip rule show`, and which route packets take by one `ip -batch` of
//! `route get fibmatch` lines.
//!
//! I/O and the parsing of what it brings. What to ask and what an answer means is `routing::lookup`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::kernel::dump::{BatchErrors, Number};
use crate::kernel::ip::{CHUNK, Ip};
use crate::net::prefix::{Family, Prefix};
use crate::routing::lookup::{Answer, Check, Findings, Match, Rotation, RulesOfBoth, View, render};
use crate::routing::rule::{Action, Packet, Rule, Rules, Selector};

/// More rules than this are no node's; what would come after them is not looked at.
const MOST_RULES: usize = 100_000;
/// Route types of the node's own addresses, linux/rtnetlink.h: local, broadcast, anycast, multicast.
const RTN_OWN_ADDRESSES: std::ops::RangeInclusive<u32> = 2..=5;

/// The kernel's rules and lookups.
pub trait Lookup {
    /// The policy rules of both families.
    fn read_rules(&self) -> impl Future<Output = anyhow::Result<RulesOfBoth>>;
    /// Which route each packet takes.
    fn look_up(&self, packets: &[Packet]) -> impl Future<Output = anyhow::Result<Vec<Answer>>>;
}

impl Lookup for Ip {
    async fn read_rules(&self) -> anyhow::Result<RulesOfBoth> {
        let (v4, v6) =
            tokio::try_join!(Self::show_rules(Family::V4), Self::show_rules(Family::V6))?;
        Ok(RulesOfBoth {
            v4: read_rules(&v4).context("parsing `ip -j -N -4 rule show`")?,
            v6: read_rules(&v6).context("parsing `ip -j -N -6 rule show`")?,
        })
    }

    async fn look_up(&self, packets: &[Packet]) -> anyhow::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(packets.len());
        let mut lines = String::new();
        for chunk in packets.chunks(CHUNK) {
            lines.clear();
            chunk.iter().for_each(|packet| render(packet, &mut lines));
            let (errors, printed) = Self::ask(&lines).await?;
            answers.extend(read_answers(&printed, errors, chunk.len())?);
        }
        Ok(answers)
    }
}

/// Looks up what a check wants to know. What it costs does not depend on how many routes there are.
pub async fn check(
    ip: &impl Lookup,
    view: View<'_>,
    rotation: &mut Rotation,
) -> anyhow::Result<Findings> {
    if view.wanted.routes.is_empty() {
        *rotation = Rotation::default();
        return Ok(Findings::default());
    }
    let rules = ip.read_rules().await.context("reading the policy rules")?;
    let mut check = Check::new(view, &rules);
    let questions = check.questions(rotation);
    let packets: Vec<Packet> = questions.iter().map(|q| q.packet.clone()).collect();
    let answers = ip
        .look_up(&packets)
        .await
        .context("looking up a sample of the destinations")?;
    Ok(check.judge(&questions, &answers, rotation))
}

#[derive(Deserialize)]
struct RawRule {
    priority: u32,
    #[serde(default, deserialize_with = "present")]
    not: bool,
    #[serde(default)]
    src: Option<Box<str>>,
    #[serde(default)]
    srclen: Option<u8>,
    #[serde(default)]
    dst: Option<Box<str>>,
    #[serde(default)]
    dstlen: Option<u8>,
    #[serde(default)]
    tos: Option<Number>,
    #[serde(default)]
    fwmark: Option<Number>,
    #[serde(default)]
    fwmask: Option<Number>,
    #[serde(default)]
    iif: Option<Box<str>>,
    #[serde(default)]
    oif: Option<Box<str>>,
    #[serde(default, deserialize_with = "present")]
    l3mdev: bool,
    #[serde(default)]
    uid_start: Option<u32>,
    #[serde(default)]
    uid_end: Option<u32>,
    #[serde(default)]
    ipproto: Option<Box<str>>,
    #[serde(default)]
    sport: Option<u16>,
    #[serde(default)]
    sport_start: Option<u16>,
    #[serde(default)]
    sport_end: Option<u16>,
    #[serde(default)]
    dport: Option<u16>,
    #[serde(default)]
    dport_start: Option<u16>,
    #[serde(default)]
    dport_end: Option<u16>,
    #[serde(default)]
    table: Option<Number>,
    #[serde(default)]
    goto: Option<u32>,
    #[serde(default)]
    action: Option<Number>,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

/// `ip` prints `"not": null` for yes.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(d).map(|_| true)
}

/// What a rule may carry that selects nothing.
const SELECTS_NOTHING: [&str; 11] = [
    "suppress_prefixlen",
    "suppress_ifgroup",
    "sup_group",
    "flow_from",
    "flow_to",
    "flow",
    "realms",
    "protocol",
    "unresolved",
    "nop",
    "iif_detached",
];

/// Reads `ip -j -N rule show` of one family.
fn read_rules(json: &[u8]) -> anyhow::Result<Rules> {
    if json.iter().all(u8::is_ascii_whitespace) {
        return Ok(Rules::default());
    }
    let raw: Vec<RawRule> = serde_json::from_slice(json)?;
    let mut rules: Vec<Rule> = raw
        .into_iter()
        .take(MOST_RULES)
        .map(RawRule::read)
        .collect();
    // The order of equal ones is the kernel's.
    rules.sort_by_key(|rule| rule.priority);
    Ok(Rules(rules))
}

impl RawRule {
    fn read(self) -> Rule {
        let mut other: Vec<&str> = self
            .more
            .keys()
            .map(String::as_str)
            .filter(|key| !SELECTS_NOTHING.contains(key))
            .collect();
        let range = |one: Option<u16>, first: Option<u16>, last: Option<u16>| {
            one.map(|port| (port, port)).or(first.zip(last))
        };
        let from = endpoint(self.src.as_deref(), self.srclen);
        let to = endpoint(self.dst.as_deref(), self.dstlen);
        let ipproto = self.ipproto.as_deref().map(transport);
        other.extend(
            [
                (from.is_err(), "from"),
                (to.is_err(), "to"),
                (ipproto == Some(None), "ipproto"),
            ]
            .iter()
            .filter(|(bad, _)| *bad)
            .map(|(_, name)| *name),
        );
        let action = match (self.table, self.goto, self.action) {
            _ if self.l3mdev => Action::Vrf,
            (_, Some(priority), _) => Action::Goto(priority),
            (_, _, Some(Number(6))) => Action::Drop("blackhole"),
            (_, _, Some(Number(7))) => Action::Drop("unreachable"),
            (_, _, Some(Number(8))) => Action::Drop("prohibit"),
            (Some(Number(table)), None, None) => Action::Table(table),
            _ => Action::Nothing,
        };
        Rule {
            priority: self.priority,
            not: self.not,
            selector: Selector {
                from: from.unwrap_or_default(),
                to: to.unwrap_or_default(),
                iif: self.iif,
                oif: self.oif,
                mark: self
                    .fwmark
                    .map(|mark| (mark.0, self.fwmask.map_or(u32::MAX, |mask| mask.0))),
                tos: self.tos.and_then(|tos| u8::try_from(tos.0).ok()),
                uids: self.uid_start.zip(self.uid_end),
                protocol: ipproto.flatten(),
                sports: range(self.sport, self.sport_start, self.sport_end),
                dports: range(self.dport, self.dport_start, self.dport_end),
                other: (!other.is_empty()).then(|| other.join(", ").into()),
            },
            action,
        }
    }
}

/// `all`, or an address with its length beside it.
fn endpoint(address: Option<&str>, len: Option<u8>) -> Result<Option<Prefix>, ()> {
    match address {
        None | Some("all") => Ok(None),
        Some(text) => {
            let address: IpAddr = text.parse().map_err(|_| ())?;
            Ok(Some(Prefix::masked(
                address,
                len.unwrap_or(Family::of(address).bits()),
            )))
        }
    }
}

/// `ipproto-6`, or a name where an `ip` prints one in spite of `-N`.
fn transport(text: &str) -> Option<u8> {
    match text {
        "tcp" => Some(6),
        "udp" => Some(17),
        "icmp" => Some(1),
        "ipv6-icmp" => Some(58),
        _ => text.strip_prefix("ipproto-").unwrap_or(text).parse().ok(),
    }
}

/// Reads what `ip -j -d -N -force -batch` printed for `asked` lookups: a list with one route for each that was
/// answered, and on stderr the number of each line that was not.
fn read_answers(printed: &[u8], errors: BatchErrors, asked: usize) -> anyhow::Result<Vec<Answer>> {
    if let Some(words) = errors.stopped {
        bail!("`ip -batch` stopped: {words}");
    }
    let mut refused: BTreeMap<usize, String> = errors.refused.into_iter().collect();
    let mut found = serde_json::Deserializer::from_slice(printed).into_iter::<Vec<RawMatch>>();
    let mut answers = Vec::with_capacity(asked);
    for line in 1..=asked {
        if let Some(words) = refused.remove(&line) {
            answers.push(Answer::Refused(words));
            continue;
        }
        let routes = found
            .next()
            .context("it answered less than it was asked")??;
        let route = routes
            .into_iter()
            .next()
            .context("an answer without a route")?;
        answers.push(Answer::Route(route.read()));
    }
    ensure!(
        found.next().is_none() && refused.is_empty(),
        "it answered more than it was asked"
    );
    Ok(answers)
}

#[derive(Deserialize)]
struct RawMatch {
    #[serde(default, rename = "type")]
    kind: Option<Number>,
    dst: Box<str>,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    via: Option<Via>,
    #[serde(default)]
    dev: Option<Box<str>>,
    #[serde(default)]
    nhid: Option<u32>,
    #[serde(default)]
    nexthops: Vec<Hop>,
    #[serde(default)]
    table: Option<Number>,
    #[serde(default)]
    protocol: Option<Number>,
    #[serde(default)]
    metric: Option<u32>,
}

#[derive(Deserialize)]
struct Via {
    #[serde(default)]
    host: Option<IpAddr>,
}

#[derive(Deserialize)]
struct Hop {
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    dev: Option<Box<str>>,
}

impl RawMatch {
    fn read(self) -> Match {
        let first = self.nexthops.into_iter().next();
        let (hop_gateway, hop_dev) = first.map_or((None, None), |hop| (hop.gateway, hop.dev));
        Match {
            prefix: destination(&self.dst),
            table: self.table.map(|table| table.0),
            protocol: self
                .protocol
                .and_then(|n| u8::try_from(n.0).ok())
                .unwrap_or(0),
            metric: self.metric.unwrap_or(0),
            nhid: self.nhid,
            gateway: self.gateway.or_else(|| self.via?.host).or(hop_gateway),
            dev: self.dev.or(hop_dev),
            local: self
                .kind
                .is_some_and(|kind| RTN_OWN_ADDRESSES.contains(&kind.0)),
        }
    }
}

/// `default` has no family of its own here, so it is left out if nothing else shows it.
fn destination(text: &str) -> Option<Prefix> {
    if text == "default" {
        return Some(Family::V4.everything());
    }
    let (address, len) = text
        .split_once('/')
        .map_or((text, None), |(a, len)| (a, len.parse().ok()));
    let address: IpAddr = address.parse().ok()?;
    Some(Prefix::masked(
        address,
        len.unwrap_or(Family::of(address).bits()),
    ))
}

#[cfg(test)]
mod tests;
