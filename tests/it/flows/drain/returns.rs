//! `failback`: what the return of the first gateway does to connections of the backup.

use super::{addresses, on_it, report, start};
use crate::flows::drain::falling;
use crate::flows::talk::{CONNECTIONS, Talk};
use crate::flows::traffic::{CHECK, LIMIT};
use crate::lab::{FABRIC, G1, G1_PUBLIC, G2, G2_PUBLIC, wait_until};

/// What became of the backup's connections.
struct Seen {
    broken: usize,
    new_on_the_first: usize,
    broken_when_the_backup_was_cut: usize,
}

fn first_returns(failback: &str) -> Seen {
    let (node, agent) = start(&format!(
        "routes:\n- name: a\n  strategy: failover\n  failback: {failback}\n  gateways: [{G1}, {G2}]\n  drainTimeout: 80s\n  \
         destinations: [198.18.0.0/15]\n  {CHECK}\n"
    ));
    let states = || node.gateways("a").into_values().collect::<Vec<_>>();
    node.lab.ip(FABRIC, "link set g1-eth1 down");
    node.wait_for_gateways("a", &["down", "up*"]);
    let all = addresses("198.18");
    let (busy, silent) = all.split_at(CONNECTIONS / 2);
    let mut busy = Talk::to(&node, "pod", busy);
    let silent = Talk::to(&node, "pod", silent);
    assert_eq!(on_it(&node, &all[..20], G2_PUBLIC).len(), 20);

    node.lab.ip(FABRIC, "link set g1-eth1 up");
    busy.until(|| states() == ["up*", "up"]);
    drop(silent);
    let mut counts = Vec::new();
    let mut fell_to = |most: u64, talk: &mut Option<Talk>| {
        let fell = wait_until(LIMIT, || {
            if let Some(talk) = talk {
                talk.round();
            }
            let buckets = report(&node, G2).1;
            counts.extend(buckets);
            buckets.unwrap_or(0) <= most
        });
        assert!(fell, "{counts:?} {:#}\n{}", node.status(), agent.log());
    };
    let most = u64::try_from(CONNECTIONS / 2).unwrap();
    let mut busy = Some(busy);
    fell_to(most, &mut busy);
    let broken = busy.as_ref().map_or(0, |talk| talk.broken().len());
    let new = addresses("198.19");
    let new_on_the_first = on_it(&node, &new, G1_PUBLIC).len();
    drop(busy);
    fell_to(0, &mut None);
    println!(
        "  failback: {failback}: buckets of the backup in use {}",
        falling(&counts)
    );
    let mut opened = Talk::to(&node, "pod", &new);
    node.lab.ip(FABRIC, "link set g2-eth1 down");
    opened.until(|| states() == ["up*", "down"]);
    Seen {
        broken,
        new_on_the_first,
        broken_when_the_backup_was_cut: opened.broken().len(),
    }
}

#[test]
fn with_failback_drain_the_return_of_the_first_gateway_breaks_no_connection_of_the_backup() {
    let (gently, at_once) = (first_returns("drain"), first_returns("true"));
    println!(
        "{CONNECTIONS} connections on the backup when the first gateway returns    drain    true"
    );
    for (what, of) in [
        (
            "broken, of the half that went on talking",
            (|seen: &Seen| seen.broken) as fn(&Seen) -> usize,
        ),
        ("of 300 new ones, on the first", |seen| {
            seen.new_on_the_first
        }),
        ("broken when the backup was cut afterwards", |seen| {
            seen.broken_when_the_backup_was_cut
        }),
    ] {
        println!("  {what:<60} {:>8} {:>7}", of(&gently), of(&at_once));
    }
    assert_eq!(
        (gently.broken, gently.broken_when_the_backup_was_cut),
        (0, 0)
    );
    // A new one that meets a bucket in use stays with the backup; 150 of 2,048 are.
    assert!(gently.new_on_the_first > CONNECTIONS * 8 / 10);
    assert_eq!(
        at_once.broken,
        CONNECTIONS / 2,
        "the baseline shows nothing"
    );
}
