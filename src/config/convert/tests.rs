//! The examples of each project's documentation, and what `ip route` takes and prints.

use super::*;
use crate::config::{Files, parse};

fn converted(text: &str) -> Converted {
    let converted = convert(text).unwrap_or_else(|| panic!("nothing found in {text}"));
    let keys = [(
        "routes.yaml".to_owned(),
        converted.yaml.clone().into_bytes(),
    )];
    let files = Files::from_keys(&keys.into()).unwrap();
    if let Err(problems) = parse(&files) {
        panic!("{problems}\n{}", converted.yaml);
    }
    converted
}

#[test]
fn a_static_route_of_digitaloceans_operator() {
    let text = "apiVersion: networking.digitalocean.com/v1\nkind: StaticRoute\nmetadata:\n  name: static-route-ifconfig.me\nspec:\n  destinations:\n    - \"34.160.111.145\"\n    - \"203.0.113.0/24\"\n  gateway: \"10.116.0.5\"\n";
    let converted = converted(text);
    assert_eq!((converted.left.len(), converted.notes.len()), (0, 0));
    insta::assert_snapshot!(converted.yaml, @r"
    routes:
      - name: static-route-ifconfig-me
        gateways:
          - 10.116.0.5
        destinations:
          - 34.160.111.145/32
          - 203.0.113.0/24
    ");
}

#[test]
fn a_static_route_of_ibms_operator_with_a_selector_and_one_without_a_gateway() {
    let text = "apiVersion: static-route.ibm.com/v1\nkind: StaticRoute\nmetadata:\n  name: example-staticroute-with-selector\nspec:\n  subnet: \"192.168.1.0/24\"\n  gateway: \"10.0.0.1\"\n  table: 30\n  selectors:\n    -\n      key: \"kubernetes.io/arch\"\n      operator: In\n      values:\n        - \"amd64\"\n---\napiVersion: iks.ibm.com/v1\nkind: StaticRoute\nmetadata:\n  name: example-staticroute\nspec:\n  subnet: \"192.168.0.0/24\"\n";
    let converted = converted(text);
    insta::assert_snapshot!(converted.yaml, @r#"
    routes:
      - name: example-staticroute-with-selector
        gateways:
          - 10.0.0.1
        destinations:
          - 192.168.1.0/24
        nodeSelector:
          matchExpressions:
            - { key: "kubernetes.io/arch", operator: In, values: ["amd64"] }
    "#);
    assert_eq!(
        converted.left,
        [
            "StaticRoute `example-staticroute-with-selector`: `table` is not carried over; routes are in the main table unless agents run with `--table`",
            "StaticRoute `example-staticroute`: it has no gateway, which keeps its traffic on the node's default route; add the subnet to `protected` if another set covers it"
        ]
    );
}

#[test]
fn routes_of_the_doks_routing_agent_with_every_documented_selector() {
    let route = |name: &str, more: &str| {
        format!(
            "apiVersion: networking.doks.digitalocean.com/v1alpha1\nkind: Route\nmetadata: {{name: {name}}}\nspec:\n{more}"
        )
    };
    let pool = |name: &str| {
        format!(
            "      - matchExpressions:\n          - {{key: doks.digitalocean.com/node-pool, operator: In, values: [\"{name}\"]}}\n"
        )
    };
    let text = [
        route("basic", "  destinations: [\"1.2.3.4/5\"]\n  gateways: [\"10.114.0.3\", \"10.114.0.4\"]\n"),
        route("pool", &format!("  destinations: [203.0.113.0/24]\n  gateways: [10.114.0.3]\n  nodeSelector:\n    nodeSelectorTerms:\n{}{}", pool("a"), pool("b"))),
        route("node", "  destinations: [198.51.100.0/24]\n  gateways: [10.114.0.3]\n  nodeSelector:\n    nodeSelectorTerms:\n      - matchFields:\n          - {key: metadata.name, operator: In, values: [\"worker-pool-y\"]}\n"),
        route("all", "  destinations: [\"0.0.0.0/0\"]\n  gateways: [10.114.0.3]\n"),
    ]
    .join("---\n");
    let converted = converted(&text);
    assert_eq!(converted.left, [""; 0]);
    insta::assert_snapshot!(converted.yaml, @r#"
    routes:
      - name: basic
        gateways:
          - 10.114.0.3
          - 10.114.0.4
        destinations:
          - 0.0.0.0/5
      - name: pool
        gateways:
          - 10.114.0.3
        destinations:
          - 203.0.113.0/24
        nodeSelector:
          matchExpressions:
            - { key: "doks.digitalocean.com/node-pool", operator: In, values: ["a", "b"] }
      - name: node
        gateways:
          - 10.114.0.3
        destinations:
          - 198.51.100.0/24
        nodeSelector:
          matchExpressions:
            - { key: "kubernetes.io/hostname", operator: In, values: ["worker-pool-y"] }
      - name: all
        gateways:
          - 10.114.0.3
        destinations:
          - 0.0.0.0/0
    "#);
    assert_eq!(
        converted.notes,
        [
            "Route `basic`: `1.2.3.4/5` has host bits set; it is carried over as `0.0.0.0/5`",
            "Route `node`: nodes are selected by name, which becomes the label `kubernetes.io/hostname`; make sure that it holds the node's name"
        ]
    );
}

#[test]
fn what_has_no_counterpart_is_reported() {
    let converted = converted(
        "kind: List\napiVersion: v1\nitems:\n- {apiVersion: networking.digitalocean.com/v1, kind: StaticRoute, metadata: {name: a}, spec: {destinations: [203.0.113.7, x.example], gateway: <YOUR_GW>}}\n- {apiVersion: networking.digitalocean.com/v1, kind: StaticRoute, metadata: {name: b}, spec: {destinations: [203.0.113.7], gateway: 10.116.0.5, colour: red}}\n- {apiVersion: networking.digitalocean.com/v1, kind: StaticRoute, metadata: {name: c}, spec: {destinations: [203.0.113.7], gateway: 10.116.0.6}}\n- {apiVersion: cilium.io/v2, kind: CiliumEgressGatewayPolicy, metadata: {name: d}, spec: {}}\n- {apiVersion: networking.doks.digitalocean.com/v1alpha1, kind: Route, metadata: {name: e}, spec: {destinations: [192.0.2.0/24], gateways: [10.116.0.5], nodeSelector: {nodeSelectorTerms: [{matchExpressions: [{key: n, operator: Gt, values: ['3']}]}]}}}\n",
    );
    assert_eq!(
        converted.left,
        [
            "StaticRoute `a`: `x.example` is not an IP address or CIDR; expected one like `203.0.113.0/24`, `198.51.100.7` or `2001:db8::/32`",
            "StaticRoute `a`: the gateway `<YOUR_GW>` is not an IP address",
            "StaticRoute `b`: `colour` is not carried over",
            "`203.0.113.7/32` of `c` is in `b` too, and one node has one route for it; it stays there",
            "CiliumEgressGatewayPolicy `d` of `cilium.io/v2`: not a kind that routes nodes; `convert` reads StaticRoute, Route of the DOKS routing agent, and `ip route` lines",
            "Route `e`: the operator `Gt` has no counterpart, so that the whole is left out",
        ]
    );
}

#[test]
fn commands_and_what_ip_route_show_prints() {
    let converted = converted(
        "#!/bin/sh\n# partners\nsudo ip route add 203.0.113.0/24 via 10.116.0.5 dev eth1 || true\nip route replace 198.51.100.7 via 10.116.0.5 metric 100\nroute add -net 192.0.2.0/24 gw 10.116.0.6\nip -6 route add 2001:db8::/32 via fd00:116::5\nip route del 10.9.0.0/16\nip route add $CIDR via 10.116.0.5\nip route add 10.8.0.0/16 via 10.116.0.5 table 100\ndefault via 64.225.0.1 dev eth0 proto dhcp src 64.225.0.9 metric 100\n10.116.0.0/20 dev eth1 proto kernel scope link src 10.116.0.9\nblackhole 10.7.0.0/16\n100.64.0.0/16 proto static\n\tnexthop via 10.116.0.5 dev eth1 weight 1\n\tnexthop via 10.116.0.6 dev eth1 weight 1\n",
    );
    insta::assert_snapshot!(converted.yaml, @r#"
    routes:
      - name: via-10-116-0-5
        gateways:
          - 10.116.0.5
        destinations:
          - 198.51.100.7/32
          - 203.0.113.0/24
      - name: via-10-116-0-6
        gateways:
          - 10.116.0.6
        destinations:
          - 192.0.2.0/24
      - name: via-fd00-116--5
        gateways:
          - "fd00:116::5"
        destinations:
          - "2001:db8::/32"
      - name: via-10-116-0-5-2
        gateways:
          - 10.116.0.5
          - 10.116.0.6
        destinations:
          - 100.64.0.0/16
    "#);
    insta::assert_snapshot!(converted.left.join("\n"), @r"
    line 7: `del` removes a route; nothing is made of it
    line 8: `$CIDR` is not an IP address or CIDR; expected one like `203.0.113.0/24`, `198.51.100.7` or `2001:db8::/32`
    line 9: `10.8.0.0/16` is in table 100; agents use one table, which is main unless they run with `--table`
    line 12: `10.7.0.0/16` is a blackhole route; `whenDown: blackhole` and `leakGuard` drop only the traffic of a set
    ");
    assert_eq!(
        converted.notes,
        ["routes that the host has by itself (proto kernel, dhcp, ra) are left out"]
    );
}

#[test]
fn what_is_no_route_at_all_is_not_converted() {
    for text in ["", "hello\n", "# nothing\n", "- a\n- b\n"] {
        assert_eq!(convert(text), None, "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_makes_it_panic_and_what_it_makes_is_valid(
        text in "((ip route add |sudo |route |default|203.0.113.0/24|10.0.0.1|::1| via | dev | eth0|nexthop |weight |2|table |proto |static|kernel|\n| |kind: StaticRoute\n|apiVersion: x\n|---\n|\\$X)){0,25}"
    ) {
        if let Some(converted) = convert(&text) {
            let keys = [("routes.yaml".to_owned(), converted.yaml.into_bytes())];
            // A gateway that is none is refused as anywhere; it never makes YAML that cannot be read.
            if let Err(problems) = parse(&Files::from_keys(&keys.into()).unwrap()) {
                let all = problems.to_string();
                proptest::prop_assert!(all.contains("gateway"), "{all}");
            }
        }
    }
}
