//! Ids of nexthop objects: numbers that a restarted agent finds again.
//!
//! Pure. A group's id depends only on its set's name and family, so that routes never change when
//! gateways do. A gateway's id depends on its address; where two addresses of one configuration
//! meet, the later one moves on.

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
const APPLIED: u32 = 0x6000_0000;
const SPACE: u32 = 0x0fff_ffff;

fn hash(bytes: &[u8]) -> u32 {
    let digest = digest(&SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .take(4)
        .fold(0, |n, byte| n << 8 | u32::from(*byte))
        & SPACE
}

/// The id of a set's group for a family.
pub fn group(set: &str, family: Family) -> u32 {
    GROUPS | hash(format!("{set}/{family}").as_bytes())
}

/// The ids of gateways, distinct.
pub fn gateways(addresses: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, u32> {
    let mut taken = BTreeSet::new();
    let mut ids = BTreeMap::new();
    for address in addresses {
        let mut id = hash(address.to_string().as_bytes());
        while !taken.insert(id) {
            id = (id + 1) & SPACE;
        }
        ids.insert(*address, GATEWAYS | id);
    }
    ids
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

/// The mark of a revision that is in the kernel but not yet confirmed by an answer of the API server:
/// an unused blackhole. A restarted agent reads it there, for there is no file to read it from.
pub fn unconfirmed(revision: &str) -> u32 {
    UNCONFIRMED | hash(revision.as_bytes())
}

/// The mark of a revision that was taken back and must not be tried again.
pub fn rejected(revision: &str) -> u32 {
    REJECTED | hash(revision.as_bytes())
}

/// The mark of the revision that the objects and routes were made from, once nothing speaks against it.
pub fn applied(revision: &str) -> u32 {
    APPLIED | hash(revision.as_bytes())
}

/// Whether an id marks an unconfirmed revision, whichever.
pub const fn is_unconfirmed(id: u32) -> bool {
    id & !SPACE == UNCONFIRMED
}

/// Whether an id marks a revision, whichever and as what.
pub const fn is_revision(id: u32) -> bool {
    matches!(id & !SPACE, UNCONFIRMED | REJECTED | APPLIED)
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
        let gateway = "10.116.0.5".parse().unwrap();
        assert_eq!(gateways(&BTreeSet::from([gateway]))[&gateway], 0x1ffd_e635);
    }

    #[test]
    fn gateways_that_meet_get_ids_of_their_own() {
        let many: BTreeSet<IpAddr> = (0..60_000).map(|n| Family::V4.address(n)).collect();
        let ids: BTreeSet<u32> = gateways(&many).into_values().collect();
        assert_eq!(ids.len(), many.len());
        assert!(ids.iter().all(|id| id & !SPACE == GATEWAYS));
    }
}
