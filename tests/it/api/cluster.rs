//! The commands that look at a cluster, as somebody who may do what docs/operations.md lists, and nothing else.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Server, shared};
use crate::lab::{AGENT, CommandOutput, wait_until};

const VIEWER: &str = "viewer";

/// What a user who may read nodes, the agents' pods and the ConfigMap may do beyond that.
#[derive(Clone, Copy, PartialEq)]
pub enum Also {
    Nothing,
    ReadTheDaemonSet,
    Write,
}

/// A namespace with a ConfigMap and two agents on nodes of their own, seen by a user with few rights.
pub struct View<'a> {
    server: &'a Server,
    kubeconfig: tempfile::NamedTempFile,
    namespace: &'static str,
}

impl<'a> View<'a> {
    pub fn new(server: &'a Server, namespace: &'static str, nodes: &[&str], also: Also) -> Self {
        let installed = server.install(namespace);
        let daemonsets = if also == Also::Nothing {
            "nothing"
        } else {
            "daemonsets"
        };
        let patch = if also == Also::Write { "patch" } else { "get" };
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": VIEWER, "namespace": namespace}, "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", patch]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["egress-routes"], "verbs": ["get", patch]},
            {"apiGroups": ["apps"], "resources": [daemonsets], "verbs": ["get"]},
        ]});
        server.kubectl_with_input(&["create", "-f", "-"], &role.to_string());
        let account = format!("{namespace}:{VIEWER}");
        server.kubectl(&["create", "serviceaccount", VIEWER, "-n", namespace]);
        server.kubectl(&[
            "create",
            "rolebinding",
            VIEWER,
            "-n",
            namespace,
            "--role",
            VIEWER,
            "--serviceaccount",
            &account,
        ]);
        let cluster_wide = format!("{VIEWER}-{namespace}");
        server.kubectl(&[
            "create",
            "clusterrole",
            &cluster_wide,
            "--verb=list",
            "--resource=nodes",
        ]);
        server.kubectl(&[
            "create",
            "clusterrolebinding",
            &cluster_wide,
            "--clusterrole",
            &cluster_wide,
            "--serviceaccount",
            &account,
        ]);
        // The viewer's token goes where the agent's was.
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{VIEWER}/token");
        let request =
            r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}"#;
        let answer: Value = serde_json::from_str(
            &server.kubectl_with_input(&["create", "--raw", &path, "-f", "-"], request),
        )
        .unwrap();
        std::fs::write(
            &installed.token_file,
            answer["status"]["token"].as_str().unwrap(),
        )
        .unwrap();
        let kubeconfig = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(kubeconfig.path(), server.kubeconfig(&installed.token_file)).unwrap();
        for node in nodes {
            server.node(node);
            kubelet_reports(server, node, "True");
            pod(server, namespace, node);
        }
        let view = Self {
            server,
            kubeconfig,
            namespace,
        };
        view.edit("routes: []\n");
        view
    }

    fn edit(&self, routes: &str) {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "egress-routes", "namespace": self.namespace}, "data": {"routes.yaml": routes}});
        self.server
            .kubectl_with_input(&["apply", "-f", "-"], &map.to_string());
    }

    pub fn command(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(AGENT);
        command
            .arg(name)
            .arg("--kubeconfig")
            .arg(self.kubeconfig.path())
            .args(["-n", self.namespace])
            .args(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn nodes(&self, args: &[&str]) -> CommandOutput {
        self.run("nodes", args)
    }

    pub fn run(&self, name: &str, args: &[&str]) -> CommandOutput {
        let output = self.command(name, args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        CommandOutput {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    pub fn revision(&self) -> String {
        let output = self.nodes(&["-o", "json"]);
        crate::schema::must_be("nodes", &output.out);
        let json: Value = serde_json::from_str(&output.out)
            .unwrap_or_else(|why| panic!("{why}: {}{}", output.out, output.err));
        json["revision"].as_str().unwrap().to_owned()
    }

    /// What the node's agent would do once it has the revision.
    pub fn applied(&self, node: &str, status: &str, revision: &str) {
        let words = [
            ("status", status),
            ("revision", revision),
            ("routes", "3/3"),
            ("gateways", "10.116.0.5=up"),
        ];
        let words = words.map(|(key, value)| format!("egress-routes.dev/{key}={value}"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.server
            .kubectl(&[&["annotate", "--overwrite", "node", node], &words[..]].concat());
    }
}

/// A node's own Ready condition, in place of a kubelet.
fn kubelet_reports(server: &Server, node: &str, ready: &str) {
    let status = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
    let path = format!("/api/v1/nodes/{node}/status");
    server.kubectl_with_input(&["replace", "--raw", &path, "-f", "-"], &status.to_string());
}

/// What the DaemonSet controller would report, once it has seen a DaemonSet with this `nodeSelector`.
fn controller_wants(server: &Server, namespace: &str, pool: &str, pods: usize) {
    let spec = json!({"spec": {"template": {"spec": {"nodeSelector": {"pool": pool, "kubernetes.io/os": null}}}}});
    server.kubectl(&[
        "patch",
        "daemonset",
        "egress-routes",
        "-n",
        namespace,
        "-p",
        &spec.to_string(),
    ]);
    let get = [
        "get",
        "daemonset",
        "egress-routes",
        "-n",
        namespace,
        "-o",
        "json",
    ];
    let mut set: Value = serde_json::from_str(&server.kubectl(&get)).unwrap();
    set["status"] = json!({"observedGeneration": set["metadata"]["generation"], "desiredNumberScheduled": pods,
        "currentNumberScheduled": pods, "numberMisscheduled": 0, "numberReady": pods});
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/egress-routes/status");
    server.kubectl_with_input(&["replace", "--raw", &path, "-f", "-"], &set.to_string());
}

/// An agent's pod that runs and is ready, without a kubelet.
fn pod(server: &Server, namespace: &str, node: &str) {
    let name = format!("agent-{node}");
    let metadata = json!({"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/name": "egress-routes"}});
    let containers = json!([{"name": "egress-routes", "image": "none"}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"nodeName": node, "containers": containers}});
    server.kubectl_with_input(&["create", "-f", "-"], &pod.to_string());
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": ready});
    // kubectl 1.20 has no --subresource.
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
    server.kubectl_with_input(&["replace", "--raw", &path, "-f", "-"], &status.to_string());
}

#[test]
fn nodes_shows_a_line_per_node_to_somebody_with_few_rights() {
    let server = shared();
    let view = View::new(server, "seen", &["seen-1", "seen-2"], Also::Nothing);
    let revision = view.revision();
    view.applied("seen-1", "Ready", &revision);
    let output = view.nodes(&[]);
    assert_eq!(
        output.code, 1,
        "one node has not reported: {}{}",
        output.out, output.err
    );
    assert!(output.out.starts_with("NODE "), "{}", output.out);
    let line = |node: &str| {
        output
            .out
            .lines()
            .find(|line| line.starts_with(node))
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        line("seen-1")[..5],
        ["seen-1", "Ready", &revision, "3/3", "10.116.0.5=up"]
    );
    assert_eq!(line("seen-2")[..3], ["seen-2", "Pending", "<none>"]);
    // Nothing excludes this one.
    server.node("seen-3");
    kubelet_reports(server, "seen-3", "True");
    view.applied("seen-3", "Ready", &revision);
    let output = view.nodes(&[]);
    assert!(
        output
            .out
            .lines()
            .any(|line| line.starts_with("seen-3") && line.contains("NotRunning")),
        "{}",
        output.out
    );
    assert!(
        output
            .err
            .contains("DaemonSet `seen/egress-routes` cannot be read"),
        "{}",
        output.err
    );
}

#[test]
fn wait_returns_when_the_last_node_has_the_edit_and_says_who_was_missing_when_the_time_is_over() {
    let server = shared();
    let view = View::new(
        server,
        "waited",
        &["waited-1", "waited-2"],
        Also::ReadTheDaemonSet,
    );
    let old = view.revision();
    view.applied("waited-1", "Ready", &old);
    view.applied("waited-2", "Ready", &old);
    view.edit("routes: []  # edited\n");
    let revision = view.revision();
    assert_ne!(revision, old);
    view.applied("waited-1", "Ready", &revision);
    let output = view.nodes(&["waited-1", "waited-2", "--wait", "--timeout", "3s"]);
    assert_eq!(output.code, 3, "{}{}", output.out, output.err);
    assert!(
        output.err.contains("1/2 nodes") && output.err.contains("waited-2"),
        "{}",
        output.err
    );
    let mut waiting = view
        .command(
            "nodes",
            &["waited-1", "waited-2", "--wait", "--timeout", "60s"],
        )
        .spawn()
        .unwrap();
    assert!(
        !wait_until(Duration::from_secs(2), || waiting
            .try_wait()
            .unwrap()
            .is_some()),
        "it did not wait"
    );
    view.applied("waited-2", "Degraded", &revision);
    assert!(
        wait_until(Duration::from_secs(15), || waiting
            .try_wait()
            .unwrap()
            .is_some()),
        "it still waits"
    );
    let mut out = String::new();
    waiting
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut out)
        .unwrap();
    assert_eq!(
        waiting.wait().unwrap().code(),
        Some(1),
        "applied everywhere, but not Ready everywhere: {out}"
    );
    assert!(out.contains("Degraded"), "{out}");
    view.applied("waited-2", "Ready", &revision);
    assert_eq!(
        view.nodes(&["waited-1", "waited-2", "--wait", "--timeout", "10s"])
            .code,
        0,
        "{}",
        view.nodes(&[]).out
    );
}

#[test]
fn what_cannot_be_asked_is_an_error_that_says_what_and_where() {
    let server = shared();
    let view = View::new(server, "errors", &[], Also::ReadTheDaemonSet);
    server.kubectl(&["delete", "configmap", "egress-routes", "-n", "errors"]);
    let output = view.nodes(&[]);
    assert_eq!(output.code, 2);
    assert!(
        output.err.contains("errors/egress-routes") && output.err.contains("not found"),
        "{}",
        output.err
    );
    assert_eq!(view.nodes(&["--kubeconfig", "/nowhere"]).code, 2);
    // A ConfigMap without the key is there, and no agent will take it.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "egress-routes", "namespace": "errors"}, "data": {"route.yaml": ""}});
    server.kubectl_with_input(&["create", "-f", "-"], &map.to_string());
    let output = view.nodes(&[]);
    assert_eq!(output.code, 1, "{}", output.err);
    assert!(
        output.err.contains("it has no key `routes.yaml`") && output.out.starts_with("NODE"),
        "{}{}",
        output.out,
        output.err
    );
}

#[test]
fn a_node_of_a_narrowed_daemonset_has_a_word_of_its_own_and_all_is_not_well() {
    let server = shared();
    let view = View::new(
        server,
        "narrowed",
        &["narrowed-1", "narrowed-2"],
        Also::ReadTheDaemonSet,
    );
    let revision = view.revision();
    for node in ["narrowed-1", "narrowed-2"] {
        view.applied(node, "Ready", &revision);
    }
    server.kubectl(&["label", "node", "narrowed-1", "pool=narrowed-web"]);
    let ours = ["narrowed-1", "narrowed-2"];
    assert_eq!(view.nodes(&ours).code, 0, "{}", view.nodes(&ours).out);
    server.kubectl(&[
        "delete",
        "pod",
        "agent-narrowed-2",
        "-n",
        "narrowed",
        "--grace-period=0",
        "--force",
    ]);
    controller_wants(server, "narrowed", "narrowed-web", 1);
    let output = view.nodes(&[&ours[..], &["--wait", "--timeout", "20s"]].concat());
    assert_eq!(output.code, 1, "{}{}", output.out, output.err);
    let line = output
        .out
        .lines()
        .find(|line| line.starts_with("narrowed-2"));
    assert!(
        line.is_some_and(|line| line.contains("Unmanaged")),
        "{}",
        output.out
    );
    assert!(
        output.err.contains("narrowed-2") && output.err.contains("docs/install.md"),
        "{}",
        output.err
    );
    // Cleaned up, annotations too: it is a node like any other without an agent.
    let gone = ["status", "revision", "routes", "gateways", "message"]
        .map(|key| format!("egress-routes.dev/{key}-"));
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    server.kubectl(&[&["annotate", "node", "narrowed-2"], &gone[..]].concat());
    assert_eq!(view.nodes(&ours).code, 0, "{}", view.nodes(&ours).out);
}

#[test]
fn a_node_that_is_off_holds_up_nobody_and_counts_unless_it_may_miss() {
    let server = shared();
    let view = View::new(server, "off", &["off-1", "off-2"], Also::ReadTheDaemonSet);
    let revision = view.revision();
    view.applied("off-1", "Ready", &revision);
    kubelet_reports(server, "off-2", "Unknown");
    let wait = ["off-1", "off-2", "--wait", "--timeout", "60s"];
    let output = view.nodes(&wait);
    assert_eq!(output.code, 1, "{}{}", output.out, output.err);
    assert!(
        output.out.contains("NodeNotReady") && !output.err.contains("timed out"),
        "{}{}",
        output.out,
        output.err
    );
    let output = view.nodes(&[&wait[..], &["--allow-missing"]].concat());
    assert_eq!(output.code, 0, "{}{}", output.out, output.err);
}

#[test]
fn nodes_are_chosen_by_name_and_label_and_printed_as_one_likes() {
    let server = shared();
    let view = View::new(
        server,
        "chosen",
        &["chosen-1", "chosen-2"],
        Also::ReadTheDaemonSet,
    );
    let revision = view.revision();
    view.applied("chosen-1", "Ready", &revision);
    view.applied("chosen-2", "Degraded", &revision);
    server.kubectl(&["label", "node", "chosen-1", "pool=chosen"]);
    let output = view.nodes(&["-l", "pool=chosen", "--no-headers"]);
    assert_eq!(output.code, 0, "{}", output.err);
    assert!(
        output.out.starts_with("chosen-1 ") && output.out.lines().count() == 1,
        "{}",
        output.out
    );
    let output = view.nodes(&["chosen-2", "-o", "wide"]);
    assert_eq!(output.code, 1, "{}", output.err);
    assert!(
        output.out.contains("agent-chosen-2") && !output.out.contains("chosen-1"),
        "{}",
        output.out
    );
    let output = view.nodes(&["chosen-1", "-o", "yaml"]);
    let yaml: Value = serde_yaml::from_str(&output.out).unwrap();
    assert_eq!(
        yaml["nodes"][0]["routes"],
        json!({"wanted": 3, "installed": 3})
    );
    assert_eq!(yaml["nodes"][0]["gateways"], json!({"10.116.0.5": "up"}));
    assert_eq!(yaml["ready"], true);
    let output = view.nodes(&["chosen-3"]);
    assert_eq!(
        (output.code, output.err.trim()),
        (2, "error: there is no node `chosen-3`")
    );
    assert_eq!(view.nodes(&["-l", "pool in (", "--wait"]).code, 2);
}

#[test]
fn an_api_server_that_no_proxy_names_is_asked_directly() {
    let server = shared();
    let view = View::new(server, "direct", &["direct-1"], Also::Nothing);
    view.applied("direct-1", "Ready", &view.revision());
    // Loopback is never proxied; nothing answers at this proxy.
    let proxied = |no: &str| {
        let mut command = view.command("nodes", &["direct-1"]);
        command
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env("NO_PROXY", no);
        command.output().unwrap().status.code()
    };
    assert_eq!(proxied("127.0.0.0/8"), Some(0));
    assert_eq!(proxied(""), Some(0));
}
