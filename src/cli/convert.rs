//! `convert`: a `routes.yaml` from what other operators and scripts route.
//!
//! The result goes to stdout; what could not be carried over goes to stderr.

use std::io::{Read as _, Write as _, stdin, stdout};
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cli::node::warn;
use crate::config::{self, ListUnread, convert::convert};
use crate::source;

/// Most bytes that are read.
const MOST: usize = 16 << 20;

/// `convert`: 0 all carried over, 1 something could not be.
pub fn command(path: Option<&str>) -> anyhow::Result<u8> {
    let path = path.unwrap_or("-");
    let text = read(path)?;
    let Some(converted) = convert(&text) else {
        bail!("{path}: there is no StaticRoute, no Route and no `ip route` line in it");
    };
    let mut out = stdout().lock();
    out.write_all(converted.yaml.as_bytes())
        .and_then(|()| out.flush())
        .context("writing the output")?;
    for note in &converted.notes {
        warn(&config::printable(note));
    }
    for what in &converted.left {
        warn(&format!("not carried over: {}", config::printable(what)));
    }
    Ok(u8::from(!converted.left.is_empty()))
}

fn read(path: &str) -> anyhow::Result<String> {
    let bytes = if path == "-" {
        let mut bytes = Vec::new();
        stdin()
            .lock()
            .take(MOST as u64 + 1)
            .read_to_end(&mut bytes)
            .context("reading standard input")?;
        bytes
    } else {
        match source::read_whole(Path::new(path), MOST) {
            Ok(bytes) => bytes,
            Err(ListUnread::Missing) => bail!("{path}: is not there"),
            Err(ListUnread::Other(why)) => bail!("{path}: {why}"),
        }
    };
    anyhow::ensure!(
        bytes.len() <= MOST,
        "{path}: is larger than {} MiB",
        MOST >> 20
    );
    String::from_utf8(bytes).map_err(|_| anyhow::anyhow!("{path}: is not UTF-8"))
}
