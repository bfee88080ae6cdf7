//! Who gets new flows, who keeps old ones, and when a gateway has left.

use super::*;
use crate::routing::state::Resilient;

const A: u8 = 5;
const B: u8 = 6;
const C: u8 = 7;

fn ip(host: u8) -> IpAddr {
    IpAddr::from([10, 116, 0, host])
}

fn gateway(host: u8) -> Candidate {
    Candidate {
        gateway: ip(host),
        id: u32::from(host),
        weight: 1,
        drain: false,
        now: Vec::new(),
    }
}

/// With as many objects in the group.
fn with(host: u8, objects: u32, now: Carries) -> Candidate {
    let own = gateway(host);
    let now = objects_of(own.id, objects).map(|id| Carries { id, ..now });
    Candidate {
        now: now.collect(),
        ..own
    }
}

fn in_use(host: u8) -> Candidate {
    let now = Carries {
        id: 0,
        leaving: false,
        left: None,
    };
    with(host, 1, now)
}

/// One that was alone.
fn alone(host: u8) -> Candidate {
    with(host, 2, in_use(host).now[0])
}

fn leaving(host: u8, busy: u32, seconds: u64) -> Candidate {
    let left = Leaving {
        busy,
        since: Duration::from_secs(seconds),
    };
    let now = Carries {
        id: 0,
        leaving: true,
        left: Some(left),
    };
    with(host, 1, now)
}

fn drained(candidate: Candidate) -> Candidate {
    Candidate {
        drain: true,
        ..candidate
    }
}

const BALANCE: Terms = Terms {
    strategy: Strategy::Balance,
    drain_timeout: Duration::ZERO,
    buckets: Some(2048),
    idle: None,
};

const fn failover(failback: Failback) -> Terms {
    Terms {
        strategy: Strategy::Failover { failback },
        ..BALANCE
    }
}

/// The members by gateway, like `5:1 6:16x256`; and who is stuck.
fn members(candidates: &[Candidate], terms: &Terms) -> String {
    let shared = share(candidates, terms);
    let mut counts: BTreeMap<(IpAddr, u32), usize> = BTreeMap::new();
    for (gateway, member) in &shared.members {
        *counts.entry((*gateway, member.weight)).or_default() += 1;
    }
    let host = |gateway: IpAddr| match gateway {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => unreachable!(),
    };
    let mut words: Vec<String> = counts
        .into_iter()
        .map(|((gateway, weight), count)| match count {
            1 => format!("{}:{weight}", host(gateway)),
            count => format!("{}:{count}x{weight}", host(gateway)),
        })
        .collect();
    words.extend(shared.stuck.iter().map(|g| format!("stuck {}", host(*g))));
    words.join(" ")
}

#[test]
fn a_drained_gateway_stays_beside_the_others_until_nothing_of_it_is_busy() {
    let with = |drained| members(&[drained, in_use(B), in_use(C)], &BALANCE);
    assert_eq!(with(in_use(A)), "5:1 6:1 7:1", "not drained");
    assert_eq!(with(drained(in_use(A))), "5:1 6:8x256 7:8x256", "just now");
    assert_eq!(with(drained(leaving(A, 24, 900))), "5:1 6:8x256 7:8x256");
    assert_eq!(with(drained(leaving(A, 0, 1))), "6:1 7:1", "all are idle");
    assert_eq!(with(drained(gateway(A))), "6:1 7:1", "it has left before");
    assert_eq!(with(leaving(A, 24, 9)), "5:1 6:1 7:1", "undrained");
}

#[test]
fn the_time_limit_moves_what_is_left_by_force() {
    let terms = Terms {
        drain_timeout: Duration::from_mins(1),
        ..BALANCE
    };
    let after = |seconds| members(&[drained(leaving(A, 24, seconds)), in_use(B)], &terms);
    assert_eq!(
        (after(59), after(60)),
        ("5:1 6:16x256".into(), "6:2x1".into())
    );
    for (limit, idle) in [(0, 300), (10, 5), (60, 15), (1200, 300), (86_400, 300)] {
        assert_eq!(idle_time(Duration::from_secs(limit)), idle, "{limit} s");
    }
}

#[test]
fn a_plain_group_cannot_let_a_gateway_leave_gently() {
    let plain = Terms {
        buckets: None,
        ..BALANCE
    };
    assert_eq!(members(&[drained(in_use(A)), in_use(B)], &plain), "6:1");
}

#[test]
fn the_only_gateway_cannot_drain() {
    assert_eq!(members(&[drained(in_use(A))], &BALANCE), "5:2x1 stuck 5");
    assert_eq!(
        members(&[drained(gateway(A)), drained(in_use(B))], &BALANCE),
        "5:1 6:1 stuck 5 stuck 6",
        "both, also the one that had left"
    );
    let failover = failover(Failback::AtOnce);
    assert_eq!(members(&[drained(in_use(A))], &failover), "5:2x1 stuck 5");
}

