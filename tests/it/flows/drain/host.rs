//! Connections of the node itself, which look their route up once and not per packet.

use super::{FAILOVER, addresses, report, start};
use crate::flows::talk::Talk;
use crate::lab::G1;

#[test]
fn connections_of_host_processes_stay_with_a_drained_gateway_too() {
    let (mut node, agent) = start(&FAILOVER.routes(FAILOVER.before));
    let mut busy = Talk::to(&node, "nd", &addresses("198.18")[..100]);
    // Idle is what had no packet for 20 s; all of them were looked up longer ago than that when it begins.
    let began = std::time::Instant::now();
    busy.until(|| began.elapsed().as_secs() > 22);
    node.volume.routes(&FAILOVER.routes(FAILOVER.drained));
    busy.until(|| report(&node, G1).0 == "draining");
    let began = std::time::Instant::now();
    let mut counts = Vec::new();
    busy.until(|| {
        counts.extend(report(&node, G1).1);
        began.elapsed().as_secs() > 30
    });
    assert_eq!(busy.broken().len(), 0, "{}", agent.log());
    assert!(
        counts.last().is_some_and(|n| (80..=120).contains(n)),
        "{counts:?}"
    );
}
