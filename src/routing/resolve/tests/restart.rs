//! A change of health, and what a restarted agent finds.

use super::*;

#[test]
fn regrouping_wants_the_same_groups_as_a_whole_resolution() {
    for strategy in ["balance", "failover"] {
        for when in ["hold", "blackhole"] {
            let case = Case::new(set(ALL, &format!("strategy: {strategy}, whenDown: {when}")))
                .health(&[(A, Is::Up)])
                .apply();
            for health in [
                vec![(A, Is::Down)],
                vec![(A, Is::Down), (B, Is::Down), (C, Is::Down)],
                vec![],
            ] {
                let case = Case {
                    config: case.config.clone(),
                    kernel: case.kernel.clone(),
                    ..Case::new(case.config.clone())
                }
                .health(&health);
                let (whole, groups) = (case.resolve().wanted, regroup(&case.inputs()));
                assert_eq!(
                    (&groups.groups, &groups.nexthops),
                    (&whole.groups, &whole.nexthops),
                    "{strategy} {when} {health:?}"
                );
                assert!(groups.routes.is_empty());
            }
        }
    }
}

#[test]
fn what_an_earlier_agent_had_taken_out_is_seen_in_the_kernel_and_nothing_else_is() {
    #[allow(clippy::type_complexity)] // a table
    let cases: [(&str, &[(&str, Is)], &[&str]); 8] = [
        ("strategy: balance", &[], &[]),
        ("strategy: balance", &[(B, Is::Down)], &[B]),
        (
            "strategy: balance, whenDown: blackhole",
            &[(A, Is::Down), (B, Is::Down)],
            &[A, B],
        ),
        (
            "strategy: balance, whenDown: withdraw",
            &[(A, Is::Down), (B, Is::Down)],
            &[A, B],
        ),
        ("strategy: failover", &[], &[]),
        ("strategy: failover", &[(A, Is::Down)], &[A]),
        // It may have stayed with the second because it must, or because it may.
        ("strategy: failover, failback: false", &[(A, Is::Down)], &[]),
        (
            "strategy: balance, whenDown: hold",
            &[(A, Is::Down), (B, Is::Down)],
            &[],
        ),
    ];
    for (keys, health, out) in cases {
        let before = Case::new(set(BOTH, keys)).health(health).apply();
        let restarted = Case {
            health: HealthView::new(),
            ..before
        };
        let found: Vec<String> = taken_out_before(&restarted.inputs(), REVISION)
            .into_iter()
            .map(|key| key.gateway.to_string())
            .collect();
        assert_eq!(found, out, "{keys} {health:?}");
        assert!(
            taken_out_before(&restarted.inputs(), "ba9876543210").is_empty(),
            "another revision may have another reason"
        );
    }
    let fresh = Case::new(set(BOTH, "whenDown: withdraw"));
    assert!(
        taken_out_before(&fresh.inputs(), REVISION).is_empty(),
        "a first start finds nothing"
    );
}

#[test]
fn a_gateway_that_one_set_uses_was_not_taken_out_of_another_that_has_no_route() {
    // All that `b` wants is on-link, and it has IPv6 gateways without IPv6 destinations: no group, although nothing is down.
    let yaml = "routes:\n\
                - {name: a, gateways: [10.116.0.5], destinations: [203.0.113.0/24]}\n\
                - {name: b, gateways: [10.116.0.5, 'fd00:116::5'], destinations: [10.116.0.9], whenDown: withdraw}\n";
    let restarted = Case {
        health: HealthView::new(),
        ..Case::new(config(yaml)).apply()
    };
    assert_eq!(
        taken_out_before(&restarted.inputs(), REVISION),
        BTreeSet::new()
    );
}

#[test]
fn a_restart_wants_nothing_else_than_what_is_there() {
    for keys in [
        "strategy: balance",
        "strategy: failover",
        "whenDown: withdraw",
        "whenDown: blackhole, leakGuard: true",
    ] {
        for health in [
            vec![],
            vec![(A, Is::Down)],
            vec![(A, Is::Down), (B, Is::Down)],
        ] {
            let before = Case::new(set(BOTH, keys)).health(&health).apply();
            let mut restarted = Case {
                health: HealthView::new(),
                ..before
            };
            for key in taken_out_before(&restarted.inputs(), REVISION) {
                restarted.health.insert(
                    key,
                    Health {
                        state: State::Down,
                        ever_up: true,
                        rtt: None,
                        reason: None,
                    },
                );
            }
            let plan = diff(&restarted.resolve().wanted, &restarted.kernel, &OURS, true);
            assert!(plan.is_empty(), "{keys} {health:?}: {plan:?}");
        }
    }
}
