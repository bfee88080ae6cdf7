//! The node of the simulation, and the configurations that are tried on it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::super::rollout::Newest;
use super::super::target::Loaded;
use crate::config::{self, Files};
use crate::health::HealthView;
use crate::kernel::model::Model;
use crate::routing::batch::Ownership;
use crate::routing::diff::Wanted;
use crate::routing::node_facts::{Facts, NodeFacts};
use crate::routing::resolve::{Inputs, resolve};

pub(super) const OURS: Ownership = Ownership::DEFAULT;
/// An address of the API server that the agent knows.
const API: IpAddr = v4(198, 51, 100, 10);
/// And one that its packets need too, and that no agent can know: of a proxy, or a load balancer.
pub(super) const API_ADDRESSES: [IpAddr; 2] = [API, v4(198, 51, 100, 77)];

/// Links with their addresses.
pub(super) const LINKS: [(&str, &[(IpAddr, u8)]); 3] = [
    (
        "eth0",
        &[(v4(192, 0, 2, 2), 24), (v6([0x2001, 0xdb8, 0xf, 2]), 64)],
    ),
    (
        "eth1",
        &[(v4(10, 116, 0, 2), 24), (v6([0xfd00, 0x116, 0, 2]), 64)],
    ),
    ("eth2", &[(v4(10, 117, 0, 2), 24)]),
];
/// Gateways, each with its link.
pub(super) const GATEWAYS: [(IpAddr, &str); 4] = [
    (v4(10, 116, 0, 5), "eth1"),
    (v4(10, 116, 0, 6), "eth1"),
    (v4(10, 117, 0, 5), "eth2"),
    (v6([0xfd00, 0x116, 0, 5]), "eth1"),
];
/// Routes of others that come and go.
pub(super) const FOREIGN: [&str; 7] = [
    "198.18.5.0/24 via 192.0.2.1 dev eth0 proto 4 metric 0",
    "203.0.113.0/25 via 192.0.2.1 dev eth0 proto 4 metric 50",
    "203.0.113.0/24 via 192.0.2.1 dev eth0 proto 4 metric 4242",
    "2001:db8:5::/48 via 2001:db8:f::1 dev eth0 proto 4 metric 100",
    "10.117.0.5/32 via 10.116.0.6 dev eth1 proto 4 metric 0",
    "198.19.0.0/16 via 10.117.0.9 dev eth2 proto 16 metric 5000",
    "203.0.111.0/24 via 192.0.2.1 dev eth0 proto 186 metric 20",
];

/// The sets that a configuration is made of.
pub(super) const SETS: [(&str, &str); 15] = [
    (
        "partner",
        "gateways: [10.116.0.5, 10.116.0.6], destinations: [203.0.113.0/24]",
    ),
    (
        "clouds",
        "gateways: [10.116.0.6, 10.117.0.5], strategy: failover, whenDown: blackhole, leakGuard: true, destinations: [198.18.0.0/16, 198.19.7.0/24]",
    ),
    (
        "six",
        "gateways: ['fd00:116::5'], whenDown: withdraw, leakGuard: true, destinations: ['2001:db8:5::/48', '2001:db8:6::/48']",
    ),
    (
        "web",
        "gateways: [10.116.0.5, 10.117.0.5], leakGuard: true, nodeSelector: { matchLabels: { pool: web } }, destinations: [100.64.0.0/24]",
    ),
    (
        "zone",
        "gateways: [10.116.0.6], leakGuard: true, nodeSelector: { matchLabels: { zone: a } }, destinations: [100.64.0.0/24, 203.0.112.0/24]",
    ),
    (
        "plain",
        "gateways: [10.117.0.5, 10.116.0.5], healthCheck: { type: none }, leakGuard: true, destinations: [203.0.111.0/24]",
    ),
    (
        "harm",
        "gateways: [10.116.0.5], destinations: [198.51.100.64/26]",
    ),
    (
        "late",
        "gateways: [10.117.0.5], destinations: [198.51.100.76/31]",
    ),
    (
        "labelled",
        "gateways: [10.116.0.5], nodeSelector: { matchLabels: { zone: a } }, destinations: [198.51.100.77]",
    ),
    (
        "wide",
        "gateways: [10.116.0.5, 10.116.0.6], leakGuard: true, destinations: [0.0.0.0/0]",
    ),
    (
        "stay",
        "gateways: [10.116.0.5, 10.117.0.5], strategy: failover, failback: false, destinations: [203.0.110.0/24]",
    ),
    (
        "gentle",
        "gateways: [10.116.0.6, 10.116.0.5], strategy: failover, failback: drain, whenDown: withdraw, destinations: [203.0.109.0/24]",
    ),
    (
        "drained",
        "gateways: [{ address: 10.116.0.6, weight: 3 }, { address: 10.116.0.5, drain: true }], destinations: [203.0.108.0/24]",
    ),
    (
        "hole",
        "gateways: [10.117.0.5], whenDown: blackhole, destinations: [203.0.107.0/24]",
    ),
    (
        "wrong",
        "gateways: [10.116.0.5], whenDown: withdraw, healthCheck: { type: tcp, port: 1 }, destinations: [203.0.106.0/24]",
    ),
];
/// The places of those that take packets of the API server.
pub(super) const HARMFUL: [u8; 4] = [6, 7, 8, 9];
/// And of those that depend on labels.
pub(super) const WITH_SELECTOR: [u8; 3] = [3, 4, 8];
/// The bit of a configuration that protects what no agent can know.
pub(super) const PROTECTED: u16 = 1 << SETS.len();

