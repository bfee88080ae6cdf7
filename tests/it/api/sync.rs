//! `sync`, which makes the kubelets bring an edit, with the rights that docs/operations.md lists.

use std::time::Duration;

use serde_json::Value;

use super::cluster::{Also, View};
use super::server::shared;
use crate::lab::wait_until;

#[test]
fn sync_annotates_the_agents_pods_until_the_last_node_follows() {
    let server = shared();
    let view = View::new(server, "synced", &["synced-1", "synced-2"], Also::Write);
    let revision = view.revision();
    view.applied("synced-1", "Ready", &revision);
    view.applied("synced-2", "Ready", "ba9876543210");
    let asked = |node: &str| {
        let get = [
            "get",
            "pod",
            "-n",
            "synced",
            &format!("agent-{node}"),
            "-o",
            "json",
        ];
        let pod: Value = serde_json::from_str(&server.kubectl(&get)).unwrap();
        pod["metadata"]["annotations"]["egress-routes.dev/sync"]
            .as_str()
            .map(str::to_owned)
    };
    let mut waiting = view.command("sync", &["--timeout", "60s"]).spawn().unwrap();
    let limit = Duration::from_secs(20);
    assert!(
        wait_until(limit, || asked("synced-2").is_some()),
        "not annotated"
    );
    let (ready, behind) = (asked("synced-1"), asked("synced-2"));
    assert!(ready.is_some());
    // A kubelet that had not seen the ConfigMap yet gets another chance; nobody else is bothered.
    assert!(
        wait_until(limit, || asked("synced-2") != behind),
        "annotated but once"
    );
    assert_eq!(asked("synced-1"), ready);
    view.applied("synced-2", "Ready", &revision);
    assert!(
        wait_until(limit, || waiting.try_wait().unwrap().is_some()),
        "it still waits"
    );
    let output = waiting.wait_with_output().unwrap();
    // Nodes that other tests left count as unmanaged here.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
    let out = String::from_utf8_lossy(&output.stdout);
    let ready = |node: &str| {
        out.lines()
            .any(|line| line.starts_with(node) && line.contains(" Ready "))
    };
    assert!(ready("synced-1") && ready("synced-2"), "{out}");
}

#[test]
fn sync_names_the_right_that_it_lacks() {
    let server = shared();
    let view = View::new(server, "lacking", &["lacking-1"], Also::ReadTheDaemonSet);
    let output = view.run("sync", &[]);
    assert_eq!(output.code, 2, "{}", output.out);
    assert!(
        output.err.contains("needs `patch` on pods in `lacking`"),
        "{}",
        output.err
    );
}
