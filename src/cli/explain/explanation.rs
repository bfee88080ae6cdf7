//! What a lookup means for one address: the set, what prevents it, and where packets go.
//!
//! Pure.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;

use super::Here;
use crate::config::{Config, ROUTES_YAML, RouteSet, WhenDown, where_is};
use crate::health::HealthView;
use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};
use crate::report::status::GatewayState;
use crate::routing::batch::LEAK_GUARD_METRIC;
use crate::routing::leftovers;
use crate::routing::lookup::{Answer, Match, describe};
use crate::routing::origins::Origins;
use crate::routing::protected::Protected;
use crate::routing::resolve::Inputs;
use crate::routing::rule::{Action, Packet};
use crate::routing::state::Kernel;

/// The schema of `explain -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Explanation {
    /// The address.
    pub(super) address: IpAddr,
    /// The packet's source, interface and mark, as `ip route get` takes them; empty for the node itself.
    pub(super) packet: String,
    /// The set that has the address, as far as one does.
    pub(super) set: Option<OfSet>,
    /// Why the address is in no set's routes here, although a set names it.
    pub(super) outside: Option<String>,
    /// The route that the kernel chooses, or its refusal.
    pub(super) lookup: String,
    /// The policy rule that led to it.
    pub(super) rule: Option<String>,
    /// Gateways of the set, with their health as the agent reports it.
    pub(super) gateways: Vec<OfGateway>,
    /// Whether packets take a gateway of the set.
    pub(super) by_gateway: bool,
    /// Where packets go now and why, in one sentence.
    pub(super) verdict: String,
    /// The command that deletes the other program's route which wins, where nothing needs it any more.
    pub(super) remedy: Option<String>,
    /// What the far side saw.
    pub(super) echo: Option<Echo>,
    /// The node's addresses that the kernel would use as source; for the comparison.
    #[serde(skip)]
    pub(super) leaves: bool,
}

/// The set and the destination that the address is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct OfSet {
    name: String,
    destination: String,
    /// File, line and column.
    source: String,
}

/// A gateway of the set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct OfGateway {
    address: IpAddr,
    /// Absent without an agent: nothing is probed.
    state: Option<GatewayState>,
    /// Whether the set's group in the kernel leads to it.
    active: bool,
}

/// The far side's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Echo {
    url: String,
    seen: IpAddr,
    /// Whether the explanation predicts it; absent where another NAT on the path may have changed it.
    as_explained: Option<bool>,
    text: String,
}

