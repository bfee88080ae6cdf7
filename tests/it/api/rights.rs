//! What the manifests allow, and what happens when less is allowed, or nothing answers.

use std::time::Duration;

use egress_routes::report::metrics::Metrics;
use egress_routes::report::status::{GatewayState, Reason};
use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use serde_json::json;

use super::server::{Server, assets, eventually, shared};
use super::{Reporting, SOON, annotations, status, wait_for};

#[test]
fn the_folder_is_applied_as_it_stands_by_file_and_by_kustomization() {
    let server = shared();
    let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/");
    let applied = server.kubectl(&["apply", "-f", deploy]);
    assert!(
        applied.contains("daemonset.apps/egress-routes created")
            && applied.contains("configmap/egress-routes created"),
        "{applied}"
    );
    let again = server.kubectl(&["apply", "-k", deploy]);
    assert!(
        again.lines().all(|line| line.ends_with("unchanged")),
        "the same objects: {again}"
    );
    let deleted = server.kubectl(&["delete", "-f", deploy, "--wait=false"]);
    assert_eq!(
        deleted.lines().count(),
        applied.lines().count(),
        "{deleted}"
    );
}

#[test]
fn the_agent_may_do_what_it_needs_and_nothing_else() {
    let server = shared();
    server.install("rights");
    let may = |verb: &str, what: &[&str]| {
        let words = [
            &["auth", "can-i", verb],
            what,
            &["--as=system:serviceaccount:rights:egress-routes"],
        ]
        .concat();
        server.kubectl_says(&words, "").out.trim() == "yes"
    };
    let default = "--namespace=default";
    for (verb, what) in [
        ("get", &["nodes/node1"][..]),
        ("patch", &["nodes/node1"]),
        ("create", &["events", default]),
        ("patch", &["events", default]),
        ("get", &["endpoints/kubernetes", default]),
        (
            "get",
            &["endpointslices.discovery.k8s.io/kubernetes", default],
        ),
        (
            "get",
            &["daemonsets.apps/egress-routes", "--namespace=rights"],
        ),
    ] {
        assert!(may(verb, what), "may not {verb} {what:?}");
    }
    for (verb, what) in [
        ("list", &["nodes"][..]),
        ("watch", &["nodes"]),
        ("update", &["nodes/node1"]),
        ("delete", &["nodes/node1"]),
        ("patch", &["nodes/node1", "--subresource=status"]),
        ("get", &["pods", "--all-namespaces"]),
        ("get", &["secrets", "--all-namespaces"]),
        ("get", &["configmaps/egress-routes", "--namespace=rights"]),
        ("get", &["endpoints/another", default]),
        ("get", &["daemonsets.apps/another", "--namespace=rights"]),
        (
            "delete",
            &["daemonsets.apps/egress-routes", "--namespace=rights"],
        ),
        ("delete", &["events", default]),
        ("get", &["endpointslices.discovery.k8s.io/another", default]),
    ] {
        assert!(!may(verb, what), "may {verb} {what:?}");
    }
}

#[tokio::test]
async fn a_forbidden_patch_is_tried_again_and_lands_when_the_right_is_back() {
    let server = shared();
    server.node("forbidden");
    let installed = server.install("forbids");
    let (metrics, admin) = (Metrics::new(), server.admin().await);
    let reporting = Reporting::start(&installed.agent("forbidden", &metrics).await);
    reporting.say(status("0123456789ab", 10, GatewayState::Up));
    wait_for(&admin, "forbidden", "revision", Some("0123456789ab"), SOON).await;
    server.kubectl(&["delete", "clusterrolebinding", "egress-routes-forbids"]);
    reporting.say(status("ba9876543210", 10, GatewayState::Up));
    assert!(
        eventually(SOON, async || metrics.api_requests("patch", "403") >= 2).await,
        "{}",
        metrics.render().unwrap()
    );
    assert_eq!(
        annotations(&admin, "forbidden").await["revision"],
        "0123456789ab"
    );
    // Meanwhile the world goes on: only the newest is ever written.
    reporting.say(status("cccccccccccc", 10, GatewayState::Up));
    installed.apply();
    wait_for(
        &admin,
        "forbidden",
        "revision",
        Some("cccccccccccc"),
        Duration::from_secs(70),
    )
    .await;
    assert_eq!(metrics.api_requests("patch", "200"), 2);
}

