//! What is accepted with a warning.

use super::*;

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    let warned = |text: &str| messages(&accepted(text));
    let one = |more: &str| format!("routes:\n{}", set("a", more));
    assert_eq!(warned(&one("  destinations: [192.0.2.0/24]\n")), [""; 0]);
    assert_eq!(
        warned(&one("  destinations: [0.0.0.0/1, 128.0.0.0/2]\n")),
        [
            "more than half of all IPv4 addresses are routed through gateways, and no IPv4 range is `protected`; add first the address by which kubelets reach the API server (`kubectl cluster-info` prints it; on managed clouds it is often a public one that no Service shows), then registries and other networks that nodes need when gateways are down",
            "set `a`: 1 gateway inside its own destinations; each is left out of them on every node: `10.116.0.5` in `0.0.0.0/1`",
        ]
    );
    assert_eq!(
        warned(&one("  destinations: [128.0.0.0/1]\n")),
        [""; 0],
        "half is not more than half"
    );
    assert_eq!(
        warned(&format!(
            "{}protected: [64.225.0.0/16]\n",
            one("  destinations: [128.0.0.0/1, 64.0.0.0/2]\n")
        )),
        [""; 0]
    );
    assert_eq!(
        warned(&one(
            "  destinations: [10.9.0.0/16, 172.16.0.0/12, 192.168.1.1, 100.64.0.0/24, 10.10.0.0/16, 10.11.0.0/16, 172.32.0.0/12]\n"
        )),
        [
            "set `a`: 6 destinations with private addresses; make sure that no pod, Service or VPC network is among them: `10.9.0.0/16`, `10.10.0.0/16`, `10.11.0.0/16`, `100.64.0.0/24`, `172.16.0.0/12`, …"
        ]
    );
    assert_eq!(
        warned(&one(
            "  destinations: [192.0.2.0/24, 198.51.100.0/28]\n  except: [192.0.2.9, 198.51.100.0/24, 203.0.113.0/24, 203.0.114.0/24]\n"
        )),
        [
            "set `a`: 2 entries of `except` that overlap no destination: `203.0.113.0/24`, `203.0.114.0/24`"
        ]
    );
    assert_eq!(
        warned(&format!(
            "{}{}",
            one("  destinations: [192.0.2.0/24]\n"),
            set("b", "  destinations: [192.0.2.128/25, 192.0.2.7]\n")
        )),
        [
            "set `b`: 2 destinations inside those of set `a`; the longer prefix wins: `192.0.2.7/32` in `192.0.2.0/24`, `192.0.2.128/25` in `192.0.2.0/24`"
        ]
    );
    assert_eq!(
        warned(&one(
            "  destinations: [192.0.2.0/24]\n  failback: false\n  whenDown: withdraw\n  healthCheck: {type: none}\n"
        )),
        [
            "set `a`: `whenDown` has no effect with `healthCheck.type: none`, because no gateway ever counts as down",
            "set `a`: `failback` has no effect with `strategy: balance`",
        ]
    );
}

