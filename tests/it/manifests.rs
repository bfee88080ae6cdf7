//! What is in `deploy/`: that kubectl accepts it unchanged, that it names only what the program has, and that it asks for no more
//! rights than the contract allows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Parser as _;
use egress_routes::cli::args::{self, Cli};
use egress_routes::cluster::uninstall::OnExit;
use egress_routes::serve::listen::Listen;
use egress_routes::serve::socket::Probe;
use serde_json::{Value, json};

use crate::lab::AGENT;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The files that `kubectl apply -f deploy/` reads, in its order.
fn applied_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(Path::new(ROOT).join("deploy"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.is_file()
                && path
                    .extension()
                    .is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
        })
        .collect();
    files.sort();
    files
}

/// Every object in those files, in order.
fn objects() -> Vec<Value> {
    applied_files()
        .iter()
        .flat_map(|path| {
            serde_yaml::from_multiple::<Value>(&fs::read_to_string(path).unwrap()).unwrap()
        })
        .collect()
}

fn object(kind: &str, namespace: Option<&str>) -> Value {
    let mut found = objects().into_iter().filter(|object| {
        object["kind"] == kind && object["metadata"]["namespace"].as_str() == namespace
    });
    let one = found
        .next()
        .unwrap_or_else(|| panic!("deploy/ has no {kind} in {namespace:?}"));
    assert!(
        found.next().is_none(),
        "deploy/ has two {kind} in {namespace:?}"
    );
    one
}

fn pod() -> Value {
    object("DaemonSet", Some("kube-system"))["spec"]["template"]["spec"].clone()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|item| item.as_str().unwrap())
        .collect()
}

#[test]
fn apply_f_reads_seven_objects_and_nothing_that_is_not_one() {
    let names: Vec<String> = objects()
        .iter()
        .map(|object| {
            assert!(object["apiVersion"].is_string(), "{object}");
            assert_eq!(object["metadata"]["name"], "egress-routes", "{object}");
            format!(
                "{} {}",
                object["kind"].as_str().unwrap(),
                object["metadata"]["namespace"].as_str().unwrap_or("-")
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            "ConfigMap kube-system",
            "ServiceAccount kube-system",
            "ClusterRole -",
            "ClusterRoleBinding -",
            "Role kube-system",
            "RoleBinding kube-system",
            "DaemonSet kube-system",
        ]
    );
}

#[test]
fn apply_k_reads_the_same_files_as_apply_f() {
    let kustomization: Value = serde_yaml::from_str(
        &fs::read_to_string(Path::new(ROOT).join("deploy/Kustomization")).unwrap(),
    )
    .unwrap();
    let files: Vec<String> = applied_files()
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(strings(&kustomization["resources"]), files);
    for entry in fs::read_dir(Path::new(ROOT).join("deploy"))
        .unwrap()
        .flatten()
    {
        let path = entry.path();
        let known = path.is_dir()
            || applied_files().contains(&path)
            || entry.file_name() == "Kustomization";
        assert!(
            known,
            "{} is neither for kubectl nor in a folder of its own",
            path.display()
        );
    }
}

#[test]
fn the_daemonsets_command_line_and_environment_are_the_programs() {
    let container = &pod()["containers"][0];
    let value = |env: &Value| {
        (
            env["name"].as_str().unwrap().to_owned(),
            env["value"]
                .as_str()
                .map(|value| value.replace("$(HOST_IP)", "10.0.0.1")),
        )
    };
    let env: Vec<(String, Option<String>)> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(value)
        .collect();
    // What the environment sets is on the command line here: each test process has one environment.
    let flags = env.iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("EGRESS_ROUTES_")?;
        Some(format!(
            "--{}={}",
            name.to_lowercase().replace('_', "-"),
            value.as_ref()?
        ))
    });
    let args = strings(&container["args"]).into_iter().map(str::to_owned);
    let words = std::iter::once("egress-routes".to_owned())
        .chain(args)
        .chain(flags);
    let cli = Cli::try_parse_from(words).unwrap();
    let args::Command::Run(run) = cli.command else {
        panic!("the DaemonSet does not run `run`")
    };
    assert_eq!(run.listen, Listen::At("10.0.0.1:9465".parse().unwrap()));
    assert_eq!(run.on_exit, OnExit::Auto);
    assert_eq!(
        container["volumeMounts"][0]["mountPath"],
        run.node.config.to_str().unwrap()
    );

    let fields: Vec<(&str, &str)> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|env| {
            Some((
                env["name"].as_str().unwrap(),
                env["valueFrom"]["fieldRef"]["fieldPath"].as_str()?,
            ))
        })
        .collect();
    assert_eq!(
        fields,
        [
            ("NODE_NAME", "spec.nodeName"),
            ("POD_NAMESPACE", "metadata.namespace"),
            ("POD_NAME", "metadata.name"),
            ("HOST_IP", "status.hostIP")
        ]
    );
}

