//! Which streams hold a configuration, and the messages for those that do not.

use super::*;
use crate::config::parse;

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: egress-routes, namespace: kube-system}\ndata:\n  routes.yaml: |\n    \
                   routes: []\n  aws.txt: |\n    192.0.2.0/24\n";

fn found(text: &str) -> Vec<Found> {
    match search("m.yaml", text) {
        Stream::Manifests(manifests) => manifests.found,
        Stream::Other => panic!("not taken for manifests: {text}"),
    }
}

fn names(text: &str) -> Vec<String> {
    found(text).into_iter().map(|found| found.name).collect()
}

#[test]
fn a_configmap_is_found_among_other_documents_right_or_wrong() {
    let service = "apiVersion: v1\nkind: Service\nspec: {a: 1, a: 2, [\n";
    for text in [
        MAP.to_owned(),
        format!("---\n{MAP}---\n"),
        format!("{service}---\n{MAP}"),
        format!("# kustomize\n---\n{service}--- # next\n{MAP}...\n---\n{service}"),
        format!("\u{feff}{}", MAP.replace('\n', "\r\n")),
    ] {
        let found = found(&text);
        assert_eq!(found.len(), 1, "{text}");
        assert_eq!(found[0].name, "kube-system/egress-routes");
        assert_eq!(
            found[0].files.as_ref().unwrap().routes_yaml,
            b"routes: []\n"
        );
    }
}

#[test]
fn lists_of_objects_and_json_are_looked_through() {
    let list = format!(
        "kind: List\napiVersion: v1\nitems:\n- {}",
        MAP.replace('\n', "\n  ")
    );
    assert_eq!(names(&list), ["kube-system/egress-routes"]);
    let json = r#"{"apiVersion":"v1","kind":"ConfigMapList","items":[{"metadata":{"name":"a"},"data":{"routes.yaml":"routes: []\n"}},
        {"metadata":{"name":"b"},"data":{"x":"y"}},{"apiVersion":"v1","kind":"ConfigMap","binaryData":{"routes.yaml":"cm91dGVzOiBbXQ=="}}]}"#;
    assert_eq!(names(json), ["a", "without a name"]);
    let files: Vec<Files> = found(json)
        .into_iter()
        .map(|found| found.files.unwrap())
        .collect();
    assert!(files.iter().all(|files| parse(files).is_ok()));
}

#[test]
fn list_files_come_from_the_same_configmap() {
    let text = MAP.replace(
        "routes: []",
        "routes: [{name: a, gateways: [10.116.0.5], destinationFiles: [aws.txt, b.txt]}]",
    ) + "binaryData:\n  b.txt: MTk4LjUxLjEwMC43Cg==\n";
    let files = found(&text).remove(0).files.unwrap();
    assert_eq!(parse(&files).unwrap().config.sets[0].destinations.len(), 2);
}

#[test]
fn what_is_no_text_is_refused_with_its_line_in_the_stream() {
    let why = |text: &str| {
        let text = format!("kind: Pod\napiVersion: v1\n---\n{text}");
        let Stream::Manifests(mut manifests) = search("m.yaml", &text) else {
            panic!("not taken for manifests: {text}")
        };
        let problems = manifests.problems.pop().into_iter();
        let found = manifests.found.pop().map(|found| found.files.unwrap_err());
        let all: Vec<Problem> = found
            .unwrap_or_default()
            .into_iter()
            .chain(problems)
            .collect();
        let lines: Vec<String> = all.iter().map(ToString::to_string).collect();
        lines.join("\n")
    };
    assert_eq!(
        why("kind: ConfigMap\napiVersion: v1\ndata:\n  routes.yaml:\n    routes: []\n"),
        "m.yaml:8:5: `routes.yaml` is a structure; a ConfigMap holds text: write `routes.yaml: |`"
    );
    assert_eq!(
        why("kind: ConfigMap\napiVersion: v1\ndata:\n  routes.yaml: 1\n"),
        "m.yaml:7:16: `routes.yaml` is not text, and the API server takes nothing else; put it in quotes"
    );
    assert_eq!(
        why("kind: ConfigMap\napiVersion: v1\nbinaryData:\n  routes.yaml: '%'\n"),
        "m.yaml:7:16: `routes.yaml` is not base64, which `binaryData` holds"
    );
    assert_eq!(
        why("kind: ConfigMap\napiVersion: v1\ndata: {\n  routes.yaml: a\n"),
        "m.yaml:6:7: unclosed bracket '{'"
    );
}

#[test]
fn a_configuration_itself_is_no_manifest_and_a_stream_without_one_is_empty() {
    for text in [
        "",
        "routes: []\n",
        "routes: [\n",
        "# kind: see routes.yaml\nroutes: []\n",
        "routes: []\n---\nroutes: []\n",
        "- kind\n",
    ] {
        assert_eq!(search("m.yaml", text), Stream::Other, "{text}");
    }
    for text in [
        "kind: Service\napiVersion: v1\n",
        "{\"kind\": \"List\", \"items\": []}",
        "# see routes.yaml\nkind: ConfigMap\napiVersion: v1\ndata: {}\n",
    ] {
        assert_eq!(
            search("m.yaml", text),
            Stream::Manifests(Manifests::default()),
            "{text}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn no_stream_whatever_makes_it_panic(text in "(---|kind: |ConfigMap|List|items:|apiVersion: v1|data:|routes.yaml: |[-:{}\\[\\]\n \"a|]){0,30}") {
        let _ = search("m.yaml", &text);
    }
}
