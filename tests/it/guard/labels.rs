//! Changes that labels bring, not an edit.

use super::*;

#[test]
fn labels_that_cut_off_the_api_server_or_bring_two_sets_together_change_nothing_for_long_and_others_are_followed()
 {
    let mut world = World::new(SERVICE);
    let mut stub = world.stub();
    let selected = |set: String, selector: &str| {
        set.trim_end().to_owned()
            + &format!("\n    nodeSelector: {{matchLabels: {{{selector}}}}}\n")
    };
    let sets = [
        selected(set("good", "10.116.0.5", &["203.0.113.0/24"]), "pool: web"),
        selected(set("bad", "10.116.0.7", &[CUT]), "tier: gold"),
        selected(
            set("other", "10.116.0.5", &["203.0.113.0/24"]),
            "tier: silver",
        ),
    ];
    world.volume.routes(&format!("routes:\n{}", sets.concat()));
    let agent = world.settled_agent(&FLAGS);
    // Labels are looked at once a minute.
    let minute = Duration::from_secs(65);

    stub.0.tell("label tier=gold");
    assert!(wait_until(minute, || world.cuts()), "{}", agent.log());
    assert!(
        wait_until(CONFIRM + SLACK, || !world.cuts()),
        "{}",
        agent.log()
    );
    assert_eq!(world.routes(), ["203.0.113.0/24"], "as it was before");
    assert!(world.has_status("RolledBack"), "{}", world.status());

    stub.0.tell("label tier=silver");
    assert!(
        wait_until(minute, || world.status()["status"] == "Degraded"),
        "{}: {}",
        world.status(),
        agent.log()
    );
    assert!(
        world.status()["message"]
            .as_str()
            .unwrap()
            .contains("both `good` and `other`"),
        "{}",
        world.status()
    );
    assert_eq!(world.routes(), ["203.0.113.0/24"], "as it was before");

    stub.0.tell("label tier=");
    assert!(
        wait_until(minute, || world.status()["status"] == "Ready"),
        "{}: {}",
        world.status(),
        agent.log()
    );
    assert_eq!(world.routes(), ["203.0.113.0/24"]);
    assert!(
        wait_until(SOON, || world.marks().is_empty()),
        "no mark outlives its revision: {:x?}",
        world.marks()
    );
}
