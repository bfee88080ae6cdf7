//! `explain`: which path packets to an address take and why, in the situations that an operator meets.

use super::*;

/// A node with three sets, pods behind `cni0`, and the default route by `eth0`.
fn node() -> Node {
    let lab = Lab::new();
    lab.host("nd").host("peer").host("pod");
    lab.link(
        ("nd", "eth0", &["192.0.2.2/24"]),
        ("peer", "eth0", &["192.0.2.1/24"]),
    );
    lab.link(
        ("nd", "eth1", &["10.116.0.2/24", "fd00:116::2/64"]),
        (
            "peer",
            "eth1",
            &["10.116.0.5/24", "10.116.0.9/32", "fd00:116::5/64"],
        ),
    );
    lab.link(
        ("nd", "cni0", &["10.244.0.1/24"]),
        ("pod", "eth0", &["10.244.0.7/24"]),
    );
    lab.ip("nd", "route add default via 192.0.2.1 dev eth0");
    lab.sysctl("nd", "net.ipv4.ip_forward", "1");
    let mut node = Node::of(lab);
    node.volume.write(&[
        (
            "routes.yaml",
            routes(&[
                set(
                    "two",
                    "10.116.0.5, 10.116.0.6, fd00:116::5",
                    "203.0.113.0/24, '2001:db8:9::/48'",
                    "    except: [203.0.113.8/32]\n    leakGuard: true\n",
                ),
                set(
                    "list",
                    "10.116.0.5",
                    "",
                    "    destinationFiles: [aws.txt]\n",
                ),
                set(
                    "web",
                    "10.116.0.5",
                    "198.51.100.7",
                    "    nodeSelector: { matchLabels: { pool: web } }\n",
                ),
                set(
                    "drop",
                    "10.116.0.9",
                    "192.88.99.0/24",
                    "    whenDown: blackhole\n",
                )
                .replace("type: none", "interval: 100ms, failures: 2, successes: 1"),
            ]),
        ),
        ("aws.txt", "# cloud\n20.0.0.0/8\n10.116.0.0/20\n".to_owned()),
    ]);
    node
}

impl Node {
    /// What `explain` prints, with its exit status.
    fn explain(&self, args: &str) -> String {
        let config = self.volume.path().to_str().unwrap();
        let all: Vec<&str> = ["explain", "--config", config]
            .into_iter()
            .chain(args.split_whitespace())
            .collect();
        let json: Vec<&str> = all.iter().copied().chain(["-o", "json"]).collect();
        let output = self.lab.egress_routes("nd", &json);
        if output.code < 2 {
            crate::schema::must_be("explain", &output.out);
        }
        let output = self.lab.egress_routes("nd", &all);
        format!("{}{}exit {}", output.out, output.err, output.code)
    }
}

fn in_force_with_a_spare_that_is_down(node: &Node) -> Running {
    let agent = node.agent_in_force(&["--resync", "1s"]);
    let spare = |state: &str| {
        let is = || node.status()["sets"][2]["gateways"][0]["state"] == state;
        assert!(wait_until(LIMIT, is), "not {state}: {:#}", node.status());
    };
    spare("up");
    node.lab.ip("peer", "addr del 10.116.0.9/32 dev eth1");
    spare("down");
    agent
}

