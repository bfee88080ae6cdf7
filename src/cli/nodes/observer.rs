//! Reads a cluster: the `ConfigMap`, the `DaemonSet`, the agents' pods and the nodes, from a kubeconfig.
//!
//! Needs list on nodes and get on the `ConfigMap`. Without list on pods or get on the `DaemonSet` it sees less, and a hint reports what.
//! What follows from it is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow, bail};
use hyper::Request;
use hyper_util::client::proxy::matcher::Matcher;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ListMeta, ObjectMeta};
use serde::Deserialize;

use super::agents::{Agents, Installed};
use super::fleet::{Fleet, Newest, NodeSeen};
use crate::cli::args::ClusterArgs;
use crate::cluster::client::{Api, code, explain};
use crate::config::{self, Files};
use crate::report::metrics::Metrics;

/// Objects a page.
const PAGE: u32 = 500;
/// Nodes as the table that kubectl prints: some bytes of state instead of all their images.
const AS_TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Which nodes are looked at.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// All, when empty.
    pub names: Vec<String>,
    /// A label selector.
    pub selector: Option<String>,
}

/// One look at a time.
pub struct Observer {
    api: Api,
    args: ClusterArgs,
    which: Which,
}

impl Observer {
    /// Reads the kubeconfig; asks nothing yet.
    pub async fn connect(args: &ClusterArgs, which: Which) -> anyhow::Result<Self> {
        Ok(Self {
            api: Api::new(kubeconfig(args).await?, "", &Metrics::new())?,
            args: args.clone(),
            which,
        })
    }

    /// For those who write.
    pub fn client(&self) -> kube::Client {
        self.api.client()
    }

    /// What the agent's objects are called.
    pub fn args(&self) -> &ClusterArgs {
        &self.args
    }

    /// The cluster as it is.
    pub async fn look(&self) -> anyhow::Result<Fleet> {
        let (map, installed, pods, nodes) = tokio::join!(
            self.configmap(),
            self.daemonset(),
            self.pods(),
            self.nodes()
        );
        let newest = newest(&map?);
        let nodes = nodes.map_err(|error| anyhow!(explain(&error)).context("listing nodes"))?;
        let mut hints = Vec::new();
        let pods = self.usable_pods(pods, &installed, &mut hints)?;
        if let Some(reason) = &newest.refused {
            hints.push(format!(
                "hint: agents refuse the ConfigMap as it is: {reason}"
            ));
        }
        if newest.revision.is_empty() {
            let Self { args, .. } = self;
            hints.push(format!(
                "hint: the ConfigMap `{}/{}` configures nothing: it has no key `routes.yaml`",
                args.namespace, args.configmap
            ));
        }
        let nodes = self.chosen(nodes)?;
        let agents = Agents::new(pods.as_deref(), installed);
        let mut fleet = Fleet::new(&newest, &nodes, &agents, hints);
        fleet.hint_at_unmanaged();
        Ok(fleet)
    }

    /// Pods that cannot be listed, or a `DaemonSet` that has not been read yet, are no reason to fail.
    fn usable_pods(
        &self,
        pods: Result<Vec<Pod>, kube::Error>,
        installed: &Installed,
        hints: &mut Vec<String>,
    ) -> anyhow::Result<Option<Vec<Pod>>> {
        let ClusterArgs {
            namespace,
            daemonset,
            ..
        } = &self.args;
        let pods = match pods {
            Ok(pods) if pods.is_empty() && *installed == Installed::Unknown => {
                hints.push(format!("hint: there are no pods of the agent in `{namespace}`; assuming that every node runs it"));
                None
            }
            Ok(pods) => Some(pods),
            Err(error) if code(&error) == Some(403) => {
                hints.push(format!(
                    "hint: pods in `{namespace}` cannot be listed (no permission); assuming that a node which has reported runs the agent"
                ));
                None
            }
            Err(error) => return Err(anyhow!(explain(&error)).context("listing the agents' pods")),
        };
        if pods.is_some() && *installed == Installed::Unknown {
            hints.push(format!(
                "hint: the DaemonSet `{namespace}/{daemonset}` cannot be read (no permission); assuming that a node without a pod which never reported needs no agent"
            ));
        }
        if *installed == Installed::Not {
            hints.push(format!(
                "hint: there is no DaemonSet `{namespace}/{daemonset}`; --namespace and --daemonset name another"
            ));
        }
        Ok(pods)
    }

