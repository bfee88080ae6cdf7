//! What is in force, with the real program: sequences that once ended in a loss of upkeep or in a cut.

use crate::guard::{
    CONFIRM, CUT, FLAGS, SERVICE, SLACK, SOON, World, another_good, bad, cut_off, good, http_get,
    set,
};
use crate::lab::wait_until;
use crate::stub::NODE;

const BROKEN: &str = "routes: [";

fn is_ready(world: &World) -> bool {
    http_get(&world.lab, NODE, "/readyz").starts_with("HTTP/1.1 200")
        || http_get(&world.lab, NODE, "/readyz").starts_with("HTTP/1.0 200")
}

#[test]
fn an_agent_restarted_while_the_newest_configuration_is_refused_keeps_up_what_the_kernel_holds() {
    let mut world = World::new(SERVICE);
    let _stub = world.stub();
    let mut agent = world.settled_agent(&FLAGS);
    let revision = world.status()["revision"].clone();
    agent.kill();
    world.volume.routes(BROKEN);

    let agent = world.agent(&FLAGS);
    assert!(world.has_status("Invalid"), "{}", agent.log());
    let is_kept = |world: &World| {
        let status = world.status();
        status["revision"] == revision && status["sets"][0]["installed"] == 1
    };
    assert!(
        wait_until(SOON, || is_kept(&world)),
        "{}: {}",
        world.status(),
        agent.log()
    );
    assert!(wait_until(SOON, || is_ready(&world)), "{}", agent.log());

    world.lab.ip(NODE, "link set eth1 down");
    assert!(wait_until(SOON, || world.routes().is_empty()));
    world.lab.ip(NODE, "link set eth1 up");
    assert!(
        wait_until(SOON, || world.routes() == ["203.0.113.0/24"]),
        "{}",
        agent.log()
    );

    world.volume.routes(&another_good());
    let edited = ["203.0.113.0/24", "203.0.114.0/24"];
    assert!(
        wait_until(SOON, || world.routes() == edited),
        "{}",
        agent.log()
    );
    assert!(world.has_status("Ready"), "{}", world.status());
}

#[test]
fn an_agent_restarted_after_a_rollback_keeps_up_the_revision_before() {
    let mut world = World::new(SERVICE);
    let _stub = world.stub();
    let mut agent = world.settled_agent(&FLAGS);
    let revision = world.status()["revision"].clone();
    cut_off(&mut world, &agent, &bad());
    assert!(world.has_status("RolledBack"), "{}", agent.log());
    agent.wait_for("is confirmed as the cause", SOON);
    agent.kill();

    let agent = world.agent(&FLAGS);
    assert!(world.has_status("RolledBack"), "{}", agent.log());
    assert_eq!(world.status()["revision"], revision);
    assert!(wait_until(SOON, || is_ready(&world)), "{}", agent.log());
    world.lab.ip(NODE, "nexthop flush proto 230");
    assert!(
        wait_until(SOON, || world.routes() == ["203.0.113.0/24"]),
        "{}",
        agent.log()
    );
}

#[test]
fn routes_that_come_in_long_after_their_edit_are_guarded_and_taken_back() {
    let mut world = World::new(SERVICE);
    let _stub = world.stub();
    let agent = world.settled_agent(&FLAGS);
    // The harmful set's gateway is not on-link yet: the edit is confirmed without its routes.
    let later = format!("{}{}", good(), set("bad", "10.118.0.7", &[CUT]));
    world.volume.routes(&later);
    assert!(world.has_status("Degraded"), "{}", agent.log());
    assert!(!world.cuts());
    world.lab.ip("g3", "addr add 10.118.0.7/24 dev eth1");
    world.lab.ip(NODE, "addr add 10.118.0.1/24 dev eth1");
    assert!(wait_until(SOON, || world.cuts()), "{}", agent.log());
    assert!(
        wait_until(CONFIRM + SLACK, || !world.cuts()),
        "{}",
        agent.log()
    );
    assert_eq!(world.routes(), ["203.0.113.0/24"]);
    assert!(world.has_status("RolledBack"), "{}", world.status());
    assert_eq!(world.rollbacks(), "1");
}

#[test]
fn an_edit_that_is_taken_back_by_hand_ends_ready() {
    let mut world = World::new(SERVICE);
    let _stub = world.stub();
    let agent = world.settled_agent(&["--confirm", "20s", "--resync", "1s"]);
    cut_off(&mut world, &agent, &bad());
    world.volume.routes(&good());
    assert!(wait_until(SOON, || !world.cuts()), "{}", agent.log());
    assert!(world.has_status("Ready"), "{}", world.status());
    assert_eq!(world.status()["rejectedRevision"], serde_json::Value::Null);
    assert_eq!(world.rollbacks(), "0");
}

#[test]
fn a_signal_in_the_middle_of_the_first_pass_leaves_no_half_of_it() {
    let mut world = World::new(SERVICE);
    let _stub = world.stub();
    let list: String = (0..20_000u32)
        .map(|n| {
            format!(
                "        - 100.{}.{}.{}/32\n",
                64 + n / 65536,
                n / 256 % 256,
                n % 256
            )
        })
        .collect();
    world.volume.routes(&format!(
        "routes:\n  - name: many\n    gateways: [10.116.0.5]\n    healthCheck: {{type: none}}\n    destinations:\n{list}"
    ));
    let mut agent = world.agent(&FLAGS);
    assert!(
        wait_until(SOON, || !world.routes().is_empty()),
        "{}",
        agent.log()
    );
    agent.signal("TERM");
    assert_eq!(agent.ends(SOON), Some(0));
    assert_eq!(world.routes().len(), 20_000, "{}", agent.log());
}
