//! The command line: its arguments, and the checks before anything runs.
//!
//! Pure. The other files of `cli`, and `agent`, run the commands.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cluster::uninstall::{OnExit, daemonset_of};
use crate::routing::batch::Ownership;
use crate::serve::listen::Listen;
use crate::serve::socket::Probe;

mod cluster;
mod values;

pub use cluster::{
    ClusterArgs, DrainArgs, EditArgs, NodesArgs, NodesOutput, ShowArgs, SyncArgs, WaitArgs,
};

/// Sends traffic for selected destinations through NAT gateways on every Kubernetes node, so partners see a few known addresses
#[derive(Debug, Parser)]
#[command(
    name = "egress-routes",
    version,
    max_term_width = 80,
    after_help = "\
Configuration by example (a ConfigMap key `routes.yaml`):

  routes:
    - name: partner-api
      gateways: [10.116.0.5]
      destinations: [203.0.113.0/24, 198.51.100.7]

Check it before you apply it:  kustomize build overlay | egress-routes check -
See every node:                egress-routes nodes --wait
See one node:                  egress-routes status      (on the node, or in its agent's pod)"
)]
pub struct Cli {
    /// Log level, to stderr: error, warn, info, debug, trace or off; or directives like `egress_routes=debug,info`
    #[arg(
        long,
        global = true,
        env = "EGRESS_ROUTES_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log_level: String,
    /// Log format: lines for people, or one JSON object a line
    #[arg(
        long,
        global = true,
        env = "EGRESS_ROUTES_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent: watch the configuration and keep the kernel's routes equal to it, until SIGTERM
    #[command(after_help = "Exit status: 0 on SIGTERM or SIGINT.")]
    Run(RunArgs),
    /// Validate a directory, a routes.yaml, or Kubernetes manifests with its ConfigMap; needs no privileges
    #[command(
        after_help = "Exit status: 0 valid, 1 refused (with --strict warnings too), 2 could not be read."
    )]
    Check(CheckArgs),
    /// Print what `apply` would change on this node: a line `+ PREFIX via …`, `- …` or `~ …` for each route
    #[command(after_help = "Exit status: 0 nothing to change, 1 changes, 2 error or refused.")]
    Diff(OneShotArgs),
    /// Apply the configuration once and read it back; for a machine without the agent
    #[command(
        after_help = "Exit status: 0 everything is installed, 1 something was refused or failed, 2 error."
    )]
    Apply(ApplyArgs),
    /// Show the path of packets to an address on this node, and why, by the kernel's own lookup
    #[command(after_help = "Exit status: 0 by a gateway of its set, 1 by another path, 2 error.")]
    Explain(ExplainArgs),
    /// Show this node: sets, gateways with health, routes wanted and installed, problems
    #[command(
        after_help = "Exit status: 0 Ready, 1 not Ready or no agent, 2 error.\nAsks the agent of this network namespace. Without an agent it compares configuration and kernel itself."
    )]
    Status {
        /// The marks of the agent's routes, and the configuration.
        #[command(flatten)]
        node: NodeArgs,
        /// Output format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        output: Output,
        /// Answer a probe of the agent's container: exit 0, or print the reason and exit 1
        #[arg(long, value_name = "WHAT")]
        probe: Option<Probe>,
    },
    /// Show every node of the cluster, from a kubeconfig
    #[command(after_help = "Exit status: 0 all nodes Ready, 1 not all, 2 error, 3 timed out.")]
    Nodes(NodesArgs),
    /// Make the kubelets bring the ConfigMap now, then wait until every node has it
    #[command(after_help = "Exit status: 0 all nodes Ready, 1 not all, 2 error, 3 timed out.")]
    Sync(SyncArgs),
    /// Edit the cluster's ConfigMap in $EDITOR: check it, show the changes, write it, then continue as `sync`
    #[command(
        after_help = "Exit status: 0 all nodes Ready, 1 not all or nothing written, 2 error, 3 timed out."
    )]
    Edit(EditArgs),
    /// Take a gateway out of every set without cutting its flows, and wait until it carries none
    #[command(
        after_help = "Exit status: 0 it carries no flow on any node, 1 not all nodes Ready or nothing written, 2 error, 3 timed out.\nRun it again to continue waiting."
    )]
    Drain(DrainArgs),
    /// Give a drained gateway new flows again
    #[command(after_help = "Exit status: 0 all nodes Ready, 1 not all, 2 error, 3 timed out.")]
    Undrain(DrainArgs),
    /// Remove the agent's routes and nexthops from this node, and its annotations where that is allowed
    #[command(after_help = "Exit status: 0 removed, 2 error.")]
    Cleanup(CleanupArgs),
    /// Convert `StaticRoute` and `Route` resources, or `ip route` lines, to a routes.yaml
    #[command(
        after_help = "Exit status: 0 everything was carried over, 1 something could not be, 2 error."
    )]
    Convert {
        /// A file, or `-` for standard input, as `kubectl get … -o yaml` prints it [default: -]
        path: Option<String>,
    },
    /// Print a completion script for a shell
    #[command(after_help = "For bash:  source <(egress-routes completion bash)")]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = "Read it with:  egress-routes man | man -l -")]
    Man,
    /// Print the version
    Version,
}

