//! `leakGuard`: whatever happens, no packet to the destinations leaves by the node's public interface.

use std::thread::sleep;
use std::time::Duration;

use super::traffic::{CHECK, LIMIT, list};
use crate::lab::{FABRIC, G1_PUBLIC, G1_PUBLIC6, G2_PUBLIC, G2_PUBLIC6, wait_until};
use crate::lab::{Node, WrappedIp};

const TO: [&str; 4] = ["203.0.113.1", "203.0.113.200", "198.51.100.7", "192.88.0.1"];
const TO6: [&str; 2] = ["2001:db8:7::1", "2001:db8:8::1"];
const NETS: [&str; 3] = ["203.0.113.0/24", "198.51.100.7", "192.88.0.0/16"];
const NETS6: [&str; 2] = ["2001:db8:7::/48", "2001:db8:8::/48"];
/// How long a state is kept that should let nothing out: hundreds of packets.
const WHILE: Duration = Duration::from_millis(500);

fn routes(gateways: &str, destinations: &str, when_down: &str) -> String {
    format!(
        "routes:\n- name: a\n  gateways: [{gateways}]\n  destinations: [{destinations}]\n  leakGuard: true\n  whenDown: {when_down}\n  {CHECK}\n"
    )
}

fn some_nets() -> String {
    [&NETS[..], &NETS6[..]].concat().join(", ")
}

/// Waits until everything is answered, by these sources.
fn flows(node: &Node, v4: &str, v6: &str) {
    for (to, source) in TO
        .iter()
        .map(|to| (to, v4))
        .chain(TO6.iter().map(|to| (to, v6)))
    {
        node.wait_for_source(to, source);
    }
}

fn guards(node: &Node) -> usize {
    let of = |family: &str| {
        node.lab
            .ip("nd", &format!("{family} route show proto 230"))
            .matches("metric 4294967294")
            .count()
    };
    of("-4") + of("-6")
}

fn link(node: &Node, up: bool) {
    if up {
        node.lab.ip("nd", "link set eth1 up");
        // The kernel drops it with the link; the program that configures the node restores it.
        node.lab
            .ip("nd", "addr replace fd00:116::2/64 dev eth1 nodad");
    } else {
        node.lab.ip("nd", "link set eth1 down");
    }
}

fn nothing_leaves(when_down: &str, destinations: &str) {
    let (g1, g2) = ("10.116.0.5, fd00:116::5", "10.116.0.6, fd00:116::6");
    let mut node = Node::new(&routes(g1, destinations, when_down));
    let watch = node.watch(5, &[&TO[..], &TO6[..]].concat());
    // Its rules stay in the kernel when the value goes.
    let public = node.count("eth0", &NETS, &NETS6);
    assert!(
        wait_until(LIMIT, || public.packets() > 0),
        "without routes they leave, and that is seen"
    );
    let mut agent = node.agent_in_force(&[]);
    flows(&node, G1_PUBLIC, G1_PUBLIC6);
    public.reset();
    let seen = |node: &Node, during: &str| {
        let output = node.lab.must(
            "nd",
            &["nft", "list", "counter", "inet", "count_eth0", "seen"],
        );
        assert!(
            output.contains("packets 0 "),
            "{when_down}: a packet left during: {during}\n{output}"
        );
    };

    link(&node, false);
    sleep(WHILE);
    assert!(guards(&node) >= 5, "the guards need no link");
    seen(&node, "link loss");
    link(&node, true);
    flows(&node, G1_PUBLIC, G1_PUBLIC6);
    seen(&node, "the link's return");

    node.lab.ip(FABRIC, "link set nd-eth1 down");
    sleep(WHILE);
    node.lab.ip(FABRIC, "link set nd-eth1 up");
    flows(&node, G1_PUBLIC, G1_PUBLIC6);
    seen(&node, "carrier loss");

    node.volume.routes(&routes(g2, destinations, when_down));
    flows(&node, G2_PUBLIC, G2_PUBLIC6);
    seen(&node, "a change of gateways");
    // A gateway that never answered would be held, as one whose probe is blocked.
    node.wait_for_gateways("a", &["up*"; 2]);

    // One that was never seen to answer would count as wrongly probed.
    node.wait_for_gateways("a", &["up*"; 2]);
    for (deaf, states) in [
        (
            true,
            if when_down == "hold" {
                ["down*"; 2]
            } else {
                ["down"; 2]
            },
        ),
        (false, ["up*"; 2]),
    ] {
        node.deaf("g2", deaf);
        node.wait_for_gateways("a", &states);
        sleep(WHILE);
        seen(&node, "all gateways dead, and back");
    }

    agent.kill();
    sleep(WHILE);
    link(&node, false);
    sleep(WHILE);
    assert!(guards(&node) >= 5, "the guards need no agent");
    seen(&node, "agent killed, link loss");
    let _agent = node.agent(&[]);
    sleep(WHILE);
    link(&node, true);
    flows(&node, G2_PUBLIC, G2_PUBLIC6);
    seen(&node, "agent started while the link is down");

    let output = watch.log();
    let answered_by = |source: &str| output.contains(&format!(" {source} after "));
    assert!(
        answered_by(G1_PUBLIC) && answered_by(G2_PUBLIC) && answered_by(G2_PUBLIC6),
        "{output}"
    );
}

