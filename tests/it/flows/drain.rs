//! A gateway that leaves: with `drain` it cuts nobody, and without it it cuts each of its connections.

mod forced;
mod host;
mod interrupted;
mod returns;

use std::collections::BTreeSet;

use super::talk::{CONNECTIONS, Talk};
use super::traffic::{CHECK, LIMIT};
use crate::lab::Node;
use crate::lab::{FABRIC, G1, G1_PUBLIC, G3, G3_PUBLIC, Running, wait_until};

/// Idle is then what had no packet for 20 s. Nothing here takes so long that the limit itself would move anything.
const LIMITS: &str = "drainTimeout: 80s";

/// A set whose gateway `leaves`.
struct Case {
    strategy: &'static str,
    before: &'static str,
    drained: &'static str,
    taken_off: &'static str,
    leaves: &'static str,
    public: &'static str,
    link: &'static str,
}

const BALANCE: Case = Case {
    strategy: "balance",
    before: "10.116.0.5, 10.116.0.6, 10.116.0.7",
    drained: "10.116.0.5, 10.116.0.6, {address: 10.116.0.7, drain: true}",
    taken_off: "10.116.0.5, 10.116.0.6",
    leaves: G3,
    public: G3_PUBLIC,
    link: "g3-eth1",
};

const FAILOVER: Case = Case {
    strategy: "failover",
    before: "10.116.0.5, 10.116.0.6",
    drained: "{address: 10.116.0.5, drain: true}, 10.116.0.6",
    taken_off: "10.116.0.6",
    leaves: G1,
    public: G1_PUBLIC,
    link: "g1-eth1",
};

impl Case {
    fn routes(&self, gateways: &str) -> String {
        let strategy = self.strategy;
        format!(
            "routes:\n- name: a\n  strategy: {strategy}\n  gateways: [{gateways}]\n  {LIMITS}\n  destinations: [198.18.0.0/15]\n  {CHECK}\n"
        )
    }
}

/// What became of connections.
#[derive(Debug, Default)]
struct Seen {
    carried: usize,
    busy_broken: usize,
    others_broken: usize,
    new_on_it: usize,
    new_on_it_at_the_end: usize,
    broken_at_the_cut: usize,
}

fn addresses(net: &str) -> Vec<String> {
    (0..CONNECTIONS)
        .map(|n| format!("{net}.{}.{}", n / 100, n % 100 + 1))
        .collect()
}

/// How many of these addresses are reached by this source.
fn on_it(node: &Node, to: &[String], source: &str) -> BTreeSet<String> {
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let answers = node.lab.sources("pod", &to);
    let is_it = |seen: &Option<std::net::IpAddr>| seen.is_some_and(|s| s.to_string() == source);
    let found = answers.into_iter().filter(|(_, seen)| is_it(seen));
    found.map(|(to, _)| to.to_string()).collect()
}

/// State and buckets of a gateway in the report.
fn report(node: &Node, gateway: &str) -> (String, Option<u64>) {
    let status = node.status();
    let gateways = status["sets"][0]["gateways"].as_array().cloned();
    let it = gateways
        .into_iter()
        .flatten()
        .find(|g| g["address"] == gateway);
    it.map_or_else(Default::default, |g| {
        (
            g["state"].as_str().unwrap().to_owned(),
            g["buckets"].as_u64(),
        )
    })
}

/// A pod of the node, whose packets leave with the node's address. The connections are its own: for those of a host socket the
/// kernel remembers the route, and a packet that is not looked up counts as none.
fn pod(node: &Node) {
    let lab = &node.lab;
    lab.switch("pods").host("pod");
    lab.plug("nd", "cni0", "pods", &["10.244.0.1/24", "fd00:244::1/64"]);
    lab.plug("pod", "eth0", "pods", &["10.244.0.5/24", "fd00:244::5/64"]);
    lab.ip("pod", "route add default via 10.244.0.1");
    lab.ip("pod", "-6 route add default via fd00:244::1");
    lab.sysctl("nd", "net.ipv4.ip_forward", "1");
    lab.sysctl("nd", "net.ipv6.conf.all.forwarding", "1");
    lab.nft(
        "nd",
        "table inet pods {\nchain out {\ntype nat hook postrouting priority 100\n\
         ip saddr 10.244.0.0/24 masquerade\nip6 saddr fd00:244::/64 masquerade\n}\n}",
    );
}

/// A node with a pod, and its agent, which has all gateways of the set up.
fn start(routes: &str) -> (Node, Running) {
    let node = Node::new(routes);
    pod(&node);
    let agent = agent(&node);
    (node, agent)
}

/// An agent that looks every second.
fn agent(node: &Node) -> Running {
    let agent = node.agent(&["--resync", "1s"]);
    agent.wait_for("Configuration in force", LIMIT);
    assert!(wait_until(LIMIT, || {
        let mut states = node.gateways("a").into_values();
        states.all(|state| state.starts_with("up") || state.starts_with("draining"))
    }));
    agent
}

