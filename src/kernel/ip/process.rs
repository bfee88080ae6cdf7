//! One run of `ip`: its input is complete before it starts, its output is bounded, and it is killed when its time is over.
//!
//! I/O only. What is asked, and what an answer means, is `ip`'s and `dump`'s.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::kernel::dump::{self, BatchErrors};

/// A chunk takes some 20 ms; ten seconds mean that it hangs.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// How often a dump is tried that the kernel interrupts; Felix tries as often.
const DUMP_TRIES: u32 = 5;
/// The longest answer but for routes, which are parsed as they come: 50,000 links are about as long.
const ANSWER_LIMIT: u64 = 64 << 20;
/// What of an `ip`'s stderr is kept: a full chunk of refusals is about 60 KB.
const STDERR_KEPT: u64 = 256 * 1024;

/// Runs one batch; what was refused, and what it printed where that goes to a pipe.
pub(super) async fn run_batch(
    arguments: &[&str],
    lines: &str,
    stdout: Stdio,
) -> anyhow::Result<(BatchErrors, Vec<u8>)> {
    let input = complete_input(lines).context("keeping a batch in memory for `ip`")?;
    let mut child = spawn(arguments, input, stdout)?;
    let printed = child.stdout.take();
    let mut stderr = child.stderr.take().context("no pipe from `ip`")?;
    let run = async {
        let (mut errors, mut out) = (Vec::new(), Vec::new());
        let print = async {
            match printed {
                Some(pipe) => pipe.take(ANSWER_LIMIT).read_to_end(&mut out).await,
                None => Ok(0),
            }
        };
        let (printed, read) = tokio::join!(print, read_bounded(&mut stderr, &mut errors));
        printed.context("reading the answers of `ip -batch`")?;
        read.context("reading the errors of `ip -batch`")?;
        let status = child.wait().await.context("waiting for `ip -batch`")?;
        anyhow::Ok((status, errors, out))
    };
    let Ok(done) = timeout(TIME_LIMIT, run).await else {
        end(&mut child).await;
        return Err(Hung).with_context(|| format!("running `ip {}`", arguments.join(" ")));
    };
    let (status, errors, out) = done?;
    let mut errors = dump::read_batch_errors(&String::from_utf8_lossy(&errors));
    let killed = status.signal().is_some();
    if errors.stopped.is_none() && (killed || (errors.refused.is_empty() && !status.success())) {
        errors.stopped = Some(format!(
            "`ip -batch` ended with {status} and printed nothing"
        ));
    }
    Ok((errors, out))
}

/// It did not end in time and was killed.
#[derive(Debug)]
pub struct Hung;

impl std::fmt::Display for Hung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "it did not end within {} s and was killed",
            TIME_LIMIT.as_secs()
        )
    }
}

impl std::error::Error for Hung {}

/// The dump changed under the reader; the same call may succeed.
#[derive(Debug)]
struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the kernel interrupted the dump, the table changes too fast")
    }
}

impl std::error::Error for Interrupted {}

/// Input that is complete before its reader starts, and cannot change. A pipe would be cut in the middle of a line
/// by the end of this process, and `ip` runs what is left of the line.
fn complete_input(lines: &str) -> io::Result<Stdio> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(memfd_create("egress-routes-batch", flags)?);
    file.write_all(lines.as_bytes())?;
    file.rewind()?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

pub(super) fn spawn(arguments: &[&str], stdin: Stdio, stdout: Stdio) -> anyhow::Result<Child> {
    Command::new("ip")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                anyhow!("`ip` is not on the PATH; egress-routes needs iproute2")
            }
            _ => anyhow::Error::from(e).context(format!("starting `ip {}`", arguments.join(" "))),
        })
}

/// Runs `ip` for its output, again when the kernel interrupted the dump.
pub(super) async fn output(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    patiently(|| output_once(arguments)).await
}

/// The kernel interrupts a dump when the table changes under it.
pub(super) async fn patiently<T, F: Future<Output = anyhow::Result<T>>>(
    dump: impl Fn() -> F,
) -> anyhow::Result<T> {
    let mut tries = 1;
    loop {
        match dump().await {
            Err(e) if tries < DUMP_TRIES && e.is::<Interrupted>() => tries += 1,
            done => return done,
        }
    }
}

async fn output_once(arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let what = || format!("running `ip {}`", arguments.join(" "));
    let mut child = spawn(arguments, Stdio::null(), Stdio::piped())?;
    let stdout = child.stdout.take().context("no pipe from `ip`")?;
    let read = async move {
        let mut out = Vec::new();
        stdout.take(ANSWER_LIMIT + 1).read_to_end(&mut out).await?;
        if out.len() as u64 > ANSWER_LIMIT {
            return Err(std::io::Error::other(format!(
                "it printed more than {} MiB",
                ANSWER_LIMIT >> 20
            )));
        }
        Ok(out)
    };
    finish(&mut child, read).await.with_context(what)
}

/// Waits for a reader of the child's stdout, its stderr and its end; what the reader made counts only
/// when the child ended well.
pub(super) async fn finish<T, E: Into<anyhow::Error>>(
    child: &mut Child,
    reader: impl Future<Output = Result<T, E>>,
) -> anyhow::Result<T> {
    let mut stderr = child.stderr.take().context("no pipe from `ip`")?;
    let mut errors = Vec::new();
    let run = async {
        let (made, read) = tokio::join!(reader, read_bounded(&mut stderr, &mut errors));
        read.context("reading its errors")?;
        let status = child.wait().await.context("waiting for its end")?;
        anyhow::Ok((made, status))
    };
    let Ok(done) = timeout(TIME_LIMIT, run).await else {
        end(child).await;
        bail!(Hung);
    };
    let (made, status) = done?;
    let errors = String::from_utf8_lossy(&errors);
    if errors.contains("interrupted") {
        bail!(Interrupted);
    }
    match made {
        // A reader that stops at nonsense ends the child by closing its pipe.
        Err(error) if status.success() || status.signal() == Some(libc::SIGPIPE) => {
            Err(error.into())
        }
        Ok(made) if status.success() => Ok(made),
        _ => {
            let words = errors
                .lines()
                .last()
                .unwrap_or("it printed nothing")
                .trim()
                .chars()
                .take(200)
                .collect::<String>();
            bail!("it ended with {status}: {words}")
        }
    }
}

async fn read_bounded(
    pipe: &mut (impl tokio::io::AsyncRead + Unpin),
    into: &mut Vec<u8>,
) -> std::io::Result<()> {
    (&mut *pipe).take(STDERR_KEPT).read_to_end(into).await?;
    // Keep draining, or the child would wait for us for ever.
    tokio::io::copy(pipe, &mut tokio::io::sink())
        .await
        .map(|_| ())
}

async fn end(child: &mut Child) {
    // Fails only when it has ended by itself; the wait is bounded because SIGKILL was sent.
    let _ = child.start_kill();
    let _ = timeout(Duration::from_secs(1), child.wait()).await;
}