#[test]
fn the_probes_ask_the_agent_itself_and_not_a_port_that_others_may_hold() {
    let container = &pod()["containers"][0];
    for (probe, what) in [
        ("livenessProbe", Probe::Live),
        ("readinessProbe", Probe::Ready),
    ] {
        let command = &container[probe]["exec"]["command"];
        let cli = Cli::try_parse_from(strings(command)).unwrap();
        assert!(
            matches!(cli.command, args::Command::Status { probe: Some(found), .. } if found == what),
            "{command}"
        );
    }
    assert_eq!(
        container["ports"],
        json!([{ "name": "http", "containerPort": 9465 }])
    );
    let annotations =
        &object("DaemonSet", Some("kube-system"))["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(annotations["prometheus.io/port"], "9465");
}

#[test]
fn the_container_may_do_what_the_contract_says_and_no_more() {
    let pod = pod();
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "runAsUser": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        })
    );
    assert_eq!(pod["hostNetwork"], true);
    assert!(
        pod["hostPID"].is_null() && pod["hostIPC"].is_null() && pod["initContainers"].is_null()
    );
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    // The ConfigMap is the only volume: no host path, and no file of it by subPath, which would never follow an edit.
    assert_eq!(
        pod["volumes"],
        json!([{ "name": "config", "configMap": { "name": "egress-routes", "optional": false } }])
    );
    assert!(pod["containers"][0]["volumeMounts"][0]["subPath"].is_null());
}

#[test]
fn the_agent_starts_before_everything_else_and_outlives_it() {
    let pod = pod();
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["dnsPolicy"], "Default");
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn the_roles_are_those_of_the_contract() {
    let rules = |kind: &str, namespace: Option<&str>| object(kind, namespace)["rules"].clone();
    assert_eq!(
        rules("ClusterRole", None),
        json!([
            { "apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"] },
            { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] },
            { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "resourceNames": ["kubernetes"], "verbs": ["get"] },
            { "apiGroups": [""], "resources": ["endpoints"], "resourceNames": ["kubernetes"], "verbs": ["get"] },
        ])
    );
    assert_eq!(
        rules("Role", Some("kube-system")),
        json!([{ "apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["egress-routes"], "verbs": ["get"] }])
    );
    for (kind, namespace, role) in [
        ("ClusterRoleBinding", None, "ClusterRole"),
        ("RoleBinding", Some("kube-system"), "Role"),
    ] {
        let binding = object(kind, namespace);
        assert_eq!(
            binding["roleRef"],
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "egress-routes" })
        );
        assert_eq!(
            binding["subjects"],
            json!([{ "kind": "ServiceAccount", "name": "egress-routes", "namespace": "kube-system" }])
        );
    }
}

/// `check -` on a stream.
fn check(stream: &str) -> (Option<i32>, String) {
    let mut child = Command::new(AGENT)
        .args(["check", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that ends without reading all of it has printed why.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), stream.as_bytes());
    let output = child.wait_with_output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
    )
}

/// `deploy/configmap.yaml` as somebody leaves it who takes the example into use.
fn sample() -> String {
    fs::read_to_string(Path::new(ROOT).join("deploy/configmap.yaml"))
        .unwrap()
        .replace("\n  routes.yaml.example: |", "\n  routes.yaml: |")
}

#[test]
fn applying_the_configmap_again_has_no_key_to_reset_but_the_example() {
    let config = object("ConfigMap", Some("kube-system"));
    let keys: Vec<&String> = config["data"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["routes.yaml.example"]);
}

#[test]
fn the_sample_configuration_is_valid_and_applies_to_no_node() {
    let (code, output) = check(&sample());
    assert_eq!(code, Some(0), "{output}");
    let config: Value = serde_yaml::from_str(&sample()).unwrap();
    let routes: Value =
        serde_yaml::from_str(config["data"]["routes.yaml"].as_str().unwrap()).unwrap();
    for set in routes["routes"].as_array().unwrap() {
        assert_eq!(
            set["nodeSelector"]["matchLabels"],
            json!({ "egress-routes.dev/example": "true" }),
            "{set} would apply to nodes"
        );
    }
}

/// The sample as somebody leaves it who takes every commented example into use.
fn sample_uncommented() -> String {
    let text = sample();
    let mut in_example = false;
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            let comment = line.trim_start();
            in_example = comment.starts_with('#')
                && (in_example
                    || comment.starts_with("# - name:")
                    || comment.starts_with("# aws.txt:"));
            if in_example || comment.starts_with("# protected:") {
                line.replacen("# ", "", 1)
            } else {
                line.to_owned()
            }
        })
        .collect();
    lines.join("\n")
}

#[test]
fn every_example_in_the_samples_comments_is_valid_too() {
    let text = sample_uncommented();
    let objects: Vec<Value> = serde_yaml::from_multiple(&text).unwrap();
    let routes: Value =
        serde_yaml::from_str(objects[0]["data"]["routes.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(routes["routes"].as_array().unwrap().len(), 2, "{text}");
    let schema = Path::new(ROOT).join("docs/schema/routes.schema.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
    let keys =
        |of: &Value| -> BTreeSet<String> { of.as_object().unwrap().keys().cloned().collect() };
    let set = &routes["routes"][1];
    for (part, shown) in [
        ("set", set),
        ("gateway", &set["gateways"][1]),
        ("healthCheck", &set["healthCheck"]),
    ] {
        let mut all = keys(&schema["$defs"][part]["properties"]);
        all.remove("port"); // only for `type: tcp`
        assert_eq!(keys(shown), all, "{part}");
    }
    assert!(routes["protected"].is_array());
    assert!(objects[0]["data"]["aws.txt"].is_string());
    let (code, output) = check(&text);
    assert_eq!(code, Some(0), "{output}");
}
