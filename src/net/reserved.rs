//! Ranges that no node sends anywhere: protected on every node without being asked.
//!
//! Pure.

use crate::net::prefix::Prefix;

/// What routing must never touch on any node, and how a person calls it.
const RESERVED: [(&str, u8, &str); 10] = [
    ("0.0.0.0", 8, "the unspecified range"),
    ("127.0.0.0", 8, "the loopback range"),
    ("169.254.0.0", 16, "the link-local and metadata range"),
    ("224.0.0.0", 4, "the multicast range"),
    ("240.0.0.0", 4, "the reserved range"),
    ("::", 128, "the unspecified address"),
    ("::1", 128, "the loopback address"),
    ("::ffff:0:0", 96, "the range of IPv4-mapped addresses"),
    ("fe80::", 10, "the link-local range"),
    ("ff00::", 8, "the multicast range"),
];

/// The ranges and their names.
pub fn ranges() -> impl Iterator<Item = (Prefix, &'static str)> {
    RESERVED.iter().filter_map(|(address, len, what)| {
        Some((Prefix::masked(address.parse().ok()?, *len), *what))
    })
}
