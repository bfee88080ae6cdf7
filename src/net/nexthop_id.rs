//! Ids of nexthop objects: numbers that a restarted agent finds again.
//!
//! Pure. A group's id depends only on its set's name and family, so that routes never change when
//! gateways do. A gateway's id depends on its address; where two addresses of one configuration
//! meet, the later one moves on. Its duplicates' ids depend on its id.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ring::digest::{SHA256, digest};

use crate::net::prefix::Family;

// Spaces of 2^28 ids, out of the way of small numbers that people and other daemons use.
const GATEWAYS: u32 = 0x1000_0000;
const GROUPS: u32 = 0x2000_0000;
const BLACKHOLES: u32 = 0x3000_0000;
const UNCONFIRMED: u32 = 0x4000_0000;
const REJECTED: u32 = 0x5000_0000;
const APPLIED_HIGH: u32 = 0x6000_0000;
const APPLIED_LOW: u32 = 0x7000_0000;
const SPACE: u32 = 0x0fff_ffff;
// The upper half is that of duplicates: 25 bits of the gateway's id, and 6 of the duplicate's number.
const DUPLICATE: u32 = 0x8000_0000;
const NUMBER_BITS: u32 = 6;
const OF_GATEWAY: u32 = 0x01ff_ffff;
const DRAINED: u32 = (1 << NUMBER_BITS) - 1;

/// How many duplicates a gateway's object may have.
pub const DUPLICATES: u32 = DRAINED - 1;

