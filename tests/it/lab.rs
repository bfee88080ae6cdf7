//! A laboratory of network namespaces, private to one test.
//!
//! [`Lab::new`] starts a *holder*: a process with a mount and a network namespace of its own (and a user namespace, for a user who is not
//! root) and a fresh tmpfs on `/run`, so that `ip netns` in it is nobody else's. The holder lives on a pipe from the test: however the
//! test ends, `kill -9` included, the pipe closes, the holder ends and every host, link, route and mount of the laboratory is gone.
//! Programs started in it die with the test by `PR_SET_PDEATHSIG`. Nothing needs cleaning up and nothing is shared with other tests.
//!
//! A machine that cannot make namespaces fails the test: what was not tested should not look as if it had been.

mod reading;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::process::{self, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

mod blueprint;
#[path = "../../examples/echo.rs"]
mod echo;
mod node;
mod running;
mod tests;
mod volume;
mod wrapped_ip;

#[allow(unused_imports, reason = "offered to every test")]
pub use blueprint::*;
#[allow(unused_imports, reason = "offered to every test")]
pub use node::Node;
pub use running::{Running, wait_until};
pub use volume::Volume;
pub use wrapped_ip::WrappedIp;

/// The namespace that holds the switches: `nd`'s cable end is its `nd-eth1`, so `lab.ip(FABRIC, "link set nd-eth1 down")` pulls a plug.
pub const FABRIC: &str = "";
/// Where the echo host listens.
pub const ECHO_PORT: u16 = 7007;
/// The program under test.
pub const AGENT: &str = env!("CARGO_BIN_EXE_egress-routes");
/// A single command in a laboratory gets this many seconds.
const COMMAND_SECONDS: &str = "60";
/// What the test binary does instead of testing when it has to be the echo program: its arguments, one a line.
const ECHO_ARGS: &str = "EGRESS_ROUTES_TEST_ECHO";

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct CommandOutput {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// The laboratory; everything in it ends when this value does.
#[derive(Debug)]
pub struct Lab {
    holder: process::Child,
    /// The holder ends when this end of its stdin closes.
    _life: ChildStdin,
    needs_user_ns: bool,
    kept: Mutex<Vec<Running>>,
}

impl Lab {
    /// An empty laboratory: no hosts, no switches.
    pub fn new() -> Self {
        Self::start(!am_root())
    }

    /// The same in a user namespace of its own, also for root: with limits of its own (`/proc/sys/user`).
    pub fn unprivileged() -> Self {
        Self::start(true)
    }

    fn start(needs_user_ns: bool) -> Self {
        let mut command = Command::new("unshare");
        if needs_user_ns {
            command.args(["--user", "--map-root-user"]);
        }
        // `unshare` makes the mounts private, so the tmpfs is seen by nobody outside.
        command.args(["--mount", "--net", "sh", "-ec"]);
        command.arg("mount -t tmpfs lab /run; mkdir /run/netns; ip link set lo up; echo ready; exec cat >/dev/null");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut holder = command
            .spawn()
            .expect("`unshare` of util-linux is needed for namespace tests");
        let life = holder.stdin.take().expect("stdin was piped");
        let mut first = String::new();
        BufReader::new(holder.stdout.take().expect("stdout was piped"))
            .read_line(&mut first)
            .expect("reading the holder's first line");
        if first.trim() != "ready" {
            let mut why = String::new();
            let _ = holder
                .stderr
                .take()
                .expect("stderr was piped")
                .read_to_string(&mut why);
            panic!(
                "this machine cannot make network namespaces, which these tests need (root, or user namespaces allowed): {why}"
            );
        }
        Self {
            holder,
            _life: life,
            needs_user_ns,
            kept: Mutex::default(),
        }
    }

    /// Adds a host: a network namespace with its loopback up.
    pub fn host(&self, name: &str) -> &Self {
        self.must(FABRIC, &["ip", "netns", "add", name]);
        self.ip(name, "link set lo up");
        self
    }

    /// Adds a switch: a bridge in the fabric.
    pub fn switch(&self, name: &str) -> &Self {
        // Snooping would drop neighbour discovery until a querier appears, that is, for ever.
        self.ip(
            FABRIC,
            &format!("link add {name} up type bridge mcast_snooping 0 forward_delay 0"),
        );
        self
    }

    /// Gives a host an interface on a switch, with addresses. The cable's other end is `HOST-INTERFACE` in the fabric.
    pub fn plug(&self, host: &str, interface: &str, switch: &str, addresses: &[&str]) -> &Self {
        let end = format!("{host}-{interface}");
        self.ip(
            FABRIC,
            &format!(
                "link add {end} up master {switch} type veth peer name {interface} netns {host}"
            ),
        );
        self.addresses(host, interface, addresses)
    }

    /// A cable between two hosts, each end `(host, interface, addresses)`.
    pub fn link(&self, one: (&str, &str, &[&str]), two: (&str, &str, &[&str])) -> &Self {
        self.ip(
            FABRIC,
            &format!(
                "link add {} netns {} type veth peer name {} netns {}",
                one.1, one.0, two.1, two.0
            ),
        );
        self.addresses(one.0, one.1, one.2);
        self.addresses(two.0, two.1, two.2)
    }

    fn addresses(&self, host: &str, interface: &str, addresses: &[&str]) -> &Self {
        let mut lines = format!("link set {interface} up\n");
        for address in addresses {
            // Duplicate address detection would leave an IPv6 address unusable for a second.
            let dad = if address.contains(':') { " nodad" } else { "" };
            let _ = writeln!(lines, "addr add {address} dev {interface}{dad}");
        }
        self.batch(host, &lines);
        self
    }

    /// `ip ARGS` on a host; fails the test when `ip` fails.
    pub fn ip(&self, host: &str, args: &str) -> String {
        let words: Vec<&str> = std::iter::once("ip")
            .chain(args.split_whitespace())
            .collect();
        self.must(host, &words)
    }

    /// `ip -batch` on a host; fails the test when one line fails.
    pub fn batch(&self, host: &str, lines: &str) {
        let output = self.run_with_input(host, &["ip", "-batch", "-"], lines);
        assert_eq!(
            output.code, 0,
            "ip -batch on `{host}`:\n{}{}",
            output.out, output.err
        );
    }

    /// `ip -j ARGS` on a host, such as `-4 route show table all`.
    pub fn json(&self, host: &str, args: &str) -> serde_json::Value {
        let output = self.ip(host, &format!("-j -N {args}"));
        if output.trim().is_empty() {
            return serde_json::Value::Array(Vec::new()); // `ip -j` prints nothing for an empty list
        }
        serde_json::from_str(&output)
            .unwrap_or_else(|why| panic!("`ip -j {args}` output {output:?}: {why}"))
    }

    /// Loads nftables rules on a host.
    pub fn nft(&self, host: &str, rules: &str) {
        let output = self.run_with_input(host, &["nft", "-f", "-"], rules);
        assert_eq!(output.code, 0, "nft on `{host}`: {}", output.err);
    }

    /// Sets a kernel parameter, `net.ipv4.ip_forward` style; interface names must not hold dots.
    pub fn sysctl(&self, host: &str, name: &str, value: &str) {
        self.must(
            host,
            &[
                "sh",
                "-ec",
                &format!("echo {value} > /proc/sys/{}", name.replace('.', "/")),
            ],
        );
    }

    /// Runs a command on a host to its end (at most a minute: exit code 124).
    pub fn run<S: AsRef<OsStr>>(&self, host: &str, args: &[S]) -> CommandOutput {
        self.run_with_input(host, args, "")
    }

    /// Runs a command on a host with something to read on stdin.
    pub fn run_with_input<S: AsRef<OsStr>>(
        &self,
        host: &str,
        args: &[S],
        input: &str,
    ) -> CommandOutput {
        self.run_command(&mut self.command(host, args, true), input)
    }

    /// As [`Lab::run`], with environment variables.
    pub fn run_with_env<S: AsRef<OsStr>>(
        &self,
        host: &str,
        args: &[S],
        env: &[(&str, &str)],
    ) -> CommandOutput {
        self.run_command(self.command(host, args, true).envs(env.iter().copied()), "")
    }

    fn run_command(&self, command: &mut Command, input: &str) -> CommandOutput {
        let _ = self;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting nsenter");
        let mut stdin = child.stdin.take().expect("stdin was piped");
        let input = input.to_owned();
        // Written beside the reading, or a command that answers while it reads would stop both.
        let writer = thread::spawn(move || {
            let _ = stdin.write_all(input.as_bytes());
        });
        let output = child.wait_with_output().expect("waiting for a command");
        let _ = writer.join();
        CommandOutput {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a command that has to succeed; gives its stdout.
    pub fn must<S: AsRef<OsStr>>(&self, host: &str, args: &[S]) -> String {
        let output = self.run(host, args);
        let words: Vec<_> = args
            .iter()
            .map(|word| word.as_ref().to_string_lossy())
            .collect();
        assert_eq!(
            output.code,
            0,
            "`{}` on `{host}` failed:\n{}{}",
            words.join(" "),
            output.out,
            output.err
        );
        output.out
    }

    /// Starts a command on a host; it is killed when the guard is dropped, or the test's thread ends.
    pub fn spawn<S: AsRef<OsStr>>(&self, host: &str, args: &[S]) -> Running {
        Running::start(self.command(host, args, false))
    }

    /// As [`Lab::spawn`], with environment variables.
    pub fn spawn_with_env<S: AsRef<OsStr>>(
        &self,
        host: &str,
        args: &[S],
        env: &[(&str, &str)],
    ) -> Running {
        let mut command = self.command(host, args, false);
        command.envs(env.iter().copied());
        Running::start(command)
    }

    /// Runs the agent's program to its end, such as `lab.egress_routes("nd", &["cleanup"])`.
    pub fn egress_routes(&self, host: &str, args: &[&str]) -> CommandOutput {
        self.run(host, &with_program(args))
    }

    /// Starts the agent on a configuration directory, without a cluster, with further flags of `run`.
    pub fn agent(&self, host: &str, config: &Path, flags: &[&str]) -> Running {
        let config = config.to_str().expect("temporary paths are text");
        let args: Vec<&str> = ["run", "--config", config]
            .into_iter()
            .chain(flags.iter().copied())
            .collect();
        self.spawn(host, &with_program(&args))
    }

    /// Gives every host a pod's credentials, where the kubelet mounts them.
    pub fn credentials(&self, namespace: &str, token: &str, authority: &str) {
        let script = format!(
            "[ -L /var/run ] || mount -t tmpfs lab /var/run\n\
             cd /var/run; mkdir -p secrets/kubernetes.io/serviceaccount; cd secrets/kubernetes.io/serviceaccount\n\
             printf %s '{namespace}' >namespace; printf %s '{token}' >token\ncat >ca.crt <<'END'\n{authority}\nEND\n"
        );
        self.must(FABRIC, &["sh", "-ec", &script]);
    }

    /// The command line that runs `args` on a host. No process is left between: the child's pid is the program's own.
    fn command<S: AsRef<OsStr>>(&self, host: &str, args: &[S], limited: bool) -> Command {
        let holder = self.holder.id();
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={holder}")).arg("--mount");
        if self.needs_user_ns {
            command.args(["--user", "--preserve-credentials"]);
        }
        // Not `ip netns exec`: it mounts sysfs anew, which a user namespace may not be allowed to.
        if host == FABRIC {
            command.arg("--net");
        } else {
            command.arg(format!("--net=/proc/{holder}/root/run/netns/{host}"));
        }
        // After the namespaces are entered, because a change of credentials would clear it.
        command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
        if limited {
            command.args(["timeout", "--kill-after=1", COMMAND_SECONDS]);
        }
        command.args(args).env("LC_ALL", "C");
        // A developer's own cluster is none of the tests' business.
        command
            .env_remove("KUBECONFIG")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env_remove("NODE_NAME");
        command
    }

    /// Starts the echo host on `host` (TCP on all its addresses, port [`ECHO_PORT`]) and returns when it listens.
    pub fn echo_server(&self, host: &str, udp: &[&str]) -> Running {
        let port = ECHO_PORT.to_string();
        let server = self.echo(host, &[&["serve", &port], udp].concat());
        server.wait_for("echo: ready", Duration::from_secs(10));
        server
    }

    /// Starts the echo program, for example `["hold", "500", "7007", address, …]`; see `examples/echo.rs`.
    pub fn echo(&self, host: &str, args: &[&str]) -> Running {
        let mut command = self.command(host, &echo_program(), false);
        command.env(ECHO_ARGS, args.join("\n"));
        Running::start(command)
    }

    /// Which source address the echo host sees for a TCP connection from `host` to each address; `None`: no answer in half a second.
    pub fn sources(&self, host: &str, to: &[&str]) -> BTreeMap<IpAddr, Option<IpAddr>> {
        let port = ECHO_PORT.to_string();
        let args = [&["ask", "500", &port], to].concat().join("\n");
        let output = self.run_with_env(host, &echo_program(), &[(ECHO_ARGS, &args)]);
        let answers: BTreeMap<_, _> = output
            .out
            .lines()
            .filter_map(|line| line.strip_prefix("echo: ")?.split_once(' '))
            .filter_map(|(address, source)| Some((address.parse().ok()?, source.parse().ok())))
            .collect();
        assert!(
            to.is_empty() || !answers.is_empty(),
            "the echo client output: {}{}",
            output.out,
            output.err
        );
        answers
    }

    /// Which source address the echo host sees for a connection from `host` to `to`, as text; `-` when there was no answer.
    pub fn source(&self, host: &str, to: &str) -> String {
        let answers = self.sources(host, &[to]);
        answers
            .into_values()
            .next()
            .flatten()
            .map_or_else(|| "-".to_owned(), |source| source.to_string())
    }

    /// Keeps a program running for as long as the laboratory.
    pub fn keep(&self, program: Running) -> &Self {
        self.kept
            .lock()
            .expect("no thread panics while it holds this")
            .push(program);
        self
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Its life line closes with this value as well; this only saves waiting for it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

pub fn am_root() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .any(|line| line.split_whitespace().take(3).eq(["Uid:", "0", "0"]))
    })
}

fn with_program<'a>(args: &[&'a str]) -> Vec<&'a str> {
    std::iter::once(AGENT).chain(args.iter().copied()).collect()
}

/// The test binary itself, which [`ECHO_ARGS`] makes the echo program: `cargo test --test it` builds no example.
fn echo_program() -> [String; 4] {
    let me = std::env::current_exe().expect("the path of the test binary");
    let test = "lab::tests::the_echo_host_answers_with_the_source_that_it_sees";
    [
        me.to_str().expect("build paths are text").to_owned(),
        "--exact".into(),
        test.into(),
        "--nocapture".into(),
    ]
}
