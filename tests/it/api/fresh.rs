//! The node read anew before a guarded change: what it answers, and what the minutely reads cost.

use std::time::Duration;

use egress_routes::cluster::client::{self, NodeRead};
use egress_routes::report::metrics::Metrics;
use egress_routes::routing::node_facts::Facts;

use super::SOON;
use super::server::{Server, assets, eventually, shared};

const LIMIT: Duration = Duration::from_secs(5);

async fn known(watching: &client::Watching) {
    let mut facts = watching.facts.clone();
    let known = facts.wait_for(|facts| matches!(facts, Facts::Known(_)));
    tokio::time::timeout(SOON, known).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_fresh_read_has_the_label_that_was_given_a_moment_ago_and_publishes_it() {
    let server = shared();
    server.node("fresh");
    let installed = server.install("freshly");
    let watching = client::watch(installed.agent("fresh", &Metrics::new()).await);
    known(&watching).await;
    server.kubectl(&["label", "node", "fresh", "pool=web"]);
    let NodeRead::Read(facts) = watching.read_node(LIMIT).await else {
        panic!("the server answers")
    };
    assert_eq!(facts.labels["pool"], "web");
    assert!(!facts.api_servers.is_empty() && !facts.pod_cidrs.is_empty());
    assert_eq!(
        *watching.facts.borrow(),
        Facts::Known(facts),
        "everybody knows"
    );
}

#[tokio::test]
async fn a_server_that_refuses_has_answered_and_one_that_is_away_has_not() {
    let assets = assets();
    let server = Server::start(&assets);
    server.node("asked");
    let installed = server.install("asking");
    let watching = client::watch(installed.agent("asked", &Metrics::new()).await);
    known(&watching).await;
    server.kubectl(&["delete", "clusterrolebinding", "egress-routes-asking"]);
    let refused = async || matches!(watching.read_node(LIMIT).await, NodeRead::Refused(why) if why.contains("cannot get resource"));
    assert!(
        eventually(SOON, refused).await,
        "{:?}",
        watching.read_node(LIMIT).await
    );
    assert!(watching.read_node(LIMIT).await.answered());
    server.stop();
    assert_eq!(watching.read_node(LIMIT).await, NodeRead::Silent);
    installed_again(&server, &installed);
    // The open connection died with the old server.
    let answered = async || matches!(watching.read_node(LIMIT).await, NodeRead::Read(_));
    assert!(eventually(SOON, answered).await);
}

fn installed_again(server: &Server, installed: &super::server::Installed<'_>) {
    server.start_again();
    installed.apply();
}
