//! `edit` against a real API server: what an editor does is done by a script, and the agents' part by the test.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::{Also, View};
use super::server::{Server, shared};
use crate::lab::{CommandOutput, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const BEFORE: &str = "# Partners: ask ops\nroutes:\n  - name: a\n    gateways: [10.116.0.5]\n    destinations: [203.0.113.0/24]   # one\n";

/// An editor: a shell script whose `$1` is the file.
struct Editor(tempfile::TempDir);

impl Editor {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("editor");
        fs::write(
            &path,
            format!("#!/bin/sh\ncd {}\n{script}\n", dir.path().display()),
        )
        .unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    fn edits(&self, view: &View<'_>, args: &[&str]) -> Command {
        let mut command = view.command("edit", args);
        let editor = self.0.path().join("editor");
        command.env_remove("VISUAL").env("EDITOR", editor);
        command
    }

    fn file(&self, name: &str) -> String {
        fs::read_to_string(self.0.path().join(name)).unwrap_or_default()
    }
}

fn ended(child: Child) -> CommandOutput {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

fn configmap(server: &Server, namespace: &str) -> Value {
    let get = [
        "get",
        "configmap",
        "egress-routes",
        "-n",
        namespace,
        "-o",
        "json",
    ];
    serde_json::from_str(&server.kubectl(&get)).unwrap()
}

fn patch(server: &Server, namespace: &str, patch: &Value) {
    let patch = patch.to_string();
    server.kubectl(&[
        "patch",
        "configmap",
        "egress-routes",
        "-n",
        namespace,
        "--type",
        "merge",
        "-p",
        &patch,
    ]);
}

/// Its agents have nothing yet.
fn view<'a>(server: &'a Server, namespace: &'static str, nodes: &[&str]) -> View<'a> {
    let view = View::new(server, namespace, nodes, Also::Write);
    patch(
        server,
        namespace,
        &json!({"data": {"routes.yaml": BEFORE, "aws.txt": "198.51.100.0/24\n"}}),
    );
    view
}

#[test]
fn an_edit_is_checked_shown_in_words_written_and_followed_to_the_last_node() {
    let server = shared();
    let view = view(server, "edited", &["edited-1"]);
    let editor = Editor::new("sed -i 's/203.0.113.0.24/203.0.113.0\\/25/' \"$1\"");
    let mut editing = editor.edits(&view, &["--timeout", "60s"]).spawn().unwrap();
    let after = BEFORE.replace("/24", "/25");
    let written = || configmap(server, "edited")["data"]["routes.yaml"] == after.as_str();
    assert!(wait_until(LIMIT, written), "{}", ended(editing).err);
    assert_eq!(
        configmap(server, "edited")["data"]["aws.txt"],
        "198.51.100.0/24\n"
    );
    view.applied("edited-1", "Ready", &view.revision());
    assert!(
        wait_until(LIMIT, || editing.try_wait().unwrap().is_some()),
        "it still waits"
    );
    let output = ended(editing);
    assert!(
        output.err.contains(
            "~ set `a`: +1 destinations (203.0.113.0/25), -1 destinations (203.0.113.0/24)"
        ),
        "{}",
        output.err
    );
    assert!(
        output
            .out
            .lines()
            .any(|line| line.starts_with("edited-1") && line.contains(" Ready ")),
        "{}",
        output.out
    );
    let pod: Value = serde_json::from_str(&server.kubectl(&[
        "get",
        "pod",
        "agent-edited-1",
        "-n",
        "edited",
        "-o",
        "json",
    ]))
    .unwrap();
    assert!(pod["metadata"]["annotations"]["egress-routes.dev/sync"].is_string());
}

#[test]
fn what_agents_would_refuse_goes_back_to_the_editor_with_what_is_wrong_and_is_never_written() {
    let server = shared();
    let view = view(server, "refused", &["refused-1"]);
    let before = configmap(server, "refused");
    let editor = Editor::new("cat \"$1\" >>seen; sed -i 's/203.0.113.0/203.0.113.1/' \"$1\"");
    let output = ended(editor.edits(&view, &[]).spawn().unwrap());
    assert_eq!(output.code, 1, "{}", output.err);
    assert!(output.err.contains("still refused"), "{}", output.err);
    assert_eq!(configmap(server, "refused"), before, "nothing is written");
    // Two times the text and, the second time, what is wrong with it: its line is the one in the editor.
    let seen = editor.file("seen");
    assert!(
        seen.contains("#~ routes.yaml:8:20: ") && seen.matches("# Partners").count() == 2,
        "{seen}"
    );
    // Nobody's work is lost.
    let kept = output
        .err
        .lines()
        .find_map(|line| line.strip_prefix("the edited text is in "))
        .unwrap();
    assert_eq!(
        fs::read_to_string(kept).unwrap(),
        BEFORE.replace("203.0.113.0", "203.0.113.1")
    );
    fs::remove_file(kept).unwrap();
    // Corrected the second time.
    let editor = Editor::new(
        "if grep -q '^#~' \"$1\"; then sed -i 's/113.1/113.128/; s/.24/\\/25/' \"$1\"; else sed -i 's/203.0.113.0/203.0.113.1/' \"$1\"; fi",
    );
    let output = ended(editor.edits(&view, &["--timeout", "1s"]).spawn().unwrap());
    assert_eq!(output.code, 3, "no agent follows: {}", output.err);
    let text = configmap(server, "refused")["data"]["routes.yaml"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(
        text.contains("203.0.113.128/25") && text.starts_with("# Partners") && !text.contains("#~"),
        "{text}"
    );
}

#[test]
fn an_edit_of_somebody_else_meanwhile_is_not_overwritten_and_a_label_is_no_edit() {
    let server = shared();
    let view = view(server, "contended", &["contended-1"]);
    // Waits until the test has done its part.
    let waiting = ">started; n=0; while [ ! -e go ] && [ $n -lt 600 ]; do sleep 0.05; n=$((n+1)); done; sed -i 's/# one/# two/' \"$1\"";
    let meanwhile = |change: &Value| {
        let editor = Editor::new(waiting);
        let child = editor.edits(&view, &["--timeout", "1s"]).spawn().unwrap();
        assert!(wait_until(LIMIT, || editor
            .0
            .path()
            .join("started")
            .exists()));
        patch(server, "contended", change);
        fs::write(editor.0.path().join("go"), "").unwrap();
        ended(child)
    };
    let output = meanwhile(
        &json!({"metadata": {"labels": {"seen": "yes"}}, "data": {"other.txt": "203.0.113.1\n"}}),
    );
    assert_eq!(output.code, 3, "written; no agent follows: {}", output.err);
    assert!(output.err.contains("no route changes"), "{}", output.err);
    let map = configmap(server, "contended");
    assert_eq!(map["data"]["routes.yaml"], BEFORE.replace("# one", "# two"));
    assert_eq!(
        (
            &map["metadata"]["labels"]["seen"],
            &map["data"]["other.txt"]
        ),
        (&json!("yes"), &json!("203.0.113.1\n"))
    );

    patch(
        server,
        "contended",
        &json!({"data": {"routes.yaml": BEFORE}}),
    );
    let theirs = BEFORE.replace("name: a", "name: theirs");
    let output = meanwhile(&json!({"data": {"routes.yaml": theirs}}));
    assert_eq!(output.code, 1, "{}", output.err);
    assert!(
        output
            .err
            .contains("somebody else changed `routes.yaml` meanwhile"),
        "{}",
        output.err
    );
    assert_eq!(
        configmap(server, "contended")["data"]["routes.yaml"],
        theirs
    );
    let kept = output
        .err
        .lines()
        .find_map(|line| line.strip_prefix("the edited text is in "))
        .unwrap();
    fs::remove_file(kept).unwrap();
}

#[test]
fn an_editor_that_changes_nothing_or_fails_writes_nothing_and_a_list_can_be_edited_too() {
    let server = shared();
    let view = view(server, "lists", &["lists-1"]);
    let before = configmap(server, "lists");
    for (script, words) in [
        ("true", "nothing changed"),
        ("exit 7", "ended with exit status: 7"),
    ] {
        let output = ended(Editor::new(script).edits(&view, &[]).spawn().unwrap());
        assert_eq!(output.code, 1, "{}", output.err);
        assert!(output.err.contains(words), "{}", output.err);
    }
    assert_eq!(configmap(server, "lists"), before);
    patch(
        server,
        "lists",
        &json!({"data": {"routes.yaml": BEFORE.replace("destinations: [203.0.113.0/24]", "destinationFiles: [aws.txt]")}}),
    );
    let editor = Editor::new("echo 192.0.2.0/24 >>\"$1\"");
    let output = ended(
        editor
            .edits(&view, &["aws.txt", "--timeout", "1s"])
            .spawn()
            .unwrap(),
    );
    assert_eq!(output.code, 3, "{}", output.err);
    assert!(
        output.err.contains("+1 destinations (192.0.2.0/24)"),
        "{}",
        output.err
    );
    assert_eq!(
        configmap(server, "lists")["data"]["aws.txt"],
        "198.51.100.0/24\n192.0.2.0/24\n"
    );
}

#[test]
fn a_drain_is_written_into_every_set_and_waits_until_no_node_has_a_flow_on_the_gateway() {
    let server = shared();
    let view = view(server, "drained", &["drained-1"]);
    let text = "# Partners: ask ops\nroutes:\n  - name: a\n    gateways: [10.116.0.5, 10.116.0.7]   # racks 1 and 2\n    destinations: [203.0.113.0/24]\n";
    patch(server, "drained", &json!({"data": {"routes.yaml": text}}));
    let reports = |gateways: &str| {
        view.applied("drained-1", "Ready", &view.revision());
        let annotation = format!("egress-routes.dev/gateways={gateways}");
        server.kubectl(&["annotate", "--overwrite", "node", "drained-1", &annotation]);
    };
    let mut draining = view
        .command("drain", &["10.116.0.7", "--timeout", "60s"])
        .spawn()
        .unwrap();
    let after = text.replace("10.116.0.7]", "{ address: 10.116.0.7, drain: true }]");
    let written = |text: &str| {
        wait_until(LIMIT, || {
            configmap(server, "drained")["data"]["routes.yaml"] == text
        })
    };
    assert!(written(&after));
    reports("10.116.0.5=up,10.116.0.7=draining");
    assert!(
        !wait_until(Duration::from_secs(3), || draining
            .try_wait()
            .unwrap()
            .is_some()),
        "it did not wait for the flows"
    );
    reports("10.116.0.5=up,10.116.0.7=drained");
    assert!(
        wait_until(LIMIT, || draining.try_wait().unwrap().is_some()),
        "it still waits"
    );
    let output = ended(draining);
    assert!(matches!(output.code, 0 | 1), "{}{}", output.out, output.err);
    assert!(
        output.err.contains("~ set `a`: 10.116.0.7 is drained"),
        "{}",
        output.err
    );
    // Again: nothing to write, and nothing to wait for.
    let output = view.run("drain", &["10.116.0.7", "--timeout", "30s"]);
    assert!(matches!(output.code, 0 | 1), "{}", output.err);
    assert!(
        output
            .err
            .contains("10.116.0.7 is already drained in every set"),
        "{}",
        output.err
    );
    let output = view.run("undrain", &["10.116.0.7", "--timeout", "1s"]);
    assert_eq!(output.code, 3, "no agent follows: {}", output.err);
    assert!(written(text), "the old text, to the letter");
    let output = view.run("drain", &["10.116.0.9"]);
    assert_eq!(output.code, 2);
    assert!(
        output
            .err
            .contains("no set has the gateway 10.116.0.9; there are: 10.116.0.5, 10.116.0.7"),
        "{}",
        output.err
    );
}
