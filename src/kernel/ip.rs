//! Running `ip`: one read of all that matters, and batches of at most [`CHUNK`] lines.
//!
//! I/O only: what `ip` prints is read by `dump` and `saved`, decisions are `diff`'s, a single run is `process`'s. A dump that failed, or
//! that the kernel calls inconsistent, is an error and never an empty table.

mod process;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

use crate::health::probe::Neighbours;
use crate::kernel::changes::Changes;
use crate::kernel::dump;
use crate::kernel::dump::BatchErrors;
use crate::kernel::saved::{self, Saved};
use crate::kernel::socket;
use crate::net::prefix::Family;
use crate::routing::batch::Ownership;
use crate::routing::share;
use crate::routing::state::Kernel;
pub use process::Hung;
use process::{finish, output, patiently, run_batch, spawn};
pub use version::Unfit;
use version::is_fit;

/// Lines of one batch: iproute2 before 6.2 keeps about 4 KiB of each (its commit 6d25be27), and more
/// than this gains little.
pub const CHUNK: usize = 1000;
/// How often IPv6 routes are read while others change them.
const CHURN_TRIES: u32 = 4;
/// Why something could not be made certain, for a person.
pub const CHURN: &str = "churn: other IPv6 routes changed during each of several reads, and then the kernel's answers are not whole";
/// How often that is reported at most.
const CHURN_REPORTS: Duration = Duration::from_mins(10);
/// The pause before the next try; doubles each time. What changes in bursts leaves such gaps.
const CHURN_PAUSE: Duration = Duration::from_millis(10);
/// The default size of a pipe.
const PIPE: usize = 64 * 1024;
/// About as long as `ip` takes to fill it with routes.
const FILLING: Duration = Duration::from_micros(500);
/// Which kernel state is read and written: the seam between `apply` and the world.
pub trait RouteTable {
    /// Routes, nexthops, links and addresses. An error means that nothing is known.
    fn read(&self) -> impl Future<Output = anyhow::Result<Kernel>>;
    /// The same, only to compare it with an earlier read: at half the cost, because routes come from a socket of ours and not from
    /// `ip`. Nothing is written that was decided on it. `None` where the socket leaves a doubt.
    fn read_to_compare(&self) -> impl Future<Output = anyhow::Result<Option<Kernel>>>;
    /// Nexthops, links and addresses only; takes a few milliseconds however many routes there are.
    fn read_nexthops(&self) -> impl Future<Output = anyhow::Result<Kernel>>;
    /// Runs one batch of at most [`CHUNK`] lines. `Ok` holds what was refused, not what was applied:
    /// that only a read shows. `family` is for lines that do not state theirs.
    fn write(
        &self,
        family: Option<Family>,
        lines: &str,
    ) -> impl Future<Output = anyhow::Result<BatchErrors>>;
    /// What is wrong with the program `ip` itself, if anything.
    fn unfit(&self) -> impl Future<Output = Option<Unfit>>;
}

/// The real `ip`, found by `PATH`.
#[derive(Clone, Debug)]
pub struct Ip {
    /// What is ours.
    pub ownership: Ownership,
    /// Since when members are seen leaving their groups.
    leaving: Arc<Mutex<BTreeMap<(u32, u32), Instant>>>,
}

impl Ip {
    /// With what is ours.
    pub fn new(ownership: Ownership) -> Self {
        Self {
            ownership,
            leaving: Arc::default(),
        }
    }

    /// Makes sure that `ip` is iproute2 and new enough; busybox has neither `-batch` nor `nexthop`.
    pub async fn check_version(&self) -> anyhow::Result<()> {
        let out = output(&["-V"]).await?;
        is_fit(&String::from_utf8_lossy(&out)).map_err(anyhow::Error::from)
    }

    async fn read_routes(&self, family: Family) -> anyhow::Result<Saved> {
        patiently(|| self.save_routes(family)).await
    }

