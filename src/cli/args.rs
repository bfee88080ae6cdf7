//! The command line: what can be said, and what it is checked for before anything runs.
//!
//! Pure. Doing what was said is `commands`' and `agent`'s.

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

/// Keeps a node's kernel routes equal to a mounted ConfigMap, so that chosen destinations leave through NAT gateways.
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

Try it before it is applied:  kustomize build overlay | egress-routes check -
See it on a node:             kubectl -n kube-system exec ds/egress-routes -- egress-routes status
See it on all nodes:          egress-routes nodes --wait"
)]
pub struct Cli {
    /// How much is logged, to stderr: error, warn, info, debug or trace; or directives like `egress_routes=debug,info`
    #[arg(
        long,
        global = true,
        env = "EGRESS_ROUTES_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log_level: String,
    /// How it is logged: lines for people, or one JSON object a line
    #[arg(
        long,
        global = true,
        env = "EGRESS_ROUTES_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch the configuration and keep the kernel's routes equal to it, until SIGTERM: the DaemonSet's command
    #[command(after_help = "Exit status: 0 on SIGTERM or SIGINT.")]
    Run(RunArgs),
    /// Validate a directory, a routes.yaml, or Kubernetes manifests that hold a ConfigMap with one; needs no privileges
    #[command(
        after_help = "Exit status: 0 valid, 1 refused (with --strict warnings too), 2 could not be read."
    )]
    Check(CheckArgs),
    /// Print what `apply` would change on this node now: `+ PREFIX via …`, `- …`, `~ …`, a line each
    #[command(after_help = "Exit status: 0 nothing to change, 1 changes, 2 error.")]
    Diff(OneShotArgs),
    /// Apply once and read back; for a node without the agent
    #[command(after_help = "Exit status: 0 all in, 1 something refused or failed, 2 error.")]
    Apply(ApplyArgs),
    /// Show which way packets to an address take on this node, and why, by the kernel's own lookup
    #[command(after_help = "Exit status: 0 by a gateway of its set, 1 not, 2 error.")]
    Explain(ExplainArgs),
    /// Show this node: sets, gateways with health, routes wanted and installed, problems
    #[command(
        after_help = "Exit status: 0 Ready, 1 not, 2 error.\nAsks the agent of this network namespace; without one, compares configuration and kernel itself."
    )]
    Status {
        /// What is ours and where the configuration is.
        #[command(flatten)]
        node: NodeArgs,
        /// How it is printed
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        output: Output,
        /// Print nothing but a reason, and exit 0 or 1: for the probes of the agent's own container
        #[arg(long, value_name = "WHAT")]
        probe: Option<Probe>,
    },
    /// Show the cluster, a line per node, from a kubeconfig
    #[command(after_help = "Exit status: 0 all Ready, 1 not, 2 error, 3 timed out while waiting.")]
    Nodes(NodesArgs),
    /// Make the kubelets bring the ConfigMap now, then wait until every node has it
    #[command(after_help = "Exit status: 0 all Ready, 1 not, 2 error, 3 timed out while waiting.")]
    Sync(SyncArgs),
    /// Edit the cluster's ConfigMap in $EDITOR: check it, show what changes, write it, then as `sync`
    #[command(
        after_help = "Exit status: 0 all Ready, 1 nothing written or not all Ready, 2 error, 3 timed out while waiting."
    )]
    Edit(EditArgs),
    /// Take a gateway out of every set without cutting its flows, and wait until it carries none
    #[command(
        after_help = "Exit status: 0 it carries nothing on any node, 1 not, 2 error, 3 timed out while waiting.\nRun it again to go on waiting."
    )]
    Drain(DrainArgs),
    /// Give a drained gateway new flows again
    #[command(after_help = "Exit status: 0 all Ready, 1 not, 2 error, 3 timed out while waiting.")]
    Undrain(DrainArgs),
    /// Remove every route and nexthop of ours from this node, and our annotations where that is allowed
    #[command(after_help = "Exit status: 0 removed, 2 error.")]
    Cleanup(CleanupArgs),
    /// Make a routes.yaml of `StaticRoute` and `Route` resources, or of `ip route` lines
    #[command(after_help = "Exit status: 0 all carried over, 1 something could not be, 2 error.")]
    Convert {
        /// A file, or `-` for standard input, as `kubectl get … -o yaml` prints it [default: -]
        path: Option<String>,
    },
    /// Print a completion script for a shell
    #[command(after_help = "For bash:  source <(egress-routes completion bash)")]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    #[command(after_help = "Read it with:  egress-routes man | man -l -")]
    Man,
    /// Print the version
    Version,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What tells our routes from everybody else's.