#[test]
fn with_failover_the_next_gateway_takes_the_new_flows() {
    for failback in [Failback::AtOnce, Failback::Drain, Failback::Never] {
        let terms = failover(failback);
        let with = |a, b| members(&[a, b, gateway(C)], &terms);
        assert_eq!(with(drained(in_use(A)), gateway(B)), "5:1 6:16x256");
        assert_eq!(with(drained(leaving(A, 3, 9)), in_use(B)), "5:1 6:16x256");
        assert_eq!(with(drained(leaving(A, 0, 9)), in_use(B)), "6:2x1");
        assert_eq!(with(drained(gateway(A)), in_use(B)), "6:2x1");
    }
}

#[test]
fn failback_returns_at_once_or_as_flows_fall_idle_or_never() {
    let returned = [gateway(A), in_use(B)];
    assert_eq!(members(&returned, &failover(Failback::AtOnce)), "5:2x1");
    assert_eq!(
        members(&returned, &failover(Failback::Drain)),
        "5:16x256 6:1"
    );
    assert_eq!(members(&returned, &failover(Failback::Never)), "6:2x1");
    let on_its_way = [in_use(A), leaving(B, 7, 9)];
    assert_eq!(
        members(&on_its_way, &failover(Failback::Drain)),
        "5:16x256 6:1"
    );
    let done = [in_use(A), leaving(B, 0, 9)];
    assert_eq!(members(&done, &failover(Failback::Drain)), "5:2x1");
    // Undrained halfway: the one that took over keeps the flows, and the other goes on leaving.
    let undrained = [leaving(A, 7, 9), in_use(B)];
    assert_eq!(
        members(&undrained, &failover(Failback::Never)),
        "5:1 6:16x256"
    );
}

#[test]
fn weights_keep_their_ratio_and_never_look_like_a_gateway_that_leaves() {
    let weighted = |host, weight| Candidate {
        weight,
        ..in_use(host)
    };
    let two = [weighted(A, 20), weighted(B, 60)];
    assert_eq!(members(&two, &BALANCE), "5:1 6:3", "as small as can be");
    let failover = failover(Failback::AtOnce);
    assert_eq!(
        members(&two, &failover),
        "5:2x1",
        "failover knows no weights"
    );
    let three = [weighted(A, 1), weighted(B, 100), drained(in_use(C))];
    assert_eq!(members(&three, &BALANCE), "5:21x2 6:21x200 7:1");
    let of = |weights: &[u32]| -> Vec<Member> {
        let member = |(n, weight): (usize, &u32)| Member {
            weight: *weight,
            id: u32::try_from(n).unwrap(),
        };
        weights.iter().enumerate().map(member).collect()
    };
    for highest in 1..=100 {
        let plain = of(&scale(&[1, highest], false));
        assert!(!plain.iter().any(|m| is_leaving(*m, &plain)), "{plain:?}");
        let mut weights = scale(&[1, highest], true);
        weights.push(1);
        let beside = of(&weights);
        let leaving: Vec<u32> = beside
            .iter()
            .filter(|m| is_leaving(**m, &beside))
            .map(|m| m.id)
            .collect();
        assert_eq!(leaving, [2], "{beside:?}");
        assert!(weights.iter().all(|w| (1..=256).contains(w)));
    }
}

#[test]
fn a_gateway_alone_has_two_objects_and_both_leave_when_another_one_takes_over() {
    let terms = failover(Failback::Drain);
    assert_eq!(members(&[alone(A), gateway(B)], &terms), "5:2x1");
    let drained_one = [drained(alone(A)), gateway(B)];
    assert_eq!(members(&drained_one, &terms), "5:2x1 6:16x256");
    let old = Terms {
        buckets: Some(512),
        ..terms
    };
    assert_eq!(
        members(&drained_one, &old),
        "5:2x1 6:4x256",
        "fewer buckets"
    );
    let returned = [gateway(A), alone(B)];
    assert_eq!(members(&returned, &terms), "5:16x256 6:2x1");
}

#[test]
fn an_object_more_than_needed_leaves_as_a_gateway_does_unless_its_gateway_is_alone() {
    let joined = [alone(A), gateway(B)];
    assert_eq!(members(&joined, &BALANCE), "5:1 5:256 6:256");
    let mut idle = alone(A);
    idle.now[1] = leaving(A, 0, 9).now[0];
    idle.now[1].id = nexthop_id::duplicate(idle.id, 1);
    assert_eq!(members(&[idle, in_use(B)], &BALANCE), "5:1 6:1");
    let many = with(B, 16, in_use(B).now[0]);
    assert_eq!(members(&[drained(gateway(A)), many], &BALANCE), "6:2x1");
}

