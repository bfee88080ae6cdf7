//! `edit`: the cluster's `ConfigMap` in an editor, as visudo does it.
//!
//! Nothing that agents would refuse is written, and nothing that somebody else wrote meanwhile is overwritten: a write names the
//! resource version that was read.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::Stdio;

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};

use crate::cli::args::EditArgs;
use crate::cli::nodes::{Goal, Observer, Which, keys, say};
use crate::cli::sync;
use crate::cluster::client::{code, explain};
use crate::config::{self, Checked, Config, Files, Problems, ROUTES_YAML};

mod buffer;
mod summary;

/// What the editor begins with where there is no `routes.yaml` yet.
const BEGINNING: &str = "\
# For example:
# routes:
#   - name: partner-api
#     gateways: [10.116.0.5]
#     destinations: [203.0.113.0/24, 198.51.100.7]
routes: []
";
/// Who writes, for `metadata.managedFields`.
const MANAGER: &str = "egress-routes";
/// Writes that are tried when others write at the same time.
const TRIES: usize = 5;

/// `edit`: 1 nothing written, else as `sync`.
pub async fn command(args: &EditArgs) -> anyhow::Result<u8> {
    let observer = Observer::connect(&args.sync.cluster, Which::default()).await?;
    let stored = Stored::read(&observer, &args.key).await?;
    if stored.key != ROUTES_YAML && stored.text.is_none() {
        say(&format!("`{}` is a new key of the ConfigMap", stored.key));
    }
    let Some(text) = converse(&stored, args.yes).await? else {
        return Ok(1);
    };
    match stored.write(&observer, &text).await? {
        Written::Yes => sync::run(&observer, &args.sync, Goal::Applied).await,
        Written::ChangedMeanwhile => {
            say(&format!(
                "nothing written: somebody else changed `{}` meanwhile",
                stored.key
            ));
            keep(&stored.key, &text)?;
            Ok(1)
        }
    }
}

/// One key of the `ConfigMap` as it was read.
pub(super) struct Stored {
    map: ConfigMap,
    key: String,
    /// `None`: there is no such key.
    text: Option<String>,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is in the API.
    Yes,
    /// The key has another text by now.
    ChangedMeanwhile,
}

impl Stored {
    /// The key as it is now.
    pub(super) async fn read(observer: &Observer, key: &str) -> anyhow::Result<Self> {
        let map = observer.configmap().await?;
        let text = map.data.as_ref().and_then(|data| data.get(key).cloned());
        let is_binary = map
            .binary_data
            .as_ref()
            .is_some_and(|data| data.contains_key(key));
        if is_binary {
            bail!("the ConfigMap has `{key}` under binaryData, which is no text to edit");
        }
        if let Some(owner) = owner(&map) {
            say(&format!(
                "warning: {owner} manages the ConfigMap; its next apply may revert this edit"
            ));
        }
        Ok(Self {
            map,
            key: key.to_owned(),
            text,
        })
    }

    /// Its text; empty without the key.
    pub(super) fn text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    /// What agents would make of the `ConfigMap` with this text.
    pub(super) fn check(&self, text: &str) -> Result<Checked, Refusal> {
        let mut keys = keys(&self.map);
        keys.insert(self.key.clone(), text.as_bytes().to_vec());
        let files = Files::from_keys(&keys).ok_or(Refusal::NoRoutes)?;
        config::parse(&files).map_err(|problems| Refusal::Problems(Box::new(problems)))
    }

    /// The configuration before the edit; none where that is refused or missing.
    fn before(&self) -> Config {
        let files = Files::from_keys(&keys(&self.map));
        let checked = files.and_then(|files| config::parse(&files).ok());
        checked.map_or_else(nothing, |checked| checked.config)
    }

    /// Shows what an edit changes.
    pub(super) fn announce(&self, checked: &Checked) {
        let lines = summary::changes(&self.before(), &checked.config);
        if lines.is_empty() {
            say("no route changes");
        }
        lines.iter().for_each(|line| say(line));
        for warning in &checked.warnings {
            say(&format!("warning: {warning}"));
        }
    }

    /// Writes the text. Other keys, labels and annotations may have changed; the key itself may not.
    pub(super) async fn write(&self, observer: &Observer, text: &str) -> anyhow::Result<Written> {
        let args = observer.args();
        let maps: kube::Api<ConfigMap> = kube::Api::namespaced(observer.client(), &args.namespace);
        let mut version = self.map.metadata.resource_version.clone();
        for _ in 0..TRIES {
            let body = serde_json::json!({"metadata": {"resourceVersion": version}, "data": {&self.key: text}});
            let params = PatchParams {
                field_manager: Some(MANAGER.into()),
                ..PatchParams::default()
            };
            match maps
                .patch_metadata(&args.configmap, &params, &Patch::Merge(body))
                .await
            {
                Ok(_) => return Ok(Written::Yes),
                Err(error) if code(&error) == Some(409) => {}
                Err(error) => {
                    return Err(anyhow!(explain(&error)).context(format!(
                        "writing the ConfigMap `{}/{}`",
                        args.namespace, args.configmap
                    )));
                }
            }
            let now = Self::read(observer, &self.key).await?;
            // A list file or `routes.yaml` may have changed with which the text no longer goes together.
            if now.text != self.text || now.check(text).is_err() {
                return Ok(Written::ChangedMeanwhile);
            }
            version = now.map.metadata.resource_version;
        }
        bail!("the ConfigMap changed {TRIES} times in a row while it was written")
    }
}

/// Why a text is not written.
pub(super) enum Refusal {
    /// Agents would refuse it.
    Problems(Box<Problems>),
    /// There is no `routes.yaml`, and the key that is edited is another.
    NoRoutes,
}