#[derive(Clone, Copy, Debug, Args)]
pub struct KernelArgs {
    /// Routing table
    #[arg(long, env = "EGRESS_ROUTES_TABLE", default_value_t = 254, value_parser = values::table, value_name = "N")]
    pub table: u32,
    /// Route protocol number, also of nexthops: the mark of what is ours
    #[arg(long, env = "EGRESS_ROUTES_PROTOCOL", default_value_t = 230, value_parser = values::protocol, value_name = "N")]
    pub protocol: u8,
    /// Metric of every route; a foreign route of the same prefix with a lower one wins
    #[arg(long, env = "EGRESS_ROUTES_METRIC", default_value_t = 4242, value_parser = values::metric, value_name = "N")]
    pub metric: u32,
}

impl KernelArgs {
    /// The same as the kernel side wants it.
    pub const fn ownership(&self) -> Ownership {
        Ownership {
            protocol: self.protocol,
            metric: self.metric,
            table: self.table,
        }
    }
}

/// A node's configuration and what is ours on it.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// What is ours.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// Directory of the configuration, normally a ConfigMap volume
    #[arg(
        long,
        env = "EGRESS_ROUTES_CONFIG",
        default_value = "/etc/egress-routes",
        value_name = "DIR"
    )]
    pub config: PathBuf,
    /// This node's name in the cluster; without it there is none
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
    /// How it is printed
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,
}

/// How `explain` is called.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The destination
    pub address: IpAddr,
    /// The source: one of the node's addresses, or of a pod on it
    #[arg(long, value_name = "IP")]
    pub from: Option<IpAddr>,
    /// The packet's mark, like 0x80 or 128
    #[arg(long, default_value = "0", value_parser = values::mark, value_name = "N", hide_default_value = true)]
    pub mark: u32,
    /// Fetch this http:// URL from the address, and print the source address that the far side saw
    #[arg(long, value_name = "URL")]
    pub echo: Option<String>,
    /// How it is printed
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,
    /// What is ours and where the configuration is.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `diff` and `apply`.
/// `diff`, and most of `apply`.
#[derive(Clone, Debug, Args)]
pub struct OneShotArgs {
    /// A directory, a file, or `-` for standard input, instead of --config
    pub path: Option<String>,
    /// What is ours and where the configuration is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// How it is printed
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,
}

/// `apply`.
#[derive(Clone, Debug, Args)]
pub struct ApplyArgs {
    /// The same as `diff`'s.
    #[command(flatten)]
    pub one_shot: OneShotArgs,
    /// Apply although an agent runs here, which will undo it
    #[arg(long)]
    pub force: bool,
}

/// `cleanup`.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// What is ours.
    #[command(flatten)]
    pub kernel: KernelArgs,
    /// This node's name, for its annotations
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Remove although an agent runs here, which will put its routes back
    #[arg(long)]
    pub force: bool,
    /// How it is printed
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// What is ours and where the configuration is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Address of /livez, /readyz, /metrics and /status; never all addresses
    #[arg(long, env = "EGRESS_ROUTES_LISTEN", default_value = "127.0.0.1:9465", value_parser = crate::serve::listen::parse, value_name = "ADDRESS:PORT")]
    pub listen: Listen,
    /// Let --listen name a global address; without it the port is opened on loopback instead
    #[arg(long, env = "EGRESS_ROUTES_LISTEN_GLOBAL", value_parser = clap::builder::BoolishValueParser::new(), num_args = 0..=1, default_value = "false", default_missing_value = "true", hide_possible_values = true, value_name = "BOOL")]
    pub listen_global: bool,
    /// How often the kernel is read although nothing was noticed
    #[arg(long, env = "EGRESS_ROUTES_RESYNC", default_value = "30s", value_parser = values::positive, value_name = "DURATION")]
    pub resync: Duration,
    /// How long the API server may be silent after a change before the change is taken back; 0 is off
    #[arg(long, env = "EGRESS_ROUTES_CONFIRM", default_value = "20s", value_parser = values::duration_or_zero, value_name = "DURATION")]
    pub confirm: Duration,
    /// What happens to the routes at the end; auto keeps them unless the DaemonSet is gone or going
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
    /// Name of the agent's pod, which its `DaemonSet`'s name is the beginning of
    #[arg(long, env = "POD_NAME", value_name = "NAME", hide = true)]
    pub pod_name: Option<String>,
    /// Taint that is removed from the node once the first apply is verified [default: off]
    #[arg(long, env = "EGRESS_ROUTES_STARTUP_TAINT", value_name = "KEY")]
    pub startup_taint: Option<String>,
}

impl RunArgs {
    /// The agent's own `DaemonSet`: as it was given, else as the pod's name shows it, else as `deploy/` calls it.
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
