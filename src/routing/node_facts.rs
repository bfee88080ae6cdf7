//! The facts of this node from the API, as far as routing needs them.
//!
//! Pure values. Fetching and keeping them is `api`'s.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::net::prefix::Prefix;

/// Labels, pod ranges and API server addresses.
#[derive(Clone, Debug, PartialEq)]
pub enum Facts {
    /// There is no cluster: sets with a selector are skipped and reported.
    NoCluster,
    /// There is a cluster that has not answered since the agent started: what the kernel has stays.
    NotYet {
        /// Addresses known without asking, e.g. `KUBERNETES_SERVICE_HOST`.
        api_servers: Vec<IpAddr>,
    },
    /// The last answer, however old.
    Known(NodeFacts),
}

/// The last answer of the API.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    /// The node's labels.
    pub labels: BTreeMap<String, String>,
    /// The node's pod CIDRs.
    pub pod_cidrs: Vec<Prefix>,
    /// The addresses behind the `kubernetes` Service, and `KUBERNETES_SERVICE_HOST`.
    pub api_servers: Vec<IpAddr>,
}