#[test]
fn a_set_that_misses_its_aim_is_warned_of() {
    let warned = |text: &str| messages(&accepted(text));
    let one = |more: &str| format!("routes:\n{}", set("a", more));
    assert_eq!(
        warned(&one(
            "  destinations: [192.0.2.0/24, 127.0.0.0/8, 169.254.169.254, 224.0.0.0/8, 240.0.0.1]\n"
        )),
        [
            "set `a`: 4 destinations that every node skips: `127.0.0.0/8` (the loopback range), `169.254.169.254/32` (the link-local and metadata range), `224.0.0.0/8` (the multicast range), `240.0.0.1/32` (the reserved range)"
        ]
    );
    assert_eq!(
        warned(&one("  destinations: [192.0.2.0/24, 0.0.0.0]\n")),
        [
            "set `a`: `0.0.0.0` in `destinations` is a single address that no machine has; for all IPv4 addresses write `0.0.0.0/0`"
        ]
    );
    assert_eq!(
        warned(&format!(
            "{}protected: ['::']\n",
            one("  destinations: [192.0.2.0/24]\n")
        )),
        [
            "`::` in `protected` is a single address that no machine has; for all IPv6 addresses write `::/0`"
        ]
    );
    let empty = |except: &str, protected: &str| {
        warned(&format!(
            "{}protected: [{protected}]\n",
            one(&format!(
                "  destinations: [192.0.2.0/24, 198.51.100.7]\n  except: [{except}]\n"
            ))
        ))
    };
    assert_eq!(
        empty("192.0.2.0/24, 198.51.100.0/24", "")[0],
        "set `a`: `except` takes out all of its destinations, so that it routes nothing"
    );
    assert_eq!(
        empty("", "192.0.2.0/25, 192.0.2.128/25, 198.51.100.0/24")[0],
        "set `a`: `protected` covers all of its destinations, so that it routes nothing"
    );
    assert_eq!(
        empty("192.0.2.0/25", "192.0.2.128/25, 198.51.100.7")[0],
        "set `a`: `except` and `protected` cover all of its destinations, so that it routes nothing"
    );
    assert_eq!(empty("192.0.2.0/25", "198.51.100.7"), [""; 0]);
}

#[test]
fn a_gateway_that_is_probably_none_is_warned_of() {
    let warned = |gateways: &str| {
        messages(&accepted(&format!(
            "routes:\n- name: a\n  gateways: [{gateways}]\n  destinations: [198.51.100.0/24]\n"
        )))
    };
    assert_eq!(warned("10.116.0.5, 100.64.0.1, 172.16.0.1"), [""; 0]);
    assert_eq!(
        warned("203.0.113.7, 169.254.1.1, 'fd00::1'"),
        [
            "set `a`: gateway `203.0.113.7` has a public address; a next hop is a neighbour in the nodes' own subnet, usually with a private one, not the address that partners see",
            "set `a`: gateway `169.254.1.1` is link-local; that works only where every node has that neighbour",
            "set `a`: 1 gateway of a family without destinations: `fd00::1`",
        ]
    );
}

#[test]
fn lists_that_no_set_names_and_a_withdrawal_that_a_leak_guard_undoes_are_warned_of() {
    let text = format!(
        "routes:\n{}",
        set(
            "a",
            "  destinationFiles: [a.txt]\n  whenDown: withdraw\n  leakGuard: true\n"
        )
    );
    let keys = [
        ("routes.yaml", text.as_str()),
        ("a.txt", "192.0.2.0/24\n"),
        ("b.txt", "x"),
        ("c.list", ""),
        ("example", "routes: []"),
    ];
    let keys = keys.map(|(key, text)| (key.to_owned(), text.as_bytes().to_vec()));
    let checked = parse(&Files::from_keys(&keys.into()).unwrap()).unwrap();
    assert_eq!(
        messages(&checked),
        [
            "set `a`: with `leakGuard: true` withdrawn traffic is dropped, as with `whenDown: blackhole`; remove one of the two if it should leave by another path",
            "2 list files that no set names under `destinationFiles`: `b.txt`, `c.list`",
        ]
    );
}

#[test]
fn everything_in_ipv6_counts_as_more_than_half_and_overflows_nothing() {
    for all in ["::/0", "::/1', '8000::/1", "2000::/3"] {
        let text =
            format!("routes:\n- name: a\n  gateways: ['fd00::1']\n  destinations: ['{all}']\n");
        let kinds: Vec<WarningKind> = accepted(&text)
            .warnings
            .iter()
            .map(|warning| warning.kind)
            .collect();
        assert!(kinds.contains(&WarningKind::Unprotected), "{all}");
    }
}

#[test]
fn warnings_are_bounded() {
    let sets: String = (0..300)
        .map(|i| {
            format!(
                "- {{name: s{i}, gateways: [192.0.2.1], destinations: [10.{}.{}.0/24]}}\n",
                i / 200,
                i % 200
            )
        })
        .collect();
    let warnings = accepted(&format!("routes:\n{sets}")).warnings;
    assert_eq!(warnings.len(), 101);
    assert_eq!(warnings[100].to_string(), "there are 500 more warnings");
}
