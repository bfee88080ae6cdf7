//! `Ready` means that packets take the gateway: policy rules that take them elsewhere are found by the kernel's own
//! lookup, within one resync, and rules that do not raise no alarm.

use super::*;

const RESYNC: &[&str] = &["--resync", "1s"];

/// An agent and the `ip` that it asks.
struct Asking {
    running: Running,
    ip: WrappedIp,
}

impl std::ops::Deref for Asking {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

/// A node with pods behind `cni0`, one set on `eth1`, and the default route by `eth0`.
fn node(more: &str) -> (Node, Asking) {
    node_with(more, "")
}

fn node_with(more: &str, top: &str) -> (Node, Asking) {
    let mut node = with_pods();
    node.volume
        .routes(&format!("{}{top}", routes(&[a_set(more)])));
    let ip = WrappedIp::new("cat");
    let running = node.agent_behind(&ip, RESYNC);
    in_force(&running, 1);
    node.becomes("Ready");
    (node, Asking { running, ip })
}

fn a_set(more: &str) -> String {
    let destinations = "203.0.113.0/24, 198.51.100.7, '2001:db8:9::/48'";
    set("a", "10.116.0.5, fd00:116::5", destinations, more)
}

pub(super) fn with_pods() -> Node {
    let lab = Lab::new();
    lab.host("nd").host("peer").host("pod");
    lab.link(
        ("nd", "eth0", &["192.0.2.2/24", "2001:db8:1::2/64"]),
        ("peer", "eth0", &["192.0.2.1/24", "2001:db8:1::1/64"]),
    );
    lab.link(
        ("nd", "eth1", &["10.116.0.2/24", "fd00:116::2/64"]),
        ("peer", "eth1", &["10.116.0.5/24", "fd00:116::5/64"]),
    );
    lab.link(
        ("nd", "cni0", &["10.244.0.1/24", "fd00:244::1/64"]),
        ("pod", "eth0", &["10.244.0.7/24", "fd00:244::7/64"]),
    );
    lab.batch(
        "nd",
        "route add default via 192.0.2.1 dev eth0\nroute add default via 2001:db8:1::1 dev eth0\n",
    );
    for forwarding in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        lab.sysctl("nd", forwarding, "1");
    }
    Node::of(lab)
}

impl Asking {
    /// Waits until a check that began after now has ended.
    fn has_checked(&self) {
        // One may be running, and has seen the state before; the next one is over when the one after it begins.
        let begun = self.ip.lookups();
        assert!(
            wait_until(LIMIT, || self.ip.lookups() >= begun + 3),
            "{}",
            self.log()
        );
    }
}

impl Node {
    /// Checks that began after now find nothing.
    fn stays_ready(&self, agent: &Asking) {
        let alarms = || agent.log().matches("Traffic bypasses the routes").count();
        let before = alarms();
        agent.has_checked();
        assert_eq!(self.status()["status"], "Ready", "{:#}", self.status());
        assert_eq!(alarms(), before, "{}", agent.log());
    }

    fn is_bypassed_by(&self, rule: &str) -> serde_json::Value {
        // A rule that is added between the read of the rules and the lookups is named by the next check, which follows at once.
        let named = || {
            let status = self.becomes("Degraded");
            status["message"].as_str().unwrap().contains(rule)
        };
        assert!(
            wait_until(LIMIT, named),
            "{:#}\nlacks {rule}",
            self.status()
        );
        let status = self.status();
        assert_eq!(status["problems"][0]["kind"], "bypassed", "{status:#}");
        assert!(
            !status["sets"][0]["bypassed"].as_array().unwrap().is_empty(),
            "{status:#}"
        );
        status
    }
}

#[test]
fn a_rule_for_one_pod_that_leads_elsewhere_is_found_and_named_and_when_it_goes_all_is_well() {
    let (node, agent) = node("");
    node.lab.batch("nd", "route add default via 192.0.2.1 dev eth0 table 100\nrule add from 10.244.0.7 lookup 100 priority 1536\n");
    let (start, begun) = (Instant::now(), agent.ip.lookups());
    let status = node.is_bypassed_by(
        "policy rule 1536 (from 10.244.0.7 lookup 100): default via 192.0.2.1 dev eth0",
    );
    let checks = agent.ip.lookups() - begun;
    println!("found after {:?}, by the {checks}. check", start.elapsed());
    // One on the notification, one at the resync, and one that may have begun before the report was seen.
    assert!(checks <= 3, "{checks} checks:\n{}", agent.log());
    assert!(
        agent
            .log()
            .contains("Traffic bypasses the routes: policy rule 1536"),
        "{}",
        agent.log()
    );
    assert_eq!(
        status["sets"][0]["installed"], 3,
        "the routes are all there"
    );
    node.lab.ip("nd", "rule del priority 1536");
    node.becomes("Ready");
    assert!(
        agent
            .log()
            .contains("Traffic no longer bypasses the routes")
    );
    assert_eq!(
        agent.log().matches("Traffic bypasses").count(),
        1,
        "once: {}",
        agent.log()
    );
}

