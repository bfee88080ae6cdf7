//! Runs what needs no cluster: each page in a scratch copy of the repository and on a node of its own, block after block.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{Block, Kind, Place, ROOT, all, pages_of};
use crate::lab::{AGENT, CommandOutput, FABRIC, Lab, Running, Volume, wait_until};

/// What is in force on the node until a page writes something else.
const CONFIGURATION: [(&str, &str); 2] = [
    (
        "routes.yaml",
        "routes:\n  - name: partner-api\n    gateways: [10.116.0.5]\n    destinations: [203.0.113.0/24, 198.51.100.7]\n  - name: clouds\n    \
         gateways: [10.116.0.5, 10.116.0.6]\n    strategy: failover\n    destinationFiles: [aws.txt]\n    whenDown: blackhole\nprotected: \
         [64.225.0.0/16]\n",
    ),
    ("aws.txt", "198.51.100.128/25\n"),
];

/// A node with three gateways, an internet (`Lab::blueprint`), pods behind `cni0`, and an agent.
struct Scene {
    scratch: TempDir,
    volume: Volume,
    lab: Lab,
    agent: Running,
    versions: usize,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::blueprint();
        lab.host("pod").link(
            ("nd", "cni0", &["10.244.0.1/24"]),
            ("pod", "eth0", &["10.244.0.7/24"]),
        );
        lab.sysctl("nd", "net.ipv4.ip_forward", "1");
        let scratch = scratch_copy();
        let mounted = scratch.path().join("mounted");
        std::fs::create_dir(&mounted).unwrap();
        let mut volume = Volume::new(&mounted);
        volume.write(&CONFIGURATION);
        let agent = lab.agent("nd", &mounted, &[]);
        let scene = Self {
            scratch,
            volume,
            lab,
            agent,
            versions: 1,
        };
        scene.settle();
        scene
    }

    /// Waits until every version of the configuration so far is in force and each gateway has answered or not.
    fn settle(&self) {
        let settled = || {
            let output = self.agent.log();
            let status = self.run("egress-routes status", "-uo").out;
            output.matches("Configuration in force").count() >= self.versions
                && !status.contains("unknown")
        };
        assert!(
            wait_until(Duration::from_secs(30), settled),
            "not in force: {}",
            self.agent.log()
        );
    }

    /// Puts a `yaml` block that names its file there.
    fn place(&mut self, block: &Block) {
        if place(block, self.scratch.path()) == Some("routes.yaml") {
            self.volume
                .write(&[("routes.yaml", block.text.as_str()), CONFIGURATION[1]]);
            self.versions += 1;
            self.settle();
        }
    }

    /// Runs a script as a person in the repository's root would, with both outputs as they would be seen.
    fn run(&self, script: &str, strict: &str) -> CommandOutput {
        let programs = Path::new(AGENT).parent().unwrap().display();
        // What cargo gives its tests would make the cargo of `make` build everything anew.
        let clean = "for name in ${!CARGO_@}; do case $name in CARGO_HOME | CARGO_TARGET_DIR) ;; *) unset $name ;; esac; done";
        // `make` builds where it can: a scratch copy would compile everything again. What else it can do takes too long for a test.
        let make = "[ \"$*\" = demo ] || { echo 'only `make demo` is quick enough: sh elsewhere'; return 1; }";
        let prelude = format!(
            "exec 2>&1\n{clean}\nmake() {{ {make}; command make -sC {ROOT} demo; }}\ncd {}\n\
             export PATH={programs}:$PATH:/usr/sbin:/sbin:{ROOT}/target/tools/usr/bin EGRESS_ROUTES_CONFIG={}\n",
            self.scratch.path().display(),
            self.volume.path().display(),
        );
        self.lab.run(
            "nd",
            &[
                "bash",
                strict,
                "pipefail",
                "-c",
                &format!("{prelude}{script}"),
            ],
        )
    }

    /// Runs a block that is for this place; what is not as printed, or empty.
    fn faults(&mut self, block: &Block, of: Place) -> String {
        if block.kind == Kind::Yaml {
            self.place(block);
        }
        if block.place() != Some(of) {
            return String::new();
        }
        faults(block, &|command, strict| self.run(command, strict))
    }
}

/// The repository's files, to run a page's commands in.
pub fn scratch_copy() -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let copy = "git ls-files -z | tar --null --files-from=- -c | tar -x -C \"$0\"";
    let done = Command::new("bash")
        .args(["-euo", "pipefail", "-c", copy])
        .arg(scratch.path())
        .current_dir(ROOT)
        .status();
    assert!(done.unwrap().success(), "copying the repository");
    scratch
}

/// Writes a `yaml` block that names its file under `folder`; that name.
pub fn place<'b>(block: &'b Block, folder: &Path) -> Option<&'b str> {
    let first = block.text.lines().next().unwrap_or("");
    let name = first
        .strip_prefix("# ")
        .filter(|name| !name.contains(' ') && name.contains('.'))?;
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, &block.text).unwrap();
    Some(name)
}

/// Runs a block's commands by `run`, which gets bash's options too; what is not as printed, or empty.
pub fn faults(block: &Block, run: &dyn Fn(&str, &str) -> CommandOutput) -> String {
    let mut faults = String::new();
    for (command, printed) in block.commands() {
        let Some(printed) = printed else {
            let output = run(&command, "-euo");
            if output.code != 0 {
                let _ = write!(faults, "{block}: exit {}:\n{}", output.code, output.out);
            }
            continue;
        };
        let output = run(&command, "-uo");
        if !fits(printed.trim_matches('\n'), output.out.trim_matches('\n')) {
            let _ = write!(
                faults,
                "{block}: $ {command}\n--- it printed:\n{}--- the page has:{printed}\n",
                output.out
            );
        }
    }
    faults
}

