//! What the kernel shall have of ours, as values. What has to be written for it is `diff`'s.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::net::nexthop_id;
use crate::net::prefix::Family;
use crate::routing::batch::IDLE_TIMER;
use crate::routing::state::{Member, NexthopKind, OwnRoute};

/// What the kernel shall have of ours, and nothing else of ours.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct Wanted {
    /// Gateways and blackholes, by id.
    pub nexthops: BTreeMap<u32, WantedNexthop>,
    /// Groups, by id.
    pub groups: BTreeMap<u32, WantedGroup>,
    /// Routes, sorted by key.
    pub routes: Vec<OwnRoute>,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WantedGroup {
    /// Its members, sorted.
    pub members: Vec<Member>,
    /// Seconds without a packet after which a bucket counts as idle, where the group is resilient.
    pub idle: u32,
}

impl WantedGroup {
    /// Members that share equally.
    pub fn equal(mut ids: Vec<u32>) -> Self {
        ids.sort_unstable();
        Self {
            members: ids.into_iter().map(Member::equal).collect(),
            idle: IDLE_TIMER,
        }
    }

    /// The group that the kernel has.
    pub fn as_found(kind: &NexthopKind) -> Option<Self> {
        let NexthopKind::Group { members, resilient } = kind else {
            return None;
        };
        Some(Self {
            members: members.clone(),
            idle: resilient.map_or(IDLE_TIMER, |r| r.idle),
        })
    }

    pub(super) fn has(&self, id: u32) -> bool {
        self.members.iter().any(|m| m.id == id)
    }
}

/// A single nexthop object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum WantedNexthop {
    /// A gateway and the device it is reached by.
    Via(IpAddr, Box<str>),
    /// Drops packets of this family.
    Blackhole(Family),
}

impl WantedNexthop {
    /// The object that the kernel has. It does not show a blackhole's family; the id does.
    pub fn as_found(id: u32, kind: &NexthopKind) -> Option<Self> {
        match kind {
            NexthopKind::Via { gateway, dev } => Some(Self::Via(*gateway, dev.clone())),
            NexthopKind::Blackhole => Some(Self::Blackhole(
                nexthop_id::blackhole_family(id).unwrap_or(Family::V4),
            )),
            NexthopKind::Group { .. } | NexthopKind::Other => None,
        }
    }

    /// Where it leads.
    pub const fn gateway(&self) -> Option<IpAddr> {
        match self {
            Self::Via(gateway, _) => Some(*gateway),
            Self::Blackhole(_) => None,
        }
    }
}

impl Wanted {
    /// The same without these nexthop objects: a group that the kernel takes is better than one that it refuses whole.
    #[must_use]
    pub fn without(&self, refused: &BTreeSet<u32>) -> Self {
        let mut wanted = self.clone();
        for id in refused {
            wanted.nexthops.remove(id);
        }
        for group in wanted.groups.values_mut() {
            group.members.retain(|m| !refused.contains(&m.id));
        }
        wanted
    }
}