    /// Reads IPv6 routes until none changed meanwhile; after some tries, what all of them saw, and false.
    async fn read_v6_routes(&self) -> anyhow::Result<(Saved, bool)> {
        let mut all: Option<Saved> = None;
        for attempt in 0..CHURN_TRIES {
            if attempt > 0 {
                tokio::time::sleep(CHURN_PAUSE * (1 << (attempt - 1))).await;
            }
            let changes = Changes::of_v6_routes().context("listening for route changes")?;
            let routes = self.read_routes(Family::V6).await?;
            if !changes.seen() {
                return Ok((routes, true));
            }
            match &mut all {
                Some(all) => all.merge(routes),
                none => *none = Some(routes),
            }
        }
        report_churn();
        Ok((all.unwrap_or_default(), false))
    }

    /// What members that leave our groups still carry. Asks only where there are such.
    async fn read_leaving(&self, kernel: &mut Kernel) -> anyhow::Result<()> {
        let found = share::leaving(kernel, self.ownership.protocol);
        let members: BTreeSet<u32> = found.keys().map(|(_, member)| *member).collect();
        for member in members {
            let member = member.to_string();
            let json = output(&["-j", "nexthop", "bucket", "show", "nhid", &member]).await?;
            dump::read_buckets(&json, &found, &mut kernel.leaving)
                .context("parsing `ip -j nexthop bucket show`")?;
        }
        let now = Instant::now();
        let mut since = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|key, _| found.contains_key(key));
        for key in found.into_keys() {
            let first = *since.entry(key).or_insert(now);
            kernel.leaving.entry(key).or_default().since = now.duration_since(first);
        }
        Ok(())
    }

    /// A whole read from its parts.
    async fn with_routes(&self, rest: Kernel, routes: [Saved; 2]) -> anyhow::Result<Kernel> {
        let mut kernel = rest;
        for of_family in routes {
            of_family.into_kernel(&mut kernel);
        }
        kernel.own.sort_unstable();
        // A dump may list an IPv6 route twice, and the kernel never has two that are the same.
        kernel
            .own
            .dedup_by(|a, b| a == b && a.key.prefix.family() == Family::V6);
        self.read_leaving(&mut kernel).await?;
        Ok(kernel)
    }

    async fn save_routes(&self, family: Family) -> anyhow::Result<Saved> {
        let arguments = [family_flag(family), "route", "save", "table", "all"];
        let what = || format!("reading the routes with `ip {}`", arguments.join(" "));
        let mut child = spawn(&arguments, Stdio::null(), Stdio::piped())?;
        let stdout = child.stdout.take().context("no pipe from `ip`")?;
        let stdout = File::from(
            stdout
                .into_owned_fd()
                .context("taking the pipe from `ip`")?,
        );
        set_blocking(&stdout)?;
        let ownership = self.ownership;
        // On a thread of its own: what comes is read as it comes, and the agent continues.
        let parse = tokio::task::spawn_blocking(move || {
            let pipe = BufReader::with_capacity(PIPE, Gathering(stdout));
            saved::read_routes(pipe, family, &ownership)
        });
        let parse = async {
            let read = parse.await.context("parsing")?;
            read.map_err(|why| anyhow!("parsing: {why}"))
        };
        finish(&mut child, parse).await.with_context(what)
    }

    /// Runs a batch that asks; what it printed, and which lines were refused.
    pub(super) async fn ask(lines: &str) -> anyhow::Result<(BatchErrors, Vec<u8>)> {
        let arguments = ["-j", "-d", "-N", "-force", "-batch", "-"];
        run_batch(&arguments, lines, Stdio::piped()).await
    }

    /// What `ip rule` shows of a family, as JSON.
    pub(super) async fn show_rules(family: Family) -> anyhow::Result<Vec<u8>> {
        output(&["-j", "-N", family_flag(family), "rule", "show"]).await
    }

    /// The hardware address that the kernel's neighbour table has for a gateway.
    pub async fn neighbour(&self, gateway: IpAddr, dev: &str) -> anyhow::Result<Option<[u8; 6]>> {
        #[derive(serde::Deserialize)]
        struct Raw {
            #[serde(default)]
            lladdr: Option<Box<str>>,
        }
        let gateway = gateway.to_string();
        let json = output(&["-j", "neigh", "show", "to", &gateway, "dev", dev]).await?;
        if json.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let list: Vec<Raw> = serde_json::from_slice(&json).context("parsing `ip -j neigh show`")?;
        Ok(list.into_iter().find_map(|n| parse_mac(&n.lladdr?)))
    }
}

