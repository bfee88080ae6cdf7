//! The shape of the source: each room imports only from rooms before it, and what calls itself pure is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a file that decides has no business with. Each is the start of a path as code writes it.
const RIM: [&str; 12] = [
    "tokio::",
    "kube::Api",
    "kube::Client",
    "hyper::",
    "notify::",
    "std::fs",
    "std::process",
    "std::thread",
    "std::env",
    "Instant::now",
    "SystemTime::now",
    "UdpSocket::",
];

/// The rooms of `src/`. Each imports only from those before it.
const ROOMS: [&str; 11] = [
    "net", "config", "report", "health", "routing", "kernel", "source", "cluster", "serve", "cli",
    "agent",
];
/// Every source file that is not a test, with the code that is not a test: module, path, text without comments.
fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            let name = path.file_stem().unwrap().to_str().unwrap();
            if path.is_dir() && name != "tests" {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") && name != "tests" {
                let first = path.strip_prefix(&root).unwrap().iter().next().unwrap();
                let module = Path::new(first)
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                let text = fs::read_to_string(&path).unwrap();
                files.push((module, path, text));
            }
        }
    }
    files
}

/// A file's code: without comments, and up to its unit tests, which come last.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    text.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The modules of this crate that a piece of code names: `crate::a::…` and `use crate::{a, b::C}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        if let Some(group) = after.strip_prefix('{') {
            let mut depth = 0;
            let mut words = vec![String::new()];
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => words.push(String::new()),
                    c => words.last_mut().unwrap().push(c),
                }
            }
            found.extend(
                words
                    .iter()
                    .map(|word| word.trim().split("::").next().unwrap().to_owned()),
            );
        } else {
            found.insert(
                after
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap()
                    .to_owned(),
            );
        }
    }
    found
}

#[test]
fn imports_of_every_spelling_are_seen() {
    let text = "use crate::a::B;\nuse crate::{c, d::{E, F}, g};\nfn f() { crate::h::i() }";
    assert_eq!(
        imports(text).into_iter().collect::<Vec<_>>().join(" "),
        "a c d g h"
    );
    assert_eq!(
        code("//! crate::no\nx\n#[cfg(test)]\nmod tests {\n y }"),
        "x"
    );
}

#[test]
fn each_room_imports_only_from_the_rooms_before_it() {
    let place = |name: &str| ROOMS.iter().position(|room| *room == name);
    let mut against = Vec::new();
    for (room, path, text) in sources() {
        let Some(here) = place(&room) else {
            assert!(
                ["lib", "main"].contains(&room.as_str()),
                "{room} is no room"
            );
            continue;
        };
        for import in imports(&code(&text)) {
            if place(&import).is_some_and(|there| there > here) {
                against.push(format!("{} imports {import}", path.display()));
            }
        }
    }
    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn what_calls_itself_pure_touches_no_clock_file_process_or_network() {
    let mut pure = 0;
    for (_, path, text) in sources() {
        let says_so = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .any(|line| line.starts_with("//! Pure"));
        if says_so {
            pure += 1;
            let code = code(&text);
            for name in RIM {
                assert!(
                    !code.contains(name),
                    "{} calls itself pure and names `{name}`",
                    path.display()
                );
            }
        }
    }
    assert!(pure > 3, "only {pure} files call themselves pure");
}
