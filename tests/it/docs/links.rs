//! Links between pages, to files and to headings; nothing asks the network.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::{pages, prose, read, root};

/// The targets of the links and pictures in a line.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .map(|target| target.split_whitespace().next().unwrap_or_default())
}

/// The anchors of a page's headings, as forges make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in prose(text).filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim();
        let slug: String = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let numbered = (1..).map(|n| format!("{slug}-{n}"));
        let free = std::iter::once(slug.clone())
            .chain(numbered)
            .find(|anchor| !anchors.contains(anchor));
        anchors.extend(free);
    }
    anchors
}

/// `page`'s link to `target` as a path from the root, without `.` and `..`.
fn resolved(page: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in page.parent().unwrap().join(target).components() {
        match part {
            Component::ParentDir => assert!(path.pop(), "{}: {target}", page.display()),
            Component::CurDir => {}
            other => path.push(other),
        }
    }
    path
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_that_are_there() {
    let mut dead = Vec::new();
    let mut followed = 0;
    for page in pages() {
        let text = read(&page);
        for target in prose(&text).flat_map(targets) {
            if target.contains("://") {
                continue;
            }
            followed += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() {
                page.clone()
            } else {
                resolved(&page, file)
            };
            let is_there = root().join(&path).exists();
            if !is_there || !anchor.is_empty() && !anchors(&read(&path)).contains(anchor) {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
    assert!(followed > 100, "only {followed} links were found");
}

#[test]
fn the_index_lists_every_page_of_docs() {
    let index = read("docs/README.md");
    let listed: BTreeSet<&str> = prose(&index).flat_map(targets).collect();
    for page in pages() {
        let Ok(name) = page.strip_prefix("docs") else {
            continue;
        };
        let name = name.to_str().unwrap();
        assert!(
            name == "README.md" || listed.contains(name),
            "docs/README.md does not list {name}"
        );
    }
}

#[test]
fn every_picture_has_a_description_and_colours_for_a_dark_page() {
    let folder = root().join("docs/images");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for part in ["<title", "<desc", "prefers-color-scheme: dark"] {
            assert!(text.contains(part), "{}: no {part}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

#[test]
fn links_and_anchors_are_read_as_forges_read_them() {
    let line = "[one](a.md#b) and ![two](images/c.svg \"title\"), [three](https://example.com)";
    let found: Vec<&str> = targets(line).collect();
    assert_eq!(found, ["a.md#b", "images/c.svg", "https://example.com"]);
    let text = "# `routes`: a list, of sets\n```sh\n# not a heading\n```\n## Is it? `target`\n## Is it? `target`\n";
    let anchors: Vec<String> = anchors(text).into_iter().collect();
    assert_eq!(
        anchors,
        ["is-it-target", "is-it-target-1", "routes-a-list-of-sets"]
    );
    assert_eq!(
        resolved(Path::new("docs/a.md"), "../deploy/./x.md"),
        Path::new("deploy/x.md")
    );
}
