//! What tasks keep when others come and go, when a gateway has no path, and when a check is edited.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_unchanged_task_keeps_its_state_and_rhythm_when_others_come_and_go() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    world.let_be(gateway(1), Behaviour::Silent);
    set(&mut probes, [key(1)]);
    becomes(&probes, &key(1), State::Down).await;
    for n in 2..50 {
        set(&mut probes, [key(1), key(n)]);
        advance(Duration::from_millis(10)).await;
        assert_eq!(health(&probes, &key(1)).state, State::Down);
        assert_eq!(probes.subscribe().borrow().len(), 2);
    }
    let of_first = world.sent_to(&key(1));
    assert!(
        (3..=4).contains(&of_first),
        "half a second later {of_first} probes"
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_no_longer_wanted_is_not_probed_and_not_in_the_view() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    set(&mut probes, [key(1), key(2)]);
    sleep(SECOND * 2).await;
    let mut view = probes.subscribe();
    view.borrow_and_update();
    set(&mut probes, [key(2)]);
    assert!(view.has_changed().unwrap());
    let before = world.sent_to(&key(1));
    sleep(SECOND * 10).await;
    let after = world.sent_to(&key(1));
    assert_eq!(before, after);
    assert_eq!(view.borrow().keys().collect::<Vec<_>>(), [&key(2)]);
}

#[tokio::test(start_paused = true)]
async fn two_checks_of_one_gateway_are_two_tasks_and_no_check_is_none() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    let with = |probe| ProbeKey {
        gateway: gateway(1),
        check: HealthCheck {
            probe,
            ..check(SECOND, SECOND)
        },
    };
    set(
        &mut probes,
        [with(Probe::Icmp), with(Probe::Tcp(22)), with(Probe::None)],
    );
    assert_eq!(world.probers.load(Ordering::Relaxed), 2);
    assert!(
        !probes.subscribe().borrow().contains_key(&with(Probe::None)),
        "Unknown, which counts as healthy"
    );
}

#[tokio::test(start_paused = true)]
async fn a_gateway_without_a_path_pauses_says_so_and_goes_on_where_it_was() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    set(&mut probes, [key(1)]);
    becomes(&probes, &key(1), State::Up).await;
    probes.set(&BTreeMap::from([(key(1), None)]), &BTreeSet::new());
    let sent = world.sent();
    sleep(SECOND * 60).await;
    assert_eq!(world.sent(), sent);
    let paused = health(&probes, &key(1));
    assert_eq!(
        (paused.state, paused.reason.as_deref()),
        (
            State::Up,
            Some("not probed while the gateway is not on-link")
        )
    );
    set(&mut probes, [key(1)]);
    sleep(SECOND / 2).await;
    assert_eq!(world.sent(), sent + 1, "probed at once");
    assert_eq!(health(&probes, &key(1)).reason, None);
}

#[tokio::test(start_paused = true)]
async fn probes_that_cannot_be_sent_never_take_a_gateway_out() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    world.let_be(gateway(1), Behaviour::NotSendable);
    set(&mut probes, [key(1)]);
    sleep(SECOND * 60).await;
    let health = health(&probes, &key(1));
    assert_eq!(
        (health.state, health.reason.as_deref()),
        (State::Unknown, Some("not probed: no permission"))
    );
}

#[tokio::test(start_paused = true)]
async fn an_adopted_gateway_starts_down() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    probes.set(&wanted([key(1), key(2)]), &BTreeSet::from([key(1)]));
    assert_eq!(
        (
            health(&probes, &key(1)).state,
            health(&probes, &key(1)).ever_up
        ),
        (State::Down, true)
    );
    assert_eq!(health(&probes, &key(2)).state, State::Unknown);
    sleep(SECOND * 7).await;
    assert_eq!(health(&probes, &key(1)).state, State::Up);
}

#[tokio::test(start_paused = true)]
async fn only_verdicts_wake_the_agent_but_reasons_and_round_trip_times_are_fresh() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    set(&mut probes, [key(1)]);
    let mut view = becomes(&probes, &key(1), State::Up).await;
    view.borrow_and_update();
    world.let_be(gateway(1), Behaviour::AnswersAfter(RTT * 7));
    sleep(SECOND * 100).await;
    assert!(!view.has_changed().unwrap());
    assert_eq!(health(&probes, &key(1)).rtt, Some(RTT * 7));
    // As with a full conntrack table: every other probe cannot be sent.
    world.let_be(gateway(1), Behaviour::NotSendable);
    sleep(SECOND * 2).await;
    assert!(!view.has_changed().unwrap());
    assert!(health(&probes, &key(1)).reason.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_gateway_whose_check_was_edited_keeps_its_verdict_until_the_new_check_has_one() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    let edited = |n| ProbeKey {
        check: HealthCheck {
            probe: Probe::Tcp(443),
            ..key(n).check
        },
        ..key(n)
    };
    world.let_be(gateway(2), Behaviour::Silent);
    set(&mut probes, [key(1), key(2)]);
    sleep(SECOND * 20).await;
    let before = health(&probes, &key(2));
    assert_eq!((before.state, before.ever_up), (State::Down, false));
    world.let_be(gateway(2), Behaviour::AnswersAfter(RTT));
    set(&mut probes, [edited(1), edited(2)]);
    assert_eq!(health(&probes, &edited(1)).state, State::Up);
    let after = health(&probes, &edited(2));
    assert_eq!(
        (after.state, after.ever_up),
        (State::Down, false),
        "never answered as before"
    );
    sleep(SECOND * 7).await;
    assert_eq!(health(&probes, &edited(2)).state, State::Up);
}
