//! Which sets may share a prefix, and what they may not.

use super::*;

#[test]
fn two_selected_sets_may_share_a_prefix_unless_one_selector_implies_the_other() {
    let shared = |a: &str, b: &str| {
        let set = |name: &str, selector: &str| {
            set(
                name,
                &format!("  destinations: [192.0.2.0/24]\n  nodeSelector: {selector}\n"),
            )
        };
        match parse(&files(
            format!("routes:\n{}{}", set("a", a), set("b", b)),
            &[],
        )) {
            Err(_) => "refused",
            Ok(checked) if checked.warnings.is_empty() => "accepted",
            Ok(checked) => {
                assert_eq!(
                    messages(&checked),
                    [
                        "sets `a` and `b` share 1 destination, which a node that both select will refuse: `192.0.2.0/24`"
                    ]
                );
                "warned"
            }
        }
    };
    let label = |text: &str| format!("{{matchLabels: {{{text}}}}}");
    let term = |text: &str| format!("{{matchExpressions: [{{{text}}}]}}");
    assert_eq!(shared(&label("pool: web"), &label("pool: db")), "accepted");
    assert_eq!(shared(&label("pool: web"), &label("pool: web")), "refused");
    assert_eq!(shared(&label("pool: web"), "{}"), "refused");
    assert_eq!(
        shared(&label("pool: web"), &label("pool: web, zone: a")),
        "refused"
    );
    assert_eq!(shared(&label("pool: web"), &label("zone: a")), "warned");
    assert_eq!(
        shared(
            &label("pool: web"),
            &term("key: pool, operator: In, values: [web]")
        ),
        "refused"
    );
    assert_eq!(
        shared(
            &label("pool: web"),
            &term("key: pool, operator: In, values: [db, web]")
        ),
        "warned"
    );
    assert_eq!(
        shared(
            &label("pool: web"),
            &term("key: pool, operator: NotIn, values: [web]")
        ),
        "accepted"
    );
    assert_eq!(
        shared(
            &label("pool: web"),
            &term("key: pool, operator: DoesNotExist")
        ),
        "accepted"
    );
    assert_eq!(
        shared(
            &term("key: pool, operator: NotIn, values: [web]"),
            &term("key: pool, operator: NotIn, values: [db]")
        ),
        "warned"
    );
}

#[test]
fn a_prefix_that_a_set_takes_out_again_does_not_clash() {
    let text = format!(
        "routes:\n{}{}",
        set(
            "a",
            "  destinations: [192.0.2.0/24, 198.51.100.0/24]\n  except: [192.0.2.0/23]\n"
        )
        .replace("192.0.2.0/23", "192.0.2.0/24"),
        set("b", "  destinations: [192.0.2.0/24]\n")
    );
    assert_eq!(accepted(&text).config.sets.len(), 2);
}

#[test]
fn a_node_asks_for_the_clashes_of_the_sets_that_apply_to_it() {
    let sets = accepted(&format!(
        "routes:\n{}{}{}",
        set("a", "  destinations: [192.0.2.0/24, 198.51.100.0/24]\n  nodeSelector: {matchLabels: {x: '1'}}\n"),
        set("b", "  destinations: [192.0.2.0/24]\n  nodeSelector: {matchLabels: {x: '2'}}\n"),
        set("c", "  destinations: [192.0.2.0/24]\n  nodeSelector: {matchLabels: {x: '3'}}\n")
    ))
    .config
    .sets;
    let clash = |first, second| Clash {
        prefix: p("192.0.2.0/24"),
        first,
        second,
    };
    assert_eq!(
        clashes(&[&sets[0], &sets[1], &sets[2]]),
        [clash(0, 1), clash(0, 2)]
    );
    assert_eq!(clashes(&[&sets[0]]), []);
}

#[test]
fn two_names_with_one_nexthop_group_are_refused() {
    let mut names = BTreeMap::new();
    let (a, b) = (0u32..)
        .find_map(|n| {
            let name = format!("s{n}");
            Family::BOTH
                .iter()
                .find_map(|f| names.insert(crate::net::nexthop_id::group(&name, *f), name.clone()))
                .map(|other| (other, name.clone()))
        })
        .unwrap();
    let text = format!(
        "routes:\n{}{}",
        set(&a, "  destinations: [192.0.2.0/24]\n"),
        set(&b, "  destinations: [198.51.100.0/24]\n")
    );
    assert_eq!(
        reported(&files(text, &[])),
        format!(
            "routes.yaml:5:9: routes[1].name: `{b}` hashes to the same nexthop group ID as `{a}`; rename one of the two"
        )
    );
}

#[test]
fn a_family_without_a_gateway_may_be_taken_out_as_a_whole() {
    let text = set(
        "a",
        "  destinations: [192.0.2.0/24, '2001:db8::/32']\n  except: ['::/0']\n",
    );
    assert_eq!(
        accepted(&format!("routes:\n{text}")).config.sets[0]
            .destinations
            .len(),
        2
    );
}