/// What the configuration has for an address.
enum Found<'a> {
    /// In force on this node.
    Wanted(&'a RouteSet, Prefix),
    /// Named by a set, and not routed here, for this reason.
    Outside(&'a RouteSet, Prefix, String),
    Nothing,
}

/// Explains one answer.
pub(super) fn explain(here: &Here, packet: &Packet, answer: &Answer) -> Explanation {
    let address = packet.to;
    let found = find(here, address);
    let (set, outside) = match &found {
        Found::Wanted(set, prefix) => (Some((*set, *prefix)), None),
        Found::Outside(set, prefix, why) => (Some((*set, *prefix)), Some(why.clone())),
        Found::Nothing => (None, None),
    };
    let (by_gateway, verdict) = verdict(here, packet, answer, &found);
    Explanation {
        address,
        packet: packet.to_string().trim().to_owned(),
        set: set.map(|(set, prefix)| OfSet {
            name: set.name.clone(),
            destination: prefix.to_string(),
            source: where_is(&here.files, &set.name, prefix)
                .unwrap_or_else(|| ROUTES_YAML.to_owned()),
        }),
        outside,
        lookup: match answer {
            Answer::Route(found) => found.in_table(),
            Answer::Refused(words) => format!("none ({words})"),
        },
        rule: leading_rule(here, packet, answer),
        gateways: set
            .map(|(set, _)| gateways(here, set, Family::of(address)))
            .unwrap_or_default(),
        by_gateway,
        verdict,
        remedy: set
            .filter(|_| !by_gateway)
            .and_then(|(_, prefix)| leftovers::of_prefix(prefix, &here.kernel, &here.ownership))
            .map(leftovers::delete_command),
        echo: None,
        leaves: matches!(answer, Answer::Route(found) if !found.local),
    }
}

/// The longest destination that holds the address and is in force here; else the longest that is not, and why.
fn find(here: &Here, address: IpAddr) -> Found<'_> {
    let config = &here.checked.config;
    let (health, host) = (HealthView::new(), Prefix::host(address));
    let inputs = Inputs {
        config,
        kernel: &here.kernel,
        facts: &here.facts,
        health: &health,
        ownership: &here.ownership,
    };
    let applies: Vec<&str> = inputs.applicable().map(|set| set.name.as_str()).collect();
    let mut named: Vec<(&RouteSet, Prefix)> = candidates(config, address);
    named.sort_by_key(|(_, prefix)| std::cmp::Reverse(prefix.len()));
    let Some((first, prefix)) = named.first().copied() else {
        return Found::Nothing;
    };
    if let Some(why) = Protected::gather(&here.kernel, &here.facts, config).forbids(host) {
        return Found::Outside(
            first,
            prefix,
            format!("{address} is protected: it {}", is(&why)),
        );
    }
    let mut outside = None;
    for (set, prefix) in named {
        let except = set.except.iter().find(|except| except.contains(address));
        let why = if !applies.contains(&set.name.as_str()) {
            format!(
                "set `{}` does not apply to this node (nodeSelector)",
                set.name
            )
        } else if let Some(except) = except {
            format!("{except} is taken out by `except` of set `{}`", set.name)
        } else {
            return Found::Wanted(set, prefix);
        };
        outside.get_or_insert(Found::Outside(set, prefix, why));
    }
    outside.unwrap_or(Found::Nothing)
}

/// `inside …` needs its verb; `is …` has it.
fn is(why: &str) -> String {
    if why.starts_with("is ") {
        why.to_owned()
    } else {
        format!("is {why}")
    }
}

fn candidates(config: &Config, address: IpAddr) -> Vec<(&RouteSet, Prefix)> {
    let longest = |set: &RouteSet| {
        let holding = set
            .destinations
            .iter()
            .filter(|prefix| prefix.contains(address));
        holding.max_by_key(|prefix| prefix.len()).copied()
    };
    config
        .sets
        .iter()
        .filter_map(|set| Some((set, longest(set)?)))
        .collect()
}

/// Whether packets take a gateway of the set, and where they go, in a sentence.
fn verdict(here: &Here, packet: &Packet, answer: &Answer, found: &Found<'_>) -> (bool, String) {
    let to = packet.to;
    match (answer, found) {
        (Answer::Refused(words), found) => (false, dropped(here, packet, words, found)),
        (Answer::Route(route), _) if route.local => (
            false,
            format!("{to} is handed to this node itself ({route})"),
        ),
        (Answer::Route(route), found) => {
            let other_table = route
                .table
                .is_some_and(|table| table != here.ownership.table);
            if let Some(set) = set_of(here, route, to) {
                let names = members(&here.kernel, route.nhid.unwrap_or_default());
                return (
                    !names.is_empty(),
                    format!(
                        "packets to {to} take set `{}` by {}",
                        set.name,
                        listed(&names)
                    ),
                );
            }
            (false, past(here, packet, route, found, other_table))
        }
    }
}