/// Connections of the gateway that leaves: those that go on talking, those that fall silent; and those of the others.
fn talks(node: &Node, case: &Case) -> (Talk, Talk, Option<Talk>, usize) {
    let all = addresses("198.18");
    let of_it: Vec<String> = on_it(node, &all, case.public).into_iter().collect();
    let others: Vec<String> = all.into_iter().filter(|to| !of_it.contains(to)).collect();
    let (busy, silent) = of_it.split_at(of_it.len() / 2);
    let mut busy_talk = Talk::to(node, "pod", busy);
    let silent = Talk::to(node, "pod", silent);
    let others = (!others.is_empty()).then(|| Talk::to(node, "pod", &others));
    busy_talk.round();
    (busy_talk, silent, others, of_it.len())
}

fn with_drain(case: &Case) -> Seen {
    let (mut node, agent) = start(&case.routes(case.before));
    let (mut busy, silent, mut others, carried) = talks(&node, case);
    let mut seen = Seen {
        carried,
        ..Seen::default()
    };
    node.volume.routes(&case.routes(case.drained));
    let most = u64::try_from(carried / 2).unwrap();
    let mut counts = Vec::new();
    let mut down_to = |talks: &mut [&mut Talk], most: u64| {
        let came = wait_until(LIMIT, || {
            talks.iter_mut().for_each(|talk| talk.round());
            let (state, buckets) = report(&node, case.leaves);
            counts.extend(buckets);
            state == "draining" && buckets.is_some_and(|n| n <= most)
        });
        assert!(came, "{counts:?} {:#}\n{}", node.status(), agent.log());
    };
    let mut talking: Vec<&mut Talk> = others.iter_mut().chain([&mut busy]).collect();
    down_to(&mut talking, most);
    drop(silent);
    let new = addresses("198.19");
    seen.new_on_it = on_it(&node, &new, case.public).len();
    seen.busy_broken = busy.broken().len();
    drop(busy);
    let mut talking: Vec<&mut Talk> = others.iter_mut().collect();
    down_to(&mut talking, 0);
    println!(
        "  {} of {}: buckets in use {}",
        case.leaves,
        case.strategy,
        falling(&counts)
    );
    agent.wait_for(&format!("Gateway {} is drained", case.leaves), LIMIT);
    seen.new_on_it_at_the_end = on_it(&node, &new, case.public).len();
    let mut opened = Talk::to(&node, "pod", &new);
    node.lab.ip(FABRIC, &format!("link set {} down", case.link));
    opened.until(|| report(&node, case.leaves).0 == "down");
    seen.broken_at_the_cut = opened.broken().len();
    if let Some(others) = &mut others {
        others.round();
        seen.others_broken = others.broken().len();
    }
    seen
}

/// The counts in turn, each once.
fn falling(counts: &[u64]) -> String {
    let mut counts = counts.to_vec();
    counts.dedup();
    let words: Vec<String> = counts.iter().map(u64::to_string).collect();
    words.join(" ")
}

fn without_drain(case: &Case) -> Seen {
    let (mut node, _agent) = start(&case.routes(case.before));
    let (mut busy, _silent, mut others, carried) = talks(&node, case);
    node.volume.routes(&case.routes(case.taken_off));
    busy.until(|| report(&node, case.leaves).0.is_empty());
    let mut others_broken = 0;
    if let Some(others) = &mut others {
        others.round();
        others_broken = others.broken().len();
    }
    Seen {
        carried,
        busy_broken: busy.broken().len(),
        others_broken,
        ..Seen::default()
    }
}

fn compare(case: &Case) {
    let (drained, taken_off) = (with_drain(case), without_drain(case));
    println!(
        "{} leaves a set of {CONNECTIONS} connections, {}",
        case.leaves, case.strategy
    );
    println!("  {:<60} {:>8} {:>10}", "", "drained", "taken off");
    for (what, of) in [
        (
            "connections that it carried",
            (|s: &Seen| s.carried) as fn(&Seen) -> usize,
        ),
        ("broken, of its half that went on talking", |s| {
            s.busy_broken
        }),
        ("broken, of the others", |s| s.others_broken),
        ("of 300 new ones, on it while the half was talking", |s| {
            s.new_on_it
        }),
        ("of 300 new ones, on it in the end", |s| {
            s.new_on_it_at_the_end
        }),
        ("broken when it was cut", |s| s.broken_at_the_cut),
    ] {
        println!("  {what:<60} {:>8} {:>10}", of(&drained), of(&taken_off));
    }
    assert_eq!(
        (
            drained.busy_broken,
            drained.others_broken,
            drained.new_on_it_at_the_end,
            drained.broken_at_the_cut
        ),
        (0, 0, 0, 0)
    );
    // New flows meet a bucket in use as often as there are such, and there are 2,048 buckets.
    let in_use = drained.carried / 2;
    assert!(
        drained.new_on_it <= CONNECTIONS * in_use / 2048 + 20,
        "{drained:?}"
    );
    assert_eq!(
        taken_off.busy_broken,
        taken_off.carried / 2,
        "the baseline shows nothing: {taken_off:?}"
    );
}

#[test]
fn a_drained_gateway_of_three_breaks_no_connection_gets_hardly_a_new_one_and_can_then_be_cut() {
    compare(&BALANCE);
}

#[test]
fn a_drained_gateway_of_a_failover_set_breaks_no_connection_gets_hardly_a_new_one_and_can_then_be_cut()
 {
    compare(&FAILOVER);
}
