//! The code blocks of README and docs: every one names its kind, and what can run without a cluster is run as printed (`run`).
//!
//! The word after a block's fence is its kind:
//!
//! - `sh`: commands. They run from the root of a scratch copy of the repository, on a node in namespaces (`run::Scene`), and have to succeed.
//! - `console`: the same, each after `$ `, and below it what it prints. `…` is anything; durations may differ.
//! - `sh kustomize`: the same as `sh`, where `kubectl` is 1.21 or later.
//! - `sh cluster`, `console cluster`: they need a cluster. `STEPS=pages hack/e2e` runs them (`cluster`); elsewhere only their commands and
//!   flags are checked. What one block of a page sets, the later ones have.
//! - `sh elsewhere`, `console elsewhere`: they need a cloud account, a registry, a gateway machine, or more time than a test has.
//! - `yaml`: has to parse; a configuration has to be valid. A first line `# PATH` puts it there in the scratch copy, for the
//!   blocks after it; `# routes.yaml` also puts it in force on the node.
//! - `text`, `ini`, `json`, `nft`, `promql`: no commands.
//!
//! Readers do not see `<!-- sh … -->`: commands that prepare the node, or the cluster, for what follows.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::AGENT;

mod cluster;
mod run;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Blocks that hold no commands.
const INERT: [&str; 5] = ["text", "ini", "json", "nft", "promql"];
/// What a block that is for `elsewhere` has at least one of: a reason why no test runs it.
const ELSEWHERE: [&str; 17] = [
    "make",
    "doctl",
    "aws",
    "gcloud",
    "az",
    "hcloud",
    "systemctl",
    "nft",
    "docker",
    "podman",
    "curl",
    "gh",
    "git",
    "apt-get",
    "ssh",
    "journalctl",
    // Kubernetes 1.30, as hack/e2e has it on kind.
    "deploy/hardening/admission-policy.yaml",
];

/// Who runs a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Node,
    Kustomize,
    Cluster,
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Commands(Place),
    Console(Place),
    Yaml,
    Inert,
}

/// A block as its page prints it.
#[derive(Debug, Clone)]
struct Block {
    page: PathBuf,
    line: usize,
    kind: Kind,
    text: String,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.page.display(), self.line)
    }
}

impl Block {
    /// A console's commands with what is printed below each; for other blocks all of it is one command that prints what it likes.
    fn commands(&self) -> Vec<(String, Option<String>)> {
        if let Kind::Commands(_) = self.kind {
            return vec![(self.text.clone(), None)];
        }
        let mut all: Vec<(String, Option<String>)> = Vec::new();
        for line in self.text.lines() {
            if let Some(command) = line.strip_prefix("$ ") {
                all.push((command.to_owned(), Some(String::new())));
                continue;
            }
            let (command, printed) = all
                .last_mut()
                .unwrap_or_else(|| panic!("{self}: a console begins with `$ `"));
            let into = match printed {
                Some(printed) if !command.ends_with('\\') => printed,
                _ => command,
            };
            into.push('\n');
            into.push_str(line);
        }
        all
    }

    fn place(&self) -> Option<Place> {
        match self.kind {
            Kind::Commands(place) | Kind::Console(place) => Some(place),
            Kind::Yaml | Kind::Inert => None,
        }
    }
}

fn kind(info: &str) -> Option<Kind> {
    let (word, place) = info.split_once(' ').unwrap_or((info, ""));
    let place = match place {
        "" => Place::Node,
        "kustomize" => Place::Kustomize,
        "cluster" => Place::Cluster,
        "elsewhere" => Place::Elsewhere,
        _ => return None,
    };
    match word {
        "sh" => Some(Kind::Commands(place)),
        "console" => Some(Kind::Console(place)),
        "yaml" if place == Place::Node => Some(Kind::Yaml),
        word if INERT.contains(&word) && place == Place::Node => Some(Kind::Inert),
        _ => None,
    }
}