/// What the directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Directory {
    /// These of [`SETS`], by their bits, and [`PROTECTED`].
    Sets(u16),
    /// A configuration that is refused.
    Typo,
    /// No `routes.yaml`.
    Absent,
    /// It cannot be read.
    Unreadable,
}

thread_local! {
    static READ: RefCell<HashMap<Directory, Newest>> = RefCell::default();
}

/// What the agent reads there.
pub(super) fn read(directory: Directory) -> Newest {
    READ.with_borrow_mut(|read| {
        read.entry(directory)
            .or_insert_with(|| parse(directory))
            .clone()
    })
}

/// Of what can be put in force.
pub(super) fn revision_of(directory: Directory) -> Option<String> {
    match read(directory) {
        Newest::Good(loaded) => Some(loaded.revision.clone()),
        Newest::Refused { .. } | Newest::Unknown => None,
    }
}

fn parse(directory: Directory) -> Newest {
    let refused = |revision: Option<String>, why: &str| Newest::Refused {
        revision,
        why: why.to_owned(),
        absent: directory == Directory::Absent,
    };
    let sets = match directory {
        Directory::Sets(sets) => sets,
        Directory::Typo => return refused(Some("00000000dead".to_owned()), "a typo"),
        Directory::Absent => return refused(None, "there is no routes.yaml"),
        Directory::Unreadable => return refused(None, "it cannot be read"),
    };
    let is_in = |(n, _): &(usize, &(&str, &str))| sets & (1 << n) != 0;
    let lines: Vec<String> = SETS
        .iter()
        .enumerate()
        .filter(is_in)
        .map(|(_, (name, set))| format!("- {{ name: {name}, {set} }}\n"))
        .collect();
    let mut yaml = match &lines[..] {
        [] => "routes: []\n".to_owned(),
        lines => format!("routes:\n{}", lines.concat()),
    };
    if sets & PROTECTED != 0 {
        yaml.push_str("protected: [198.51.100.77]\n");
    }
    let files = Files {
        routes_yaml: yaml.into_bytes(),
        ..Files::default()
    };
    let revision = files.revision().to_string();
    match config::parse(&files) {
        Ok(checked) => Newest::Good(Arc::new(Loaded {
            revision,
            config: checked.config,
        })),
        Err(problems) => refused(Some(revision), &problems.summary()),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// The first three groups, and the last.
const fn v6([a, b, c, d]: [u16; 4]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, d))
}

/// The node after its boot.
pub(super) fn node() -> Model {
    let mut model = Model::default();
    for (link, addresses) in LINKS {
        model.add_link(link);
        for (address, len) in addresses {
            model.add_address(link, *address, *len);
        }
    }
    add_default_routes(&mut model);
    model
}

/// The node's own default routes, as its network manager keeps them.
pub(super) fn add_default_routes(model: &mut Model) {
    for line in [
        "route replace 0.0.0.0/0 via 192.0.2.1 dev eth0 proto 16 metric 0",
        "route replace ::/0 via 2001:db8:f::1 dev eth0 proto 16 metric 1024",
    ] {
        // Fails while the link is down.
        let _ = model.run(None, line);
    }
}

/// What the API server reports of a node with these labels.
pub(super) fn facts(labels: u8) -> Facts {
    let mut all = BTreeMap::new();
    for (bit, key, value) in [(1, "pool", "web"), (2, "zone", "a")] {
        if labels & bit != 0 {
            all.insert(key.to_owned(), value.to_owned());
        }
    }
    Facts::Known(NodeFacts {
        labels: all,
        pod_cidrs: vec!["10.244.3.0/24".parse().expect("a prefix")],
        api_servers: vec![API],
    })
}

/// What an agent knows before the API server has answered.
pub(super) fn no_facts_yet() -> Facts {
    Facts::NotYet {
        api_servers: vec![API],
    }
}

thread_local! {
    static IS_HARMFUL: RefCell<HashMap<(Directory, u8), bool>> = RefCell::default();
}

/// Whether a configuration with these labels cuts off the API server, on a node on which everything works.
pub(super) fn is_harmful(directory: Directory, labels: u8) -> bool {
    let decide = || made_of(directory, &facts(labels)).is_some_and(|wanted| cuts_off(&wanted));
    IS_HARMFUL.with_borrow_mut(|known| *known.entry((directory, labels)).or_insert_with(decide))
}

/// What a configuration makes of a node on which everything works.
pub(super) fn made_of(directory: Directory, facts: &Facts) -> Option<Wanted> {
    let Newest::Good(loaded) = read(directory) else {
        return None;
    };
    let inputs = Inputs {
        config: &loaded.config,
        kernel: &node().dump(&OURS),
        facts,
        health: &HealthView::new(),
        ownership: &OURS,
    };
    resolve(&inputs).ok().map(|resolution| resolution.wanted)
}

/// Whether routes take the packets of the API server.
pub(super) fn cuts_off(wanted: &Wanted) -> bool {
    let covers = |address| {
        let mut routes = wanted.routes.iter();
        routes.any(|route| route.key.prefix.contains(address))
    };
    API_ADDRESSES.into_iter().any(covers)
}
