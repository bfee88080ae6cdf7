//! A real API server with its etcd, from the directory that `KUBEBUILDER_ASSETS` names, as the envtest convention has it.
//!
//! Both programs are children of a shell that lives on a pipe from the test: however the test ends, the pipe closes, the shell ends
//! exactly these two and removes their directory. The test process shares one server ([`shared`]); tests keep out of each other's
//! way by nodes and namespaces of their own ([`Server::install`]).

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use egress_routes::cluster::client::Api;
use egress_routes::report::metrics::Metrics;
use k8s_openapi::jiff::Timestamp;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use crate::lab::{CommandOutput, Lab, Running, wait_until};

mod installed;

pub use installed::Installed;

/// The address that the server publishes behind the `kubernetes` Service; nothing is there.
pub const ADVERTISED: &str = "192.0.2.10";
/// Who may do everything.
const ADMIN_TOKEN: &str = "the-test-is-admin";
/// A server on a busy machine takes some 15 s.
const START: Duration = Duration::from_mins(2);

/// Commands are `stop` and `start`, a line each, for the API server; the end of them is the end of all.
const SCRIPT: &str = r#"
trap '' INT
cd "$1"; assets=$2 address=$3 port=$4 client=http://127.0.0.1:$5 peer=http://127.0.0.1:$6
"$assets/etcd" --name test --data-dir "$1/etcd" --unsafe-no-fsync --listen-client-urls $client --advertise-client-urls $client \
  --listen-peer-urls $peer --initial-advertise-peer-urls $peer --initial-cluster test=$peer >etcd.log 2>&1 </dev/null &
etcd=$!
start() {
  "$assets/kube-apiserver" --etcd-servers $client --cert-dir "$1/certs" --bind-address $address --secure-port $port \
    --advertise-address $7 --audit-policy-file audit.json --audit-log-path "$1/audit.log" --audit-log-maxsize 1000 --service-cluster-ip-range 10.96.0.0/24 --authorization-mode RBAC --token-auth-file admin.csv \
    --service-account-issuer https://test --api-audiences https://test --service-account-key-file "$1/certs/apiserver.key" \
    --service-account-signing-key-file "$1/certs/apiserver.key" --disable-admission-plugins ServiceAccount >>api.log 2>&1 </dev/null &
  api=$!
}
end() { kill -9 $api; wait $api; } 2>/dev/null
start "$@"
while read -r word; do case $word in stop) end ;; start) start "$@" ;; esac; done
end; kill -9 $etcd; wait $etcd 2>/dev/null; cd /; rm -rf "$1"
"#;

/// What is in the audit log: every request of a service account, when it was over.
const AUDIT: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
  "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]}"#;

/// A request as the server saw it, from its audit log.
#[derive(Clone, Debug)]
pub struct Audited {
    pub verb: String,
    /// Such as `nodes`; the path where there is no resource.
    pub resource: String,
    pub name: String,
    /// What follows `?`.
    pub query: String,
    pub code: u64,
    pub received: Timestamp,
    /// From then to the end of the answer.
    pub took: Duration,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    holder: Mutex<Running>,
    dir: PathBuf,
    assets: PathBuf,
    url: String,
    inside: Option<(Lab, &'static str)>,
}

/// The directory of the programs. Without one the test fails; `hack/test` leaves these tests out then, and counts them as skipped.
pub fn assets() -> PathBuf {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    assets.expect(
        "set KUBEBUILDER_ASSETS to a directory with etcd, kube-apiserver and kubectl, or leave these tests out by `--skip api::`",
    )
}

/// The server that all tests of this process share.
pub fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::start(&assets()))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port()
}

