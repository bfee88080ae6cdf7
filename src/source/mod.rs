//! Reads one version of the configuration directory.
//!
//! I/O only: what the bytes mean is `config`'s, when to look again is `watch`'s. A `ConfigMap`
//! volume is swapped by renaming the symlink `..data`, so that everything is read below the
//! directory that it pointed to, and only if it still points there afterwards: keys of two
//! versions are never mixed. Nothing here waits: no FIFO, no device, no endless file.

pub mod watch;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::config::{Files, ListUnread, MAX_FILE, MAX_TOTAL, ROUTES_YAML, list_names};

/// The symlink by which the kubelet swaps a volume.
const DATA: &str = "..data";
/// How often a read is begun anew when the directory changes under it.
const TRIES: usize = 8;
/// Most names of other files that are kept for a hint.
const MAX_OTHERS: usize = 32;
/// Most bytes of the mount table that are looked at.
const MAX_MOUNTS: u64 = 1 << 20;

/// One version of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its bytes.
    pub files: Files,
    /// What kind of directory it is.
    pub kind: Kind,
}

/// What kind of directory a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A `ConfigMap` volume; holds what `..data` points to. Versions are swapped as a whole.
    Volume(PathBuf),
    /// A directory of plain files. Who writes several of them in turn may be read in between.
    Plain,
    /// `routes.yaml` is a mount of its own, as with `subPath`: the kubelet never updates it.
    Single,
}

/// Why there is no configuration. `Display` names the path and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// The path that was tried.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// There is nothing.
    Missing(String),
    /// The directory can be read, and has no `routes.yaml`: the `ConfigMap` was never filled in, or its key was removed.
    NotConfigured(String),
    /// There is something that cannot be read.
    Unreadable(String),
    /// It changed each time it was read.
    Moving,
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: ",
            crate::config::printable(&self.path.to_string_lossy())
        )?;
        match &self.reason {
            Reason::Missing(why) | Reason::NotConfigured(why) | Reason::Unreadable(why) => {
                f.write_str(&crate::config::printable(why))
            }
            Reason::Moving => write!(
                f,
                "changed during each of {TRIES} reads; it will be read again"
            ),
        }
    }
}

impl std::error::Error for SourceError {}

impl SourceError {
    /// Whether the directory can be read and has no `routes.yaml`. On a node without anything of ours that is no mistake; elsewhere
    /// what is in force stays.
    pub const fn is_not_configured(&self) -> bool {
        matches!(self.reason, Reason::NotConfigured(_))
    }
}

/// Reads a directory, or a single file with its list files beside it.
///
/// Reads at most 8 MiB and a byte; what is larger than [`MAX_FILE`] or [`MAX_TOTAL`] is cut just
/// beyond the limit, for [`parse`](crate::config::parse) to refuse.
pub fn read(path: &Path) -> Result<Snapshot, SourceError> {
    read_as(path, Links::Followed)
}

/// The same for an untrusted directory: no symbolic link is followed out of it, and all names in it are kept.
pub fn read_confined(path: &Path) -> Result<Snapshot, SourceError> {
    read_as(path, Links::Confined)
}

/// How far symbolic links lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// Anywhere.
    Followed,
    /// To files of the directory.
    Confined,
}

fn read_as(path: &Path, links: Links) -> Result<Snapshot, SourceError> {
    let (directory, name) = match fs::metadata(path) {
        Ok(found) if found.is_dir() => (path, ROUTES_YAML),
        Ok(_) => split(path)?,
        Err(error) => return Err(of_path(path, &error)),
    };
    match fs::read_link(directory.join(DATA)) {
        Ok(_) if name == ROUTES_YAML => read_volume(directory, links),
        _ => read_plain(directory, name, links),
    }
}

/// A file's directory and name.
fn split(path: &Path) -> Result<(&Path, &str), SourceError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| SourceError {
            path: path.to_owned(),
            reason: Reason::Unreadable("is not a file name in UTF-8".to_owned()),
        })?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    Ok((directory.unwrap_or(Path::new(".")), name))
}

fn of_path(path: &Path, error: &io::Error) -> SourceError {
    let reason = match error.kind() {
        io::ErrorKind::NotFound => Reason::Missing(
            "is not there; mount the ConfigMap there, or name the right directory".to_owned(),
        ),
        _ => Reason::Unreadable(explain(error)),
    };
    SourceError {
        path: path.to_owned(),
        reason,
    }
}

/// Below the target of `..data`, if that is still the target afterwards.
fn read_volume(directory: &Path, links: Links) -> Result<Snapshot, SourceError> {
    let link = directory.join(DATA);
    for _ in 0..TRIES {
        let target = fs::read_link(&link).map_err(|error| of_path(&link, &error))?;
        let read = read_files(&directory.join(&target), ROUTES_YAML, directory, links);
        if fs::read_link(&link).is_ok_and(|now| now == target) {
            return Ok(Snapshot {
                files: read?,
                kind: Kind::Volume(target),
            });
        }
    }
    Err(SourceError {
        path: directory.to_owned(),
        reason: Reason::Moving,
    })
}

/// Until two reads in a row agree.
fn read_plain(directory: &Path, name: &str, links: Links) -> Result<Snapshot, SourceError> {
    let mut before = None;
    for _ in 0..TRIES {
        let now = read_files(directory, name, directory, links)?;
        if before.as_ref() == Some(&now) {
            let kind = if is_mount_point(&directory.join(name)) {
                Kind::Single
            } else {
                Kind::Plain
            };
            return Ok(Snapshot { files: now, kind });
        }
        before = Some(now);
    }
    Err(SourceError {
        path: directory.to_owned(),
        reason: Reason::Moving,
    })
}

