//! The arguments of the commands that look at a whole cluster from a kubeconfig.
//!
//! Pure.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::values::positive;

/// Which cluster, and what the agent's objects are called there.
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

/// How a cluster is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NodesOutput {
    /// A line per node; on a terminal, messages are cut to its width.
    Table,
    /// The same with the agent's pod and the node's own state, nothing cut.
    Wide,
    /// For programs.
    Json,
    /// The same as YAML.
    Yaml,
}

/// How a cluster is shown.
#[derive(Clone, Copy, Debug, Args)]
pub struct ShowArgs {
    /// How it is printed
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: NodesOutput,
    /// Print no heading
    #[arg(long)]
    pub no_headers: bool,
}

/// How long is waited, and for whom.
#[derive(Clone, Copy, Debug, Args)]
pub struct WaitArgs {
    /// How long to wait, like `90s` or `2m` [default: 2m, `drain` 30m]
    #[arg(long, value_name = "DURATION", value_parser = positive)]
    pub timeout: Option<Duration>,
    /// Nodes that are not Ready themselves do not count: the exit status is 0 without them
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
    /// Wait until every node that can has the `ConfigMap`'s current revision in force
    #[arg(long)]
    pub wait: bool,
    /// For how long.
    #[command(flatten)]
    pub waiting: WaitArgs,
    /// How it is shown.
    #[command(flatten)]
    pub show: ShowArgs,
    /// Where.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `sync`.
#[derive(Clone, Debug, Args)]
pub struct SyncArgs {
    /// For how long.
    #[command(flatten)]
    pub waiting: WaitArgs,
    /// How it is shown.
    #[command(flatten)]
    pub show: ShowArgs,
    /// Where.
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// `edit`.
#[derive(Clone, Debug, Args)]
pub struct EditArgs {
    /// The key of the `ConfigMap` to edit: routes.yaml, or a list file that it names
    #[arg(value_name = "KEY", default_value = crate::config::ROUTES_YAML)]
    pub key: String,
    /// Write without asking, once it is valid
    #[arg(short, long)]
    pub yes: bool,
    /// What follows the edit.
    #[command(flatten)]
    pub sync: SyncArgs,
}

/// `drain` and `undrain`.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    /// The gateway's address
    #[arg(value_name = "ADDRESS")]
    pub address: IpAddr,
    /// What follows the edit.
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
