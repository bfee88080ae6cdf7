//! What a command was given to read: a directory, a `routes.yaml`, Kubernetes manifests, or one of these on standard input.
//!
//! I/O. `check`, `diff` and `apply` read alike, and every problem keeps its place in the file that was given.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::manifests::{self, MAX_CONFIG_MAP, Manifests, Stream};
use crate::config::{
    self, Files, Given, ListUnread, Problem, ROUTES_YAML, Warning, WarningKind, printable,
};
use crate::source::{self, SourceError};

/// Most bytes of a stream of manifests.
const MAX_STREAM: usize = 64 << 20;
/// Most files of a directory of manifests.
const MAX_MANIFESTS: usize = 500;
/// The name of standard input in messages.
const STDIN: &str = "<stdin>";

/// One configuration that was found.
#[derive(Debug)]
pub struct Input {
    /// The file or directory, and the `ConfigMap` in it.
    pub label: String,
    /// `namespace/name` of the `ConfigMap`, when it was one.
    pub config_map: Option<String>,
    /// Its files, or why there are none.
    pub files: Result<Files, Vec<Problem>>,
    /// What is allowed but probably not meant about what it came in.
    pub warnings: Vec<Warning>,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The configurations; never none.
    pub found: Vec<Input>,
    /// About other documents beside them.
    pub warnings: Vec<Warning>,
}

/// Reads `path`, which is `input` when it is `-`; an error is one sentence.
pub fn read(path: &str, input: &mut dyn Read) -> Result<Inputs, String> {
    if path != "-" {
        return read_path(Path::new(path));
    }
    let mut bytes = Vec::new();
    match input.take(MAX_STREAM as u64 + 1).read_to_end(&mut bytes) {
        Ok(_) => stream(STDIN, &bytes, None),
        Err(error) => Err(format!("standard input: could not be read: {error}")),
    }
}

/// The same, for commands that need exactly one configuration.
pub fn read_one(path: &str, input: &mut dyn Read) -> Result<(Input, Vec<Warning>), String> {
    let mut inputs = read(path, input)?;
    let only = match inputs.found.as_slice() {
        [_] => Some(0),
        found => {
            let name = |input: &Input| -> bool {
                let name = input.config_map.as_deref().unwrap_or_default();
                name.rsplit('/').next() == Some("egress-routes")
            };
            let named: Vec<usize> = (0..found.len()).filter(|i| name(&found[*i])).collect();
            (named.len() == 1).then(|| named[0])
        }
    };
    if let Some(only) = only {
        return Ok((inputs.found.swap_remove(only), inputs.warnings));
    }
    let labels: Vec<&str> = inputs.found.iter().map(|i| i.label.as_str()).collect();
    Err(format!(
        "{} configurations were found where one is needed: {}",
        labels.len(),
        labels.join("; ")
    ))
}

fn read_path(path: &Path) -> Result<Inputs, String> {
    if path.is_dir() {
        return match source::read_confined(path) {
            Ok(snapshot) => Ok(of_files(path, ROUTES_YAML, path, snapshot.files)),
            Err(error) => directory_of_manifests(path, &error),
        };
    }
    let label = shown(path);
    match source::read_whole(path, MAX_STREAM) {
        Ok(bytes) => stream(&label, &bytes, Some(path)),
        Err(ListUnread::Missing) => Err(format!("{label}: is not there")),
        Err(ListUnread::Other(why)) => Err(format!("{label}: {why}")),
    }
}

