//! Tasks, rhythm and verdicts with a paused clock and a prober that only pretends; then real packets on loopback.

mod upkeep;

use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::{advance, sleep};

use super::*;
use crate::config::HealthCheck;
use crate::health::Health;
use crate::health::State;

const SECOND: Duration = Duration::from_secs(1);
const RTT: Duration = Duration::from_millis(3);

/// What pretended gateways do, and what was asked of them.
#[derive(Default)]
struct World {
    behaviour: Mutex<BTreeMap<IpAddr, Behaviour>>,
    sent: Mutex<Vec<(ProbeKey, Instant)>>,
    probers: AtomicUsize,
    at_once: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    Answers,
    Silent,
    AnswersAfter(Duration),
    NotSendable,
}

struct Pretended {
    key: ProbeKey,
    world: Arc<World>,
}

impl Prober for Pretended {
    fn probe<'a>(&'a mut self, _path: &'a ProbePath) -> BoxFuture<'a, Result<Duration, Miss>> {
        Box::pin(async {
            let behaviour = self
                .world
                .behaviour
                .lock()
                .unwrap()
                .get(&self.key.gateway)
                .copied();
            self.world
                .sent
                .lock()
                .unwrap()
                .push((self.key.clone(), Instant::now()));
            match behaviour.unwrap_or(Behaviour::Answers) {
                Behaviour::Answers => Ok(RTT),
                Behaviour::Silent => std::future::pending().await,
                Behaviour::AnswersAfter(delay) => {
                    self.world.at_once.fetch_add(1, Ordering::Relaxed);
                    sleep(delay).await;
                    Ok(delay)
                }
                Behaviour::NotSendable => Err(Miss::Unsent("not probed: no permission".to_owned())),
            }
        })
    }
}

impl World {
    fn probes(self: &Arc<Self>) -> Probes {
        let world = self.clone();
        Probes::with(move |key| {
            world.probers.fetch_add(1, Ordering::Relaxed);
            Box::new(Pretended {
                key: key.clone(),
                world: world.clone(),
            })
        })
    }

    fn let_be(&self, gateway: IpAddr, behaviour: Behaviour) {
        self.behaviour.lock().unwrap().insert(gateway, behaviour);
    }

    fn sent(&self) -> usize {
        self.sent.lock().unwrap().len()
    }

    fn sent_to(&self, key: &ProbeKey) -> usize {
        self.sent
            .lock()
            .unwrap()
            .iter()
            .filter(|(probed, _)| probed == key)
            .count()
    }
}

fn gateway(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 116, 0, n).into()
}

fn check(interval: Duration, timeout: Duration) -> HealthCheck {
    HealthCheck {
        probe: Probe::Icmp,
        interval,
        timeout,
        failures: 3,
        successes: 5,
        target: None,
    }
}

fn key(n: u8) -> ProbeKey {
    ProbeKey {
        gateway: gateway(n),
        check: check(SECOND, SECOND),
    }
}

fn path() -> ProbePath {
    ProbePath {
        dev: "eth1".into(),
        index: 3,
        source: gateway(100),
    }
}

fn wanted(keys: impl IntoIterator<Item = ProbeKey>) -> BTreeMap<ProbeKey, Option<ProbePath>> {
    keys.into_iter().map(|key| (key, Some(path()))).collect()
}

fn set(probes: &mut Probes, keys: impl IntoIterator<Item = ProbeKey>) {
    probes.set(&wanted(keys), &BTreeSet::new());
}

/// Waits until a gateway is in a state; what is known of all from then on.
async fn becomes(probes: &Probes, key: &ProbeKey, state: State) -> watch::Receiver<HealthView> {
    let mut view = probes.subscribe();
    view.wait_for(|view| view[key].state == state)
        .await
        .unwrap();
    view
}

fn health(probes: &Probes, key: &ProbeKey) -> Health {
    probes.subscribe().borrow()[key].clone()
}