/// Why a packet does not take the set's route but this one.
fn past(
    here: &Here,
    packet: &Packet,
    route: &Match,
    found: &Found<'_>,
    other_table: bool,
) -> String {
    let to = packet.to;
    let goes = format!("packets to {to} go by {route}");
    match found {
        Found::Nothing => format!("{goes}: no set has {to} as a destination"),
        Found::Outside(_, _, why) => format!("{goes}: {why}"),
        Found::Wanted(set, _) if other_table => {
            let rule = rule_to(here, packet, route)
                .unwrap_or_else(|| format!("table {}", route.table.unwrap_or_default()));
            format!("{goes}: set `{}` is bypassed by {rule}", set.name)
        }
        Found::Wanted(set, prefix) => match route.prefix {
            Some(longer) if longer.len() > prefix.len() => {
                format!(
                    "{goes}: set `{}` is overridden by this more specific route of route protocol {}",
                    set.name, route.protocol
                )
            }
            Some(same) if same == *prefix => {
                format!(
                    "{goes}: set `{}` is shadowed by this route of route protocol {}, whose metric {} is lower",
                    set.name, route.protocol, route.metric
                )
            }
            _ => format!(
                "{goes}: the route of set `{}` is not in the kernel",
                set.name
            ),
        },
    }
}

/// Why a packet is dropped.
fn dropped(here: &Here, packet: &Packet, words: &str, found: &Found<'_>) -> String {
    let to = packet.to;
    let rules = here.rules.of(Family::of(to));
    let decides = |action: &Action| {
        matches!(action, Action::Drop(_)) || *action == Action::Table(here.ownership.table)
    };
    if let Some(rule) = rules
        .first(packet, decides)
        .filter(|rule| matches!(rule.action, Action::Drop(_)))
    {
        return format!("packets to {to} are dropped by {}", describe(rule));
    }
    let Found::Wanted(set, _) = found else {
        return format!("the kernel has no route for packets to {to}: {words}");
    };
    let group = nexthop_id::group(&set.name, Family::of(to));
    let own = || {
        here.kernel
            .own
            .iter()
            .filter(|route| route.key.prefix.contains(to))
    };
    let has_group = here.kernel.nexthops.contains_key(&group);
    let guarded = own().any(|route| route.key.metric == LEAK_GUARD_METRIC);
    if has_group
        && own().any(|r| r.key.metric != LEAK_GUARD_METRIC)
        && members(&here.kernel, group).is_empty()
    {
        format!(
            "packets to {to} are dropped: no gateway of set `{}` is healthy, and `whenDown` is {}",
            set.name,
            when_down(set.when_down)
        )
    } else if guarded {
        format!(
            "packets to {to} are dropped by the leak guard of set `{}`: its route is not in the kernel",
            set.name
        )
    } else {
        format!("the kernel refuses packets to {to}: {words}")
    }
}

const fn when_down(when_down: WhenDown) -> &'static str {
    match when_down {
        WhenDown::Hold => "hold",
        WhenDown::Withdraw => "withdraw",
        WhenDown::Blackhole => "blackhole",
    }
}

/// The set whose group a route leads to.
fn set_of<'a>(here: &'a Here, route: &Match, to: IpAddr) -> Option<&'a RouteSet> {
    let id = route.nhid?;
    let ours = route.protocol == here.ownership.protocol;
    here.checked
        .config
        .sets
        .iter()
        .find(|set| ours && nexthop_id::group(&set.name, Family::of(to)) == id)
}

/// The gateways that a group of the kernel leads to.
fn members(kernel: &Kernel, group: u32) -> Vec<IpAddr> {
    let members = kernel.members(group).iter().map(|member| member.id);
    let ids = members.chain([group]);
    let mut gateways: Vec<IpAddr> = ids.filter_map(|id| kernel.gateway(id)).collect();
    gateways.sort_unstable();
    gateways.dedup();
    gateways
}

fn gateways(here: &Here, set: &RouteSet, family: Family) -> Vec<OfGateway> {
    let active = members(&here.kernel, nexthop_id::group(&set.name, family));
    let reported = here
        .agent
        .iter()
        .flat_map(|status| &status.sets)
        .filter(|of| of.name == set.name)
        .flat_map(|of| &of.gateways);
    let states: Vec<(IpAddr, GatewayState)> = reported
        .map(|gateway| (gateway.address, gateway.state))
        .collect();
    let listed = set.gateways.iter().copied();
    listed
        .filter(|address| Family::of(*address) == family)
        .map(|address| OfGateway {
            address,
            state: states
                .iter()
                .find(|(of, _)| *of == address)
                .map(|(_, state)| *state),
            active: active.contains(&address),
        })
        .collect()
}

