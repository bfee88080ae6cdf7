//! Probing gateways: one task per distinct gateway and check, however many sets use the pair.
//!
//! This is the I/O around [`health`](crate::health): when a probe is sent, how long it may take and
//! where its result goes. What results mean is the state machine's, what health means for routes is
//! `resolve`'s. The modules below define the packets:
//!
//! - [`echo`]: ICMP echo to the gateway;
//! - [`connect`]: TCP connect to the gateway;
//! - [`through`]: either of them to a `target` beyond the gateway, regardless of the routing table.
//!
//! A probe that could not be sent for a local reason (permission, descriptors, buffers, a link that is
//! down) is no evidence about the gateway: it is reported, and is neither a success nor a failure.

pub mod connect;
pub mod echo;
mod filter;
mod packet;
pub mod through;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::Probe;
use crate::health::{HealthView, Initial, Machine, ProbeKey};
use crate::net::prefix::Family;

/// No check is probed more often than this, whatever its interval.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

/// The first probe of a task comes at a random moment within one interval, and at the latest after this.
const LONGEST_START: Duration = Duration::from_secs(1);

/// How long the preparation of a probe (a look-up of the gateway's link-layer address) may take.
const PREPARATION: Duration = Duration::from_secs(5);

/// How a gateway is reached now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePath {
    /// The device that it is on-link on; probes leave by it.
    pub dev: Box<str>,
    /// The device's index.
    pub index: u32,
    /// The node's address on that device, source of probes *through* the gateway.
    pub source: IpAddr,
}

/// Why a probe has no round-trip time to show. The texts are for a person, and the same each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The gateway (or its target) did not answer as it should: counts as a failure.
    Failed(String),
    /// Something on this node kept the probe from being sent: no verdict.
    Unsent(String),
}

/// Sends one kind of probe to one gateway.
pub trait Prober: Send {
    /// Gets ready for the next probe. What it takes is not charged to the gateway.
    fn prepare<'a>(&'a mut self, _path: &'a ProbePath) -> BoxFuture<'a, Result<(), Miss>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Sends one probe and waits for its answer; the round-trip time. Dropped when the check's timeout is over.
    fn probe<'a>(&'a mut self, path: &'a ProbePath) -> BoxFuture<'a, Result<Duration, Miss>>;
}

/// Who knows link-layer addresses; probes *through* a gateway are sent to its.
pub trait Neighbours: Send + Sync {
    /// The link-layer address of `gateway` on `dev`; `None` while the kernel knows none. Bounded in time.
    fn neighbour<'a>(
        &'a self,
        gateway: IpAddr,
        dev: &'a str,
    ) -> BoxFuture<'a, anyhow::Result<Option<[u8; 6]>>>;
}

type MakeProber = Box<dyn Fn(&ProbeKey) -> Box<dyn Prober> + Send>;

/// All probe tasks. They end when it is dropped.
pub struct Probes {
    make: MakeProber,
    tasks: BTreeMap<ProbeKey, Task>,
    view: Arc<watch::Sender<HealthView>>,
}

