//! The abstract Unix socket `@egress-routes`: one agent per network namespace, and how commands ask it.
//!
//! I/O. Abstract names belong to the network namespace and end with their process, so nothing is left behind. Any process of the host
//! can take the name, so it is a lock and no authority: both sides look at the other's uid, which the kernel vouches for.
//! Whoever connects sends a word and gets the answer and the end of the stream.

use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::page::StatusPage;
use crate::report::status::Status;

const NAME: &str = "egress-routes";
/// Held by the agent that waits for its turn.
const NEXT: &str = "egress-routes-next";
/// How often a second agent tries to take the first one's place.
const TRY: Duration = Duration::from_millis(200);
/// How often one that waits reports what it waits for.
const REPEAT: Duration = Duration::from_mins(1);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(5);
/// How long the asking side has for its word; one of an earlier version sends none and wants the status.
const WORD: Duration = Duration::from_millis(500);
/// Questions at a time; a question that is not read must not keep a probe waiting.
const QUESTIONS: usize = 16;
/// The status of 1,000 sets with 1,000 skipped destinations each stays below.
const LONGEST_STATUS: u64 = 256 * 1024 * 1024;

/// Who is at the other end of a socket, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// In the user namespace of this process.
    pub uid: u32,
    /// `None`: in another pid namespace, such as another container's.
    pub pid: Option<i32>,
}

impl Peer {
    fn of(stream: &UnixStream) -> io::Result<Self> {
        let found = stream.peer_cred()?;
        Ok(Self {
            uid: found.uid(),
            pid: found.pid().filter(|pid| *pid > 0),
        })
    }

    /// Root, or the user of this process: nobody else may answer for an agent, or keep one busy.
    fn is_trusted(self) -> bool {
        self.uid == 0 || self.uid == own_uid()
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}, uid {}", self.uid),
            None => write!(f, "uid {}, in another pid namespace", self.uid),
        }
    }
}

/// The uid of this process; a file that it makes, or its directory in `/proc`, has no other.
fn own_uid() -> u32 {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").map_or(0, |found| found.uid())
}

/// Why the place of the one agent is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Another agent: it reports for this node.
    Agent(Peer),
    /// A process that is not root: no agent.
    Stranger(Peer),
    /// It was gone, or did not accept, when it was looked at.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(peer) => write!(
                f,
                "another agent ({peer}) runs in this network namespace (@egress-routes); waiting for its end"
            ),
            Self::Stranger(peer) => write!(
                f,
                "a process that is not root ({peer}) holds the socket @egress-routes and keeps this node's agent from starting; end that process"
            ),
            Self::Unknown => {
                f.write_str("the socket @egress-routes is held; waiting until it is free")
            }
        }
    }
}

/// The place of the one agent.
#[derive(Debug)]
pub struct AgentSocket(UnixListener);

fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

fn bind(name: &str) -> io::Result<StdListener> {
    address(name).and_then(|a| StdListener::bind_addr(&a))
}

/// `None`: no process listens.
fn connect(name: &str) -> io::Result<Option<UnixStream>> {
    let stream = match address(name).and_then(|a| StdStream::connect_addr(&a)) {
        Ok(stream) => stream,
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(e) => return Err(e),
    };
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream).map(Some)
}

fn holder() -> Holder {
    match connect(NAME).map(|stream| stream.map(|stream| Peer::of(&stream))) {
        Ok(Some(Ok(peer))) if peer.is_trusted() => Holder::Agent(peer),
        Ok(Some(Ok(peer))) => Holder::Stranger(peer),
        _ => Holder::Unknown,
    }
}

/// Whether another agent waits to take over. A process that is not root is none.
pub fn successor_waits() -> bool {
    matches!(connect(NEXT), Ok(Some(stream)) if Peer::of(&stream).is_ok_and(Peer::is_trusted))
}

impl AgentSocket {
    /// Waits until no other agent runs in this network namespace. `waits_for` is called at once, and once a minute, with the holder of the lock.
    pub async fn take(mut waits_for: impl FnMut(Holder)) -> anyhow::Result<Self> {
        let mut reported: Option<Instant> = None;
        let mut next = None;
        loop {
            match bind(NAME) {
                Ok(listener) => {
                    listener
                        .set_nonblocking(true)
                        .context("making @egress-routes non-blocking")?;
                    return Ok(Self(
                        UnixListener::from_std(listener).context("listening on @egress-routes")?,
                    ));
                }
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                    if reported.is_none_or(|at| at.elapsed() >= REPEAT) {
                        reported = Some(Instant::now());
                        waits_for(holder());
                    }
                    // Several may wait; one of them holds the name.
                    next = next.or_else(|| bind(NEXT).ok());
                    sleep(TRY).await;
                }
                Err(e) => return Err(e).context("binding the abstract socket @egress-routes"),
            }
        }
    }

    /// Answers for ever. `alive` is whether the agent's main loop goes round.
    pub async fn answer(self, page: StatusPage, alive: Arc<dyn Fn() -> bool + Send + Sync>) {
        let mut questions = JoinSet::new();
        loop {
            let Ok((stream, _)) = self.0.accept().await else {
                sleep(TRY).await;
                continue;
            };
            // Before anything is read: strangers cost a closed connection.
            if !Peer::of(&stream).is_ok_and(Peer::is_trusted) {
                continue;
            }
            while questions.try_join_next().is_some() {}
            if questions.len() >= QUESTIONS {
                questions.join_next().await;
            }
            let (page, alive) = (page.clone(), alive.clone());
            // Whoever asks and does not read is not waited for.
            questions.spawn(timeout(QUESTION, reply(stream, page, alive)));
        }
    }
}

