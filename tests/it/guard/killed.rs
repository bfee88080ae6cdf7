//! An agent that is killed before its change is confirmed: what the next one makes of it.

use super::*;

#[test]
fn an_agent_killed_before_the_confirmation_takes_the_edit_back_at_its_next_start_and_killed_again_does_not_retry_it()
 {
    let mut world = World::new(SERVICE);
    let stub = world.stub();
    let mut agent = world.settled_agent(&FLAGS);
    cut_off(&mut world, &agent, &bad());
    agent.kill();
    assert!(
        world.cuts() && !world.marks().is_empty(),
        "{:x?}",
        world.marks()
    );

    let mut agent = world.agent(&FLAGS);
    assert!(wait_until(SOON, || !world.cuts()), "{}", agent.log());
    assert!(
        wait_until(SOON, || world.is_marked_rejected()),
        "{}",
        agent.log()
    );
    assert!(world.has_status("RolledBack"), "{}", world.status());
    // Objects that nothing uses any more go at the next --resync.
    assert!(wait_until(SOON, || world
        .lab
        .json(NODE, "nexthop show proto 230")
        .as_array()
        .unwrap()
        .len()
        == world.marks().len()));
    agent.kill();

    let happened = world.watched(|| {
        agent = world.agent(&FLAGS);
        agent.wait_for("was reverted before the agent started", SOON);
        a_few_resyncs();
    });
    assert_eq!(happened, "", "{}", agent.log());
    assert!(
        world.has_status("RolledBack") && world.is_marked_rejected(),
        "{}",
        world.status()
    );
    assert!(
        wait_until(SOON, || stub
            .annotations()
            .get("status")
            .is_some_and(|word| word == "RolledBack")),
        "{:?}",
        stub.annotations()
    );

    world.volume.routes(&another_good());
    assert!(
        wait_until(SOON, || world.routes()
            == ["203.0.113.0/24", "203.0.114.0/24"]),
        "{}",
        agent.log()
    );
    assert!(
        world.has_status("Ready") && wait_until(SOON, || world.marks().is_empty()),
        "{}",
        agent.log()
    );
}

#[test]
fn a_good_edit_whose_agent_was_killed_before_the_confirmation_stays() {
    let mut world = World::new(SERVICE);
    let stub = world.stub();
    let mut agent = world.settled_agent(&["--confirm", "20s", "--resync", "1s"]);
    world.volume.routes(&another_good());
    assert!(
        wait_until(SOON, || world.routes().len() == 2),
        "{}",
        agent.log()
    );
    // Silent until the agent is dead, so that the confirmation does not come first.
    stub.0.signal("STOP");
    agent.kill();
    stub.0.signal("CONT");
    let happened = world.watched(|| {
        agent = world.agent(&FLAGS);
        assert!(
            world.has_status("Ready"),
            "{}: {}",
            world.status(),
            agent.log()
        );
    });
    assert!(
        !happened.contains("203.0.11"),
        "no route was touched: {happened}"
    );
    assert!(
        wait_until(SOON, || world.marks().is_empty()),
        "{}",
        agent.log()
    );
}

#[test]
fn an_edit_made_while_the_agent_was_dead_does_not_hide_that_the_one_before_was_never_confirmed() {
    let mut world = World::new(SERVICE);
    let _stub = world.stub();
    let mut agent = world.settled_agent(&FLAGS);
    cut_off(&mut world, &agent, &bad());
    agent.kill();
    world.volume.routes(&another_bad());
    let agent = world.agent(&FLAGS);
    assert!(
        wait_until(SOON, || !world.cuts() && world.is_marked_rejected()),
        "{}",
        agent.log()
    );
    assert!(world.has_status("RolledBack"), "{}", world.status());
    assert_eq!(
        world.status()["rejectedRevision"],
        egress_routes_revision(&world.volume).as_str()
    );
}