/// The format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// How the agent's routes are marked.
#[derive(Clone, Copy, Debug, Args)]
pub struct KernelArgs {
    /// Routing table
    #[arg(long, env = "EGRESS_ROUTES_TABLE", default_value_t = Ownership::DEFAULT.table, value_parser = values::table, value_name = "N")]
    pub table: u32,
    /// Route protocol number of routes and nexthops: only what carries it is ever changed or deleted
    #[arg(long, env = "EGRESS_ROUTES_PROTOCOL", default_value_t = Ownership::DEFAULT.protocol, value_parser = values::protocol, value_name = "N")]
    pub protocol: u8,
    /// Metric of every route; another route of the same prefix with a lower metric wins
    #[arg(long, env = "EGRESS_ROUTES_METRIC", default_value_t = Ownership::DEFAULT.metric, value_parser = values::metric, value_name = "N")]
    pub metric: u32,
}

impl KernelArgs {
    /// The same for the kernel's side.
    pub const fn ownership(&self) -> Ownership {
        Ownership {
            protocol: self.protocol,
            metric: self.metric,
            table: self.table,
        }
    }
}

/// A node's configuration, and how the agent's routes are marked on it.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// How the agent's routes are marked.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Directory of the configuration, normally a mounted ConfigMap
    #[arg(
        long,
        env = "EGRESS_ROUTES_CONFIG",
        default_value = "/etc/egress-routes",
        value_name = "DIR"
    )]
    pub config: PathBuf,
    /// Node name; if unset, cluster features are off
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
}

/// `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// A directory, a file, or `-` for standard input, as `kustomize build` prints it [default: /etc/egress-routes]
    pub path: Option<String>,
    /// Treat warnings as problems, for CI
    #[arg(long)]
    pub strict: bool,
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,
}

/// How `explain` is called.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The destination
    pub address: IpAddr,
    /// Source address: one of the node's, or a pod's
    #[arg(long, value_name = "IP")]
    pub from: Option<IpAddr>,
    /// Mark of the packet, like 0x80 or 128
    #[arg(long, default_value = "0", value_parser = values::mark, value_name = "N", hide_default_value = true)]
    pub mark: u32,
    /// Fetch this http:// URL from the address, and print the source address in the answer
    #[arg(long, value_name = "URL")]
    pub echo: Option<String>,
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,
    /// The marks of the agent's routes, and the configuration.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `diff` and `apply`.
/// `diff`, and most of `apply`.
#[derive(Clone, Debug, Args)]
pub struct OneShotArgs {
    /// A directory, a file, or `-` for standard input, instead of --config
    pub path: Option<String>,
    /// The marks of the agent's routes, and the configuration.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,
}

/// `apply`.
#[derive(Clone, Debug, Args)]
pub struct ApplyArgs {
    /// The same as `diff`'s.
    #[command(flatten)]
    pub one_shot: OneShotArgs,
    /// Apply even if an agent runs here, which will revert it
    #[arg(long)]
    pub force: bool,
}

/// `cleanup`.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// How the agent's routes are marked.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Node name, to remove its annotations
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Remove even if an agent runs here, which will restore its routes
    #[arg(long)]
    pub force: bool,
    /// Output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The marks of the agent's routes, and the configuration.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Address of /livez, /readyz, /metrics and /status; never all addresses of the node
    #[arg(long, env = "EGRESS_ROUTES_LISTEN", default_value = "127.0.0.1:9465", value_parser = crate::serve::listen::parse, value_name = "ADDRESS:PORT")]
    pub listen: Listen,
    /// Allow a public address in --listen; otherwise the port is opened on loopback instead
    #[arg(long, env = "EGRESS_ROUTES_LISTEN_GLOBAL", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, default_value = "false", default_missing_value = "true", hide_possible_values = true, value_name = "BOOL")]
    pub listen_global: bool,
    /// Full resync interval: how often the kernel is read without any notification
    #[arg(long, env = "EGRESS_ROUTES_RESYNC", default_value = "30s", value_parser = values::positive, value_name = "DURATION")]
    pub resync: Duration,
    /// How long the API server may stay silent after a change before the change is reverted; 0 is off
    #[arg(long, env = "EGRESS_ROUTES_CONFIRM", default_value = "20s", value_parser = values::duration_or_zero, value_name = "DURATION")]
    pub confirm: Duration,
    /// The routes at exit; auto keeps them unless the DaemonSet is deleted
    #[arg(
        long,
        env = "EGRESS_ROUTES_ON_EXIT",
        default_value = "auto",
        value_name = "WHAT"
    )]
    pub on_exit: OnExit,
    /// Namespace of the agent's DaemonSet
    #[arg(
        long,
        env = "POD_NAMESPACE",
        default_value = "kube-system",
        value_name = "NAME",
        hide = true
    )]
    pub namespace: String,
    /// Name of the agent's DaemonSet
    #[arg(
        long,
        env = "EGRESS_ROUTES_DAEMONSET",
        value_name = "NAME",
        hide = true
    )]
    pub daemonset: Option<String>,
    /// Name of the agent's pod, which begins with its `DaemonSet`'s name
    #[arg(long, env = "POD_NAME", value_name = "NAME", hide = true)]
    pub pod_name: Option<String>,
    /// Key of a taint to remove from the node once the first apply is verified [default: off]
    #[arg(long, env = "EGRESS_ROUTES_STARTUP_TAINT", value_name = "KEY")]
    pub startup_taint: Option<String>,
}

impl RunArgs {
    /// The agent's own `DaemonSet`: as given, else by the pod's name, else as in `deploy/`.
    pub fn daemonset(&self) -> &str {
        let by_pod = || daemonset_of(self.pod_name.as_deref()?);
        self.daemonset
            .as_deref()
            .or_else(by_pod)
            .unwrap_or("egress-routes")
    }
}

#[cfg(test)]
mod tests;