    /// Those that were asked for.
    fn chosen(&self, mut nodes: Vec<NodeSeen>) -> anyhow::Result<Vec<NodeSeen>> {
        let name = |node: &NodeSeen| node.metadata.name.clone().unwrap_or_default();
        let known: BTreeSet<String> = nodes.iter().map(name).collect();
        let missing = self.which.names.iter().find(|name| !known.contains(*name));
        if let Some(missing) = missing {
            bail!("there is no node `{missing}`");
        }
        if !self.which.names.is_empty() {
            nodes.retain(|node| self.which.names.contains(&name(node)));
        }
        Ok(nodes)
    }

    /// The agents' configuration.
    pub async fn configmap(&self) -> anyhow::Result<ConfigMap> {
        let ClusterArgs {
            namespace,
            configmap,
            ..
        } = &self.args;
        let maps: kube::Api<ConfigMap> = kube::Api::namespaced(self.api.client(), namespace);
        maps.get(configmap)
            .await
            .map_err(|error| anyhow!(explain(&error)))
            .with_context(|| format!("reading the ConfigMap `{namespace}/{configmap}`"))
    }

    async fn daemonset(&self) -> Installed {
        let sets: kube::Api<DaemonSet> =
            kube::Api::namespaced(self.api.client(), &self.args.namespace);
        match sets.get(&self.args.daemonset).await {
            Ok(set) => Installed::As(Box::new(set)),
            Err(error) if code(&error) == Some(404) => Installed::Not,
            Err(_) => Installed::Unknown,
        }
    }

    /// All pods of agents.
    pub async fn pods(&self) -> Result<Vec<Pod>, kube::Error> {
        let pods: kube::Api<Pod> = kube::Api::namespaced(self.api.client(), &self.args.namespace);
        let first = ListParams::default().labels(&self.args.pods).limit(PAGE);
        let (mut found, mut page) = (Vec::new(), first.clone());
        loop {
            let list = pods.list(&page).await?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = first.clone().continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    async fn nodes(&self) -> Result<Vec<NodeSeen>, kube::Error> {
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let page = self.page_of_nodes(token.as_deref()).await?;
            let state = page
                .column_definitions
                .iter()
                .position(|column| column.name == "Status");
            found.extend(page.rows.into_iter().map(|row| row.node(state)));
            token = page.metadata.continue_.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(found);
            }
        }
    }

    async fn page_of_nodes(&self, token: Option<&str>) -> Result<Table, kube::Error> {
        let mut page = ListParams::default().limit(PAGE);
        page.label_selector.clone_from(&self.which.selector);
        page.continue_token = token.map(str::to_owned);
        let list = kube::core::Request::new("/api/v1/nodes")
            .list(&page)
            .map_err(kube::Error::BuildRequest)?;
        let (mut parts, body) = list.into_parts();
        parts.headers.insert(
            hyper::header::ACCEPT,
            AS_TABLE.parse().map_err(|_| kube::Error::TlsRequired)?,
        );
        self.api
            .client()
            .request(Request::from_parts(parts, body))
            .await
    }
}

/// A list as kubectl gets it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    #[serde(default)]
    metadata: ListMeta,
    column_definitions: Vec<Column>,
    #[serde(default)]
    rows: Vec<TableRow>,
}

#[derive(Debug, Deserialize)]
struct Column {
    name: String,
}

#[derive(Debug, Deserialize)]
struct TableRow {
    cells: Vec<serde_json::Value>,
    object: Partial,
}

#[derive(Debug, Deserialize)]
struct Partial {
    metadata: ObjectMeta,
}

