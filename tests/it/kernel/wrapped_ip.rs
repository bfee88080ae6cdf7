//! An `ip` first in `PATH` that writes down what it was asked, and may refuse some of it, before the real one does it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub(super) struct WrappedIp {
    dir: PathBuf,
}

impl WrappedIp {
    /// `change` is a shell filter for a batch, such as `cat`.
    pub(super) fn new(dir: &Path, change: &str) -> Self {
        Self::with(dir, "", change)
    }

    /// `first` is shell that runs before each call, in which `ip` is the real one; what it prints is not the agent's to read.
    pub(super) fn that(dir: &Path, first: &str) -> Self {
        Self::with(dir, &format!("{{\n{first}\n}} >&2"), "cat")
    }

    fn with(dir: &Path, first: &str, change: &str) -> Self {
        let dir = dir.join("ip-log");
        fs::create_dir(&dir).unwrap();
        let (path, log) = (std::env::var("PATH").unwrap(), dir.display());
        let script = format!(
            "#!/bin/sh\nPATH='{path}:/usr/sbin:/sbin'\nexport PATH\necho \"$*\" >> '{log}/argv'\n{first}\ncase \" $* \" in *' -batch '*)\n\
             batch='{log}/batch.'$(date +%s%N).$$\n{change} > \"$batch.part\"\nmv \"$batch.part\" \"$batch\"\nexec ip \"$@\" < \"$batch\"\nesac\n\
             exec ip \"$@\"\n"
        );
        fs::write(dir.join("ip"), script).unwrap();
        fs::set_permissions(dir.join("ip"), fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    /// For the environment of the program that runs it.
    pub(super) fn path(&self) -> String {
        format!(
            "{}:{}:/usr/sbin:/sbin",
            self.dir.display(),
            std::env::var("PATH").unwrap()
        )
    }

    /// What each batch that writes contained, in order; those that only look up are left out.
    pub(super) fn batches(&self) -> Vec<String> {
        let all = self.all();
        all.into_iter().filter(|batch| !is_lookup(batch)).collect()
    }

    /// How many batches that only look up have begun.
    pub(super) fn lookups(&self) -> usize {
        self.all().iter().filter(|batch| is_lookup(batch)).count()
    }

    fn all(&self) -> Vec<String> {
        let mut names: Vec<PathBuf> = self
            .files()
            .filter(|path| path.extension().is_none_or(|end| end != "part"))
            .collect();
        names.sort();
        let text = |path: &PathBuf| fs::read_to_string(path).unwrap();
        names.iter().map(text).collect()
    }

    /// How often the kernel was read; a read that only compares has its routes from a socket.
    pub(super) fn reads(&self) -> usize {
        let argv = fs::read_to_string(self.dir.join("argv")).unwrap_or_default();
        argv.lines()
            .filter(|line| line.contains("-j -N nexthop show"))
            .count()
    }

    /// Forgets what it wrote down.
    pub(super) fn forget(&self) {
        self.files().for_each(|path| fs::remove_file(path).unwrap());
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.dir)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries.filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("batch.")
        })
    }
}

fn is_lookup(batch: &str) -> bool {
    batch.starts_with("route get ")
}
