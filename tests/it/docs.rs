//! The documentation: every link leads somewhere, every page is in the index, and the reference is what the program has.

use std::fs;
use std::path::{Path, PathBuf};

mod links;
mod reference;
mod values;

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every page, as a path from the root.
fn pages() -> Vec<PathBuf> {
    let mut folders = vec![
        root().to_owned(),
        root().join("docs"),
        root().join("deploy"),
    ];
    let mut pages = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && folder != root() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "md") {
                pages.push(path.strip_prefix(root()).unwrap().to_owned());
            }
        }
    }
    pages.sort();
    pages.dedup();
    assert!(pages.len() > 20, "{pages:?}");
    pages
}

/// The lines of a page that are not inside a code block.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_code ^= fence;
        !in_code && !fence
    })
}