#[tokio::test(start_paused = true)]
async fn sixteen_gateways_in_fifty_sets_cost_sixteen_probes_a_second() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    // Fifty sets name the same sixteen pairs; a map holds each once, and setting it again starts nothing.
    for _ in 0..50 {
        set(&mut probes, (1..=16).map(key));
    }
    sleep(Duration::from_secs(100)).await;
    assert_eq!(world.probers.load(Ordering::Relaxed), 16);
    let sent = world.sent();
    assert!(
        (1584..=1600).contains(&sent),
        "{sent} in 100 s, of which the first begins anywhere"
    );
    assert_eq!(probes.subscribe().borrow().len(), 16);
}

#[tokio::test(start_paused = true)]
async fn starts_are_spread_over_the_interval() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    let start = Instant::now();
    set(&mut probes, (1..=100).map(key));
    // Timers are good to a millisecond, and a second probe may come after the interval.
    sleep(SECOND + Duration::from_millis(2)).await;
    let mut firsts = BTreeMap::new();
    for (key, at) in world.sent.lock().unwrap().iter() {
        firsts.entry(key.clone()).or_insert(*at - start);
    }
    assert_eq!(
        firsts.len(),
        100,
        "every gateway had its first probe within one interval"
    );
    for tenth in 0..10 {
        let (from, to) = (SECOND * tenth / 10, SECOND * (tenth + 1) / 10);
        let count = firsts.values().filter(|at| (from..to).contains(at)).count();
        assert!(
            (1..=40).contains(&count),
            "{count} of 100 between {from:?} and {to:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_interval_does_not_delay_the_first_probe() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    set(
        &mut probes,
        [ProbeKey {
            gateway: gateway(1),
            check: check(SECOND * 3600, SECOND),
        }],
    );
    sleep(SECOND + Duration::from_millis(2)).await;
    assert_eq!(world.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_gateway_is_down_within_eight_tenths_of_a_second_at_three_times_200ms() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    let fast = Duration::from_millis(200);
    let key = ProbeKey {
        gateway: gateway(1),
        check: check(fast, fast),
    };
    set(&mut probes, [key.clone()]);
    let mut view = becomes(&probes, &key, State::Up).await;
    // The worst moment: right after a probe was answered.
    world.let_be(gateway(1), Behaviour::Silent);
    let cut = Instant::now();
    view.wait_for(|view| view[&key].state == State::Down)
        .await
        .unwrap();
    assert!(
        cut.elapsed() <= Duration::from_millis(810),
        "down after {:?}",
        cut.elapsed()
    );
    assert_eq!(
        health(&probes, &key).reason.as_deref(),
        Some("no answer within 200ms")
    );
}

#[tokio::test(start_paused = true)]
async fn a_returned_gateway_is_up_after_the_configured_successes_and_not_before() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    world.let_be(gateway(1), Behaviour::Silent);
    set(&mut probes, [key(1)]);
    let mut view = becomes(&probes, &key(1), State::Down).await;
    world.let_be(gateway(1), Behaviour::Answers);
    let sent = world.sent();
    view.wait_for(|view| view[&key(1)].state == State::Up)
        .await
        .unwrap();
    assert_eq!(world.sent() - sent, 5);
}