#[test]
fn undraining_halfway_cuts_nobody_either() {
    let undrained = [leaving(A, 7, 9), with(B, 16, in_use(B).now[0])];
    let terms = failover(Failback::AtOnce);
    assert_eq!(members(&undrained, &terms), "5:32x256 6:16x1");
}

/// The buckets that the kernel gives each member, by its rounding (`nh_res_group_rebalance`).
fn wanted_buckets(members: &[Member], buckets: u32) -> Vec<(Member, u32)> {
    let total: u32 = members.iter().map(|m| m.weight).sum();
    let (mut cumulated, mut before) = (0, 0);
    let mut of = |member: &Member| {
        cumulated += member.weight;
        let bound = (buckets * cumulated + total / 2) / total;
        let wanted = bound - before;
        before = bound;
        (*member, wanted)
    };
    members.iter().map(&mut of).collect()
}

#[test]
fn the_share_of_a_gateway_that_leaves_rounds_to_no_bucket() {
    let unequal = |weight| Candidate {
        weight,
        ..gateway(B)
    };
    for buckets in [512, 2048] {
        let terms = |strategy| Terms {
            strategy,
            buckets: Some(buckets),
            ..BALANCE
        };
        let strategy = Strategy::Failover {
            failback: Failback::Drain,
        };
        let cases = [
            (vec![drained(in_use(A)), gateway(B)], strategy),
            (vec![drained(alone(A)), gateway(B)], strategy),
            (
                vec![drained(alone(A)), drained(alone(B)), gateway(C)],
                strategy,
            ),
            (vec![drained(in_use(A)), gateway(B)], Strategy::Balance),
            (
                vec![drained(in_use(A)), unequal(100), gateway(C)],
                Strategy::Balance,
            ),
            (
                vec![drained(in_use(A)), drained(in_use(B)), gateway(C)],
                Strategy::Balance,
            ),
        ];
        for (candidates, strategy) in cases {
            let shared = share(&candidates, &terms(strategy));
            let members: Vec<Member> = shared.members.into_iter().map(|(_, m)| m).collect();
            let leaving: Vec<u32> = wanted_buckets(&arranged(&members), buckets)
                .into_iter()
                .filter(|(member, _)| is_leaving(*member, &members))
                .map(|(_, wanted)| wanted)
                .collect();
            assert!(!leaving.is_empty());
            assert!(leaving.iter().all(|wanted| *wanted == 0), "{leaving:?}");
        }
    }
}

#[test]
fn a_group_never_has_more_members_than_a_command_has_room_for() {
    let many = |host| with(host, 32, leaving(host, 1, 9).now[0]);
    let all: Vec<Candidate> = (1..=15).map(many).chain([gateway(16)]).collect();
    for strategy in [Strategy::Balance, failover(Failback::Drain).strategy] {
        let shared = share(
            &all,
            &Terms {
                strategy,
                ..BALANCE
            },
        );
        assert!(shared.members.len() <= MOST_MEMBERS);
    }
}

#[test]
fn a_group_is_written_again_in_each_quarter_of_its_idle_time() {
    let at = |now, seconds| idle_while_leaving(300, now, Duration::from_secs(seconds));
    assert_eq!(at(None, 0), FROZEN_IDLE, "nothing moves at first");
    assert_eq!(
        (at(Some(FROZEN_IDLE), 9), at(Some(FROZEN_IDLE), 10)),
        (FROZEN_IDLE, 300)
    );
    let (mut now, mut written) = (300, Vec::new());
    for seconds in 10..400 {
        let next = at(Some(now), seconds);
        written.extend((next != now).then_some(seconds));
        now = next;
    }
    assert_eq!(written, [75, 150, 225, 300, 375]);
    assert_eq!(
        (at(Some(301), 0), at(Some(300), 0)),
        (301, 300),
        "restarted"
    );
    assert_eq!(at(Some(20), 0), 300, "another limit");
}

#[test]
fn only_resilient_groups_of_ours_are_asked_about() {
    use crate::routing::state::Nexthop;
    let group = |protocol, resilient| Nexthop {
        protocol,
        kind: NexthopKind::Group {
            members: vec![Member::equal(1), Member { weight: 256, id: 2 }],
            resilient,
        },
    };
    let resilient = Some(Resilient {
        buckets: 512,
        idle: 15,
    });
    let mut kernel = Kernel::default();
    kernel.nexthops.insert(10, group(230, resilient));
    kernel.nexthops.insert(11, group(230, None));
    kernel.nexthops.insert(12, group(4, resilient));
    assert_eq!(
        super::leaving(&kernel, 230),
        BTreeMap::from([((10, 1), 15)])
    );
}
