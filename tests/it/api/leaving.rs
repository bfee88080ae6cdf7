//! The end of an agent and the beginning of a node: what `--on-exit auto` concludes, and the startup taint.

use std::time::Duration;

use egress_routes::cluster::annotations;
use egress_routes::cluster::client;
use egress_routes::cluster::taint;
use egress_routes::cluster::uninstall::{Installation, Verdict};
use egress_routes::report::metrics::Metrics;
use serde_json::{Value, json};

use super::server::{Installed, Server, assets, eventually, shared};
use super::{Reporting, SOON, status, wait_for};

async fn recognised(installed: &Installed<'_>, node: &str) -> Installation {
    let api = installed.agent(node, &Metrics::new()).await;
    let installation = Installation::new(api, &installed.namespace, "egress-routes");
    tokio::time::timeout(SOON, installation.recognise())
        .await
        .expect("the DaemonSet can be read");
    installation
}

/// As `kubectl delete --cascade=foreground` of a newer kubectl does. Without a garbage collector here the `DaemonSet` stays so.
fn delete_in_foreground(server: &Server, namespace: &str) {
    let options = r#"{"apiVersion":"v1","kind":"DeleteOptions","propagationPolicy":"Foreground"}"#;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/daemonsets/egress-routes");
    server.kubectl_with_input(&["delete", "--raw", &path, "-f", "-"], options);
}

#[tokio::test]
async fn while_the_daemonset_is_there_the_routes_stay() {
    let server = shared();
    let installation = recognised(&server.install("replaced"), "any").await;
    assert_eq!(
        installation.verdict(|| false).await,
        Verdict::Keep("the DaemonSet is there")
    );
}

#[tokio::test]
async fn a_deleted_daemonset_takes_the_routes_with_it() {
    let server = shared();
    let installed = server.install("deleted");
    let installation = recognised(&installed, "any").await;
    server.kubectl(&[
        "delete",
        "daemonset",
        "egress-routes",
        "--namespace=deleted",
    ]);
    assert_eq!(
        installation.verdict(|| false).await,
        Verdict::Cleanup("the DaemonSet is gone")
    );
}

#[tokio::test]
async fn a_daemonset_that_waits_for_its_pods_to_go_is_being_deleted() {
    let server = shared();
    let installed = server.install("going");
    let installation = recognised(&installed, "any").await;
    delete_in_foreground(server, "going");
    assert_eq!(
        installation.verdict(|| false).await,
        Verdict::Cleanup("the DaemonSet is being deleted")
    );
}

#[tokio::test]
async fn when_rights_and_service_account_went_as_well_the_routes_go_unless_a_successor_waits() {
    let server = shared();
    let installed = server.install("uninstalled");
    let installation = recognised(&installed, "any").await;
    installed.delete();
    assert_eq!(
        installation.verdict(|| false).await,
        Verdict::Cleanup("the agent's rights were removed at the same time")
    );
    assert!(matches!(
        installation.verdict(|| true).await,
        Verdict::Keep(_)
    ));
}

#[tokio::test]
async fn a_daemonset_that_was_created_again_around_its_pods_and_then_deleted_is_an_uninstall() {
    let server = shared();
    let installed = server.install("adopted");
    let installation = recognised(&installed, "any").await;
    let daemonset = ["daemonset", "egress-routes", "--namespace=adopted"];
    server.kubectl(&[&["delete"], &daemonset[..]].concat());
    installed.apply();
    assert_eq!(
        installation.verdict(|| false).await,
        Verdict::Keep("the DaemonSet is there")
    );
    delete_in_foreground(server, "adopted");
    assert_eq!(
        installation.verdict(|| false).await,
        Verdict::Cleanup("the DaemonSet is being deleted")
    );
}

#[tokio::test]
async fn a_service_account_that_was_created_again_minutes_ago_is_no_uninstall() {
    let server = shared();
    let installed = server.install("recreated");
    server.node("recreated");
    let api = installed.agent("recreated", &Metrics::new()).await;
    let watching = client::watch(api.clone());
    let installation = Installation::new(api.clone(), "recreated", "egress-routes");
    tokio::time::timeout(SOON, installation.recognise())
        .await
        .expect("the DaemonSet can be read");
    let account = ["serviceaccount", "egress-routes", "--namespace=recreated"];
    server.kubectl(&[&["delete"], &account[..]].concat());
    installed.apply();
    // The old token is refused from now on, and the agent notices with its next read.
    let noticed = async || {
        watching.read_node(SOON).await;
        api.refused_since().is_some()
    };
    assert!(eventually(SOON, noticed).await);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(121)).await;
    tokio::time::resume();
    assert_eq!(
        installation.verdict(|| false).await,
        Verdict::Keep("the agent's rights were removed long before it was stopped")
    );
}

#[tokio::test]
async fn rights_that_are_back_in_a_moment_are_no_uninstall() {
    let server = shared();
    let installed = server.install("reapplied");
    let installation = recognised(&installed, "any").await;
    server.kubectl(&[
        "delete",
        "rolebinding",
        "egress-routes",
        "--namespace=reapplied",
    ]);
    let back = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        installed.apply();
    };
    let (verdict, ()) = tokio::join!(installation.verdict(|| false), back);
    assert_eq!(verdict, Verdict::Keep("the DaemonSet is there"));
}

#[tokio::test]
async fn a_server_that_is_away_is_never_a_reason_to_clean_up() {
    let assets = assets();
    let server = Server::start(&assets);
    let installation = recognised(&server.install("away"), "any").await;
    server.stop();
    assert!(matches!(
        installation.verdict(|| false).await,
        Verdict::Keep(_)
    ));
}

