use super::*;
use crate::config::HealthCheck;
use crate::health::{Health, ProbeKey};

fn health(entries: &[(&str, State)]) -> HealthView {
    let entry = |&(address, state): &(&str, State)| {
        let key = ProbeKey {
            gateway: address.parse().unwrap(),
            check: HealthCheck::default(),
        };
        let health = Health {
            state,
            ever_up: true,
            rtt: None,
            reason: (state == State::Down).then(|| "no answer within 1s".to_owned()),
        };
        (key, health)
    };
    entries.iter().map(entry).collect()
}

fn report(entries: &[(&str, State)], before: &Report) -> Report {
    Report {
        gateways: Report::gateways_of(&health(entries), &before.gateways),
        ..Report::default()
    }
}

fn lines(before: &Report, after: &Report) -> Vec<String> {
    let shown = |t: Transition| {
        let event = t
            .event
            .map_or_else(String::new, |e| format!(" [{:?}]", e.reason));
        format!("{:?} {}{event}", t.level, t.line)
    };
    transitions(before, after).into_iter().map(shown).collect()
}

const A: &str = "10.116.0.5";
const B: &str = "10.116.0.6";

#[test]
fn all_gateways_that_fail_together_are_one_line_and_one_event_and_without_a_verdict_nothing_changes()
 {
    let start = Report::default();
    let up = report(&[(A, State::Up), (B, State::Up)], &start);
    assert!(lines(&start, &up).is_empty());
    let down = report(&[(A, State::Down), (B, State::Down)], &up);
    assert_eq!(
        lines(&up, &down),
        [
            "Warn Gateway down: 10.116.0.5 (no answer within 1s), 10.116.0.6 (no answer within 1s) [GatewayDown]"
        ]
    );
    let unknown = report(&[(A, State::Unknown), (B, State::Down)], &down);
    assert!(
        lines(&down, &unknown).is_empty(),
        "an edit of its check is no news of a gateway"
    );
    let back = report(&[(A, State::Up), (B, State::Down)], &unknown);
    assert_eq!(
        lines(&unknown, &back),
        ["Info Gateway up again: 10.116.0.5 [GatewayUp]"]
    );
}

#[test]
fn sets_without_a_healthy_gateway_are_one_event_for_each_family() {
    let down = |sets: &[(&str, Family)]| Report {
        down: sets
            .iter()
            .map(|(set, family)| {
                let words = format!("set `{set}` ({family})");
                (
                    (set.to_string(), *family),
                    (words, vec![A.parse().unwrap()]),
                )
            })
            .collect(),
        ..Report::default()
    };
    let (start, v4) = (Report::default(), Family::V4);
    let first = down(&[("a", v4), ("b", v4), ("b", Family::V6)]);
    assert_eq!(
        lines(&start, &first),
        [
            "Error No healthy gateway: set `a` (IPv4); set `b` (IPv4) [NoHealthyGateway]",
            "Error No healthy gateway: set `b` (IPv6) [NoHealthyGateway]",
        ]
    );
    let later = down(&[("a", v4), ("a", Family::V6), ("b", v4), ("b", Family::V6)]);
    assert_eq!(
        lines(&first, &later),
        ["Error No healthy gateway: set `a` (IPv6) [NoHealthyGateway]"]
    );
}

#[test]
fn what_an_earlier_agent_reported_is_no_event() {
    let annotations = BTreeMap::from([
        (
            "egress-routes.dev/gateways".to_owned(),
            format!("{A}=down,{B}=up"),
        ),
        ("egress-routes.dev/status".to_owned(), "Invalid".to_owned()),
        (
            "egress-routes.dev/message".to_owned(),
            "configuration refused: no such key".to_owned(),
        ),
    ]);
    let before = Report::of_annotations(Reported::by(&annotations));
    let mut after = report(&[(A, State::Down), (B, State::Down)], &before);
    after.refused = Some((None, "no such key".to_owned()));
    assert_eq!(
        lines(&before, &after),
        [
            "Warn Gateway down, as before the agent started: 10.116.0.5",
            "Warn Gateway down: 10.116.0.6 (no answer within 1s) [GatewayDown]",
            "Error Configuration refused, the last good one stays: no such key",
        ]
    );
}

