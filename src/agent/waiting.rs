//! Waiting for another agent to end: logs for which one, and reports where no other agent does.
//!
//! A first agent reports for the node itself. A process that is not root is none: then this one does, and the node is `Degraded`.

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::args::RunArgs;
use crate::cluster::annotations;
use crate::cluster::client::{self, Api};
use crate::report::metrics::Metrics;
use crate::report::status::{self, Overall, Status};
use crate::serve::socket::{self, AgentSocket, Holder};

/// Waits for the place of this network namespace's one agent.
pub(super) async fn for_the_place(args: &RunArgs) -> anyhow::Result<AgentSocket> {
    let (degraded_status, _) = watch::channel(None);
    // Ends with this function: then the agent itself reports.
    let mut reporting = JoinSet::new();
    AgentSocket::take(|holder| {
        let words = holder.to_string();
        if !matches!(holder, Holder::Stranger(_)) {
            return tracing::info!("Not started: {words}");
        }
        tracing::error!("Not started: {words}");
        degraded_status.send_replace(Some(degraded(args, words)));
        if reporting.is_empty()
            && let Ok(api) = Api::in_cluster(args.node.node_name.as_deref(), &Metrics::new())
        {
            let watching = client::watch(api.clone());
            reporting.spawn(annotations::keep_annotations(
                api,
                degraded_status.subscribe(),
                watching.seen,
            ));
        }
    })
    .await
}

fn degraded(args: &RunArgs, message: String) -> Status {
    Status {
        node: socket::node_name(args.node.node_name.as_deref()),
        agent: status::Agent::Running,
        status: Overall::Degraded,
        revision: String::new(),
        message: Some(message),
        problems: Vec::new(),
        sets: Vec::new(),
        rejected_revision: None,
        last_applied_at: None,
    }
}