impl TableRow {
    fn node(self, state: Option<usize>) -> NodeSeen {
        let cell = state.and_then(|column| self.cells.get(column)?.as_str());
        NodeSeen {
            state: cell.unwrap_or("Unknown").to_owned(),
            metadata: self.object.metadata,
        }
    }
}

/// The keys of a `ConfigMap` as files.
pub fn keys(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.iter().flatten();
    let binary = map.binary_data.iter().flatten();
    text.map(|(key, value)| (key.clone(), value.clone().into_bytes()))
        .chain(binary.map(|(key, value)| (key.clone(), value.0.clone())))
        .collect()
}

/// What agents will make of a `ConfigMap`. Without the key, nodes that have nothing are not configured, and the others keep what they have.
fn newest(map: &ConfigMap) -> Newest {
    let Some(files) = Files::from_keys(&keys(map)) else {
        return Newest {
            revision: String::new(),
            refused: None,
        };
    };
    let refused = config::parse(&files)
        .err()
        .map(|problems| problems.summary());
    Newest {
        revision: files.revision().to_string(),
        refused,
    }
}

async fn kubeconfig(args: &ClusterArgs) -> anyhow::Result<kube::Config> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    let file = match &args.kubeconfig {
        // Its own words name the file.
        Some(path) => Kubeconfig::read_from(path)?,
        None => Kubeconfig::read()?,
    };
    let own_proxy = proxy_of(&file, args.context.as_deref());
    let mut config = kube::Config::from_custom_kubeconfig(file, &options)
        .await
        .context("reading the kubeconfig")?;
    config.proxy_url = match own_proxy {
        Some(proxy) => Some(proxy.parse().context("the kubeconfig's proxy-url")?),
        None => proxy_for(&Matcher::from_env(), &config.cluster_url),
    };
    Ok(config)
}

/// The `proxy-url` of a context's cluster.
fn proxy_of(file: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let context = context.or(file.current_context.as_deref())?;
    let named = file.contexts.iter().find(|named| named.name == context)?;
    let cluster = &named.context.as_ref()?.cluster;
    let named = file.clusters.iter().find(|named| named.name == *cluster)?;
    let proxy = named.cluster.as_ref()?.proxy_url.clone();
    proxy.filter(|proxy| !proxy.is_empty())
}

/// As kubectl has it: `NO_PROXY` is compared with the API server, not with the proxy as kube does, and loopback is never proxied.
fn proxy_for(environment: &Matcher, server: &hyper::Uri) -> Option<hyper::Uri> {
    let host = server.host().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        return None;
    }
    environment
        .intercept(server)
        .map(|proxy| proxy.uri().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_and_not_the_proxy_is_what_no_proxy_names() {
        let environment = Matcher::builder()
            .https("http://proxy.example:3128")
            .no("10.0.0.0/8, .internal.example,")
            .build();
        let proxied = |server: &str| proxy_for(&environment, &server.parse().unwrap());
        for server in [
            "https://10.1.2.3:6443",
            "https://api.internal.example",
            "https://localhost:6443",
            "https://127.0.0.1:6443",
            "https://[::1]:6443",
        ] {
            assert_eq!(proxied(server), None, "{server}");
        }
        for server in ["https://192.0.2.1:6443", "https://api.example"] {
            let proxy = proxied(server).map(|uri| uri.to_string());
            assert_eq!(proxy.as_deref(), Some("http://proxy.example:3128/"));
        }
    }

    #[test]
    fn a_proxy_of_the_kubeconfig_is_that_of_the_contexts_cluster() {
        let file = Kubeconfig::from_yaml(
            r#"{"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "one", "user": "u"}}, {"name": "b", "context": {"cluster": "two", "user": "u"}}],
            "clusters": [{"name": "one", "cluster": {"server": "https://x"}}, {"name": "two", "cluster": {"server": "https://y", "proxy-url": "http://p:1"}}]}"#,
        )
        .unwrap();
        assert_eq!(proxy_of(&file, None), None);
        assert_eq!(proxy_of(&file, Some("b")).as_deref(), Some("http://p:1"));
        assert_eq!(proxy_of(&file, Some("c")), None);
    }
}