fn nothing() -> Config {
    let empty = Files {
        routes_yaml: b"routes: []\n".to_vec(),
        ..Files::default()
    };
    config::parse(&empty).map_or_else(
        |_| Config {
            sets: Vec::new(),
            protected: Vec::new(),
            expected_rules: Vec::new(),
        },
        |checked| checked.config,
    )
}

/// Who else writes the `ConfigMap`.
fn owner(map: &ConfigMap) -> Option<&'static str> {
    let labels = map.metadata.labels.iter().flatten();
    let annotations = map.metadata.annotations.iter().flatten();
    for (key, value) in labels.chain(annotations) {
        let found = match key.as_str() {
            "app.kubernetes.io/managed-by" if value == "Helm" => Some("Helm"),
            "argocd.argoproj.io/instance" | "argocd.argoproj.io/tracking-id" => Some("Argo CD"),
            key if key.contains("toolkit.fluxcd.io/") => Some("Flux"),
            "kubectl.kubernetes.io/last-applied-configuration"
                if value.contains("\"routes.yaml\":") =>
            {
                Some("`kubectl apply`, which wrote routes.yaml")
            }
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Editor and answers, until there is a text to write.
async fn converse(stored: &Stored, yes: bool) -> anyhow::Result<Option<String>> {
    let original = stored.text().to_owned();
    let mut shown = if stored.text.is_none() && stored.key == ROUTES_YAML {
        BEGINNING.to_owned()
    } else {
        original.clone()
    };
    let mut refused: Option<String> = None;
    loop {
        let Some(edited) = open(&stored.key, &shown).await? else {
            return Ok(None);
        };
        let text = buffer::without_problems(&edited).to_owned();
        if text == original {
            say("nothing written: nothing changed");
            return Ok(None);
        }
        if refused.as_ref() == Some(&text) {
            say("nothing written: the text is still refused");
            keep(&stored.key, &text)?;
            return Ok(None);
        }
        match stored.check(&text) {
            Err(Refusal::NoRoutes) => bail!(
                "the ConfigMap has no key `{ROUTES_YAML}`, which would name `{}`: begin with that",
                stored.key
            ),
            Err(Refusal::Problems(problems)) => {
                say(&problems.to_string());
                shown = buffer::with_problems(&text, &stored.key, &problems);
                refused = Some(text);
            }
            Ok(checked) => {
                stored.announce(&checked);
                match ask(yes)? {
                    Answer::Write => return Ok(Some(text)),
                    Answer::EditAgain => {
                        (shown, refused) = (text, None);
                    }
                    Answer::GiveUp => {
                        say("nothing written");
                        keep(&stored.key, &text)?;
                        return Ok(None);
                    }
                }
            }
        }
    }
}

enum Answer {
    Write,
    EditAgain,
    GiveUp,
}

/// Asks a person; without a terminal there is none.
fn ask(yes: bool) -> anyhow::Result<Answer> {
    let stdin = std::io::stdin();
    if yes || !stdin.is_terminal() {
        return Ok(Answer::Write);
    }
    loop {
        let _ = write!(std::io::stderr(), "Write it? [y]es, [e]dit again, [n]o: ");
        let mut line = String::new();
        let read = stdin
            .lock()
            .read_line(&mut line)
            .context("reading the answer")?;
        match line.trim() {
            "y" | "yes" => return Ok(Answer::Write),
            "e" | "edit" => return Ok(Answer::EditAgain),
            "n" | "no" => return Ok(Answer::GiveUp),
            _ if read == 0 => return Ok(Answer::GiveUp),
            _ => {}
        }
    }
}

/// The text after the editor; `None` when that failed.
async fn open(key: &str, text: &str) -> anyhow::Result<Option<String>> {
    let mut file = file_for(key)?;
    file.write_all(text.as_bytes())
        .context("writing the file to edit")?;
    let named = |name: &str| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())
    };
    let editor = named("VISUAL")
        .or_else(|| named("EDITOR"))
        .unwrap_or_else(|| "vi".into());
    // As git does it: the variable is a command line, like `code --wait`.
    let status = tokio::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$@\""), &editor])
        .arg(file.path())
        .stdin(Stdio::inherit())
        .status()
        .await
        .with_context(|| format!("starting the editor `{editor}`"))?;
    if !status.success() {
        say(&format!(
            "nothing written: the editor `{editor}` ended with {status}"
        ));
        return Ok(None);
    }
    // By its name: editors write a new file and rename it.
    let bytes = std::fs::read(file.path()).context("reading the edited file")?;
    if bytes.len() > config::MAX_FILE {
        bail!(
            "the edited file is larger than {} MiB",
            config::MAX_FILE >> 20
        );
    }
    let text = String::from_utf8(bytes).context("the edited file is not UTF-8")?;
    Ok(Some(text))
}

fn file_for(key: &str) -> anyhow::Result<tempfile::NamedTempFile> {
    let name: String = key
        .chars()
        .map(|c| if c == '/' { '-' } else { c })
        .collect();
    tempfile::Builder::new()
        .prefix("egress-routes-")
        .suffix(&format!("-{name}"))
        .tempfile()
        .context("making a file to edit")
}

/// Nobody's work is lost.
fn keep(key: &str, text: &str) -> anyhow::Result<()> {
    let mut file = file_for(key)?;
    file.write_all(text.as_bytes())
        .context("keeping the edited text")?;
    let (_, path) = file.keep().context("keeping the edited text")?;
    say(&format!("the edited text is in {}", path.display()));
    Ok(())
}