/// The blocks of one page, or what is wrong with it.
fn blocks(page: &Path, text: &str) -> Result<Vec<Block>, Vec<String>> {
    let (mut found, mut wrong): (Vec<Block>, Vec<String>) = Default::default();
    let mut open: Option<(String, usize)> = None;
    let (mut after_blank, mut in_list) = (true, false);
    for (line, number) in text.lines().zip(1..) {
        let bare = line.trim_start();
        let indent = line.len() - bare.len();
        if let Some((end, indent)) = &open {
            if bare.starts_with(end.as_str()) {
                open = None;
            } else if let Some(block) = found.last_mut() {
                block.text += line.get(*indent..).unwrap_or(bare);
                block.text.push('\n');
            }
            continue;
        }
        let info = bare.strip_prefix("```");
        let hidden = line
            .strip_prefix("<!-- ")
            .filter(|info| kind(info).is_some());
        if let Some(info) = info.or(hidden) {
            let end = if hidden.is_some() { "-->" } else { "```" };
            open = Some((end.to_owned(), indent));
            let Some(kind) = kind(info.trim()) else {
                wrong.push(format!(
                    "{}:{number}: ```{info}: unknown kind of block",
                    page.display()
                ));
                continue;
            };
            found.push(Block {
                page: page.to_owned(),
                line: number,
                kind,
                text: String::new(),
            });
        } else if indent >= 4 && after_blank && !in_list {
            wrong.push(format!(
                "{}:{number}: a block without a fence has no kind: {bare}",
                page.display()
            ));
        } else if indent == 0 && !bare.is_empty() {
            in_list = bare.starts_with(['-', '*'])
                || bare
                    .split_once(". ")
                    .is_some_and(|(n, _)| n.parse::<u8>().is_ok());
        }
        after_blank = bare.is_empty();
    }
    if let Some(block) = found.last().filter(|_| open.is_some()) {
        wrong.push(format!("{block}: the block never ends"));
    }
    if wrong.is_empty() {
        Ok(found)
    } else {
        Err(wrong)
    }
}

