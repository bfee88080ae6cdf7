//! A directory that behaves as a mounted ConfigMap does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A directory that changes as a ConfigMap volume does: the kubelet's atomic writer, step by step.
#[derive(Debug)]
pub struct Volume {
    dir: PathBuf,
    version: u32,
}

impl Volume {
    /// A volume at an existing directory, empty as one whose ConfigMap is missing and optional.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            version: 0,
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The whole content of the ConfigMap's next version, in one step for a reader through `..data`.
    pub fn write<B: AsRef<[u8]>>(&mut self, keys: &[(&str, B)]) -> &mut Self {
        self.version += 1;
        let fresh = format!("..2026_11_22_12_00_00.{:09}", self.version);
        let fresh_dir = self.dir.join(&fresh);
        fs::create_dir(&fresh_dir).expect("making the new version's directory");
        for (key, bytes) in keys {
            fs::write(fresh_dir.join(key), bytes).expect("writing a key");
        }
        let data = self.dir.join("..data");
        let old = fs::read_link(&data).ok();
        let next = self.dir.join("..data_tmp");
        symlink(&fresh, &next).expect("linking the new version");
        fs::rename(&next, &data).expect("swapping ..data");
        for (key, _) in keys {
            // Fails for a key that the last version had too, whose link stays.
            let _ = symlink(Path::new("..data").join(key), self.dir.join(key));
        }
        self.remove_stale_keys(
            keys.iter()
                .map(|(key, _)| *key)
                .collect::<Vec<_>>()
                .as_slice(),
        );
        if let Some(old) = old {
            fs::remove_dir_all(self.dir.join(old)).expect("removing the old version");
        }
        self
    }

    /// Only `routes.yaml`, the usual case.
    pub fn routes(&mut self, yaml: &str) -> &mut Self {
        self.write(&[("routes.yaml", yaml)])
    }

    fn remove_stale_keys(&self, present: &[&str]) {
        for entry in fs::read_dir(&self.dir)
            .expect("listing the volume")
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("..") && !present.contains(&name.as_str()) {
                fs::remove_file(entry.path()).expect("removing a key's link");
            }
        }
    }
}