impl Server {
    /// Starts one on loopback and waits until it is ready.
    pub fn start(assets: &Path) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("egress-routes-api")
            .tempdir()
            .expect("a temporary directory")
            .keep();
        let ports = [free_port(), free_port(), free_port()];
        let mut command = Command::new("sh");
        command.args(arguments(&dir, assets, "127.0.0.1", ports, ADVERTISED));
        Self::wait(Self {
            holder: Running::start(command).into(),
            dir,
            assets: assets.into(),
            url: format!("https://127.0.0.1:{}", ports[0]),
            inside: None,
        })
    }

    /// Starts one on a host of a laboratory, at port 6443 of `address`.
    pub fn start_in(assets: &Path, lab: Lab, host: &'static str, address: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("egress-routes-api")
            .tempdir()
            .expect("a temporary directory")
            .keep();
        let arguments = arguments(&dir, assets, address, [6443, 2379, 2380], address);
        // The laboratory would kill the shell with the test's thread, before it can end its children.
        let words: Vec<String> = ["setpriv", "--pdeathsig", "clear", "sh"]
            .into_iter()
            .map(str::to_owned)
            .chain(arguments)
            .collect();
        let holder = lab.spawn(host, &words).into();
        Self::wait(Self {
            holder,
            dir,
            assets: assets.into(),
            url: format!("https://{address}:6443"),
            inside: Some((lab, host)),
        })
    }

    fn wait(self) -> Self {
        assert!(
            self.becomes_ready(),
            "no API server within {START:?}; it output:\n{}",
            self.log()
        );
        self
    }

    fn becomes_ready(&self) -> bool {
        wait_until(START, || {
            let _ = self
                .holder
                .lock()
                .expect("no thread panics while it holds this")
                .runs();
            self.kubectl_says(&["get", "--raw", "/readyz"], "")
                .out
                .trim()
                == "ok"
        })
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("api.log")).unwrap_or_default();
        log.lines().rev().take(20).collect::<Vec<_>>().join("\n")
    }

    /// The requests of a namespace's `egress-routes` that are over, in the order of their ends.
    pub fn audited(&self, namespace: &str) -> Vec<Audited> {
        let log = fs::read_to_string(self.dir.join("audit.log")).unwrap_or_default();
        let entries = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let user = format!("system:serviceaccount:{namespace}:egress-routes");
        entries
            .filter(|entry| entry["user"]["username"] == user.as_str())
            .filter_map(|entry| Audited::read(&entry))
            .collect()
    }

    /// The laboratory that it runs in.
    pub fn lab(&self) -> &Lab {
        &self
            .inside
            .as_ref()
            .expect("this server runs in a laboratory")
            .0
    }

    /// `kill -9` of the API server; etcd goes on.
    pub fn stop(&self) {
        self.holder
            .lock()
            .expect("no thread panics while it holds this")
            .tell("stop");
        assert!(wait_until(START, || self
            .kubectl_says(&["get", "--raw", "/readyz"], "")
            .code
            != 0));
    }

    /// Starts it again and waits until it is ready.
    pub fn start_again(&self) {
        self.holder
            .lock()
            .expect("no thread panics while it holds this")
            .tell("start");
        assert!(self.becomes_ready(), "{}", self.log());
    }

    /// kubectl as the administrator; fails the test when kubectl fails.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.kubectl_with_input(args, "")
    }

    /// The same, with something to read on stdin.
    pub fn kubectl_with_input(&self, args: &[&str], input: &str) -> String {
        let output = self.kubectl_says(args, input);
        assert_eq!(
            output.code, 0,
            "kubectl {args:?}: {}{}",
            output.out, output.err
        );
        output.out
    }

    /// kubectl, however it ends.
    pub fn kubectl_says(&self, args: &[&str], input: &str) -> CommandOutput {
        let kubectl = self.assets.join("kubectl");
        let ca = self.ca();
        let config = [
            "--kubeconfig=/dev/null",
            "--server",
            &self.url,
            "--certificate-authority",
            &ca,
            "--token",
            ADMIN_TOKEN,
        ];
        let words: Vec<&str> = [kubectl.to_str().expect("paths are text")]
            .into_iter()
            .chain(config)
            .chain(args.iter().copied())
            .collect();
        if let Some((lab, host)) = &self.inside {
            return lab.run_with_input(host, &words, input);
        }
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(["--request-timeout=20s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl beside the API server");
        let _ = child
            .stdin
            .take()
            .expect("stdin was piped")
            .write_all(input.as_bytes());
        let output = child.wait_with_output().expect("waiting for kubectl");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        CommandOutput {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    fn ca(&self) -> String {
        self.dir
            .join("certs/apiserver.crt")
            .to_str()
            .expect("paths are text")
            .to_owned()
    }

    /// A kubeconfig whose user has the token in a file, read anew once a minute, as a pod's.
    pub fn kubeconfig(&self, token_file: &Path) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": self.ca()}}],
            "users": [{"name": "test", "user": {"tokenFile": token_file}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        })
        .to_string()
    }

    async fn api_with(&self, token_file: &Path, node: &str, metrics: &Metrics) -> Api {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig(token_file)).expect("a kubeconfig");
        let config =
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .expect("a client's configuration");
        Api::new(config, node, metrics).expect("a client")
    }

    /// A client that may do everything.
    pub async fn admin(&self) -> kube::Client {
        self.api_with(&self.dir.join("admin.token"), "", &Metrics::new())
            .await
            .client()
    }

    /// Adds a node with a pod CIDR.
    pub fn node(&self, name: &str) {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": "10.244.7.0/24"}});
        self.kubectl_with_input(&["create", "-f", "-"], &node.to_string());
    }

    /// The node as the API has it.
    pub fn get_node(&self, name: &str) -> Value {
        serde_json::from_str(&self.kubectl(&["get", "node", name, "-o", "json"]))
            .expect("kubectl's JSON")
    }

    /// Applies `deploy/daemonset.yaml` into a namespace of its own, which a test may do with as it likes.
    pub fn install(&self, namespace: &str) -> Installed<'_> {
        Installed::new(self, namespace)
    }
}

