//! Reads and checks the mounted directory, in a time limit.
//!
//! I/O only. What a configuration is worth is `config`'s, what follows from it `rollout`'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::rollout::Newest;
use super::target::Loaded;
use crate::config::{self, Warning};
use crate::source::{self, Kind};

/// How long reading and checking the configuration may take; a file system that hangs must not stop the agent.
const READING: Duration = Duration::from_secs(10);

/// Reads the directory, and remembers which revision it has reported.
pub(super) struct Loader {
    directory: PathBuf,
    /// The revision that was found last, if it had one.
    known: Option<String>,
    /// A look at the directory that did not end in time.
    hanging: Option<JoinHandle<Found>>,
    kind: Option<Kind>,
}

/// What a look at the directory found.
enum Found {
    /// The revision that is known already.
    Same,
    /// Another.
    New {
        newest: Newest,
        kind: Option<Kind>,
        warnings: Vec<Warning>,
    },
}

impl Loader {
    pub(super) const fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            known: None,
            hanging: None,
            kind: None,
        }
    }

    /// Looks at the directory. `None`: it is as it was. `meanwhile` is done beside the check of another revision.
    pub(super) async fn load(&mut self, meanwhile: impl Future<Output = ()>) -> Option<Newest> {
        let (directory, known) = (self.directory.clone(), self.known.clone());
        let (checking, is_another) = oneshot::channel();
        // One that hangs is not joined by more, and not waited for again: each would hold a thread.
        let (mut reading, limit) = match self.hanging.take() {
            Some(hanging) => (hanging, Duration::ZERO),
            None => (
                tokio::task::spawn_blocking(move || read(&directory, known.as_deref(), checking)),
                READING,
            ),
        };
        let meanwhile = async {
            if let Ok(Ok(())) = timeout(limit, is_another).await {
                meanwhile.await;
            }
        };
        let (found, ()) = tokio::join!(timeout(limit, &mut reading), meanwhile);
        let found = match found {
            Ok(Ok(found)) => found,
            Ok(Err(panic)) => {
                Found::refused(format!("reading the configuration failed: {panic}"), false)
            }
            Err(_) => {
                self.hanging = Some(reading);
                let directory = self.directory.display();
                Found::refused(
                    format!("{directory} could not be read within {READING:?}"),
                    false,
                )
            }
        };
        let Found::New {
            newest,
            kind,
            warnings,
        } = found
        else {
            return None;
        };
        self.known = match &newest {
            Newest::Good(loaded) => Some(loaded.revision.clone()),
            Newest::Refused { revision, .. } => revision.clone(),
            Newest::Unknown => None,
        };
        self.warn_of_kind(kind);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Some(newest)
    }

    fn warn_of_kind(&mut self, kind: Option<Kind>) {
        let same = std::mem::discriminant(&self.kind) == std::mem::discriminant(&kind)
            && self.kind.as_ref().map(std::mem::discriminant)
                == kind.as_ref().map(std::mem::discriminant);
        if same || kind.is_none() {
            return;
        }
        match &kind {
            Some(Kind::Plain) => tracing::warn!(
                "The configuration is a directory of plain files and not a ConfigMap volume: a read may fall between the writes of two files"
            ),
            Some(Kind::Single) => tracing::warn!(
                "routes.yaml is a mount of its own (subPath?): the kubelet never updates it, so edits arrive only with a new pod; mount the whole ConfigMap"
            ),
            Some(Kind::Volume(_)) | None => {}
        }
        self.kind = kind;
    }
}

impl Found {
    fn refused(why: String, absent: bool) -> Self {
        Self::New {
            newest: Newest::Refused {
                revision: None,
                why,
                absent,
            },
            kind: None,
            warnings: Vec::new(),
        }
    }
}

fn read(directory: &Path, known: Option<&str>, checking: oneshot::Sender<()>) -> Found {
    let snapshot = match source::read(directory) {
        Ok(snapshot) => snapshot,
        Err(error) => return Found::refused(error.to_string(), error.is_not_configured()),
    };
    let revision = snapshot.files.revision().to_string();
    if known == Some(revision.as_str()) {
        return Found::Same;
    }
    // The receiver may have given up by then.
    let _ = checking.send(());
    let (newest, warnings) = match config::parse(&snapshot.files) {
        Ok(checked) => {
            let config = checked.config;
            (
                Newest::Good(Arc::new(Loaded { revision, config })),
                checked.warnings,
            )
        }
        Err(problems) => {
            let why = problems.summary();
            (
                Newest::Refused {
                    revision: Some(revision),
                    why,
                    absent: false,
                },
                Vec::new(),
            )
        }
    };
    Found::New {
        newest,
        kind: Some(snapshot.kind),
        warnings,
    }
}