/// `routes.yaml` and the list files that it names; errors name files in `shown`.
fn read_files(
    directory: &Path,
    name: &str,
    shown: &Path,
    links: Links,
) -> Result<Files, SourceError> {
    let within = (links == Links::Confined).then_some(shown);
    let routes_yaml = read_file(&directory.join(name), within).map_err(|unread| SourceError {
        path: shown.join(name),
        reason: match unread {
            // A dangling `..data` is no ConfigMap without the key.
            ListUnread::Missing if fs::read_dir(directory).is_ok() => {
                Reason::NotConfigured(not_configured(&other_files(directory)))
            }
            ListUnread::Missing => Reason::Missing("is not there, nor is its directory".to_owned()),
            ListUnread::Other(why) => Reason::Unreadable(why),
        },
    })?;
    let mut files = Files {
        routes_yaml,
        ..Files::default()
    };
    let mut total = files.routes_yaml.len();
    for list in list_names(&files.routes_yaml) {
        if total > MAX_TOTAL {
            break; // refused as it is
        }
        let bytes = read_file(&directory.join(&list), within);
        total += bytes.as_ref().map_or(0, Vec::len);
        files.lists.insert(list, bytes);
    }
    let missing = Err(ListUnread::Missing);
    if within.is_some() || files.lists.values().any(|bytes| *bytes == missing) {
        files.others = other_files(directory);
    }
    Ok(files)
}

fn not_configured(others: &[String]) -> String {
    let there = if others.is_empty() {
        "it is empty".to_owned()
    } else {
        format!("it has {}", others.join(", "))
    };
    format!(
        "is not there; the ConfigMap needs a key `{ROUTES_YAML}`, and {there}; add the key with `kubectl edit configmap` or from your own copy (`routes: []` in it removes every route)"
    )
}

/// The names in a directory that can be keys, sorted, up to a limit.
fn other_files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .take(8 * MAX_OTHERS)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with(".."))
        .collect();
    names.sort_unstable();
    names.truncate(MAX_OTHERS);
    names
}

fn read_file(path: &Path, within: Option<&Path>) -> Result<Vec<u8>, ListUnread> {
    let file = open(path)?;
    if let Some(directory) = within
        && !is_within(&file, path, directory)
    {
        return Err(ListUnread::Other(
            "is a link out of the directory; put the file itself there".to_owned(),
        ));
    }
    read_open(file, MAX_FILE)
}

/// Whether what was opened lies below the directory. Asked of the open file, so that no swap comes in between.
fn is_within(file: &File, path: &Path, directory: &Path) -> bool {
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let opened = fs::read_link(link).or_else(|_| path.canonicalize());
    match (opened, directory.canonicalize()) {
        (Ok(opened), Ok(directory)) => opened.starts_with(directory),
        _ => false,
    }
}

/// Reads a regular file, one byte beyond the limit at most.
pub fn read_whole(path: &Path, limit: usize) -> Result<Vec<u8>, ListUnread> {
    read_open(open(path)?, limit)
}

fn unread(error: &io::Error) -> ListUnread {
    match error.kind() {
        io::ErrorKind::NotFound => ListUnread::Missing,
        _ => ListUnread::Other(explain(error)),
    }
}

/// A regular file, and nothing else.
fn open(path: &Path) -> Result<File, ListUnread> {
    // Opening a FIFO would wait for its writer, and opening a device may do anything.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| unread(&error))?;
    let found = file.metadata().map_err(|error| unread(&error))?;
    if !found.is_file() {
        return Err(ListUnread::Other(format!(
            "is {}; expected a file",
            kind_of(found.file_type())
        )));
    }
    Ok(file)
}

fn read_open(file: File, limit: usize) -> Result<Vec<u8>, ListUnread> {
    let size = file.metadata().map_err(|error| unread(&error))?.len();
    let expected = usize::try_from(size).unwrap_or(usize::MAX).min(limit);
    read_up_to(file, limit, expected).map_err(|error| unread(&error))
}

/// One byte beyond the limit at most; `expected` is how much room is made at first.
fn read_up_to(file: File, limit: usize, expected: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(expected + 1);
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn kind_of(kind: fs::FileType) -> &'static str {
    match kind {
        _ if kind.is_dir() => "a directory",
        _ if kind.is_fifo() => "a FIFO",
        _ if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// The kernel's message, or a better one that includes the fix.
fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => {
            "permission denied; give the agent's user read permission".to_owned()
        }
        Some(libc::ELOOP) => "is a loop of symbolic links; expected a file".to_owned(),
        Some(libc::ENOTDIR) => "has a file where a directory is expected".to_owned(),
        Some(libc::ENXIO) => {
            "is a socket or device that nothing serves; expected a file".to_owned()
        }
        _ => format!("could not be read: {error}"),
    }
}

/// Whether something is mounted exactly there.
fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let mut mounts = String::new();
    let read = File::open("/proc/self/mountinfo")
        .and_then(|file| file.take(MAX_MOUNTS).read_to_string(&mut mounts));
    // "36 35 98:0 /root /mount/point rw …"; blanks in paths are octal escapes, which ours do not have.
    read.is_ok()
        && mounts.lines().any(|line| {
            line.split(' ')
                .nth(4)
                .is_some_and(|point| Path::new(point) == path)
        })
}