#[test]
fn with_hold_nothing_leaves_by_the_public_interface() {
    nothing_leaves("hold", &some_nets());
}

#[test]
fn with_withdraw_nothing_leaves_by_the_public_interface() {
    nothing_leaves("withdraw", &some_nets());
}

#[test]
fn with_blackhole_nothing_leaves_by_the_public_interface() {
    nothing_leaves("blackhole", &some_nets());
}

#[test]
fn with_everything_for_a_destination_nothing_leaves_by_the_public_interface() {
    nothing_leaves("withdraw", "0.0.0.0/0, \"::/0\"");
}

#[test]
fn guards_come_before_their_routes_and_go_after_them() {
    let list = list(1500);
    let set = |more: &str| {
        format!(
            "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinationFiles: [l]\n  {more}\n  {CHECK}\n"
        )
    };
    let (guarded, plain) = (set("leakGuard: true"), set("leakGuard: false"));
    let mut node = Node::with_files(&[("routes.yaml", &guarded), ("l", &list)]);
    let wrapper = WrappedIp::new("cat");
    let agent = node.agent_in_force_behind(&wrapper);
    let place =
        |lines: &[String], start: &str| lines.iter().position(|line| line.starts_with(start));
    let written = wrapper.lines();
    for prefix in list.lines() {
        let guard = place(&written, &format!("route add blackhole {prefix} ")).unwrap();
        assert!(
            guard < place(&written, &format!("route add {prefix} ")).unwrap(),
            "{prefix}"
        );
    }
    // The guard alone goes: no route is touched.
    wrapper.forget();
    node.volume.write(&[("routes.yaml", &plain), ("l", &list)]);
    assert!(wait_until(LIMIT, || guards(&node) == 0), "{}", agent.log());
    let written = wrapper.lines();
    assert!(
        written
            .iter()
            .all(|line| line.starts_with("route del blackhole ") || line.starts_with("nexthop ")),
        "{:?}",
        &written[..10]
    );
    node.volume
        .write(&[("routes.yaml", &guarded), ("l", &list)]);
    assert!(
        wait_until(LIMIT, || guards(&node) == 1500),
        "{}",
        agent.log()
    );
    // Both go: the routes by the one command that removes their group.
    wrapper.forget();
    node.volume.routes("routes: []\n");
    assert!(wait_until(LIMIT, || guards(&node) == 0), "{}", agent.log());
    let written = wrapper.lines();
    let first_guard = place(&written, "route del blackhole ").unwrap();
    let last_route = written
        .iter()
        .rposition(|line| {
            line.starts_with("nexthop del ")
                || line.starts_with("route del 20.")
                || line.starts_with("route del 34.")
        })
        .unwrap();
    assert!(
        last_route < first_guard,
        "{:?}",
        &written[..first_guard.min(10)]
    );
}