struct Task {
    path: watch::Sender<Option<ProbePath>>,
    abort: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl Probes {
    /// No tasks yet; probes are real packets.
    pub fn new(neighbours: Arc<dyn Neighbours>) -> Self {
        Self::with(move |key| match (target(key), key.check.probe) {
            (Some(target), _) => Box::new(through::Through::new(key, target, neighbours.clone())),
            (None, Probe::Tcp(port)) => Box::new(connect::Connect::new(key.gateway, port)),
            (None, Probe::Icmp | Probe::None) => Box::new(echo::Echo::new(key.gateway)),
        })
    }

    /// No tasks yet; `make` returns the prober of each key.
    pub fn with(make: impl Fn(&ProbeKey) -> Box<dyn Prober> + Send + 'static) -> Self {
        Self {
            make: Box::new(make),
            tasks: BTreeMap::new(),
            view: Arc::new(watch::Sender::new(HealthView::new())),
        }
    }

    /// What is known of each wanted key. Wakes when a verdict changes; reasons and round-trip
    /// times in it are always those of the last probe, but do not wake: a reason may flip with every probe.
    pub fn subscribe(&self) -> watch::Receiver<HealthView> {
        self.view.subscribe()
    }

    /// Makes the tasks equal to what is wanted: starts new ones, ends those no longer wanted, and leaves the
    /// others with their state and rhythm. Must be called within a tokio runtime.
    ///
    /// A key whose path is `None` (its gateway is not on-link now) keeps its state and is not probed until it
    /// has one again. Keys that check nothing (`type: none`) have no task and no health: they are `Unknown`, which counts
    /// as healthy. `adopted_down` holds the keys whose gateway the kernel shows as taken out by an earlier
    /// agent; it matters for keys that are new. A gateway whose check was edited keeps what was known of it.
    pub fn set(
        &mut self,
        wanted: &BTreeMap<ProbeKey, Option<ProbePath>>,
        adopted_down: &BTreeSet<ProbeKey>,
    ) {
        let before = self.view.borrow().clone();
        self.tasks.retain(|key, _| wanted.contains_key(key));
        let tasks = &self.tasks;
        self.view.send_if_modified(|view| {
            let before = view.len();
            view.retain(|key, _| tasks.contains_key(key));
            view.len() != before
        });
        for (key, path) in wanted
            .iter()
            .filter(|(key, _)| key.check.probe != Probe::None)
        {
            if let Some(task) = self.tasks.get(key) {
                task.path.send_if_modified(|old| {
                    let changed = old != path;
                    old.clone_from(path);
                    changed
                });
            } else {
                let is_wanted = |k: &ProbeKey| wanted.contains_key(k);
                let initial = Initial::of(key, &before, is_wanted, adopted_down);
                let task = self.start(key, path.clone(), initial);
                self.tasks.insert(key.clone(), task);
            }
        }
    }

    fn start(&self, key: &ProbeKey, path: Option<ProbePath>, initial: Initial) -> Task {
        let machine = Machine::new(&key.check, initial);
        self.view.send_modify(|view| {
            view.insert(key.clone(), machine.health());
        });
        let (sender, receiver) = watch::channel(path);
        let run = Run {
            key: key.clone(),
            prober: (self.make)(key),
            machine,
            paths: receiver,
            view: self.view.clone(),
        };
        Task {
            path: sender,
            abort: tokio::spawn(run.forever()).abort_handle(),
        }
    }
}

/// One task.
struct Run {
    key: ProbeKey,
    prober: Box<dyn Prober>,
    machine: Machine,
    paths: watch::Receiver<Option<ProbePath>>,
    view: Arc<watch::Sender<HealthView>>,
}

impl Run {
    /// Probes at every interval: never two at once, and at once after one that took longer. Missed moments are skipped.
    async fn forever(mut self) {
        let interval = self.key.check.interval.max(SHORTEST_INTERVAL);
        let start = Instant::now();
        let mut due = start + random_part(interval.min(LONGEST_START));
        loop {
            let path = self.paths.borrow_and_update().clone();
            let Some(path) = path else {
                self.machine
                    .no_verdict("not probed while the gateway is not on-link".to_owned());
                self.publish();
                if self.paths.changed().await.is_err() {
                    return;
                }
                due = Instant::now();
                continue;
            };
            tokio::select! {
                () = sleep_until(due) => {}
                changed = self.paths.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            match self.probe(&path).await {
                Ok(rtt) => _ = self.machine.feed(start.elapsed(), Ok(rtt)),
                Err(Miss::Failed(why)) => _ = self.machine.feed(start.elapsed(), Err(why)),
                Err(Miss::Unsent(why)) => self.machine.no_verdict(why),
            }
            self.publish();
            due = (due + interval).max(Instant::now());
        }
    }

    async fn probe(&mut self, path: &ProbePath) -> Result<Duration, Miss> {
        match timeout(PREPARATION, self.prober.prepare(path)).await {
            Ok(prepared) => prepared?,
            Err(_) => {
                return Err(Miss::Unsent(format!(
                    "no link-layer address of {} within {PREPARATION:?}",
                    self.key.gateway
                )));
            }
        }
        let check = &self.key.check;
        match timeout(check.timeout, self.prober.probe(path)).await {
            Ok(result) => result,
            Err(_) => Err(Miss::Failed(match target(&self.key) {
                None => format!("no answer within {:?}", check.timeout),
                Some(target) => format!(
                    "no answer from {target} through it within {:?}",
                    check.timeout
                ),
            })),
        }
    }

    fn publish(&self) {
        let health = self.machine.health();
        self.view.send_if_modified(|view| {
            // Absent when the key is no longer wanted and this task is about to end.
            let Some(old) = view.get_mut(&self.key) else {
                return false;
            };
            let notable = (old.state, old.ever_up) != (health.state, health.ever_up);
            *old = health;
            notable
        });
    }
}

/// What is probed through the gateway. A target of the other family is not for it: then it is probed itself.
fn target(key: &ProbeKey) -> Option<IpAddr> {
    key.check
        .target
        .filter(|target| Family::of(*target) == Family::of(key.gateway))
}

/// 64 bits that differ from call to call. Not for secrets.
fn random() -> u64 {
    // Each `RandomState` has other keys than the one before, the first ones from the kernel.
    RandomState::new().hash_one(0_u8)
}

/// A random part of a duration: nodes and gateways are not probed in step.
fn random_part(whole: Duration) -> Duration {
    let part = f64::from(u32::try_from(random() >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    whole.mul_f64(part)
}

/// Where a probe to the gateway itself goes; a link-local gateway needs the device's index.
fn socket_address(gateway: IpAddr, port: u16, path: &ProbePath) -> SocketAddr {
    match gateway {
        IpAddr::V6(address) if address.is_unicast_link_local() => {
            SocketAddrV6::new(address, port, 0, path.index).into()
        }
        _ => SocketAddr::new(gateway, port),
    }
}

/// Whether a socket's error is the gateway's or its network's, or this node's.
fn miss(doing: &str, error: &io::Error) -> Miss {
    let words = match error.kind() {
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => "connection reset",
        io::ErrorKind::TimedOut => "timed out",
        _ if error.raw_os_error() == Some(libc::EHOSTDOWN) => "host is down",
        _ => return Miss::Unsent(format!("not probed: {doing}: {error}")),
    };
    Miss::Failed(format!("{doing}: {words}"))
}

/// Binds a socket to the device that the routes use. Older kernels want `NET_RAW` for it; without, the routing table decides.
fn bind_device(socket: &socket2::Socket, path: &ProbePath) -> io::Result<()> {
    match socket.bind_device(Some(path.dev.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests;