async fn reply(
    mut stream: UnixStream,
    page: StatusPage,
    alive: Arc<dyn Fn() -> bool + Send + Sync>,
) -> io::Result<()> {
    let mut word = [0; 8];
    let length = timeout(WORD, stream.read(&mut word))
        .await
        .unwrap_or(Ok(0))?;
    let text_of = |verdict: Result<(), String>| {
        Bytes::from(verdict.map_or_else(|why| why, |()| OK.to_owned()))
    };
    let answer = match &word[..length] {
        b"live" if alive() => text_of(Ok(())),
        b"live" => text_of(Err("the main loop has stopped".to_owned())),
        b"ready" => text_of(page.readiness()),
        _ => page.json().unwrap_or_default(),
    };
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// The answer to a probe when all is well.
const OK: &str = "ok";

/// What the kubelet asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Probe {
    /// Whether the container has to be restarted.
    Live,
    /// Whether a rollout may go on: the configuration in force is in the kernel.
    Ready,
}

/// Asks the agent of this container, not that of another one in the same network namespace: its process has to be visible here.
///
/// Whoever keeps the agent from its place must not get it killed as well: one that waits is alive, and not ready.
pub async fn probe(probe: Probe) -> anyhow::Result<()> {
    let own =
        |stream: &UnixStream| Peer::of(stream).is_ok_and(|p| p.is_trusted() && p.pid.is_some());
    let running = connect(NAME).context("connecting to @egress-routes")?;
    if let Some(stream) = running.filter(own) {
        let word: &[u8] = match probe {
            Probe::Live => b"live",
            Probe::Ready => b"ready",
        };
        let answer = question(stream, word).await?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer == OK, "{answer}");
        return Ok(());
    }
    match probe {
        Probe::Live => Ok(()),
        Probe::Ready => bail!("{}", holder()),
    }
}

async fn question(mut stream: UnixStream, word: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let asking = async {
        stream.write_all(word).await?;
        stream.take(LONGEST_STATUS).read_to_end(&mut answer).await
    };
    timeout(QUESTION, asking)
        .await
        .context("the agent did not answer in time on @egress-routes")?
        .context("asking on @egress-routes")?;
    Ok(answer)
}

/// The node's name in the cluster, else the host's.
pub fn node_name(given: Option<&str>) -> String {
    let of_host =
        || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    given
        .map(str::to_owned)
        .or_else(|| of_host().ok())
        .unwrap_or_default()
}

/// The status of this network namespace's agent; `None` when there is none.
pub async fn ask() -> anyhow::Result<Option<Status>> {
    let Some(stream) = connect(NAME).context("connecting to @egress-routes")? else {
        return Ok(None);
    };
    let peer = Peer::of(&stream).context("looking at who holds @egress-routes")?;
    ensure!(
        peer.is_trusted(),
        "a process that is not root ({peer}) holds the socket @egress-routes; its answer is not believed"
    );
    let json = match question(stream, b"status").await {
        Ok(json) => json,
        Err(_) if own_uid() != 0 => bail!("the agent answers only to root"),
        Err(error) => return Err(error),
    };
    if json.is_empty() {
        ensure!(own_uid() == 0, "the agent answers only to root");
        bail!("the agent has just started and has no status yet; ask again in a moment");
    }
    serde_json::from_slice(&json)
        .context("the answer on @egress-routes is not a status; is the agent of another version?")
        .map(Some)
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::report::status::tests::example;

    async fn answer_to(word: &[u8], alive: bool) -> String {
        let (_sender, status) = watch::channel(Some(example()));
        let (asking, answering) = UnixStream::pair().unwrap();
        let alive = Arc::new(move || alive);
        tokio::spawn(reply(answering, StatusPage::new(status), alive));
        String::from_utf8(question(asking, word).await.unwrap()).unwrap()
    }

    #[tokio::test]
    async fn each_word_has_its_answer_and_no_word_is_the_status() {
        assert_eq!(answer_to(b"live", true).await, "ok");
        assert_eq!(answer_to(b"live", false).await, "the main loop has stopped");
        assert_eq!(answer_to(b"ready", true).await, "ok");
        for word in [&b"status"[..], b""] {
            let status: Status = serde_json::from_str(&answer_to(word, true).await).unwrap();
            assert_eq!(status, example());
        }
    }
}
