//! When no gateway is healthy or usable, and leak guards.

use super::*;

#[test]
fn when_all_gateways_are_down_routes_are_held_withdrawn_or_blackholed_as_the_set_says() {
    let case = |when: &str| {
        Case::new(set(BOTH, &format!("whenDown: {when}"))).health(&[(A, Is::Down), (B, Is::Down)])
    };
    assert_eq!(case("hold").carried(), routed(BOTH));
    assert_eq!(case("withdraw").carried().1, 0);
    assert_eq!(case("blackhole").carried(), ("blackhole".to_owned(), 1));
    assert!(case("withdraw").resolve().wanted.groups.is_empty());
    insta::assert_snapshot!(["hold", "withdraw", "blackhole"].map(|when| case(when).down()).join("\n"), @r"
    set `a` (IPv4): no gateway is healthy: 10.116.0.5 no answer; 10.116.0.6 no answer; its routes are held
    set `a` (IPv4): no gateway is healthy: 10.116.0.5 no answer; 10.116.0.6 no answer; its routes are withdrawn
    set `a` (IPv4): no gateway is healthy: 10.116.0.5 no answer; 10.116.0.6 no answer; its destinations are blackholed
    ");
}

#[test]
fn when_no_gateway_ever_answered_the_probe_is_the_likelier_fault_and_routes_are_held_whatever_the_set_says()
 {
    for when in ["hold", "withdraw", "blackhole"] {
        let case = Case::new(set(BOTH, &format!("whenDown: {when}")))
            .health(&[(A, Is::NeverAnswered), (B, Is::NeverAnswered)]);
        assert_eq!(case.carried(), routed(BOTH), "{when}");
        assert_eq!(
            case.down(),
            "set `a` (IPv4): no gateway has answered a probe since the agent started, so the probe is probably blocked or wrong (`healthCheck`), and its routes are held"
        );
        let case = case.health(&[(B, Is::Down)]);
        assert_ne!(
            (when, case.carried()),
            ("withdraw", routed(BOTH)),
            "one answered before"
        );
    }
}

#[test]
fn when_all_gateways_are_off_link_there_is_nothing_to_hold_on_to_but_what_the_kernel_has() {
    let off_link = |when: &str| {
        let mut case = Case::new(set(BOTH, &format!("whenDown: {when}")));
        case.kernel.foreign.retain(|r| r.protocol != 2);
        case
    };
    let mut held = off_link("hold");
    assert_eq!(held.carried().1, 0, "nothing was there");
    held.kernel = Case::new(held.config.clone()).apply().kernel;
    held.kernel.foreign.retain(|r| r.protocol != 2);
    assert_eq!(held.carried(), routed(BOTH));
    let wanted = held.resolve().wanted;
    assert!(
        diff(&wanted, &held.kernel, &OURS, true).is_empty(),
        "and it is left as it is"
    );
    assert_eq!(off_link("withdraw").carried().1, 0);
    assert_eq!(off_link("blackhole").carried(), ("blackhole".to_owned(), 1));
    assert_eq!(
        [
            held,
            off_link("hold"),
            off_link("withdraw"),
            off_link("blackhole")
        ]
        .map(|case| case.down()),
        [
            "set `a` (IPv4): none of its gateways is on-link here; the routes that are there are held",
            "set `a` (IPv4): none of its gateways is on-link here; no route can be installed",
            "set `a` (IPv4): none of its gateways is on-link here; its routes are withdrawn",
            "set `a` (IPv4): none of its gateways is on-link here; its destinations are blackholed",
        ]
    );
}

#[test]
fn one_gateway_that_cannot_be_used_never_costs_the_others() {
    let case = Case::new(set("10.117.0.9, 10.116.0.2, 10.116.0.255, 10.116.0.5", ""));
    assert_eq!(case.carried(), routed(A));
    let resolution = case.resolve();
    let texts: Vec<&str> = resolution.sets[0]
        .problems
        .iter()
        .map(|problem| problem.text.as_str())
        .collect();
    insta::assert_snapshot!(texts.join("\n"), @r"
    gateway 10.116.0.2 of set `a` is left out: it is one of the node's own addresses (eth1)
    gateway 10.116.0.255 of set `a` is left out: it is the broadcast address of 10.116.0.0/24 (eth1)
    gateway 10.117.0.9 of set `a` is left out: it is not on-link: only the node's default route leads to it
    ");
    assert_eq!(
        resolution.sets[0]
            .gateways
            .iter()
            .filter(|g| g.state == GatewayState::Unusable)
            .count(),
        3
    );
}

#[test]
fn each_family_has_its_own_gateways_and_its_own_fate() {
    let yaml = "routes:\n- {name: a, gateways: [10.116.0.5, 'fd00:116::5'], destinations: [203.0.113.0/24, '2001:db8:1::/48'], whenDown: blackhole}\n";
    let case = Case::new(config(yaml)).health(&[("fd00:116::5", Is::Down)]);
    let resolution = case.resolve();
    let words = |family| {
        resolution
            .wanted
            .describe(&Target::Nexthop(nexthop_id::group("a", family)))
    };
    assert_eq!(
        (words(Family::V4), words(Family::V6)),
        ("via 10.116.0.5".to_owned(), "blackhole".to_owned())
    );
    assert_eq!(
        resolution.wanted.nexthops[&nexthop_id::blackhole(Family::V6)],
        WantedNexthop::Blackhole(Family::V6)
    );
    assert_eq!(
        case.down(),
        "set `a` (IPv6): no gateway is healthy: fd00:116::5 no answer; its destinations are blackholed"
    );
}

#[test]
fn a_leak_guard_is_a_blackhole_behind_every_route_and_stays_when_the_routes_are_withdrawn() {
    let guard = OwnRoute {
        key: OURS.leak_guard_key("203.0.113.0/24".parse().unwrap()),
        target: Target::Blackhole,
    };
    for (health, routes) in [(vec![], 2), (vec![(A, Is::Down)], 1)] {
        let case = Case::new(set(A, "leakGuard: true, whenDown: withdraw")).health(&health);
        let wanted = case.resolve().wanted;
        assert_eq!(wanted.routes.len(), routes);
        assert_eq!(wanted.routes.last(), Some(&guard));
    }
    let mut off_link = Case::new(set(A, "leakGuard: true"));
    off_link.kernel.foreign.clear();
    assert_eq!(off_link.resolve().wanted.routes, [guard]);
}