/// The rule that leads a packet to the table of its route.
fn rule_to(here: &Here, packet: &Packet, route: &Match) -> Option<String> {
    let rules = here.rules.of(Family::of(packet.to));
    let table = route.table.unwrap_or(here.ownership.table);
    let to_table = rules.first(packet, |action| *action == Action::Table(table));
    to_table
        .or_else(|| rules.first(packet, |action| *action == Action::Vrf))
        .map(describe)
}

fn leading_rule(here: &Here, packet: &Packet, answer: &Answer) -> Option<String> {
    match answer {
        Answer::Route(route) if route.local => None,
        Answer::Route(route) => rule_to(here, packet, route),
        Answer::Refused(_) => None,
    }
}

fn listed(addresses: &[IpAddr]) -> String {
    match addresses {
        [] => "no gateway: they are dropped".to_owned(),
        [one] => format!("gateway {one}"),
        several => {
            let all: Vec<String> = several.iter().map(ToString::to_string).collect();
            format!("one of the gateways {}", all.join(", "))
        }
    }
}

impl Explanation {
    /// What the far side saw, beside what this explanation makes expect.
    pub(super) fn compare(&mut self, url: &str, seen: IpAddr, kernel: &Kernel) {
        let own = Origins::new(kernel, &[]).is_own(seen);
        let (as_explained, text) = match (self.by_gateway, own) {
            (true, false) => (
                Some(true),
                "not an address of this node: as explained".to_owned(),
            ),
            (true, true) => (
                Some(false),
                "an address of this node itself: contradicts the lookup".to_owned(),
            ),
            (false, true) => (
                Some(true),
                "an address of this node: as explained".to_owned(),
            ),
            (false, false) => (
                None,
                "not an address of this node: something on the path translates it".to_owned(),
            ),
        };
        self.echo = Some(Echo {
            url: url.to_owned(),
            seen,
            as_explained,
            text,
        });
    }

    /// 0: by a gateway of the set, and the far side does not contradict.
    pub(super) fn exit_status(&self) -> u8 {
        let contradicted = self
            .echo
            .as_ref()
            .is_some_and(|echo| echo.as_explained == Some(false));
        u8::from(!self.by_gateway || contradicted)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)?;
        if !self.packet.is_empty() {
            write!(f, " {}", self.packet)?;
        }
        writeln!(
            f,
            ": {}",
            if self.by_gateway {
                "by a gateway"
            } else {
                "not by a gateway"
            }
        )?;
        let mut line = |name: &str, text: &str| writeln!(f, "  {name:<9} {text}");
        match &self.set {
            Some(set) => line(
                "set",
                &format!("{} ({}, {})", set.name, set.destination, set.source),
            )?,
            None => line("set", "none")?,
        }
        if let Some(outside) = &self.outside {
            line("outside", outside)?;
        }
        line("lookup", &self.lookup)?;
        if let Some(rule) = &self.rule {
            line("rule", rule)?;
        }
        for gateway in &self.gateways {
            let state = gateway.state.map_or("not probed", GatewayState::as_str);
            let active = if gateway.active { ", active" } else { "" };
            line("gateway", &format!("{} {state}{active}", gateway.address))?;
        }
        line("verdict", &self.verdict)?;
        if let Some(remedy) = &self.remedy {
            line(
                "remedy",
                &format!("if nothing needs that route any more: {remedy}"),
            )?;
        }
        if let Some(echo) = &self.echo {
            line(
                "echo",
                &format!("{} saw {}, {}", echo.url, echo.seen, echo.text),
            )?;
        }
        Ok(())
    }
}