impl Neighbours for Ip {
    fn neighbour<'a>(
        &'a self,
        gateway: IpAddr,
        dev: &'a str,
    ) -> futures::future::BoxFuture<'a, anyhow::Result<Option<[u8; 6]>>> {
        Box::pin(Ip::neighbour(self, gateway, dev))
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut octets = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(octets.next()?, 16).ok()?;
    }
    octets.next().is_none().then_some(mac)
}

impl RouteTable for Ip {
    async fn read(&self) -> anyhow::Result<Kernel> {
        let (v4, v6, rest) = tokio::try_join!(
            self.read_routes(Family::V4),
            self.read_v6_routes(),
            self.read_nexthops()
        )?;
        let (v6, certain) = v6;
        let mut kernel = self.with_routes(rest, [v4, v6]).await?;
        kernel.uncertain_v6 = !certain;
        Ok(kernel)
    }

    async fn read_to_compare(&self) -> anyhow::Result<Option<Kernel>> {
        let ownership = self.ownership;
        // On a thread of its own, so that the agent continues.
        let routes = tokio::task::spawn_blocking(move || socket::routes_of_both(&ownership));
        let (routes, rest) = tokio::join!(routes, self.read_nexthops());
        let rest = rest?;
        match routes.context("reading the routes from a socket")? {
            Ok(routes) => self.with_routes(rest, routes).await.map(Some),
            Err(why) => {
                tracing::debug!("`ip` reads the routes, because a socket did not: {why}");
                Ok(None)
            }
        }
    }

    async fn read_nexthops(&self) -> anyhow::Result<Kernel> {
        let (nexthops, links) = tokio::try_join!(
            output(&["-j", "-N", "nexthop", "show"]),
            output(&["-j", "-N", "addr", "show"])
        )?;
        let mut kernel = Kernel::default();
        dump::read_nexthops(&nexthops, &mut kernel).context("parsing `ip -j -N nexthop show`")?;
        dump::read_links(&links, &mut kernel).context("parsing `ip -j -N addr show`")?;
        if kernel.links.is_empty() {
            bail!("`ip -j -N addr show` shows no interface, not even `lo`");
        }
        Ok(kernel)
    }

    async fn unfit(&self) -> Option<Unfit> {
        self.check_version().await.err()?.downcast().ok()
    }

    async fn write(&self, family: Option<Family>, lines: &str) -> anyhow::Result<BatchErrors> {
        let mut arguments = vec!["-force", "-batch", "-"];
        arguments.splice(0..0, family.map(family_flag));
        let (errors, _) = run_batch(&arguments, lines, Stdio::null()).await?;
        Ok(errors)
    }
}

/// A pipe from an `ip` that writes each route by itself. Who waits in `read` is woken for each of them, which costs more than the
/// rest of the reading; so after an answer that was short it is left to fill.
struct Gathering(File);

impl Read for Gathering {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer)?;
        if (1..PIPE / 2).contains(&read) {
            std::thread::sleep(FILLING);
        }
        Ok(read)
    }
}

const fn family_flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
    }
}

/// Once in a while: it lasts as long as the other program's changes.
fn report_churn() {
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() >= CHURN_REPORTS) {
        *last = Some(Instant::now());
        tracing::warn!("{CHURN}; until they are quiet IPv6 routes are only added");
    }
}

/// `tokio` made the pipe non-blocking; the parser's thread wants to wait on it.
fn set_blocking(pipe: &std::fs::File) -> anyhow::Result<()> {
    socket2::SockRef::from(pipe)
        .set_nonblocking(false)
        .context("making the pipe from `ip` blocking")
}
