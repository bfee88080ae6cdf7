use super::*;
use crate::report::status::tests::{example, set};

const SECOND: Duration = Duration::from_secs(1);

fn known(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned()))
        .collect()
}

#[test]
fn the_annotations_are_those_of_the_contract() {
    let written = annotations(&example());
    assert_eq!(written[STATUS].as_deref(), Some("Degraded"));
    assert_eq!(written[REVISION].as_deref(), Some("0123456789ab"));
    assert_eq!(written[ROUTES].as_deref(), Some("2048/2050"));
    assert_eq!(
        written[GATEWAYS].as_deref(),
        Some("10.116.0.5=up,10.116.0.6=down")
    );
    assert_eq!(
        written[MESSAGE].as_deref(),
        Some("Set `clouds`: 2 of 2050 prefixes are not in the kernel")
    );
    let ready = annotations(&Status {
        status: Overall::Ready,
        message: None,
        ..example()
    });
    assert_eq!(
        ready[MESSAGE], None,
        "there is nothing to say when all is well"
    );
    let bare = annotations(&Status {
        status: Overall::Ready,
        message: Some("not configured: …".into()),
        ..example()
    });
    assert_eq!(bare[MESSAGE].as_deref(), Some("not configured: …"));
}

#[test]
fn a_gateway_of_several_sets_is_listed_once_with_its_worst_state() {
    use GatewayState::{Down, Unknown, Unusable, Up};
    let mut status = example();
    status.sets = vec![
        set(
            "a",
            &[
                ("10.116.0.10", Up),
                ("10.116.0.9", Up),
                ("fd00:116::5", Unknown),
            ],
        ),
        set(
            "b",
            &[
                ("10.116.0.9", Down),
                ("10.116.0.10", Unknown),
                ("10.116.0.11", Unusable),
            ],
        ),
    ];
    assert_eq!(
        gateways(&status),
        "10.116.0.9=down,10.116.0.10=unknown,10.116.0.11=unusable,fd00:116::5=unknown"
    );
    assert_eq!(annotations(&status)[ROUTES].as_deref(), Some("4096/4100"));
}

#[test]
fn a_gateway_is_drained_when_no_set_has_a_flow_on_it() {
    use GatewayState::{Draining, Up};
    let with = |one: (GatewayState, Option<u32>), other: (GatewayState, Option<u32>)| {
        let mut status = example();
        status.sets = [one, other]
            .map(|(state, buckets)| {
                let mut set = set("a", &[("10.116.0.7", state)]);
                set.gateways[0].buckets = buckets;
                set
            })
            .into();
        gateways(&status)
    };
    let drained = (Draining, Some(0));
    assert_eq!(with(drained, drained), "10.116.0.7=drained");
    assert_eq!(with(drained, (Draining, Some(3))), "10.116.0.7=draining");
    assert_eq!(with((Draining, None), drained), "10.116.0.7=draining");
    assert_eq!(with(drained, (Up, Some(9))), "10.116.0.7=up");
}

#[test]
fn a_thousand_gateways_and_a_long_message_keep_within_their_limits() {
    let mut status = example();
    let addresses: Vec<String> = (0..1000)
        .map(|n| format!("10.1.{}.{}", n / 250, n % 250 + 1))
        .collect();
    let pairs: Vec<_> = addresses
        .iter()
        .map(|address| (address.as_str(), GatewayState::Unusable))
        .collect();
    status.sets = vec![set("a", &pairs)];
    status.message = Some("\u{1f980}".repeat(500));
    let written = annotations(&status);
    let text = written[GATEWAYS].clone().unwrap();
    assert!(
        text.len() < GATEWAYS_LENGTH + 20 && text.ends_with(" more"),
        "{text}"
    );
    assert_eq!(written[MESSAGE].as_ref().unwrap().len(), 1024);
}

#[test]
fn round_trip_times_and_clocks_are_in_no_annotation() {
    let mut other = example();
    other.last_applied_at = None;
    for gateway in &mut other.sets[0].gateways {
        gateway.rtt_ms = gateway.rtt_ms.map(|ms| ms + 1.0);
        gateway.reason = Some("another reason".into());
    }
    assert_eq!(annotations(&other), annotations(&example()));
}

#[test]
fn only_what_changed_is_written_and_what_is_gone_is_removed() {
    let wanted = annotations(&Status {
        status: Overall::Ready,
        message: None,
        ..example()
    });
    let before = known(&[
        ("status", "Degraded"),
        ("revision", "0123456789ab"),
        ("routes", "2048/2050"),
        ("gateways", "10.116.0.5=up,10.116.0.6=down"),
        ("message", "old"),
    ]);
    assert_eq!(
        difference(&wanted, &before),
        BTreeMap::from([(STATUS, Some("Ready".to_owned())), (MESSAGE, None)])
    );
    let json = serde_json::to_string(&difference(&wanted, &before)).unwrap();
    assert_eq!(
        json,
        r#"{"egress-routes.dev/message":null,"egress-routes.dev/status":"Ready"}"#
    );
}

