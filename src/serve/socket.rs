//! The abstract Unix socket `@egress-routes`: one agent per network namespace, and a way to ask it.
//!
//! I/O. Abstract names belong to the network namespace and end with their process, so nothing is left
//! behind. Whoever connects gets the status as JSON and the end of the stream.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::report::status::Status;

const NAME: &str = "egress-routes";
/// How often a second agent tries to take the first one's place.
const TRY: Duration = Duration::from_millis(200);
/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(5);
/// The status of 1,000 sets with 1,000 skipped destinations each stays below.
const LONGEST_STATUS: u64 = 256 * 1024 * 1024;

/// The place of the one agent.
#[derive(Debug)]
pub struct AgentSocket(UnixListener);

/// Held by the agent that waits for its turn.
const NEXT: &str = "egress-routes-next";

fn address(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(name)
}

fn bind(name: &str) -> io::Result<StdListener> {
    address(name).and_then(|a| StdListener::bind_addr(&a))
}

/// Whether another agent waits to take over.
pub fn successor_waits() -> bool {
    bind(NEXT).is_err_and(|e| e.kind() == io::ErrorKind::AddrInUse)
}

impl AgentSocket {
    /// Waits until no other agent runs in this network namespace.
    pub async fn take() -> anyhow::Result<Self> {
        let mut told = false;
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
                    if !told {
                        told = true;
                        tracing::info!(
                            "Another agent runs in this network namespace (@egress-routes); waiting for its end"
                        );
                    }
                    // Several may wait; one of them holds the name.
                    next = next.or_else(|| bind(NEXT).ok());
                    sleep(TRY).await;
                }
                Err(e) => return Err(e).context("binding the abstract socket @egress-routes"),
            }
        }
    }

    /// Answers for ever, one after the other, each within a time limit.
    pub async fn answer(self, status: watch::Receiver<Option<Status>>) {
        loop {
            let Ok((mut stream, _)) = self.0.accept().await else {
                sleep(TRY).await;
                continue;
            };
            let json = status
                .borrow()
                .as_ref()
                .and_then(|s| serde_json::to_vec(s).ok())
                .unwrap_or_default();
            // Whoever asks and does not read is not waited for.
            let _ = timeout(QUESTION, async {
                stream.write_all(&json).await?;
                stream.shutdown().await
            })
            .await;
        }
    }
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

/// What the agent of this network namespace says; `None` when there is none.
pub async fn ask() -> anyhow::Result<Option<Status>> {
    let stream = match address(NAME).and_then(|a| StdStream::connect_addr(&a)) {
        Ok(stream) => stream,
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(e) => return Err(e).context("connecting to @egress-routes"),
    };
    stream
        .set_nonblocking(true)
        .context("making @egress-routes non-blocking")?;
    let stream = UnixStream::from_std(stream).context("connecting to @egress-routes")?;
    let mut json = Vec::new();
    let read = timeout(QUESTION, stream.take(LONGEST_STATUS).read_to_end(&mut json)).await;
    read.context("the agent did not answer in time on @egress-routes")?
        .context("reading from @egress-routes")?;
    if json.is_empty() {
        anyhow::bail!("the agent has just started and knows nothing yet; ask again in a moment");
    }
    serde_json::from_slice(&json)
        .context("what the agent says on @egress-routes is not a status; is it another version?")
        .map(Some)
}
