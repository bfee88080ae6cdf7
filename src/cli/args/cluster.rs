//! The arguments of the commands for a whole cluster, from a kubeconfig.
//!
//! Pure.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::positive;

/// The cluster, and the names of the agent's objects there.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// The kubeconfig file [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// Namespace of the agents and their configuration
    #[arg(short, long, value_name = "NAME", default_value = "kube-system")]
    pub namespace: String,
    /// The `ConfigMap`'s name
    #[arg(long, value_name = "NAME", default_value = "egress-routes")]
    pub configmap: String,
    /// The `DaemonSet`'s name
    #[arg(long, value_name = "NAME", default_value = "egress-routes")]
    pub daemonset: String,
    /// Labels of the agents' pods
    #[arg(
        long,
        value_name = "LABELS",
        default_value = "app.kubernetes.io/name=egress-routes"
    )]
    pub pods: String,
}

/// Output formats of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NodesOutput {
    /// A line per node; on a terminal, messages are cut to its width.
    Table,
    /// The same with the agent's pod and the node's own state, and full messages.
    Wide,
    /// For programs.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Output of a cluster.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShowArgs {
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: NodesOutput,
    /// Print no heading
    #[arg(long)]
    pub no_headers: bool,
}

/// Waiting: how long, and for which nodes.
#[derive(Clone, Copy, Debug, Args)]
pub struct WaitArgs {
    /// Longest time to wait, like `90s` or `2m` [default: 2m, `drain` 30m]
    #[arg(long, value_name = "DURATION", value_parser = positive)]
    pub timeout: Option<Duration>,
    /// Ignore nodes that are not Ready themselves: exit 0 without them
    #[arg(long)]
    pub allow_missing: bool,
}

/// `nodes`.
#[derive(Clone, Debug, Args)]
pub struct NodesArgs {
    /// Only these nodes
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Only nodes with these labels, like `pool=web`
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Wait until every node that can has the `ConfigMap`'s newest revision in force
    #[arg(long)]
    pub wait: bool,
    /// Waiting.
    #[command(flatten)]
    pub waiting: WaitArgs,
    /// Output.
    #[command(flatten)]
    pub show: ShowArgs,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `sync`.
#[derive(Clone, Debug, Args)]
pub struct SyncArgs {
    /// Waiting.
    #[command(flatten)]
    pub waiting: WaitArgs,
    /// Output.
    #[command(flatten)]
    pub show: ShowArgs,
    /// The cluster.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `edit`.
#[derive(Clone, Debug, Args)]
pub struct EditArgs {
    /// The key of the `ConfigMap` to edit: routes.yaml, or a list file that it names
    #[arg(value_name = "KEY", default_value = crate::config::ROUTES_YAML)]
    pub key: String,
    /// Write a valid text without asking
    #[arg(short, long)]
    pub yes: bool,
    /// After the edit.
    #[command(flatten)]
    pub sync: SyncArgs,
}

/// `drain` and `undrain`.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// The gateway's address
    #[arg(value_name = "ADDRESS")]
    pub address: IpAddr,
    /// After the edit.
    #[command(flatten)]
    pub sync: SyncArgs,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::args::{Cli, Command};

    #[test]
    fn nodes_takes_names_and_labels_of_nodes() {
        let cli = Cli::parse_from(["egress-routes", "nodes", "node1", "-l", "pool=web", "node2"]);
        let Command::Nodes(nodes) = cli.command else {
            panic!("not nodes")
        };
        assert_eq!(nodes.names, ["node1", "node2"]);
        assert_eq!(nodes.selector.as_deref(), Some("pool=web"));
    }

    #[test]
    fn an_address_is_checked_before_the_cluster_is_asked() {
        for address in ["10.116.0", "gateway-1", "10.116.0.5/32", ""] {
            assert!(
                Cli::try_parse_from(["egress-routes", "drain", address]).is_err(),
                "{address}"
            );
        }
        assert!(Cli::try_parse_from(["egress-routes", "undrain", "fd00::5"]).is_ok());
    }
}
