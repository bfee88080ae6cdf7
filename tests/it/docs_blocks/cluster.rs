//! Runs what needs a cluster, each page in a scratch copy of the repository, block after block, as somebody with a kubeconfig.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::run::{faults, place, scratch_copy};
use super::{Block, Kind, Place, ROOT, all, pages_of};
use crate::lab::CommandOutput;

/// Runs a script in the copy, with the scene's functions and what earlier blocks of the page have set.
fn run(scratch: &TempDir, script: &str, strict: &str) -> CommandOutput {
    let state = scratch.path().join(".state");
    let prelude = format!(
        "exec 2>&1 </dev/null\n. {ROOT}/hack/e2e-pages\nset -a\nif [ -e {0} ]; then . {0}; fi\ntrap 'export -p >{0}' EXIT\n",
        state.display(),
    );
    let output = Command::new("bash")
        .args([strict, "pipefail", "-c", &format!("{prelude}{script}")])
        .current_dir(scratch.path())
        .output()
        .unwrap();
    CommandOutput {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn faults_of_page<'b>(blocks: impl Iterator<Item = &'b Block>) -> String {
    let scratch = scratch_copy();
    let mut found = String::new();
    let fresh = run(&scratch, "fresh", "-euo");
    assert_eq!(fresh.code, 0, "{}", fresh.out);
    for block in blocks {
        if block.kind == Kind::Yaml {
            place(block, scratch.path());
        }
        if block.place() == Some(Place::Cluster) {
            eprintln!("{block}");
            found += &faults(block, &|command, strict| run(&scratch, command, strict));
        }
    }
    found
}

#[test]
#[ignore = "needs a cluster with a scene: STEPS=pages LAB=../shared/cluster hack/e2e"]
fn what_needs_a_cluster_does_what_the_page_prints() {
    let blocks = all();
    let only = std::env::var("PAGES").unwrap_or_default();
    let wanted =
        |page: &&&Path| only.is_empty() || only.split(' ').any(|name| page.ends_with(name));
    let faults: String = pages_of(&blocks, Place::Cluster)
        .iter()
        .filter(wanted)
        .map(|page| faults_of_page(blocks.iter().filter(|block| block.page == **page)))
        .collect();
    assert!(faults.is_empty(), "{faults}");
}