#[tokio::test]
async fn a_token_that_expires_is_replaced_by_the_one_that_the_kubelet_wrote_meanwhile() {
    let server = shared();
    server.node("expired");
    let installed = server.install("tokens");
    server.kubectl(&["create", "secret", "generic", "life", "--namespace=tokens"]);
    // The token ends with the object that it is bound to: an expiry that a test can wait for.
    installed.new_token(
        &json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "life"}}),
    );
    let (metrics, admin) = (Metrics::new(), server.admin().await);
    let reporting = Reporting::start(&installed.agent("expired", &metrics).await);
    reporting.say(status("0123456789ab", 10, GatewayState::Up));
    wait_for(&admin, "expired", "revision", Some("0123456789ab"), SOON).await;
    server.kubectl(&["delete", "secret", "life", "--namespace=tokens"]);
    // The server remembers for ten seconds that a token was good.
    let mut edits = 0;
    let refused = async || {
        edits += 1;
        reporting.say(status(&format!("{edits:012}"), 10, GatewayState::Up));
        tokio::time::sleep(Duration::from_secs(1)).await;
        metrics.api_requests("patch", "401") > 0
    };
    assert!(
        eventually(SOON, refused).await,
        "{}",
        metrics.render().unwrap()
    );
    installed.new_token(&json!({}));
    reporting.say(status("ba9876543210", 10, GatewayState::Up));
    // The file is read once a minute; a refused patch is tried again with growing pauses.
    wait_for(
        &admin,
        "expired",
        "revision",
        Some("ba9876543210"),
        Duration::from_secs(130),
    )
    .await;
}

#[tokio::test]
async fn a_server_that_stops_and_starts_gets_only_the_newest_state() {
    let assets = assets();
    let server = Server::start(&assets);
    server.node("alone");
    let installed = server.install("alone");
    let (metrics, admin) = (Metrics::new(), server.admin().await);
    let api = installed.agent("alone", &metrics).await;
    let reporting = Reporting::start(&api);
    reporting.say(status("0123456789ab", 10, GatewayState::Up));
    wait_for(&admin, "alone", "revision", Some("0123456789ab"), SOON).await;
    assert!(api.answers(Duration::from_secs(5)).await);
    server.stop();
    assert!(!api.answers(Duration::from_secs(5)).await);
    reporting.emit(Reason::GatewayDown, "Gateway down: 10.116.0.5 (no answer)");
    let stopped = egress_routes::cluster::annotations::wall_clock();
    for revision in ["aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"] {
        reporting.say(status(revision, 9, GatewayState::Down));
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert!(
        eventually(SOON, async || metrics.api_requests("patch", "error") > 0).await,
        "{}",
        metrics.render().unwrap()
    );
    server.start_again();
    assert!(eventually(SOON, async || api.answers(Duration::from_secs(5)).await).await);
    wait_for(
        &admin,
        "alone",
        "revision",
        Some("cccccccccccc"),
        Duration::from_secs(70),
    )
    .await;
    assert_eq!(
        metrics.api_requests("patch", "200"),
        2,
        "what was overtaken is never written"
    );
    assert!(
        eventually(SOON, async || metrics.api_requests("create", "201") == 1).await,
        "{}",
        metrics.render().unwrap()
    );
    let events: kube::Api<Event> = kube::Api::namespaced(admin, "default");
    let reported = events
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .into_iter()
        .find(|event| event.reason.as_deref() == Some("GatewayDown"));
    let at = reported
        .and_then(|event| event.last_timestamp)
        .expect("an Event with the time of the failure")
        .0;
    assert!(
        stopped.duration_since(at).as_secs().abs() <= 1,
        "it happened at {stopped}, not at {at}"
    );
}