#[tokio::test]
async fn our_annotations_go_and_nobody_elses() {
    let server = shared();
    server.node("cleared");
    server.kubectl(&["annotate", "node", "cleared", "example.com/foreign=stays"]);
    let installed = server.install("clears");
    let admin = server.admin().await;
    let api = installed.agent("cleared", &Metrics::new()).await;
    let reporting = Reporting::start(&api);
    reporting.say(status(
        "0123456789ab",
        10,
        egress_routes::report::status::GatewayState::Up,
    ));
    wait_for(&admin, "cleared", "status", Some("Ready"), SOON).await;
    drop(reporting);
    annotations::clear_annotations(&api, Duration::from_secs(5))
        .await
        .unwrap();
    assert!(super::annotations(&admin, "cleared").await.is_empty());
    assert_eq!(
        server.get_node("cleared")["metadata"]["annotations"]["example.com/foreign"],
        "stays"
    );
    server.kubectl(&["delete", "clusterrolebinding", "egress-routes-clears"]);
    let refused = annotations::clear_annotations(&api, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(format!("{refused:#}").contains("403"), "{refused:#}");
}

/// Adds and removes a taint of its own over and over, as a program that writes whole lists does, until the test is over.
async fn other_writer(
    nodes: kube::Api<k8s_openapi::api::core::v1::Node>,
    name: &'static str,
    until: tokio::sync::oneshot::Receiver<()>,
) -> u32 {
    use kube::api::{Patch, PatchParams};
    let mut until = until;
    let mut rounds = 0;
    while matches!(
        until.try_recv(),
        Err(tokio::sync::oneshot::error::TryRecvError::Empty)
    ) {
        let node = nodes.get(name).await.unwrap();
        let mut taints =
            serde_json::to_value(node.spec.unwrap_or_default().taints.unwrap_or_default()).unwrap();
        let list = taints.as_array_mut().unwrap();
        match list.iter().position(|taint| taint["key"] == "other/flips") {
            Some(at) => drop(list.remove(at)),
            None => list.insert(0, json!({"key": "other/flips", "effect": "NoSchedule"})),
        }
        let version = node.metadata.resource_version;
        let body = json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}});
        // A conflict means that somebody else was faster; so is the next round.
        if nodes
            .patch(name, &PatchParams::default(), &Patch::Merge(body))
            .await
            .is_ok()
        {
            rounds += 1;
        }
    }
    rounds
}

#[tokio::test]
async fn the_startup_taint_goes_and_every_other_taint_stays_while_somebody_else_writes_the_list() {
    let server = shared();
    let installed = server.install("taints");
    let taints = json!([
        {"key": "other/first", "value": "x", "effect": "NoExecute"},
        {"key": "egress-routes.dev/not-ready", "effect": "NoSchedule"},
        {"key": "egress-routes.dev/not-ready-either", "effect": "NoSchedule"},
        {"key": "egress-routes.dev/not-ready", "effect": "NoExecute"},
    ]);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "tainted"}, "spec": {"taints": taints}});
    server.kubectl_with_input(&["create", "-f", "-"], &node.to_string());
    let nodes = kube::Api::all(server.admin().await);
    let (stop, until) = tokio::sync::oneshot::channel();
    let other = tokio::spawn(other_writer(nodes, "tainted", until));
    let api = installed.agent("tainted", &Metrics::new()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    tokio::time::timeout(
        Duration::from_mins(1),
        taint::remove(&api, "egress-routes.dev/not-ready"),
    )
    .await
    .expect("the taint goes");
    let _ = stop.send(());
    let rounds = other.await.unwrap();
    assert!(rounds > 0, "the other writer wrote nothing");
    let node = server.get_node("tainted");
    let keys: Vec<&str> = node["spec"]["taints"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|taint: &Value| taint["key"].as_str())
        .collect();
    assert!(
        keys.contains(&"other/first") && keys.contains(&"egress-routes.dev/not-ready-either"),
        "{keys:?}"
    );
    assert!(!keys.contains(&"egress-routes.dev/not-ready"), "{keys:?}");
}

#[tokio::test]
async fn a_startup_taint_that_is_put_back_goes_again_once_the_node_is_seen_to_have_changed() {
    let server = shared();
    let installed = server.install("putback");
    server.node("putback");
    let taint = |effect: &str| {
        let what = format!("egress-routes.dev/not-ready:{effect}");
        server.kubectl(&["taint", "node", "putback", &what]);
    };
    let metrics = Metrics::new();
    let api = installed.agent("putback", &metrics).await;
    let (verified, versions) = tokio::sync::watch::channel(String::new());
    let key = "egress-routes.dev/not-ready";
    let keeping = tokio::spawn(taint::keep_away(api, key.into(), versions));
    let gone = async || {
        // The API server gives a new node a taint of its own.
        let taints = server.get_node("putback")["spec"]["taints"].clone();
        let taints = taints.as_array().cloned().unwrap_or_default();
        taints.iter().all(|taint| taint["key"] != key)
    };
    let version = || {
        let node = server.get_node("putback");
        node["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    taint("NoSchedule");
    verified.send_replace(version());
    assert!(eventually(SOON, gone).await);
    taint("NoExecute");
    verified.send_replace(version());
    // The first pause is half a minute at most.
    assert!(eventually(2 * SOON, gone).await);
    assert_eq!(metrics.api_requests("patch", "200"), 2);
    keeping.abort();
}