/// A directory, or a file of any name with its lists beside it.
fn of_files(given: &Path, name: &str, directory: &Path, mut files: Files) -> Inputs {
    let at = |name: &str| Given::file(shown(&directory.join(name)));
    let mut names: BTreeMap<String, Given> = files
        .lists
        .keys()
        .map(|list| (list.clone(), at(list)))
        .collect();
    names.insert(ROUTES_YAML.to_owned(), at(name));
    files.given = names;
    if given != directory {
        // What else lies beside a single file is no part of its configuration.
        let list_missing = files.lists.values().any(|b| *b == Err(ListUnread::Missing));
        files.others.retain(|other| list_missing && other != name);
    }
    let total = files.routes_yaml.len()
        + files
            .lists
            .values()
            .filter_map(|bytes| Some(bytes.as_ref().ok()?.len()))
            .sum::<usize>();
    let warnings = (total > MAX_CONFIG_MAP).then(|| Warning {
        kind: WarningKind::TooLarge,
        set: None,
        message: format!(
            "{total} bytes are more than a ConfigMap holds, which is {MAX_CONFIG_MAP}; give lists ConfigMaps of their own, in one projected volume"
        ),
    });
    let found = vec![Input {
        label: shown(given),
        config_map: None,
        files: Ok(files),
        warnings: warnings.into_iter().collect(),
    }];
    Inputs {
        found,
        warnings: Vec::new(),
    }
}

/// A directory without `routes.yaml` may hold manifests, as `deploy/` does.
fn directory_of_manifests(directory: &Path, error: &SourceError) -> Result<Inputs, String> {
    let entries = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .take(MAX_MANIFESTS);
    let is_manifest = |path: &PathBuf| {
        path.extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
            && !path.is_symlink()
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(is_manifest)
        .collect();
    paths.sort_unstable();
    let mut all = Inputs::default();
    for path in paths {
        let Ok(bytes) = source::read_whole(&path, MAX_STREAM) else {
            continue;
        };
        let Ok(text) = std::str::from_utf8(&bytes) else {
            continue;
        };
        let label = shown(&path);
        if let Stream::Manifests(manifests) = manifests::search(&label, text) {
            let more = of_manifests(&label, manifests);
            all.found.extend(more.found);
            all.warnings.extend(more.warnings);
        }
    }
    if all.found.is_empty() {
        return Err(error.to_string());
    }
    Ok(all)
}

/// Manifests, or a `routes.yaml` with its list files beside it.
fn stream(label: &str, bytes: &[u8], path: Option<&Path>) -> Result<Inputs, String> {
    if bytes.len() > MAX_STREAM {
        return Err(format!("{label}: is larger than {} MiB", MAX_STREAM >> 20));
    }
    let text = std::str::from_utf8(bytes);
    match text.map_or(Stream::Other, |text| manifests::search(label, text)) {
        Stream::Manifests(manifests) => {
            let inputs = of_manifests(label, manifests);
            if inputs.found.is_empty() {
                return Err(format!(
                    "{label}: there is no ConfigMap with a key `{ROUTES_YAML}` in it"
                ));
            }
            Ok(inputs)
        }
        Stream::Other => {
            let Some(path) = path else {
                return Ok(of_stdin(label, bytes));
            };
            let snapshot = source::read_confined(path).map_err(|error| error.to_string())?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let directory = path.parent().unwrap_or(Path::new(""));
            Ok(of_files(path, &name, directory, snapshot.files))
        }
    }
}

fn of_stdin(label: &str, bytes: &[u8]) -> Inputs {
    let keys = BTreeMap::from([(ROUTES_YAML.to_owned(), bytes.to_vec())]);
    let mut files = Files::from_keys(&keys).unwrap_or_default();
    let given = Given::file(label);
    files.given.insert(ROUTES_YAML.to_owned(), given);
    let input = Input {
        label: label.to_owned(),
        config_map: None,
        files: Ok(files),
        warnings: Vec::new(),
    };
    Inputs {
        found: vec![input],
        warnings: Vec::new(),
    }
}

fn of_manifests(label: &str, manifests: Manifests) -> Inputs {
    let found = manifests.found.into_iter().map(|found| Input {
        label: format!("{label}: ConfigMap {}", printable(&found.name)),
        config_map: Some(found.name),
        files: found.files,
        warnings: found.warnings,
    });
    let mut found: Vec<Input> = found.collect();
    if !manifests.problems.is_empty() {
        found.push(Input {
            label: label.to_owned(),
            config_map: None,
            files: Err(manifests.problems),
            warnings: Vec::new(),
        });
    }
    Inputs {
        found,
        warnings: manifests.warnings,
    }
}

fn shown(path: &Path) -> String {
    config::printable(&path.to_string_lossy()).into_owned()
}
