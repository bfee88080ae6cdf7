//! The name of a configuration: a hash of its bytes.
//!
//! Pure. The rule is part of the public contract: anybody can compute it with `sha256sum`.

use std::fmt;

use ring::digest::{Context, SHA256};

/// The first 12 hex digits of the SHA-256 over, for `routes.yaml` and then each list file it names, sorted by
/// name: the name, a zero byte, the length in decimal, a zero byte, the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision([u8; 6]);

impl Revision {
    /// The revision of these bytes; `lists` must be in the order of names.
    pub(crate) fn of<'f>(
        routes_yaml: &[u8],
        lists: impl IntoIterator<Item = (&'f str, &'f [u8])>,
    ) -> Self {
        let mut context = Context::new(&SHA256);
        let mut add = |name: &str, bytes: &[u8]| {
            context.update(name.as_bytes());
            context.update(b"\0");
            context.update(bytes.len().to_string().as_bytes());
            context.update(b"\0");
            context.update(bytes);
        };
        add(super::ROUTES_YAML, routes_yaml);
        for (name, bytes) in lists {
            add(name, bytes);
        }
        let mut first = [0; 6];
        for (to, from) in first.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(first)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