#[test]
fn equal_annotations_are_not_written_again() {
    let wanted = annotations(&Status {
        status: Overall::Ready,
        ..example()
    });
    let there = wanted
        .iter()
        .filter_map(|(key, value)| Some(((*key).to_owned(), value.clone()?)))
        .collect();
    assert!(difference(&wanted, &there).is_empty());
}

#[test]
fn a_change_after_a_quiet_time_waits_for_the_nodes_own_moment_and_never_longer_than_five_seconds() {
    let now = Instant::now();
    let moments: std::collections::BTreeSet<_> = (0..100)
        .map(|n| Pace::new(&format!("node{n}")).due(now))
        .collect();
    assert!(
        moments.len() > 90,
        "{} nodes of 100 have a moment of their own",
        moments.len()
    );
    assert!(moments.iter().all(|&at| at >= now && at <= now + EVERY));
}

#[test]
fn a_row_of_changes_is_at_most_twelve_patches_a_minute() {
    for node in ["node1", "node2", "a", "pool-web-7"] {
        let mut pace = Pace::new(node);
        let start = Instant::now();
        let mut now = start;
        let mut patches = Vec::new();
        while now < start + 120 * SECOND {
            now = pace.due(now);
            patches.push(now);
            now += Duration::from_millis(3);
            pace.worked(now);
        }
        for at in &patches {
            let in_a_minute = patches
                .iter()
                .filter(|&other| *other >= *at && *other < *at + 60 * SECOND)
                .count();
            assert!(
                in_a_minute <= 12,
                "{in_a_minute} patches in a minute from {node}"
            );
        }
        assert!(patches.len() > 20, "a row of changes is still reported");
    }
}

#[test]
fn a_change_while_the_interval_runs_is_written_when_it_is_over() {
    let mut pace = Pace::new("node1");
    let start = Instant::now();
    pace.worked(start);
    assert_eq!(pace.due(start + SECOND), start + EVERY);
}

#[test]
fn a_refusal_is_followed_by_growing_pauses_and_at_least_what_the_server_asked_for() {
    let mut pace = Pace::new("node1");
    let now = Instant::now();
    pace.failed(now, 42 * SECOND);
    assert!(pace.due(now) >= now + 42 * SECOND);
    for _ in 0..20 {
        pace.failed(now, Duration::ZERO);
    }
    let due = pace.due(now);
    assert!(
        due >= now + LONGEST_PAUSE / 2 && due <= now + LONGEST_PAUSE,
        "{:?}",
        due - now
    );
}

#[test]
fn a_gateway_without_a_verdict_is_waited_for_a_while_and_not_for_ever() {
    let start = Instant::now();
    let second = Duration::from_secs(1);
    let with = |state| {
        let mut status = example();
        status.sets[0].gateways[0].state = state;
        status
    };
    let mut patience = Patience::default();
    assert_eq!(patience.until(Some(&with(GatewayState::Up)), start), None);
    let unknown = with(GatewayState::Unknown);
    assert_eq!(
        patience.until(Some(&unknown), start),
        Some(start + VERDICTS)
    );
    assert_eq!(
        patience.until(Some(&unknown), start + second),
        Some(start + VERDICTS),
        "not from now on again"
    );
    assert_eq!(patience.until(Some(&unknown), start + VERDICTS), None);
    assert_eq!(
        patience.until(Some(&with(GatewayState::Down)), start + VERDICTS),
        None
    );
    assert_eq!(
        patience.until(Some(&unknown), start + 2 * VERDICTS),
        Some(start + 3 * VERDICTS)
    );
}

#[test]
fn what_the_annotations_reported_before_is_known_at_the_next_start() {
    let mut status = example();
    status.status = Overall::Invalid;
    status.message = Some(format!(
        "configuration refused, no revision is in force: {}",
        "routes.yaml:1:1: ".repeat(200)
    ));
    status.sets[0].gateways[0].state = GatewayState::Down;
    let written = annotations(&status)
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect();
    let reported = Reported::by(&written);
    assert!(reported.is_down(status.sets[0].gateways[0].address));
    assert!(!reported.is_down("192.0.2.99".parse().unwrap()));
    assert!(reported.is_refused(&"routes.yaml:1:1: ".repeat(200)));
    assert!(!reported.is_refused("routes.yaml:2:1: another"));
    assert!(!Reported::default().is_refused(""));
}
