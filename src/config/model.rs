//! The checked values that the rest of the program works with.
//!
//! Pure. Holds no text of the file and no place in it; how they are read is `sets`'s and its neighbours'.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::net::prefix::Prefix;

/// One version of the whole directory, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// The route sets, in the order of the file.
    pub sets: Vec<RouteSet>,
    /// Never routed through a gateway by any set; sorted, distinct.
    pub protected: Vec<Prefix>,
    /// Priorities of policy rules that may take traffic past the routes, on purpose; sorted, distinct.
    pub expected_rules: Vec<u32>,
}

/// One entry of `routes`.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteSet {
    /// Unique, a DNS label.
    pub name: String,
    /// 1 to 16 next hops, in listed order, distinct.
    pub gateways: Vec<IpAddr>,
    /// What is asked of single gateways; one that is absent has the default.
    pub shares: BTreeMap<IpAddr, Share>,
    /// A gateway that leaves keeps busy flows for this long; zero is for as long as they last.
    pub drain_timeout: Duration,
    /// Inline and from list files; sorted, distinct.
    pub destinations: Vec<Prefix>,
    /// Taken out of this set's destinations; sorted, distinct.
    pub except: Vec<Prefix>,
    /// How healthy gateways share the flows.
    pub strategy: Strategy,
    /// What happens when no gateway is healthy.
    pub when_down: WhenDown,
    /// Whether each destination has a fallback blackhole route with the highest metric.
    pub leak_guard: bool,
    /// How gateways are probed.
    pub health_check: HealthCheck,
    /// Which nodes it applies to; `None` is every node.
    pub node_selector: Option<NodeSelector>,
}

/// How healthy gateways share the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// All healthy gateways share the flows.
    Balance,
    /// The first healthy one takes all.
    Failover {
        /// Whether to return to an earlier gateway.
        failback: Failback,
    },
}

/// What happens when an earlier gateway is healthy again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    /// All flows return to it.
    AtOnce,
    /// New flows return to it, the others as they fall idle.
    Drain,
    /// Nothing returns until the one in use fails.
    Never,
}

/// What is asked of one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its share of a balanced set's flows, relative to the others.
    pub weight: u32,
    /// Keeps the flows it has until they are idle, and gets no other.
    pub drain: bool,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: 1,
            drain: false,
        }
    }
}

impl RouteSet {
    /// What is asked of a gateway.
    pub fn share(&self, gateway: IpAddr) -> Share {
        self.shares.get(&gateway).copied().unwrap_or_default()
    }

    /// Its gateways that shall leave.
    pub fn drained(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let drained = self.shares.iter().filter(|(_, share)| share.drain);
        drained.map(|(gateway, _)| *gateway)
    }
}

/// What happens when no gateway of a set is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// Keep routing to them.
    Hold,
    /// Withdraw the routes.
    Withdraw,
    /// Blackhole the destinations.
    Blackhole,
}

/// How a gateway is probed. Equal checks of one gateway are one probe task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HealthCheck {
    /// What is sent.
    pub probe: Probe,
    /// From one probe to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Failures in a row after which the gateway is down.
    pub failures: u32,
    /// Successes in a row after which it is up again.
    pub successes: u32,
    /// Probe this address through the gateway instead of the gateway itself.
    pub target: Option<IpAddr>,
}

/// What a probe sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Probe {
    /// ICMP echo.
    Icmp,
    /// TCP connect to this port.
    Tcp(u16),
    /// Nothing; the gateway always counts as healthy.
    None,
}

/// A Kubernetes `LabelSelector`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSelector {
    /// All must be equal.
    pub match_labels: BTreeMap<String, String>,
    /// All must hold.
    pub match_expressions: Vec<Requirement>,
}

/// One `matchExpressions` entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What must hold of it.
    pub operator: Operator,
}

/// What must hold of a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// The label has one of these values.
    In(Vec<String>),
    /// The label is absent or has none of these values.
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}
