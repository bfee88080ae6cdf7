//! `deploy/daemonset.yaml` in a namespace of its own: what a test installs, removes and makes anew.

use std::fs;
use std::path::PathBuf;

use egress_routes::cluster::client::Api;
use egress_routes::report::metrics::Metrics;
use serde_json::{Value, json};

use super::Server;

/// The manifests as one list, in another namespace, and with names of their own outside of it.
fn manifests(namespace: &str) -> String {
    let text = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/daemonset.yaml"
    ))
    .expect("deploy/daemonset.yaml");
    let mut objects: Vec<Value> = serde_yaml::from_multiple(&text).expect("YAML documents");
    let own = format!("egress-routes-{namespace}");
    for object in &mut objects {
        if object["metadata"]["namespace"] == "kube-system" {
            object["metadata"]["namespace"] = namespace.into();
        } else {
            object["metadata"]["name"] = own.clone().into();
            if object["roleRef"].is_object() {
                object["roleRef"]["name"] = own.clone().into();
            }
        }
        if object["subjects"].is_array() {
            object["subjects"][0]["namespace"] = namespace.into();
        }
        if object["kind"] == "DaemonSet" {
            // Only from kube-system may it be that important.
            object["spec"]["template"]["spec"]["priorityClassName"] = Value::Null;
        }
    }
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// The objects of `deploy/` in one namespace.
pub struct Installed<'a> {
    server: &'a Server,
    pub namespace: String,
    objects: String,
    pub token_file: PathBuf,
}

impl<'a> Installed<'a> {
    pub(super) fn new(server: &'a Server, namespace: &str) -> Self {
        server.kubectl(&["create", "namespace", namespace]);
        let installed = Self {
            server,
            namespace: namespace.into(),
            objects: manifests(namespace),
            token_file: server.dir.join(format!("{namespace}.token")),
        };
        installed.apply();
        installed.new_token(&json!({}));
        installed
    }

    /// Writes a new token of the service account to the token file, as the kubelet does; `spec` of a `TokenRequest`.
    pub fn new_token(&self, spec: &Value) {
        let path = format!(
            "/api/v1/namespaces/{}/serviceaccounts/egress-routes/token",
            self.namespace
        );
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = self
            .server
            .kubectl_with_input(&["create", "--raw", &path, "-f", "-"], &request.to_string());
        let answer: Value = serde_json::from_str(&answer).expect("a TokenRequest");
        fs::write(
            &self.token_file,
            answer["status"]["token"].as_str().expect("a token"),
        )
        .expect("writing the token");
    }

    /// The agent's client on a node, with the rights that the manifests give it.
    pub async fn agent(&self, node: &str, metrics: &Metrics) -> Api {
        self.server.api_with(&self.token_file, node, metrics).await
    }

    /// Makes the server's laboratory a pod of the service account.
    pub fn credentials(&self) {
        let authority = fs::read_to_string(self.server.ca()).expect("the server's certificate");
        let token = fs::read_to_string(&self.token_file).expect("the token");
        self.server
            .lab()
            .credentials(&self.namespace, &token, &authority);
    }

    /// `kubectl delete -f`.
    pub fn delete(&self) {
        self.server
            .kubectl_with_input(&["delete", "-f", "-"], &self.objects);
    }

    /// `kubectl apply -f`.
    pub fn apply(&self) {
        self.server
            .kubectl_with_input(&["apply", "-f", "-"], &self.objects);
    }
}