#[test]
fn a_revision_is_in_force_once_and_one_without_routes_is_a_warning() {
    let in_force = |revision: &str, routes| Report {
        in_force: Some(InForce {
            revision: revision.to_owned(),
            routes,
            sets: usize::from(routes > 0),
            written: true,
        }),
        ..Report::default()
    };
    let (first, empty) = (in_force("a", 1), in_force("b", 0));
    assert_eq!(
        lines(&Report::default(), &first),
        ["Info Configuration in force: revision a, 1 route of 1 set [RoutesApplied]"]
    );
    assert!(
        lines(&first, &in_force("a", 2)).is_empty(),
        "routes of one revision come and go"
    );
    assert_eq!(
        lines(&first, &empty),
        ["Warn Revision b has no route for this node: all 1 were removed [AllRoutesRemoved]"]
    );
}

#[test]
fn each_turn_of_a_guarded_change_has_its_line() {
    let at = |stage, change: Option<&str>, is_edit| Report {
        stage,
        change: change.map(str::to_owned),
        is_edit,
        ..Report::default()
    };
    let confirming = at(Stage::Confirming, Some("b"), true);
    let back = at(Stage::RollingBack, Some("b"), true);
    let asked = at(Stage::RolledBack, Some("b"), true);
    let settled = at(Stage::Settled, None, true);
    let words = |before: &Report, after: &Report| lines(before, after).join("\n");
    assert_eq!(
        words(&confirming, &settled),
        "Info Change confirmed: the API server answers (revision b)"
    );
    assert!(
        words(&confirming, &back)
            .starts_with("Error Revision b reverted: the API server did not answer")
    );
    assert!(words(&confirming, &back).ends_with("[RolledBack]"));
    assert!(
        words(&confirming, &at(Stage::RollingBack, Some("b"), false))
            .starts_with("Error New routes of revision b reverted")
    );
    assert_eq!(words(&back, &asked), "");
    assert!(words(&asked, &at(Stage::Reapplying, Some("b"), true)).contains("re-applying it"));
    // An edit, or one that is taken back by hand.
    assert_eq!(words(&asked, &at(Stage::Changing, None, true)), "");
    assert_eq!(words(&confirming, &at(Stage::Changing, None, true)), "");
    assert!(
        words(&asked, &at(Stage::Settled, Some("b"), true)).contains("is confirmed as the cause")
    );
    let of_routes = at(Stage::RolledBack, Some("b"), false);
    assert!(
        words(&of_routes, &at(Stage::Settled, None, false))
            .contains("new routes of revision b are confirmed as the cause")
    );
}

#[test]
fn a_problem_has_a_line_when_it_appears_and_not_while_its_numbers_change() {
    let with = |text: &str| Report {
        problems: vec![Problem::of_set(ProblemKind::Shadowed, "clouds", text)],
        ..Report::default()
    };
    let one = with("1 destination(s) of set `clouds` are shadowed");
    assert_eq!(
        lines(&Report::default(), &one),
        ["Warn 1 destination(s) of set `clouds` are shadowed"]
    );
    assert!(lines(&one, &with("2 destination(s) of set `clouds` are shadowed")).is_empty());
}

#[test]
fn what_was_put_back_is_counted_in_words() {
    let after = Report {
        restored: (3, 1),
        ..Report::default()
    };
    assert_eq!(
        lines(&Report::default(), &after),
        [
            "Warn Routes restored: 3 routes and 1 nexthop had vanished and were restored [RoutesRestored]"
        ]
    );
    assert!(
        lines(
            &after,
            &Report {
                restored: (3, 1),
                ..Report::default()
            }
        )
        .is_empty()
    );
}