#[test]
fn a_leak_guard_is_no_help_against_a_rule_and_the_status_says_so() {
    let (node, _agent) = node("    leakGuard: true\n");
    node.lab.batch("nd", "route add default via 192.0.2.1 dev eth0 table 100\nrule add from 10.244.0.7 lookup 100 priority 1536\n");
    node.is_bypassed_by("policy rule 1536");
}

#[test]
fn a_rule_for_all_packets_is_found_whatever_its_table_takes() {
    let (node, _agent) = node("");
    // As a Tailscale exit node has it.
    node.lab.batch(
        "nd",
        "route add default dev eth0 table 52\nrule add lookup 52 priority 5270\n",
    );
    node.is_bypassed_by("policy rule 5270 (from all lookup 52): default dev eth0");
    node.lab.ip("nd", "route del default table 52");
    node.becomes("Ready");
    // A part of a destination, as a subnet router has it.
    node.lab
        .ip("nd", "route add 203.0.113.64/26 dev eth0 table 52");
    node.is_bypassed_by("policy rule 5270 (from all lookup 52): 203.0.113.64/26 dev eth0");
}

#[test]
fn a_route_of_another_table_that_drops_is_found_although_the_lookup_is_only_refused() {
    let (node, agent) = node("");
    node.lab.ip("nd", "rule add lookup 100 priority 900");
    for (family, how, to) in [
        ("-4", "blackhole", "203.0.113.64/26"),
        ("-4", "prohibit", "203.0.113.0/24"),
        ("-4", "unreachable", "0.0.0.0/0"),
        ("-6", "blackhole", "2001:db8:9:1::/64"),
    ] {
        let route = format!("{how} {to} table 100");
        node.lab
            .ip("nd", &format!("{family} rule add lookup 100 priority 901"));
        node.lab.ip("nd", &format!("{family} route add {route}"));
        node.is_bypassed_by(&format!("(from all lookup 100): {how} {to}"));
        node.lab.ip("nd", &format!("{family} route del {route}"));
        node.lab
            .ip("nd", &format!("{family} rule del priority 901"));
        node.becomes("Ready");
    }
    // A throw goes on to the next rule, and drops nothing.
    node.lab
        .ip("nd", "route add throw 203.0.113.0/24 table 100");
    node.stays_ready(&agent);
}

#[test]
fn a_rule_by_mark_user_or_port_is_tried_with_a_packet_of_its_own() {
    let (node, _agent) = node("");
    node.lab
        .ip("nd", "route add default via 192.0.2.1 dev eth0 table 100");
    for (rule, words) in [
        ("fwmark 0x1/0xff", "from all fwmark 0x1/0xff lookup 100"),
        (
            "uidrange 1000-1999",
            "from all uidrange 1000-1999 lookup 100",
        ),
        (
            "ipproto 6 dport 443",
            "from all ipproto 6 dport 443-443 lookup 100",
        ),
        ("iif cni0", "from all iif cni0 lookup 100"),
        (
            "to 203.0.113.128/25",
            "from all to 203.0.113.128/25 lookup 100",
        ),
        ("from 10.116.0.2", "from 10.116.0.2 lookup 100"),
        ("not fwmark 0x5", "not from all fwmark 0x5 lookup 100"),
    ] {
        node.lab
            .ip("nd", &format!("rule add {rule} lookup 100 priority 900"));
        node.is_bypassed_by(&format!(
            "policy rule 900 ({words}): default via 192.0.2.1 dev eth0"
        ));
        node.lab.ip("nd", "rule del priority 900");
        node.becomes("Ready");
    }
    node.lab
        .ip("nd", "rule add from 10.244.0.7 priority 900 prohibit");
    node.is_bypassed_by("policy rule 900 (from 10.244.0.7 prohibit): dropped (prohibit)");
}

#[test]
fn an_ipv6_rule_is_found_too() {
    let (node, _agent) = node("");
    node.lab.ip(
        "nd",
        "-6 route add default via 2001:db8:1::1 dev eth0 table 100",
    );
    node.lab.ip(
        "nd",
        "-6 rule add from fd00:244::7 lookup 100 priority 1536",
    );
    node.is_bypassed_by("policy rule 1536 (from fd00:244::7 lookup 100)");
}

#[test]
fn rules_of_cilium_and_tailscale_as_they_are_in_the_field_raise_no_alarm() {
    let (node, agent) = node("");
    // Cilium: packets to its proxy stay on the node, those from it go to cilium_host, whose address is the next hop.
    node.lab.batch(
        "nd",
        "route add local default dev lo table 2004
        route add 10.244.0.1 dev cni0 table 2005
        route add default via 10.244.0.1 dev cni0 table 2005
        rule add fwmark 0x200/0xf00 lookup 2004 priority 9
        rule add fwmark 0xa00/0xf00 lookup 2005 priority 10
        rule del priority 0
        rule add lookup local priority 100\n",
    );
    // Tailscale, neither an exit node nor a client of one.
    node.lab.batch(
        "nd",
        "route add 100.100.100.100 dev eth0 table 52
        route add 100.64.0.0/10 dev eth0 table 52
        rule add fwmark 0x80000/0xff0000 lookup main priority 5210
        rule add fwmark 0x80000/0xff0000 lookup default priority 5230
        rule add fwmark 0x80000/0xff0000 priority 5250 unreachable
        rule add lookup 52 priority 5270\n",
    );
    // AWS VPC CNI: to pods by main, and from one to the VPC alone by its own interface.
    node.lab.batch(
        "nd",
        "route add default via 192.0.2.1 dev eth0 table 2
        rule add to 10.244.0.7 lookup main priority 512
        rule add fwmark 0x80/0x80 lookup main priority 1024
        rule add from 10.244.0.7 to 172.16.0.0/12 lookup 2 priority 1536\n",
    );
    // The rule that the kernel has for VRFs, where there is none.
    node.lab.ip("nd", "rule add l3mdev priority 1000");
    node.stays_ready(&agent);
}

