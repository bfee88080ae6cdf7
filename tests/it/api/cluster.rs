//! The `nodes` command, as somebody who may read nodes, the agents' pods and the ConfigMap, and nothing else.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::server::{Server, shared};
use crate::lab::{AGENT, Said, wait_until};

const VIEWER: &str = "viewer";

/// What a user who may read nodes, the agents' pods and the ConfigMap may do beyond that.
#[derive(Clone, Copy, PartialEq)]
enum Also {
    Nothing,
    ReadTheDaemonSet,
}

/// A namespace with a ConfigMap and two agents on nodes of their own, seen by a user with few rights.
struct View<'a> {
    server: &'a Server,
    kubeconfig: tempfile::NamedTempFile,
    namespace: &'static str,
}

impl<'a> View<'a> {
    fn new(server: &'a Server, namespace: &'static str, nodes: &[&str], also: Also) -> Self {
        let installed = server.install(namespace);
        let daemonsets = if also == Also::Nothing {
            "nothing"
        } else {
            "daemonsets"
        };
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": VIEWER, "namespace": namespace}, "rules": [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["egress-routes"], "verbs": ["get"]},
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
            "--verb=get,list",
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

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(AGENT);
        command
            .arg("nodes")
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

    fn nodes(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    fn revision(&self) -> String {
        let said = self.nodes(&["-o", "json"]);
        let json: Value = serde_json::from_str(&said.out)
            .unwrap_or_else(|why| panic!("{why}: {}{}", said.out, said.err));
        json["revision"].as_str().unwrap().to_owned()
    }

    /// What the node's agent would do once it has the revision.
    fn applied(&self, node: &str, status: &str, revision: &str) {
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
    let Some(server) = shared() else { return };
    let view = View::new(server, "seen", &["seen-1", "seen-2"], Also::Nothing);
    let revision = view.revision();
    view.applied("seen-1", "Ready", &revision);
    let said = view.nodes(&[]);
    assert_eq!(
        said.code, 1,
        "one node has not reported: {}{}",
        said.out, said.err
    );
    assert!(said.out.starts_with("NODE "), "{}", said.out);
    let line = |node: &str| {
        said.out
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
    // Nobody says that this one should have no agent.
    server.node("seen-3");
    view.applied("seen-3", "Ready", &revision);
    let said = view.nodes(&[]);
    assert!(
        said.out
            .lines()
            .any(|line| line.starts_with("seen-3") && line.contains("NotRunning")),
        "{}",
        said.out
    );
    assert!(
        said.err
            .contains("DaemonSet `seen/egress-routes` may not be read"),
        "{}",
        said.err
    );
}

#[test]
fn wait_returns_when_the_last_node_has_the_edit_and_says_who_was_missing_when_the_time_is_over() {
    let Some(server) = shared() else { return };
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
    let said = view.nodes(&["--wait", "--timeout", "3s"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    assert!(
        said.err.contains("1/2 nodes") && said.err.contains("waited-2"),
        "{}",
        said.err
    );
    let mut waiting = view
        .command(&["--wait", "--timeout", "60s"])
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
        view.nodes(&["--wait", "--timeout", "10s"]).code,
        0,
        "{}",
        view.nodes(&[]).out
    );
}

#[test]
fn what_cannot_be_asked_is_an_error_that_says_what_and_where() {
    let Some(server) = shared() else { return };
    let view = View::new(server, "errors", &[], Also::ReadTheDaemonSet);
    server.kubectl(&["delete", "configmap", "egress-routes", "-n", "errors"]);
    let said = view.nodes(&[]);
    assert_eq!(said.code, 2);
    assert!(
        said.err.contains("errors/egress-routes") && said.err.contains("not found"),
        "{}",
        said.err
    );
    assert_eq!(view.nodes(&["--kubeconfig", "/nowhere"]).code, 2);
    // A ConfigMap without the key is there, and no agent will take it.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "egress-routes", "namespace": "errors"}, "data": {"route.yaml": ""}});
    server.kubectl_with_input(&["create", "-f", "-"], &map.to_string());
    let said = view.nodes(&[]);
    assert_eq!(said.code, 1, "{}", said.err);
    assert!(
        said.err.contains("it has no key `routes.yaml`") && said.out.starts_with("NODE"),
        "{}{}",
        said.out,
        said.err
    );
}
