//! Which sets apply to a node.

use super::*;

const SELECTED: &str = "nodeSelector: {matchLabels: {pool: web}}";

fn known(label: Option<(&str, &str)>) -> Facts {
    let labels = label
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    Facts::Known(NodeFacts {
        labels,
        ..NodeFacts::default()
    })
}

#[test]
fn a_set_with_a_selector_applies_to_nodes_with_its_labels_and_nowhere_without_a_cluster() {
    let case = |facts| Case::new(set(A, SELECTED)).facts(facts).resolve();
    assert_eq!(case(known(Some(("pool", "web")))).wanted.routes.len(), 1);
    assert_eq!(case(known(Some(("pool", "db")))).wanted, Wanted::default());
    assert_eq!(case(known(None)).sets.len(), 0);
    let alone = case(Facts::NoCluster);
    assert_eq!(alone.wanted, Wanted::default());
    assert_eq!(
        alone.notes,
        [
            "set `a` is skipped: without a cluster there are no labels to compare with its nodeSelector"
        ]
    );
}

#[test]
fn until_the_api_answers_a_set_with_a_selector_stays_as_an_earlier_agent_left_it() {
    let not_yet = || Facts::NotYet {
        api_servers: Vec::new(),
    };
    let fresh = Case::new(set(A, SELECTED)).facts(not_yet());
    assert_eq!(
        fresh.resolve().wanted,
        Wanted::default(),
        "an unknown node gets nothing"
    );
    let applied = Case::new(set(A, SELECTED))
        .facts(known(Some(("pool", "web"))))
        .apply()
        .facts(not_yet());
    assert_eq!(
        applied.resolve().wanted.routes.len(),
        1,
        "one that had it keeps it"
    );
    let plan = diff(&applied.resolve().wanted, &applied.kernel, &OURS, true);
    assert!(
        plan.is_empty() && plan.unused == nexthop_id::applied(REVISION),
        "{plan:?}"
    );
}

#[test]
fn a_prefix_of_two_sets_is_refused_only_where_both_apply() {
    let two = |selector: &str| {
        let set = |name: &str, value: &str| {
            format!(
                "- {{name: {name}, gateways: [{A}], destinations: [203.0.113.0/24], nodeSelector: {{{selector}: {value}}}}}\n"
            )
        };
        config(&format!(
            "routes:\n{}{}",
            set("a", "{x: '1'}"),
            set("b", "{y: '1'}")
        ))
    };
    let case = Case::new(two("matchLabels")).facts(known(Some(("x", "1"))));
    assert_eq!(case.resolve().sets.len(), 1);
    let both = Facts::Known(NodeFacts {
        labels: [("x", "1"), ("y", "1")]
            .map(|(k, v)| (k.into(), v.into()))
            .into(),
        ..NodeFacts::default()
    });
    let case = Case::new(two("matchLabels")).facts(both);
    let clashes = resolve(&case.inputs()).unwrap_err();
    assert_eq!(
        clashes[0].to_string(),
        "203.0.113.0/24 is a destination of both `a` and `b`, which both apply to this node; keep it in one"
    );
}

#[test]
fn a_leak_guard_of_two_sets_shows_that_the_one_that_has_its_group_applies() {
    let set = |name: &str, label: &str| {
        format!(
            "- {{name: {name}, gateways: [{A}], leakGuard: true, destinations: [203.0.113.0/24], nodeSelector: {{matchLabels: {{{label}: '1'}}}}}}\n"
        )
    };
    let two = format!("routes:\n{}{}", set("a", "x"), set("b", "y"));
    let case = Case::new(config(&two))
        .facts(known(Some(("x", "1"))))
        .apply();
    let mut restarted = case.facts(Facts::NotYet {
        api_servers: Vec::new(),
    });
    assert_eq!(restarted.resolve().wanted.routes.len(), 2);
    let group = nexthop_id::group("a", Family::V4);
    restarted.kernel.nexthops.remove(&group);
    assert!(
        resolve(&restarted.inputs()).is_err(),
        "without a group nobody knows whose it is"
    );
}
