//! What the kernel shall have of ours, as values. What has to be written for it is `diff`'s.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::net::prefix::Family;
use crate::routing::batch::IDLE_TIMER;
use crate::routing::state::{Member, OwnRoute};

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