#[test]
fn before_and_after_an_agent_the_gateways_are_named_for_the_node_its_pods_and_ipv6() {
    let node = node();
    insta::assert_snapshot!(node.explain("203.0.113.7"), @r"
    203.0.113.7: not by a gateway
      set       two (203.0.113.0/24, routes.yaml:5:20)
      lookup    default via 192.0.2.1 dev eth0 proto 3 metric 0 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 not probed
      gateway   10.116.0.6 not probed
      verdict   packets to 203.0.113.7 go by default via 192.0.2.1 dev eth0: the route of set `two` is not in the kernel
    exit 1
    ");
    let _agent = node.agent_in_force(&[]);
    insta::assert_snapshot!(node.explain("203.0.113.7"), @r"
    203.0.113.7: by a gateway
      set       two (203.0.113.0/24, routes.yaml:5:20)
      lookup    203.0.113.0/29 via 10.116.0.6 dev eth1 proto 230 metric 4242 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      gateway   10.116.0.6 up, active
      verdict   packets to 203.0.113.7 take set `two` by one of the gateways 10.116.0.5, 10.116.0.6
    exit 0
    ");
    insta::assert_snapshot!(node.explain("2001:db8:9::1"), @r"
    2001:db8:9::1: by a gateway
      set       two (2001:db8:9::/48, routes.yaml:5:36)
      lookup    2001:db8:9::/48 via fd00:116::5 dev eth1 proto 230 metric 4242 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   fd00:116::5 up, active
      verdict   packets to 2001:db8:9::1 take set `two` by gateway fd00:116::5
    exit 0
    ");
    insta::assert_snapshot!(node.explain("203.0.113.7 --from 10.244.0.7"), @r"
    203.0.113.7 from 10.244.0.7 iif cni0: by a gateway
      set       two (203.0.113.0/24, routes.yaml:5:20)
      lookup    203.0.113.0/29 via 10.116.0.6 dev eth1 proto 230 metric 4242 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      gateway   10.116.0.6 up, active
      verdict   packets to 203.0.113.7 take set `two` by one of the gateways 10.116.0.5, 10.116.0.6
    exit 0
    ");
    insta::assert_snapshot!(node.explain("20.1.2.3 --mark 0x80"), @r"
    20.1.2.3 mark 0x80: by a gateway
      set       list (20.0.0.0/8, aws.txt:2:1)
      lookup    20.0.0.0/8 via 10.116.0.5 dev eth1 proto 230 metric 4242 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      verdict   packets to 20.1.2.3 take set `list` by gateway 10.116.0.5
    exit 0
    ");
}

#[test]
fn an_address_that_no_route_is_for_is_explained_by_what_keeps_it_out() {
    let node = node();
    let _agent = in_force_with_a_spare_that_is_down(&node);
    insta::assert_snapshot!(node.explain("9.9.9.9"), @r"
    9.9.9.9: not by a gateway
      set       none
      lookup    default via 192.0.2.1 dev eth0 proto 3 metric 0 table main
      rule      policy rule 32766 (from all lookup main)
      verdict   packets to 9.9.9.9 go by default via 192.0.2.1 dev eth0: no set has 9.9.9.9 as a destination
    exit 1
    ");
    insta::assert_snapshot!(node.explain("203.0.113.8"), @r"
    203.0.113.8: not by a gateway
      set       two (203.0.113.0/24, routes.yaml:5:20)
      outside   203.0.113.8/32 is taken out by `except` of set `two`
      lookup    default via 192.0.2.1 dev eth0 proto 3 metric 0 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      gateway   10.116.0.6 up, active
      verdict   packets to 203.0.113.8 go by default via 192.0.2.1 dev eth0: 203.0.113.8/32 is taken out by `except` of set `two`
    exit 1
    ");
    insta::assert_snapshot!(node.explain("10.116.0.77"), @r"
    10.116.0.77: not by a gateway
      set       list (10.116.0.0/20, aws.txt:3:1)
      outside   10.116.0.77 is protected: it is inside the node's on-link subnet 10.116.0.0/24 (eth1)
      lookup    10.116.0.0/24 dev eth1 proto 2 metric 0 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      verdict   packets to 10.116.0.77 go by 10.116.0.0/24 dev eth1: 10.116.0.77 is protected: it is inside the node's on-link subnet 10.116.0.0/24 (eth1)
    exit 1
    ");
    insta::assert_snapshot!(node.explain("198.51.100.7"), @r"
    198.51.100.7: not by a gateway
      set       web (198.51.100.7/32, routes.yaml:15:20)
      outside   set `web` does not apply to this node (nodeSelector)
      lookup    default via 192.0.2.1 dev eth0 proto 3 metric 0 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 not probed
      verdict   packets to 198.51.100.7 go by default via 192.0.2.1 dev eth0: set `web` does not apply to this node (nodeSelector)
    exit 1
    ");
    insta::assert_snapshot!(node.explain("192.88.99.1"), @r"
    192.88.99.1: not by a gateway
      set       drop (192.88.99.0/24, routes.yaml:20:20)
      lookup    none (Invalid argument)
      gateway   10.116.0.9 down
      verdict   packets to 192.88.99.1 are dropped: no gateway of set `drop` is healthy, and `whenDown` is blackhole
    exit 1
    ");
    insta::assert_snapshot!(node.explain("10.116.0.2"), @r"
    10.116.0.2: not by a gateway
      set       list (10.116.0.0/20, aws.txt:3:1)
      outside   10.116.0.2 is protected: it is the node's own address 10.116.0.2 (eth1)
      lookup    local 10.116.0.2/32 dev eth1 proto 2 metric 0
      gateway   10.116.0.5 up, active
      verdict   10.116.0.2 is handed to this node itself (local 10.116.0.2/32 dev eth1)
    exit 1
    ");
}

#[test]
fn what_takes_packets_elsewhere_is_named() {
    let node = node();
    let _agent = node.agent_in_force(&["--resync", "1s"]);
    node.lab.ip(
        "nd",
        "route add 203.0.113.128/25 via 192.0.2.1 dev eth0 proto static",
    );
    insta::assert_snapshot!(node.explain("203.0.113.200"), @r"
    203.0.113.200: not by a gateway
      set       two (203.0.113.0/24, routes.yaml:5:20)
      lookup    203.0.113.128/25 via 192.0.2.1 dev eth0 proto 4 metric 0 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      gateway   10.116.0.6 up, active
      verdict   packets to 203.0.113.200 go by 203.0.113.128/25 via 192.0.2.1 dev eth0: set `two` is overridden by this more specific route of route protocol 4
    exit 1
    ");
    node.lab.ip(
        "nd",
        "route add 20.0.0.0/8 via 192.0.2.1 dev eth0 proto static metric 50",
    );
    insta::assert_snapshot!(node.explain("20.1.2.3"), @r"
    20.1.2.3: not by a gateway
      set       list (20.0.0.0/8, aws.txt:2:1)
      lookup    20.0.0.0/8 via 192.0.2.1 dev eth0 proto 4 metric 50 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      verdict   packets to 20.1.2.3 go by 20.0.0.0/8 via 192.0.2.1 dev eth0: set `list` is shadowed by this route of route protocol 4, whose metric 50 is lower
      remedy    if nothing needs that route any more: ip route del 20.0.0.0/8 via 192.0.2.1 dev eth0 proto static metric 50
    exit 1
    ");
    node.lab.batch("nd", "route add default via 192.0.2.1 dev eth0 table 100\nrule add from 10.244.0.7 lookup 100 priority 1536\nrule add fwmark 0x80 priority 900 prohibit\n");
    insta::assert_snapshot!(node.explain("203.0.113.7 --from 10.244.0.7"), @r"
    203.0.113.7 from 10.244.0.7 iif cni0: not by a gateway
      set       two (203.0.113.0/24, routes.yaml:5:20)
      lookup    default via 192.0.2.1 dev eth0 proto 3 metric 0 table 100
      rule      policy rule 1536 (from 10.244.0.7 lookup 100)
      gateway   10.116.0.5 up, active
      gateway   10.116.0.6 up, active
      verdict   packets to 203.0.113.7 go by default via 192.0.2.1 dev eth0: set `two` is bypassed by policy rule 1536 (from 10.244.0.7 lookup 100)
    exit 1
    ");
    insta::assert_snapshot!(node.explain("203.0.113.7 --mark 128"), @r"
    203.0.113.7 mark 0x80: not by a gateway
      set       two (203.0.113.0/24, routes.yaml:5:20)
      lookup    none (Permission denied)
      gateway   10.116.0.5 up, active
      gateway   10.116.0.6 up, active
      verdict   packets to 203.0.113.7 are dropped by policy rule 900 (from all fwmark 0x80 prohibit)
    exit 1
    ");
}

#[test]
fn without_an_agent_the_kernel_speaks_for_itself_and_a_wrong_question_is_an_error() {
    let node = node();
    let agent = node.agent_in_force(&[]);
    drop(agent);
    node.lab.ip("nd", "route del 203.0.113.0/29 metric 4242");
    insta::assert_snapshot!(node.explain("203.0.113.7"), @r"
    203.0.113.7: not by a gateway
      set       two (203.0.113.0/24, routes.yaml:5:20)
      lookup    none (Invalid argument)
      gateway   10.116.0.5 not probed, active
      gateway   10.116.0.6 not probed, active
      verdict   packets to 203.0.113.7 are dropped by the leak guard of set `two`: its route is not in the kernel
    exit 1
    ");
    insta::assert_snapshot!(node.explain("203.0.113.7 --from 2001:db8::1"), @r"
    error: 2001:db8::1 and 203.0.113.7 are of different families
    exit 2
    ");
    insta::assert_snapshot!(node.explain("2001:db8:9::1 --from 2001:db8:7::1"), @r"
    error: 2001:db8:7::1 is not one of the node's addresses, and no interface leads to it, so no packet from it arrives here
    exit 2
    ");
}

#[test]
fn the_far_side_confirms_the_explanation_or_contradicts_it() {
    let mut node = Node::of(Lab::blueprint());
    node.volume.routes(&routes(&[set("a", G1, ONE, "")]));
    let server = node.lab.echo("sv", &["http", "8080"]);
    server.wait_for("echo: ready", LIMIT);
    let _agent = node.agent_in_force(&[]);
    let echo = |url: &str, to: &str| node.explain(&format!("{to} --echo {url}"));
    insta::assert_snapshot!(echo(&format!("http://{ONE}:8080/ip"), ONE), @r"
    34.160.111.145: by a gateway
      set       a (34.160.111.145/32, routes.yaml:5:20)
      lookup    34.160.111.145/32 via 10.116.0.5 dev eth1 proto 230 metric 4242 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      verdict   packets to 34.160.111.145 take set `a` by gateway 10.116.0.5
      echo      http://34.160.111.145:8080/ip saw 192.0.2.5, not an address of this node: as explained
    exit 0
    ");
    insta::assert_snapshot!(echo("http://ip.example.net:8080/", TWO), @r"
    34.117.59.81: not by a gateway
      set       none
      lookup    default via 192.0.2.1 dev eth0 proto 3 metric 0 table main
      rule      policy rule 32766 (from all lookup main)
      verdict   packets to 34.117.59.81 go by default via 192.0.2.1 dev eth0: no set has 34.117.59.81 as a destination
      echo      http://ip.example.net:8080/ saw 192.0.2.2, an address of this node: as explained
    exit 1
    ");
    insta::assert_snapshot!(echo("https://ip.example.net/", ONE), @r"
    error: fetching https://ip.example.net/ from 34.160.111.145: only plain http:// can be fetched
    exit 2
    ");
    insta::assert_snapshot!(echo(&format!("http://{TWO}:8080/"), ONE), @r"
    error: fetching http://34.117.59.81:8080/ from 34.160.111.145: the URL names another address; use 34.160.111.145 or a host name, which is sent to 34.160.111.145 too
    exit 2
    ");
    insta::assert_snapshot!(echo(&format!("http://{ONE}:8081/"), ONE), @r"
    error: fetching http://34.160.111.145:8081/ from 34.160.111.145: connecting to 34.160.111.145:8081: Connection refused (os error 111)
    exit 2
    ");
    // A node that translates nothing, and a far side that sees the node's own address: the lookup alone would not show it.
    node.lab.ip(
        "nd",
        &format!("rule add to {ONE} ipproto 6 dport 8080 lookup 100 priority 50"),
    );
    node.lab
        .ip("nd", "route add default via 192.0.2.1 dev eth0 table 100");
    insta::assert_snapshot!(echo(&format!("http://{ONE}:8080/ip"), ONE), @r"
    34.160.111.145: by a gateway
      set       a (34.160.111.145/32, routes.yaml:5:20)
      lookup    34.160.111.145/32 via 10.116.0.5 dev eth1 proto 230 metric 4242 table main
      rule      policy rule 32766 (from all lookup main)
      gateway   10.116.0.5 up, active
      verdict   packets to 34.160.111.145 take set `a` by gateway 10.116.0.5
      echo      http://34.160.111.145:8080/ip saw 192.0.2.2, an address of this node itself: contradicts the lookup
    exit 1
    ");
}
