//! An `ip` first in `PATH` that writes down what it was asked, and may refuse some of it, before the real one does it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

pub struct WrappedIp {
    dir: TempDir,
}

impl WrappedIp {
    /// `change` is a shell filter for a batch, such as `cat`.
    pub fn new(change: &str) -> Self {
        Self::with("", change)
    }

    /// `first` is shell that runs before each call, in which `ip` is the real one; what it prints is not the agent's to read.
    pub fn that(first: &str) -> Self {
        Self::with(&format!("{{\n{first}\n}} >&2"), "cat")
    }

    fn with(first: &str, change: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (path, log) = (std::env::var("PATH").unwrap(), dir.path().display());
        let script = format!(
            "#!/bin/sh\nPATH='{path}:/usr/sbin:/sbin'\nexport PATH\necho \"$*\" >> '{log}/argv'\n{first}\ncase \" $* \" in *' -batch '*)\n\
             batch='{log}/batch.'$(date +%s%N).$$\n{change} > \"$batch.part\"\nmv \"$batch.part\" \"$batch\"\nexec ip \"$@\" < \"$batch\"\nesac\n\
             exec ip \"$@\"\n"
        );
        let ip = dir.path().join("ip");
        fs::write(&ip, script).unwrap();
        fs::set_permissions(ip, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    /// For the environment of the program that runs it.
    pub fn path(&self) -> String {
        format!(
            "{}:{}:/usr/sbin:/sbin",
            self.dir.path().display(),
            std::env::var("PATH").unwrap()
        )
    }

    /// Reading routes fails from [`WrappedIp::fail`] on.
    pub fn unable_to_read() -> Self {
        Self::that("case \"$*\" in *'route save'*) [ ! -e \"$0.fails\" ] || exit 1 ;; esac")
    }

    /// Whether reading routes fails.
    pub fn fail(&self, fails: bool) {
        let flag = self.dir.path().join("ip.fails");
        if fails {
            fs::write(flag, "").unwrap();
        } else {
            fs::remove_file(flag).unwrap();
        }
    }

    /// All lines of the batches that write.
    pub fn lines(&self) -> Vec<String> {
        let batches = self.batches();
        batches
            .iter()
            .flat_map(|batch| batch.lines())
            .map(str::to_owned)
            .collect()
    }

    /// What each batch that writes contained, in order; those that only look up are left out.
    pub fn batches(&self) -> Vec<String> {
        let all = self.all();
        all.into_iter().filter(|batch| !is_lookup(batch)).collect()
    }

    /// How many batches that only look up have begun.
    pub fn lookups(&self) -> usize {
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
    pub fn reads(&self) -> usize {
        let argv = fs::read_to_string(self.dir.path().join("argv")).unwrap_or_default();
        argv.lines()
            .filter(|line| line.contains("-j -N nexthop show"))
            .count()
    }

    /// Forgets what it wrote down.
    pub fn forget(&self) {
        self.files().for_each(|path| fs::remove_file(path).unwrap());
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(self.dir.path())
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