impl Audited {
    fn read(entry: &Value) -> Option<Self> {
        let time = |key: &str| entry[key].as_str()?.parse::<Timestamp>().ok();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let received = time("requestReceivedTimestamp")?;
        Some(Self {
            verb: text(&entry["verb"])?,
            resource: text(&entry["objectRef"]["resource"])
                .or_else(|| text(&entry["requestURI"]))?,
            name: text(&entry["objectRef"]["name"]).unwrap_or_default(),
            query: text(&entry["requestURI"])
                .and_then(|uri| Some(uri.split_once('?')?.1.to_owned()))
                .unwrap_or_default(),
            code: entry["responseStatus"]["code"].as_u64()?,
            received,
            took: time("stageTimestamp")?
                .duration_since(received)
                .try_into()
                .unwrap_or_default(),
        })
    }
}

fn arguments(
    dir: &Path,
    assets: &Path,
    address: &str,
    ports: [u16; 3],
    advertised: &str,
) -> Vec<String> {
    fs::write(
        dir.join("admin.csv"),
        format!("{ADMIN_TOKEN},admin,admin,\"system:masters\"\n"),
    )
    .expect("writing the list of tokens");
    fs::write(dir.join("audit.json"), AUDIT).expect("writing the audit policy");
    fs::write(dir.join("admin.token"), ADMIN_TOKEN).expect("writing the administrator's token");
    let text = |path: &Path| path.to_str().expect("paths are text").to_owned();
    let mut words = vec![
        "-c".into(),
        SCRIPT.into(),
        "server".into(),
        text(dir),
        text(assets),
        address.into(),
    ];
    words.extend(ports.iter().map(ToString::to_string));
    words.push(advertised.into());
    words
}

impl Drop for Server {
    fn drop(&mut self) {
        let holder = self
            .holder
            .get_mut()
            .expect("no thread panics while it holds this");
        holder.hang_up();
        let _ = holder.ends(Duration::from_secs(10));
        let _ = &self.inside; // the laboratory goes after what runs in it
    }
}

/// Looks every 50 ms until the condition holds; whether it did within the limit. Other tasks of the test go on meanwhile.
pub async fn eventually(limit: Duration, mut condition: impl AsyncFnMut() -> bool) -> bool {
    let start = tokio::time::Instant::now();
    loop {
        if condition().await {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_server_ends_with_its_programs_and_leaves_no_directory() {
    let assets = assets();
    let server = Server::start(&assets);
    let dir = server.dir.clone();
    let name = dir
        .file_name()
        .and_then(|name| name.to_str())
        .expect("a temporary directory has a name")
        .to_owned();
    let runs = || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        processes
            .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
            .filter(|line| String::from_utf8_lossy(line).contains(&name))
            .count()
    };
    assert!(runs() >= 2, "etcd and the API server");
    drop(server);
    assert!(!dir.exists());
    assert_eq!(runs(), 0);
}
