//! A program running in the laboratory: what it printed, how it ended, and that it ends with the test.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{self, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A program on a host; dropping it kills it, and nothing else.
#[derive(Debug)]
pub struct Running {
    child: process::Child,
    stdin: Option<ChildStdin>,
    output: Arc<Mutex<String>>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting nsenter");
        let output = Arc::new(Mutex::new(String::new()));
        collect(
            child.stdout.take().expect("stdout was piped"),
            Arc::clone(&output),
        );
        collect(
            child.stderr.take().expect("stderr was piped"),
            Arc::clone(&output),
        );
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            output,
        }
    }

    /// The program's own process id (of the host's process namespace).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything printed so far on stdout and stderr, line by line.
    pub fn log(&self) -> String {
        self.output
            .lock()
            .expect("no thread panics while it holds this")
            .clone()
    }

    /// Waits until something was printed; otherwise fails the test with all that was printed.
    pub fn wait_for(&self, text: &str, limit: Duration) {
        assert!(
            wait_until(limit, || self.log().contains(text)),
            "`{text}` was not logged within {limit:?}; what was:\n{}",
            self.log()
        );
    }

    /// Writes a line to its stdin.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is open until `hang_up`");
        writeln!(stdin, "{line}").expect("writing to a program's stdin");
    }

    /// Closes its stdin.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal by `kill`, such as `TERM` or `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([&format!("-{name}"), &self.pid().to_string()])
            .status()
            .expect("running kill");
        assert!(status.success(), "kill -{name} {}", self.pid());
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("asking for a child's state")
            .is_none()
    }

    /// Waits for its end and gives the exit code (-1: ended by a signal); `None` when it still runs after `limit`.
    pub fn ends(&mut self, limit: Duration) -> Option<i32> {
        let mut code = None;
        let _ = wait_until(limit, || {
            code = self
                .child
                .try_wait()
                .expect("asking for a child's state")
                .map(|status| status.code().unwrap_or(-1));
            code.is_some()
        });
        code
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Resident memory in KiB (`VmRSS`), and its highest value so far (`VmHWM`).
    pub fn memory_kib(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let of = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_whitespace().nth(1))
                .and_then(|kib| kib.parse().ok())
                .unwrap_or(0)
        };
        (of("VmRSS:"), of("VmHWM:"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("what a program of this test printed:\n{}", self.log());
        }
    }
}

/// Reads a stream to its end beside the test, so that a talkative program never stops at a full pipe.
fn collect(stream: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            into.lock()
                .expect("no thread panics while it holds this")
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}

/// Looks every few milliseconds until the condition holds; whether it did within the limit.
#[must_use = "assert it, and name what was waited for"]
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() >= limit {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}