#[test]
fn what_pods_alone_are_sent_by_is_found_where_their_range_is_known() {
    let mut node = with_pods();
    // The range that the API server reports for this node, behind the interface of its pods.
    node.lab.ip("nd", "addr add 10.244.1.1/24 dev cni0");
    node.lab.ip("pod", "addr add 10.244.1.7/24 dev eth0");
    node.volume.routes(&routes(&[a_set("")]));
    let (_api, agent) = node.agent_in_a_cluster(RESYNC);
    in_force(&agent, 1);
    node.becomes("Ready");
    // No rule that leads elsewhere comes before the one to `main`; pods leap over that one.
    node.lab.batch(
        "nd",
        "route add default via 192.0.2.1 dev eth0 table 100
        rule add lookup 100 priority 1100
        rule add lookup main priority 1000
        rule add from 10.244.1.0/24 iif cni0 goto 1100 priority 900\n",
    );
    let status =
        node.is_bypassed_by("policy rule 1100 (from all lookup 100): default via 192.0.2.1");
    let way = |from: &str| node.lab.ip("nd", &format!("route get 203.0.113.1{from}"));
    assert!(
        way("").contains("10.116.0.5"),
        "the node itself is not concerned"
    );
    assert!(way(" from 10.244.1.7 iif cni0").contains("192.0.2.1"));
    assert_eq!(
        status["sets"][0]["bypassed"].as_array().unwrap().len(),
        2,
        "{status:#}"
    );
    node.lab.ip("nd", "rule del priority 900");
    node.becomes("Ready");
}

#[test]
fn a_vrf_as_before_l3mdev_is_an_alarm_when_pods_are_in_it_and_none_when_another_interface_is() {
    let (node, agent) = node("");
    node.lab.link_in_vrf();
    node.stays_ready(&agent);
    node.lab
        .ip("nd", "rule add iif cni0 lookup 10 priority 200");
    node.is_bypassed_by("policy rule 200 (from all iif cni0 lookup 10)");
}

impl Lab {
    /// A management VRF of one interface as kernels before 4.8 have it: a table and two rules. This machine's may have no `vrf` device.
    fn link_in_vrf(&self) {
        self.host("mgmt");
        self.link(
            ("nd", "eth9", &["172.31.0.2/24"]),
            ("mgmt", "eth0", &["172.31.0.1/24"]),
        );
        self.batch("nd", "route add default via 172.31.0.1 dev eth9 table 10\nrule add oif eth9 lookup 10 priority 201\n");
    }
}

#[test]
fn a_rule_that_the_operator_expects_is_no_alarm() {
    let (node, agent) = node_with("", "expectedRules: [1536]\n");
    node.lab.batch("nd", "route add default via 192.0.2.1 dev eth0 table 100\nrule add from 10.244.0.7 lookup 100 priority 1536\n");
    node.stays_ready(&agent);
    node.lab
        .ip("nd", "rule add from 10.244.0.7 lookup 100 priority 1537");
    node.stays_ready(&agent);
    node.lab
        .ip("nd", "rule add from 10.244.0.8 lookup 100 priority 1537");
    node.is_bypassed_by("policy rule 1537 (from 10.244.0.8 lookup 100)");
}

#[test]
fn a_more_specific_route_of_somebody_else_goes_on_winning_and_is_reported() {
    let (node, agent) = node("");
    node.lab.ip(
        "nd",
        "route add 203.0.113.128/25 via 192.0.2.1 dev eth0 proto static",
    );
    let start = Instant::now();
    let mut status = serde_json::Value::Null;
    assert!(
        wait_until(LIMIT, || {
            status = node.status();
            status["sets"][0]["overridden"][0]["destination"] == "203.0.113.0/24"
        }),
        "{status:#}"
    );
    println!("reported after {:?}", start.elapsed());
    assert_eq!(
        status["sets"][0]["overridden"][0]["by"],
        "the route 203.0.113.128/25 via 192.0.2.1 dev eth0 proto static metric 0"
    );
    assert_eq!(status["status"], "Ready");
    assert!(
        wait_until(LIMIT, || agent.log().contains(
            "1 more specific route(s) of others win inside its destinations"
        )),
        "{}",
        agent.log()
    );
}
