//! The CEL expressions of `deploy/hardening/admission-policy.yaml`, on requests that must pass and requests that must not.
//!
//! As an API server evaluates them: variables in order, then each validation; an expression that fails refuses the request
//! (`failurePolicy: Fail`). Types are not checked beforehand here, as a server does when the policy is loaded.

use std::fs;

use cel::{Context, Program, Value as Cel};
use serde_json::{Value, json};

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/deploy/hardening/admission-policy.yaml"
);
const AGENT: &str = "system:serviceaccount:kube-system:egress-routes";

struct Policy(Value);

#[derive(Debug, PartialEq)]
enum Decision {
    /// Another user's request: none of the policy's business.
    NotMatched,
    Allowed,
    /// By the validation with this number.
    Denied(usize),
}

impl Policy {
    /// What changes of nodes are asked.
    fn read() -> Self {
        Self::named("egress-routes")
    }

    fn named(name: &str) -> Self {
        let documents: Vec<Value> =
            serde_yaml::from_multiple(&fs::read_to_string(FILE).unwrap()).unwrap();
        let of_kind = |kind: &str| {
            let mut found = documents
                .iter()
                .filter(|d| d["kind"] == kind && d["metadata"]["name"] == name);
            found.next().unwrap()["spec"].clone()
        };
        let binding = of_kind("ValidatingAdmissionPolicyBinding");
        assert_eq!(binding["policyName"], name, "the binding binds the policy");
        Self(of_kind("ValidatingAdmissionPolicy"))
    }

    fn list(&self, key: &str) -> &[Value] {
        self.0[key].as_array().unwrap()
    }

    fn decide(&self, request: &Value, object: &Value, old: &Value) -> Decision {
        let mut context = Context::default();
        context.add_variable("request", request).unwrap();
        context.add_variable("object", object).unwrap();
        context.add_variable("oldObject", old).unwrap();
        if self
            .list("matchConditions")
            .iter()
            .any(|condition| evaluate(condition, &context) != Ok(Cel::Bool(true)))
        {
            return Decision::NotMatched;
        }
        let mut variables = json!({});
        for variable in self.list("variables") {
            // One that cannot be evaluated fails every expression that uses it.
            if let Ok(value) = evaluate(variable, &context) {
                variables[variable["name"].as_str().unwrap()] = value.json().unwrap();
            }
        }
        context.add_variable("variables", variables).unwrap();
        let refused = self
            .list("validations")
            .iter()
            .position(|validation| evaluate(validation, &context) != Ok(Cel::Bool(true)));
        refused.map_or(Decision::Allowed, Decision::Denied)
    }
}

fn evaluate(holder: &Value, context: &Context<'_>) -> Result<Cel, String> {
    let expression = holder["expression"].as_str().unwrap();
    let program = Program::compile(expression).unwrap_or_else(|why| panic!("{expression}: {why}"));
    program.execute(context).map_err(|error| error.to_string())
}

fn node() -> Value {
    json!({
        "metadata": {"name": "node1", "uid": "u", "resourceVersion": "7", "labels": {"pool": "web"}, "annotations": {"other": "stays", "egress-routes.dev/status": "Ready"}},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"], "providerID": "x://1", "taints": [
            {"key": "other", "effect": "NoExecute"}, {"key": "egress-routes.dev/not-ready", "effect": "NoSchedule"}]},
    })
}

fn request() -> Value {
    json!({"operation": "UPDATE", "name": "node1", "subResource": "",
        "userInfo": {"username": AGENT, "extra": {"authentication.kubernetes.io/node-name": ["node1"], "authentication.kubernetes.io/pod-name": ["p"]}}})
}

/// The node after a change at a place, given as a JSON pointer to the parent and a key; null removes.
fn changed(parent: &str, key: &str, value: Value) -> Value {
    let mut node = node();
    let map = node.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    if value.is_null() {
        drop(map.remove(key));
    } else {
        drop(map.insert(key.into(), value));
    }
    node
}

