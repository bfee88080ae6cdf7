//! A stub of the Kubernetes API server in a laboratory, and what makes an agent there believe that it is a pod of a cluster.
//!
//! It knows one Node and the EndpointSlice of `kubernetes`, keeps the Node's annotations, and prints each write on stdout. It proves what
//! the agent does when an API server comes and goes; what the agent may do there is for the tests against a real one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::lab::{AGENT, Lab, Running};

/// The node whose agent is tested.
pub const NODE: &str = "nd";
/// The port of every API server here.
pub const PORT: u16 = 6443;
/// What the test binary does instead of testing when it has to be the stub: the addresses of its EndpointSlice, one a line.
const ENDPOINTS: &str = "EGRESS_ROUTES_TEST_STUB";
/// Made by `stub/make-certificates`, which lists the names.
const AUTHORITY: &str = include_str!("stub/ca.crt");
const CERTIFICATE: &str = include_str!("stub/tls.crt");
const KEY: &str = include_str!("stub/tls.key");

/// A running stub.
#[derive(Debug)]
pub struct Stub(pub Running);

impl Stub {
    /// Starts it on all addresses of a host, port [`PORT`]; `endpoints` are what it publishes behind the `kubernetes` Service.
    pub fn start(lab: &Lab, host: &str, endpoints: &[&str]) -> Self {
        let me = std::env::current_exe().expect("the path of the test binary");
        let args = [
            me.to_str().expect("build paths are text"),
            "--exact",
            TEST,
            "--nocapture",
        ];
        let stub = lab.spawn_with_env(host, &args, &[(ENDPOINTS, &endpoints.join("\n"))]);
        stub.wait_for("stub: ready", Duration::from_secs(20));
        Self(stub)
    }

    /// The Node's annotations of ours, without their prefix, as the last write left them.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        let output = self.0.log();
        let last = output
            .lines()
            .filter_map(|line| line.strip_prefix("stub: annotations "))
            .next_back();
        let all: BTreeMap<String, String> = last
            .map(|json| serde_json::from_str(json).expect("the stub writes JSON"))
            .unwrap_or_default();
        all.into_iter()
            .filter_map(|(key, value)| {
                Some((key.strip_prefix("egress-routes.dev/")?.to_owned(), value))
            })
            .collect()
    }

    /// The reasons of all Events so far.
    pub fn events(&self) -> Vec<String> {
        self.0
            .log()
            .lines()
            .filter_map(|line| line.strip_prefix("stub: event "))
            .map(str::to_owned)
            .collect()
    }
}

/// Makes the laboratory a pod of a cluster whose API server is a stub.
pub fn credentials(lab: &Lab) {
    lab.credentials("kube-system", "token", AUTHORITY);
}

/// Starts the agent as the pod of [`NODE`] in a cluster whose API server is at `api`, an address or a name.
pub fn agent(lab: &Lab, config: &Path, api: &str, flags: &[&str]) -> Running {
    let config = config.to_str().expect("temporary paths are text");
    let args: Vec<&str> = [AGENT, "run", "--config", config]
        .into_iter()
        .chain(flags.iter().copied())
        .collect();
    let port = PORT.to_string();
    lab.spawn_with_env(
        NODE,
        &args,
        &[
            ("NODE_NAME", NODE),
            ("KUBERNETES_SERVICE_HOST", api),
            ("KUBERNETES_SERVICE_PORT", &port),
        ],
    )
}

// --- the stub itself ---

const TEST: &str = "stub::a_merge_patch_changes_what_it_names_and_removes_what_is_null";

#[derive(Default)]
struct Cluster {
    endpoints: Vec<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

impl Cluster {
    fn patch(&mut self, patch: &Value) {
        for (key, value) in patch["metadata"]["annotations"]
            .as_object()
            .into_iter()
            .flatten()
        {
            match value.as_str() {
                Some(text) => drop(self.annotations.insert(key.clone(), text.to_owned())),
                None => drop(self.annotations.remove(key)),
            }
        }
    }

    fn answer(&mut self, method: &Method, path: &str, meta: bool, body: &Value) -> (u16, Value) {
        let node = format!("/api/v1/nodes/{NODE}");
        let is_node = path == node;
        if is_node && *method == Method::PATCH {
            self.patch(body);
            say(&format!("annotations {}", json!(self.annotations)));
        }
        let metadata = json!({"name": NODE, "uid": "1", "labels": self.labels, "annotations": self.annotations});
        match path {
            "/version" => (200, json!({"major": "1", "minor": "30"})),
            _ if is_node && meta => (
                200,
                json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata}),
            ),
            _ if is_node => (
                200,
                json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"podCIDR": "10.244.1.0/24"}}),
            ),
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes" => {
                let endpoints: Vec<Value> = self
                    .endpoints
                    .iter()
                    .map(|address| json!({"addresses": [address]}))
                    .collect();
                let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "kubernetes"}, "addressType": "IPv4", "endpoints": endpoints});
                (200, slice)
            }
            _ if *method == Method::POST => {
                say(&format!(
                    "event {}",
                    body["reason"].as_str().unwrap_or("without a reason")
                ));
                (201, body.clone())
            }
            _ => (
                404,
                json!({"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": path}),
            ),
        }
    }
}

fn say(what: &str) {
    println!("stub: {what}");
}

async fn respond(
    request: Request<Incoming>,
    cluster: Arc<Mutex<Cluster>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let meta = request.headers().get("accept").is_some_and(|accept| {
        accept
            .to_str()
            .is_ok_and(|text| text.contains("PartialObject"))
    });
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let body = request
        .into_body()
        .collect()
        .await
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let (code, answer) = cluster.lock().unwrap().answer(&method, &path, meta, &body);
    let response = Response::builder()
        .status(code)
        .header("content-type", "application/json");
    Ok(response.body(Full::new(answer.to_string().into())).unwrap())
}

/// Each line of stdin is the endpoints from then on, or `label KEY=VALUE`, or `label KEY=` without that label.
fn obey(cluster: &Mutex<Cluster>) {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let mut cluster = cluster.lock().unwrap();
        match line
            .strip_prefix("label ")
            .and_then(|label| label.split_once('='))
        {
            Some((key, "")) => drop(cluster.labels.remove(key)),
            Some((key, value)) => drop(cluster.labels.insert(key.to_owned(), value.to_owned())),
            None => cluster.endpoints = line.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

async fn serve(endpoints: Vec<String>) {
    let certificates = CertificateDer::pem_slice_iter(CERTIFICATE.as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let cluster = Arc::new(Mutex::new(Cluster {
        endpoints,
        labels: BTreeMap::from([("pool".into(), "web".into())]),
        ..Cluster::default()
    }));
    let commanded = cluster.clone();
    std::thread::spawn(move || obey(&commanded));
    let listener = TcpListener::bind(("::", PORT)).await.unwrap();
    say("ready");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (tls, cluster) = (tls.clone(), cluster.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else {
                return;
            };
            let service =
                hyper::service::service_fn(move |request| respond(request, cluster.clone()));
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

#[test]
fn a_merge_patch_changes_what_it_names_and_removes_what_is_null() {
    if let Ok(endpoints) = std::env::var(ENDPOINTS) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(serve(endpoints.lines().map(str::to_owned).collect()));
    }
    let mut cluster = Cluster::default();
    cluster.patch(&json!({"metadata": {"annotations": {"a": "1", "b": "2"}}}));
    cluster.patch(&json!({"metadata": {"annotations": {"a": null, "c": "3"}}}));
    assert_eq!(json!(cluster.annotations), json!({"b": "2", "c": "3"}));
}