/// Every page that people read, relative to the root, sorted.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![PathBuf::from("README.md"), PathBuf::from("CONTRIBUTING.md")];
    let mut folders = vec![PathBuf::from("docs"), PathBuf::from("deploy")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(Path::new(ROOT).join(&folder))
            .unwrap()
            .flatten()
        {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

/// All blocks of all pages; a page that is wrong fails the test.
fn all() -> Vec<Block> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for page in pages() {
        match blocks(
            &page,
            &fs::read_to_string(Path::new(ROOT).join(&page)).unwrap(),
        ) {
            Ok(blocks) => found.extend(blocks),
            Err(why) => wrong.extend(why),
        }
    }
    assert!(
        wrong.is_empty(),
        "kinds are listed in tests/it/docs_blocks.rs:\n{}",
        wrong.join("\n")
    );
    found
}

/// The pages with blocks for a place.
fn pages_of(blocks: &[Block], place: Place) -> Vec<&Path> {
    let here = blocks.iter().filter(|block| block.place() == Some(place));
    let mut pages: Vec<_> = here.map(|block| block.page.as_path()).collect();
    pages.dedup();
    pages
}

/// The words of each simple command in a script, comments and quotes left out.
fn simple_commands(script: &str) -> Vec<Vec<String>> {
    let joined = script.replace("\\\n", " ");
    let mut commands = Vec::new();
    for line in joined.lines() {
        let line = if line.starts_with('#') {
            ""
        } else {
            line.split(" #").next().unwrap_or("")
        };
        for command in line.split(['|', ';', '&', '(', ')', '`']) {
            let words = command
                .split_whitespace()
                .map(|word| word.trim_matches(['\'', '"', ',']).to_owned());
            commands.push(words.collect());
        }
    }
    commands
}

fn printed_by_program(args: &[&str]) -> String {
    let output = Command::new(AGENT).args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What a command names that is not there: subcommands and flags of the program, targets of the Makefile, files of the repository.
fn unknown_names(words: &[String]) -> Vec<String> {
    let mut unknown = Vec::new();
    let root = Path::new(ROOT);
    // `kubectl exec deploy/app` is an object of the cluster.
    let objects_are_files = words.first().is_none_or(|word| word != "kubectl")
        || words.iter().any(|word| word == "-f" || word == "-k");
    for word in words {
        let path = word.split([':', '=']).next_back().unwrap_or(word);
        let ours = objects_are_files
            && ["deploy/", "docs/", "hack/", "demo/"]
                .iter()
                .any(|folder| path.starts_with(folder));
        if ours && !root.join(path).exists() {
            unknown.push(format!("no file {path}"));
        }
    }
    if let Some(("make", rest)) = words
        .split_first()
        .map(|(first, rest)| (first.as_str(), rest))
    {
        let makefile = fs::read_to_string(root.join("Makefile")).unwrap();
        for target in rest.iter().filter(|word| !word.contains('=')) {
            if !makefile.contains(&format!("\n{target}:")) {
                unknown.push(format!("no target {target} in the Makefile"));
            }
        }
    }
    let Some(at) = words.iter().position(|word| word == "egress-routes") else {
        return unknown;
    };
    let Some(command) = words
        .get(at + 1)
        .filter(|word| word.chars().all(|c| c.is_ascii_lowercase()))
    else {
        return unknown;
    };
    if at > 0 && words[at - 1] != "--" && words[0] != "sudo" {
        return unknown; // an argument of another program: the name of an object
    }
    if !printed_by_program(&["--help"]).contains(&format!("\n  {command} ")) {
        unknown.push(format!("no command egress-routes {command}"));
    }
    let help = printed_by_program(&[command, "--help"]);
    for flag in words
        .iter()
        .skip(at)
        .filter_map(|word| word.split('=').next())
    {
        if flag.starts_with("--")
            && !help
                .split([' ', '\n', ','])
                .any(|word| word.split(['[', '=']).next() == Some(flag))
        {
            unknown.push(format!("no flag {flag} of egress-routes {command}"));
        }
    }
    unknown
}

#[test]
fn every_block_has_a_kind_and_is_a_script_that_names_what_there_is() {
    let mut wrong = Vec::new();
    for block in all() {
        let Some(place) = block.place() else {
            if block.kind == Kind::Inert && block.text.lines().any(|line| line.starts_with("$ ")) {
                wrong.push(format!("{block}: holds commands: ```console"));
            }
            continue;
        };
        for (command, _) in block.commands() {
            let syntax = Command::new("bash")
                .args(["-nc", &command])
                .output()
                .unwrap();
            if !syntax.status.success() {
                wrong.push(format!(
                    "{block}: {}",
                    String::from_utf8_lossy(&syntax.stderr)
                ));
            }
            let commands = simple_commands(&command);
            let names = commands.iter().flat_map(|words| unknown_names(words));
            wrong.extend(names.map(|name| format!("{block}: {name}")));
            let mut words = commands.iter().flatten();
            if place == Place::Elsewhere && !words.any(|word| ELSEWHERE.contains(&word.as_str())) {
                wrong.push(format!("{block}: nothing in it needs to be elsewhere"));
            }
            let mut words = commands.iter().flatten();
            if [Place::Node, Place::Kustomize].contains(&place)
                && words.any(|word| word.contains('…'))
            {
                wrong.push(format!("{block}: `…` cannot be run"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_page_with_a_block_of_no_known_kind_is_refused() {
    let of = |text: &str| blocks(Path::new("p.md"), text);
    let refused = |text: &str| of(text).unwrap_err().join("\n");
    assert_eq!(
        refused("a\n\n```\nx\n```\n"),
        "p.md:3: ```: unknown kind of block"
    );
    assert_eq!(
        refused("```sh clutser\nx\n```\n"),
        "p.md:1: ```sh clutser: unknown kind of block"
    );
    assert_eq!(
        refused("a\n\n    make x\n"),
        "p.md:3: a block without a fence has no kind: make x"
    );
    assert_eq!(refused("```sh\nx\n"), "p.md:1: the block never ends");
    let found = of(
        "- a\n\n      more of a\n\n  ```sh cluster\n  one\n    two\n  ```\n<!-- sh\nthree\n-->\n",
    )
    .unwrap();
    assert_eq!(found[0].kind, Kind::Commands(Place::Cluster));
    assert_eq!(found[0].text, "one\n  two\n");
    assert_eq!((found[1].line, found[1].text.as_str()), (9, "three\n"));
}

#[test]
fn a_command_that_names_what_is_not_there_is_found() {
    let of = |text: &str| {
        simple_commands(text)
            .iter()
            .flat_map(|words| unknown_names(words))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of("make demo # make none\nmake none"),
        ["no target none in the Makefile"]
    );
    assert_eq!(
        of("kubectl apply -f deploy/none.yaml"),
        ["no file deploy/none.yaml"]
    );
    assert_eq!(
        of("kubectl exec ds/egress-routes -- egress-routes statsu"),
        ["no command egress-routes statsu"]
    );
    assert_eq!(
        of("egress-routes nodes --wait --timeout=2m | head"),
        Vec::<String>::new()
    );
    assert_eq!(
        of("egress-routes nodes --await"),
        ["no flag --await of egress-routes nodes"]
    );
}