#[test]
fn what_the_agent_does_is_allowed() {
    let policy = Policy::read();
    let annotations = "/metadata/annotations";
    let mut fresh = node();
    fresh["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("annotations");
    fresh["spec"] = json!({});
    let mut first = fresh.clone();
    first["metadata"]["annotations"] =
        json!({"egress-routes.dev/status": "Ready", "egress-routes.dev/revision": "0123456789ab"});
    for (what, before, after) in [
        ("nothing", node(), node()),
        (
            "an annotation is changed",
            node(),
            changed(annotations, "egress-routes.dev/status", json!("Degraded")),
        ),
        (
            "one is added",
            node(),
            changed(annotations, "egress-routes.dev/message", json!("words")),
        ),
        (
            "one is removed",
            node(),
            changed(annotations, "egress-routes.dev/status", Value::Null),
        ),
        (
            "the first ones of a node without any",
            fresh.clone(),
            first.clone(),
        ),
        ("the last ones are removed", first, fresh),
        (
            "the startup taint is removed",
            node(),
            changed(
                "/spec",
                "taints",
                json!([{"key": "other", "effect": "NoExecute"}]),
            ),
        ),
    ] {
        assert_eq!(
            policy.decide(&request(), &after, &before),
            Decision::Allowed,
            "{what}"
        );
    }
    let mut alone = node();
    alone["spec"]["taints"] =
        json!([{"key": "egress-routes.dev/not-ready", "effect": "NoSchedule"}]);
    assert_eq!(
        policy.decide(&request(), &changed("/spec", "taints", Value::Null), &alone),
        Decision::Allowed,
        "the only taint is removed"
    );
}

#[test]
fn another_node_is_not_the_agents_and_a_token_without_a_node_is_nobodys() {
    let policy = Policy::read();
    let after = changed(
        "/metadata/annotations",
        "egress-routes.dev/status",
        json!("Degraded"),
    );
    let with_extra = |extra: Value| {
        let mut request = request();
        request["userInfo"]["extra"] = extra;
        request
    };
    for extra in [
        json!({"authentication.kubernetes.io/node-name": ["node2"]}),
        json!({"authentication.kubernetes.io/node-name": ["node2", "node1"]}),
        json!({"authentication.kubernetes.io/node-name": []}),
        json!({"authentication.kubernetes.io/pod-name": ["node1"]}),
        json!({}),
    ] {
        assert_eq!(
            policy.decide(&with_extra(extra.clone()), &after, &node()),
            Decision::Denied(1),
            "{extra}"
        );
    }
    let mut bare = request();
    bare["userInfo"].as_object_mut().unwrap().remove("extra");
    assert_eq!(
        policy.decide(&bare, &after, &node()),
        Decision::Denied(1),
        "a token from before 1.30"
    );
}

#[test]
fn anything_else_of_its_own_node_is_refused() {
    let policy = Policy::read();
    let taints = |list: Value| changed("/spec", "taints", list);
    let other = json!({"key": "other", "effect": "NoExecute"});
    let startup = json!({"key": "egress-routes.dev/not-ready", "effect": "NoSchedule"});
    for (what, after, by) in [
        (
            "another annotation is added",
            changed("/metadata/annotations", "evil", json!("x")),
            2,
        ),
        (
            "another annotation is changed",
            changed("/metadata/annotations", "other", json!("x")),
            2,
        ),
        (
            "another annotation is removed",
            changed("/metadata/annotations", "other", Value::Null),
            2,
        ),
        (
            "all annotations are removed",
            changed("/metadata", "annotations", Value::Null),
            2,
        ),
        (
            "a likeness of the prefix",
            changed(
                "/metadata/annotations",
                "egress-routes.dev.evil/x",
                json!("x"),
            ),
            2,
        ),
        ("another taint is removed", taints(json!([startup])), 3),
        ("both are removed", taints(json!([])), 3),
        (
            "a taint is added",
            taints(json!([other, startup, {"key": "x", "effect": "NoExecute"}])),
            3,
        ),
        (
            "a taint is changed",
            taints(json!([{"key": "other", "effect": "NoSchedule"}, startup])),
            3,
        ),
        (
            "the startup taint becomes another",
            taints(json!([other, {"key": "egress-routes.dev/not-ready", "effect": "NoExecute"}])),
            3,
        ),
        (
            "a label is changed",
            changed("/metadata/labels", "pool", json!("db")),
            4,
        ),
        (
            "all labels are removed",
            changed("/metadata", "labels", Value::Null),
            4,
        ),
        (
            "a finalizer is added",
            changed("/metadata", "finalizers", json!(["x/y"])),
            5,
        ),
        (
            "an owner is added",
            changed("/metadata", "ownerReferences", json!([{"uid": "z"}])),
            5,
        ),
        (
            "the node is cordoned",
            changed("/spec", "unschedulable", json!(true)),
            6,
        ),
        (
            "the pod range is changed",
            changed("/spec", "podCIDRs", json!(["0.0.0.0/0"])),
            6,
        ),
        (
            "the provider's id is removed",
            changed("/spec", "providerID", Value::Null),
            6,
        ),
    ] {
        assert_eq!(
            policy.decide(&request(), &after, &node()),
            Decision::Denied(by),
            "{what}"
        );
    }
}

#[test]
fn creating_deleting_and_the_status_are_refused() {
    let policy = Policy::read();
    let with = |key: &str, value: Value| {
        let mut request = request();
        request[key] = value;
        request
    };
    assert_eq!(
        policy.decide(&with("operation", json!("CREATE")), &node(), &Value::Null),
        Decision::Denied(0)
    );
    assert_eq!(
        policy.decide(&with("operation", json!("DELETE")), &Value::Null, &node()),
        Decision::Denied(0)
    );
    assert_eq!(
        policy.decide(&with("subResource", json!("status")), &node(), &node()),
        Decision::Denied(0)
    );
}

#[test]
fn nobody_elses_requests_are_looked_at() {
    let policy = Policy::read();
    for user in [
        "system:node:node1",
        "admin",
        "system:serviceaccount:default:egress-routes",
    ] {
        let mut request = request();
        request["userInfo"]["username"] = user.into();
        assert_eq!(
            policy.decide(
                &request,
                &changed("/metadata/labels", "pool", json!("db")),
                &node()
            ),
            Decision::NotMatched,
            "{user}"
        );
    }
}

#[test]
fn events_are_about_the_agents_own_node_and_in_the_namespace_of_nodes() {
    let policy = Policy::named("egress-routes-events");
    let about = |kind: &str, name: &str| json!({"involvedObject": {"kind": kind, "name": name}});
    let request = |operation: &str, namespace: &str| {
        let mut request = request();
        request["operation"] = operation.into();
        request["namespace"] = namespace.into();
        request
    };
    let (own, none) = (about("Node", "node1"), Value::Null);
    let create = request("CREATE", "default");
    assert_eq!(policy.decide(&create, &own, &none), Decision::Allowed);
    let again = request("UPDATE", "default");
    assert_eq!(policy.decide(&again, &own, &own), Decision::Allowed);
    let elsewhere = request("CREATE", "kube-system");
    assert_eq!(policy.decide(&elsewhere, &own, &none), Decision::Denied(0));
    for other in [about("Node", "node2"), about("Pod", "node1"), json!({})] {
        assert_eq!(policy.decide(&create, &other, &none), Decision::Denied(1));
        assert_eq!(policy.decide(&again, &own, &other), Decision::Denied(1));
    }
    let mut nobody = create.clone();
    nobody["userInfo"]["extra"] = json!({});
    assert_eq!(policy.decide(&nobody, &own, &none), Decision::Denied(1));
    nobody["userInfo"]["username"] = "admin".into();
    assert_eq!(policy.decide(&nobody, &own, &none), Decision::NotMatched);
}