/// Whether some output is the one that a page prints.
fn fits(printed: &str, got: &str) -> bool {
    let lines = |text: &str| text.lines().map(words).collect::<Vec<_>>();
    matches(
        &lines(printed),
        &lines(got),
        &|line| *line == ["…"],
        &|one, two| {
            matches(one, two, &|word| word == "…", &|one, two| {
                same_word(one, two)
            })
        },
    )
}

/// A line's words; spaces do not count, and what a clock measured is `#s`, an age such as `2d3h` too.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let number =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    for at in 0..words.len() {
        let word = words[at].trim_end_matches([',', ';', ':', '.']).to_owned();
        let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        if is_age(&word) || unit.len() < word.len() && ["s", "ms", "µs"].contains(&unit) {
            words[at] = words[at].replace(&word, "#s");
        } else if at > 0 && number(&words[at - 1]) && ["s", "ms", "µs"].contains(&word.as_str()) {
            "#".clone_into(&mut words[at - 1]);
        }
    }
    words
}

/// Two numbers with kubectl's units.
fn is_age(word: &str) -> bool {
    let numbers: Vec<&str> = word.split_inclusive(['d', 'h', 'm', 's']).collect();
    let is_number = |part: &&str| {
        let end = part.len().saturating_sub(1);
        end > 0 && part.is_char_boundary(end) && part[..end].bytes().all(|c| c.is_ascii_digit())
    };
    numbers.len() == 2 && numbers.iter().all(is_number) && word.ends_with(['d', 'h', 'm', 's'])
}

fn same_word(printed: &str, got: &str) -> bool {
    match printed.split_once('…') {
        Some((start, end)) => {
            got.len() >= start.len() + end.len() && got.starts_with(start) && got.ends_with(end)
        }
        None => printed == got,
    }
}

/// Whether the pattern covers all that is given; a wildcard covers any number.
fn matches<T>(
    pattern: &[T],
    given: &[T],
    any: &dyn Fn(&T) -> bool,
    same: &dyn Fn(&T, &T) -> bool,
) -> bool {
    match pattern.split_first() {
        None => given.is_empty(),
        Some((first, rest)) if any(first) => {
            (0..=given.len()).any(|skip| matches(rest, &given[skip..], any, same))
        }
        Some((first, rest)) => given
            .split_first()
            .is_some_and(|(got, more)| same(first, got) && matches(rest, more, any, same)),
    }
}

/// Runs the blocks for a place, each page on a node of its own; what is not as printed.
fn faults_of(place: Place) -> String {
    let blocks = all();
    let run = |page: &Path| -> String {
        let mut scene = Scene::new();
        let here = blocks.iter().filter(|block| block.page == page);
        here.map(|block| scene.faults(block, place)).collect()
    };
    std::thread::scope(|scope| {
        let pages = pages_of(&blocks, place).into_iter();
        let running: Vec<_> = pages.map(|page| scope.spawn(|| run(page))).collect();
        running
            .into_iter()
            .map(|page| page.join().unwrap())
            .collect()
    })
}

#[test]
fn what_needs_no_cluster_does_what_the_page_prints() {
    let faults = faults_of(Place::Node);
    assert!(faults.is_empty(), "{faults}");
}

/// `hack/test` leaves this out where `kubectl` is too old.
mod kustomize {
    #[test]
    fn what_needs_kustomize_does_what_the_page_prints() {
        let faults = super::faults_of(super::Place::Kustomize);
        assert!(faults.is_empty(), "{faults}");
    }
}

#[test]
fn every_yaml_block_parses_and_every_configuration_is_valid() {
    let lab = Lab::new();
    let mut wrong = String::new();
    for block in all().into_iter().filter(|block| block.kind == Kind::Yaml) {
        let documents = serde_yaml::from_multiple::<serde_json::Value>(&block.text);
        let documents = documents.unwrap_or_else(|why| panic!("{block}: {why}"));
        // A page may show a part; lists and the files that they are in are somewhere else then.
        let whole = |value: &serde_json::Value| {
            value.get("routes").is_some() && !block.text.contains("destinationFiles")
        };
        let manifest = |value: &serde_json::Value| value.pointer("/data/routes.yaml").is_some();
        if !documents
            .iter()
            .any(|value| whole(value) || manifest(value))
        {
            continue;
        }
        let mut text = block.text.clone();
        if documents.iter().any(manifest) && !text.contains("kind:") {
            text = format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: egress-routes }}\n{text}"
            );
        }
        let output = lab.run_with_input(FABRIC, &[AGENT, "check", "-"], &text);
        if output.code != 0 {
            let _ = write!(wrong, "{block}: {}{}", output.out, output.err);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn an_output_fits_where_only_times_and_what_is_left_out_differ() {
    assert!(fits("a  12 ms\n…\nb …", "a 7.5 ms\nx\ny\nb c d"));
    assert!(fits("0.52s  revision 01…", "  1.07s revision 0123"));
    assert!(fits("node1 2d2h Ready", "node1 6h59m Ready"));
    assert!(!fits("a 12 routes", "a 13 routes"));
    assert!(!fits("node1 1d", "node1 2d"));
    assert!(!fits("a\nb", "a\nb\nc"));
}