fn hash(bytes: &[u8]) -> u32 {
    let digest = digest(&SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .take(4)
        .fold(0, |n, byte| n << 8 | u32::from(*byte))
        & SPACE
}

/// A name for the set of a group whose set is unknown; no configuration can have it.
pub fn unknown_set(group: u32) -> String {
    format!("(group {group:#x})")
}

/// The id of a set's group for a family.
pub fn group(set: &str, family: Family) -> u32 {
    let unknown = set
        .strip_prefix("(group 0x")
        .and_then(|rest| rest.strip_suffix(')'));
    if let Some(Ok(id)) = unknown.map(|hex| u32::from_str_radix(hex, 16)) {
        return id;
    }
    GROUPS | hash(format!("{set}/{family}").as_bytes())
}

/// The ids of gateways, distinct also in what [`duplicate`] keeps of them.
pub fn gateways(addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, u32> {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeMap::new();
    for address in addresses {
        let mut id = hash(address.to_string().as_bytes());
        while !taken.insert(id & OF_GATEWAY) {
            id = (id + 1) & SPACE;
        }
        ids.insert(*address, GATEWAYS | id);
    }
    ids
}

/// The id of a further nexthop object of a gateway with this id; `number` is 1 to [`DUPLICATES`].
pub const fn duplicate(gateway: u32, number: u32) -> u32 {
    DUPLICATE | (gateway & OF_GATEWAY) << NUMBER_BITS | number & DRAINED
}

/// The id of an unused duplicate that records that the gateway is drained, for an agent that does not know the configuration.
pub const fn drained(gateway: u32) -> u32 {
    duplicate(gateway, DRAINED)
}

/// Whether an id is such a record.
pub const fn is_drained(id: u32) -> bool {
    is_duplicate(id) && id & DRAINED == DRAINED
}

/// Whether an id is that of a duplicate.
pub const fn is_duplicate(id: u32) -> bool {
    id & DUPLICATE != 0
}

/// The id of the nexthop that drops a family's packets.
pub const fn blackhole(family: Family) -> u32 {
    match family {
        Family::V4 => BLACKHOLES | 4,
        Family::V6 => BLACKHOLES | 6,
    }
}

/// The family of a blackhole, by its id.
pub const fn blackhole_family(id: u32) -> Option<Family> {
    match id {
        i if i == blackhole(Family::V4) => Some(Family::V4),
        i if i == blackhole(Family::V6) => Some(Family::V6),
        _ => None,
    }
}

/// The record of a revision that is in the kernel but not yet confirmed by an answer of the API server:
/// an unused blackhole. A restarted agent reads it there, for there is no file to read it from.
pub fn unconfirmed(revision: &str) -> u32 {
    UNCONFIRMED | hash(revision.as_bytes())
}

/// The record of a revision that was reverted and must not be tried again.
pub fn rejected(revision: &str) -> u32 {
    REJECTED | hash(revision.as_bytes())
}

/// The record of the revision that the objects and routes were made from, once it is confirmed: its 48 bits in two halves,
/// so that an agent that never saw its configuration can still report it. Empty for what is no revision.
pub fn applied(revision: &str) -> Vec<u32> {
    let bits = u64::from_str_radix(revision, 16)
        .ok()
        .filter(|_| revision.len() == 12);
    bits.map_or_else(Vec::new, |bits| halves(bits).to_vec())
}

/// The four bits that a half has left are the checksum of both: a kill can leave a half of one revision beside one of another.
fn halves(revision: u64) -> [u32; 2] {
    let checksum = (0..12).fold(0, |sum, digit| sum ^ low_bits(revision >> (4 * digit), 4)) << 24;
    [
        APPLIED_HIGH | checksum | low_bits(revision >> 24, 24),
        APPLIED_LOW | checksum | low_bits(revision, 24),
    ]
}

fn low_bits(number: u64, bits: u32) -> u32 {
    u32::try_from(number & ((1 << bits) - 1)).unwrap_or_default()
}

/// The revision that two of these records are the [`applied`] record of; none where there are several.
pub fn applied_revision(records: &BTreeSet<u32>) -> Option<String> {
    let of = |space| records.range(space..=space | SPACE);
    let pairs = of(APPLIED_HIGH).flat_map(|high| of(APPLIED_LOW).map(move |low| [*high, *low]));
    let half = |id: u32| u64::from(id & 0x00ff_ffff);
    let mut revisions = pairs
        .map(|pair| (half(pair[0]) << 24 | half(pair[1]), pair))
        .filter(|(revision, pair)| halves(*revision) == *pair);
    let (revision, _) = revisions.next()?;
    revisions
        .next()
        .is_none()
        .then(|| format!("{revision:012x}"))
}

/// Whether an id records an unconfirmed revision, whichever.
pub const fn is_unconfirmed(id: u32) -> bool {
    id & !SPACE == UNCONFIRMED
}

/// Whether an id records a rejected revision, whichever.
pub const fn is_rejected(id: u32) -> bool {
    id & !SPACE == REJECTED
}

/// Whether an id is half of the record of an applied revision, whichever.
pub const fn is_applied(id: u32) -> bool {
    matches!(id & !SPACE, APPLIED_HIGH | APPLIED_LOW)
}

/// Whether an id records a revision, whichever and as what.
pub const fn is_revision(id: u32) -> bool {
    is_unconfirmed(id) || is_rejected(id) || is_applied(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_id_depends_on_name_and_family_alone() {
        // Pinned: another number would re-point nothing and install everything again after an upgrade.
        // By hand: printf partner-api/IPv4 | sha256sum, its second to eighth digit after the space's own.
        assert_eq!(group("partner-api", Family::V4), 0x28a5_bb19);
        assert_eq!(group("partner-api", Family::V6), 0x26a6_a7c7);
        assert_eq!(group("clouds", Family::V4), 0x24ba_d37f);
        assert_eq!(group(&unknown_set(0x24ba_d37f), Family::V4), 0x24ba_d37f);
        let gateway = "10.116.0.5".parse().unwrap();
        assert_eq!(gateways(&BTreeSet::from([gateway]))[&gateway], 0x1ffd_e635);
    }

    #[test]
    fn gateways_that_meet_get_ids_of_their_own() {
        let many: BTreeSet<IpAddr> = (0..60_000).map(|n| Family::V4.address(n)).collect();
        let ids: BTreeSet<u32> = gateways(&many).into_values().collect();
        assert_eq!(ids.len(), many.len());
        let duplicates = |id: &u32| {
            (1..=DUPLICATES)
                .map(|n| duplicate(*id, n))
                .collect::<Vec<_>>()
        };
        let all: BTreeSet<u32> = ids.iter().flat_map(duplicates).collect();
        assert_eq!(all.len(), ids.len() * 62);
        let of_use = |id: &u32| is_duplicate(*id) && !is_drained(*id) && !is_revision(*id);
        assert!(all.iter().all(of_use));
        assert!(ids.iter().all(|id| is_drained(drained(*id))));
        assert!(ids.iter().all(|id| id & !SPACE == GATEWAYS));
    }

    #[test]
    fn the_revision_in_force_is_read_from_its_record() {
        let ids = applied("0123456789ab");
        // The checksum: 0^1^2^3^4^5^6^7^8^9^a^b.
        assert_eq!(ids, [0x6001_2345, 0x7067_89ab]);
        let read = |ids: &[u32]| applied_revision(&ids.iter().copied().collect());
        assert_eq!(read(&ids).as_deref(), Some("0123456789ab"));
        assert_eq!(read(&ids[..1]), None);
        assert!(applied("no revision").is_empty());
    }

    #[test]
    fn halves_of_two_revisions_are_none_and_a_whole_one_beside_a_half_is_the_one() {
        let (old, new) = (applied("e0a1b2c3d4e5"), applied("123456789abd"));
        let read = |ids: [&[u32]; 2]| applied_revision(&ids.concat().into_iter().collect());
        assert_eq!(read([&old[..1], &new[1..]]), None);
        assert_eq!(read([&old, &new[..1]]).as_deref(), Some("e0a1b2c3d4e5"));
        assert_eq!(read([&old[1..], &new]).as_deref(), Some("123456789abd"));
        assert_eq!(read([&old, &new]), None, "which of both, nobody knows");
    }
}