#[tokio::test(start_paused = true)]
async fn probes_never_overlap_and_moments_that_were_missed_are_skipped() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    world.let_be(
        gateway(1),
        Behaviour::AnswersAfter(Duration::from_millis(2500)),
    );
    set(
        &mut probes,
        [ProbeKey {
            gateway: gateway(1),
            check: check(SECOND, SECOND * 10),
        }],
    );
    sleep(Duration::from_secs(26)).await;
    let sent = world.sent();
    assert!(
        (10..=11).contains(&sent),
        "one every 2.5 s and no burst, not {sent}"
    );
    assert_eq!(world.at_once.load(Ordering::Relaxed), sent);
    world.let_be(gateway(1), Behaviour::Answers);
    sleep(Duration::from_secs(10)).await;
    assert!(
        (7..=11).contains(&(world.sent() - sent)),
        "after the last slow one, one a second and no burst: {}",
        world.sent() - sent
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_the_probes_ends_their_tasks() {
    let world = Arc::new(World::default());
    let mut probes = world.probes();
    set(&mut probes, [key(1)]);
    sleep(SECOND * 2).await;
    drop(probes);
    let sent = world.sent();
    sleep(SECOND * 10).await;
    assert_eq!(world.sent(), sent);
}

#[test]
fn errors_of_the_network_are_failures_and_errors_of_the_node_are_not() {
    let says = |errno| miss("ICMP echo", &io::Error::from_raw_os_error(errno));
    for errno in [
        libc::EHOSTUNREACH,
        libc::ENETUNREACH,
        libc::ECONNREFUSED,
        libc::ETIMEDOUT,
        libc::EHOSTDOWN,
    ] {
        assert!(matches!(says(errno), Miss::Failed(_)), "{:?}", says(errno));
    }
    for errno in [
        libc::EPERM,
        libc::EACCES,
        libc::ENOBUFS,
        libc::EMFILE,
        libc::ENOMEM,
        libc::ENODEV,
        libc::ENETDOWN,
        libc::EADDRNOTAVAIL,
    ] {
        assert!(matches!(says(errno), Miss::Unsent(_)), "{:?}", says(errno));
    }
    assert_eq!(
        says(libc::EHOSTUNREACH),
        Miss::Failed("ICMP echo: host unreachable".to_owned())
    );
}

mod loopback {
    use std::net::{Ipv6Addr, TcpListener};

    use super::*;

    fn by_loopback(source: IpAddr) -> ProbePath {
        ProbePath {
            dev: "lo".into(),
            index: 1,
            source,
        }
    }

    fn both() -> [IpAddr; 2] {
        [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    }

    #[tokio::test]
    async fn a_gateway_that_answers_echo_has_a_round_trip_time() {
        for address in both() {
            match echo::Echo::new(address).probe(&by_loopback(address)).await {
                Ok(rtt) => assert!(rtt < SECOND),
                Err(Miss::Unsent(why)) if why.contains("no permission") => {
                    // What an ordinary user gets where `ping_group_range` has no place for it.
                    let root = std::os::unix::fs::MetadataExt::uid(
                        &std::fs::metadata("/proc/self").unwrap(),
                    ) == 0;
                    assert!(!root, "{why}");
                }
                Err(other) => panic!("{address}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn an_open_port_answers_and_a_closed_one_is_a_failure() {
        for address in both() {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut prober = connect::Connect::new(address, port);
            assert!(
                prober
                    .probe(&by_loopback(address))
                    .await
                    .is_ok_and(|rtt| rtt < SECOND)
            );
            drop(listener);
            assert_eq!(
                prober.probe(&by_loopback(address)).await,
                Err(Miss::Failed(format!("TCP port {port}: connection refused"))),
                "{address}"
            );
        }
    }

    #[tokio::test]
    async fn a_device_that_is_gone_says_nothing_of_the_gateway() {
        let path = ProbePath {
            dev: "gone0".into(),
            index: 4_000_000,
            source: Ipv4Addr::LOCALHOST.into(),
        };
        for mut prober in [
            Box::new(echo::Echo::new(gateway(1))) as Box<dyn Prober>,
            Box::new(connect::Connect::new(gateway(1), 9)) as Box<dyn Prober>,
        ] {
            let result = prober.probe(&path).await;
            assert!(matches!(&result, Err(Miss::Unsent(_))), "{result:?}");
        }
    }

    #[tokio::test]
    async fn a_thousand_probes_leave_no_descriptor_open() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = IpAddr::from(Ipv4Addr::LOCALHOST);
        let port = listener.local_addr().unwrap().port();
        let accepting = std::thread::spawn(move || listener.incoming().take(1000).for_each(drop));
        let mut probers: [Box<dyn Prober>; 2] = [
            Box::new(echo::Echo::new(address)),
            Box::new(connect::Connect::new(address, port)),
        ];
        let sockets = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
                .filter(|target| target.to_string_lossy().starts_with("socket:"))
                .count()
        };
        let before = sockets();
        for _ in 0..1000 {
            for prober in &mut probers {
                let _ = prober.probe(&by_loopback(address)).await;
            }
        }
        accepting.join().unwrap();
        // Tests that run beside this one hold a few.
        assert!(
            sockets() < before + 100,
            "{before} before, {} after",
            sockets()
        );
    }
}
