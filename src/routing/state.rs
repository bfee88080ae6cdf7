//! What the kernel has, as `ip` reports it: routes, nexthop objects, links and addresses.
//!
//! Pure values and questions about them. Reading `ip`'s output is `kernel`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};
use crate::routing::batch::Ownership;

/// One read of the whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    /// Routes that carry our protocol number, in every table; sorted by key.
    pub own: Vec<OwnRoute>,
    /// Routes of others in our table and in `main`, without the `local` table's.
    pub foreign: Vec<ForeignRoute>,
    /// Routes of others in further tables; the first [`ELSEWHERE_KEPT`] that forward or drop.
    pub elsewhere: Vec<Elsewhere>,
    /// Every nexthop object, by id, ours or not.
    pub nexthops: BTreeMap<u32, Nexthop>,
    /// Ids of nexthop objects that routes of others use, including objects that others made: deleting it would delete those routes.
    pub lent: BTreeSet<u32>,
    /// What members that leave still carry, by group and member; only a whole read has it.
    pub leaving: BTreeMap<(u32, u32), Leaving>,
    /// Links with their addresses.
    pub links: Vec<Link>,
    /// IPv6 routes changed during each of several reads. Then the kernel's dumps list some of them twice and leave
    /// others out, without a word: what is here was there, but what is missing may be there too.
    pub uncertain_v6: bool,
}

/// How many routes of further tables are kept: what policy rules lead to is short but for full BGP tables.
pub const ELSEWHERE_KEPT: usize = 4096;
impl Kernel {
    /// What the nexthop object with an id is.
    pub fn kind(&self, id: u32) -> Option<&NexthopKind> {
        self.nexthops.get(&id).map(|nexthop| &nexthop.kind)
    }

    /// The members of the group with an id; none where it is no group.
    pub fn members(&self, id: u32) -> &[Member] {
        self.kind(id).map_or(&[], NexthopKind::members)
    }

    /// The gateway of the nexthop object with an id.
    pub fn gateway(&self, id: u32) -> Option<IpAddr> {
        match self.kind(id)? {
            NexthopKind::Via { gateway, .. } => Some(*gateway),
            _ => None,
        }
    }

    /// Whether all but our own routes is the same.
    pub fn is_same_but_for_own(&self, other: &Self) -> bool {
        let Self {
            own: _,
            foreign,
            elsewhere,
            nexthops,
            lent,
            leaving,
            links,
            uncertain_v6,
        } = other;
        self.uncertain_v6 == *uncertain_v6
            && self.nexthops == *nexthops
            && self.links == *links
            && self.leaving == *leaving
            && self.lent == *lent
            && self.elsewhere == *elsewhere
            && self.foreign == *foreign
    }

    /// Ids of our records of revisions; see `nexthop_id`.
    pub fn records(&self, ownership: &Ownership) -> BTreeSet<u32> {
        let ours = self
            .nexthops
            .iter()
            .filter(|(_, n)| n.protocol == ownership.protocol);
        ours.map(|(id, _)| *id)
            .filter(|id| nexthop_id::is_revision(*id))
            .collect()
    }

    /// Takes over that exactly these records were written.
    pub fn set_records(&mut self, records: &BTreeSet<u32>, ownership: &Ownership) {
        let protocol = ownership.protocol;
        self.nexthops
            .retain(|id, n| !nexthop_id::is_revision(*id) || n.protocol != protocol);
        let record = Nexthop {
            kind: NexthopKind::Blackhole,
            protocol,
        };
        self.nexthops
            .extend(records.iter().map(|id| (*id, record.clone())));
    }
}

/// A route of somebody else in a table that is neither ours nor `main`: where a policy rule may lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Elsewhere {
    /// The table.
    pub table: u32,
    /// The destination.
    pub prefix: Prefix,
    /// Absent where it forwards; else how it drops, in `ip`'s word.
    pub drops: Option<&'static str>,
}

/// The kernel's key of a route. Protocol is not part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The destination.
    pub prefix: Prefix,
    /// The metric; the lower one wins.
    pub metric: u32,
    /// The table.
    pub table: u32,
    /// IPv4 type of service; ours have 0.
    pub tos: u8,
}

/// A route that carries our protocol number. Routes are sorted by key, then by where they go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnRoute {
    /// Its key.
    pub key: RouteKey,
    /// Where it goes.
    pub target: Target,
}

const _: () = assert!(size_of::<OwnRoute>() <= 48, "a pass holds several tables");

/// Where a route of ours goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// Through this nexthop or group.
    Nexthop(u32),
    /// Nowhere: dropped.
    Blackhole,
    /// Something that we never install; holds the words that name it to `ip route del`. A thin pointer, because it sets the size of all
    /// routes, and there are tens of thousands in each pass.
    #[allow(clippy::box_collection)]
    Stray(Box<String>),
}

impl Target {
    /// The nexthop or group that it goes through.
    pub const fn nexthop(&self) -> Option<u32> {
        match self {
            Self::Nexthop(id) => Some(*id),
            Self::Blackhole | Self::Stray(_) => None,
        }
    }
}

/// A route of another program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ForeignRoute {
    /// Its key.
    pub key: RouteKey,
    /// Its protocol number.
    pub protocol: u8,
    /// The device, where there is one.
    pub dev: Option<Box<str>>,
    /// True when it has a next hop beyond the link (`via`), a nexthop object or several next hops.
    pub gatewayed: bool,
    /// The one next hop, where the route has just one of its own.
    pub gateway: Option<IpAddr>,
    /// True for a route that forwards; false for blackhole, unreachable, prohibit and throw.
    pub unicast: bool,
}

impl fmt::Display for ForeignRoute {
    /// As `ip` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key.prefix)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        write!(f, " proto ")?;
        match self.protocol {
            2 => f.write_str("kernel")?,
            3 => f.write_str("boot")?,
            4 => f.write_str("static")?,
            9 => f.write_str("ra")?,
            12 => f.write_str("bird")?,
            16 => f.write_str("dhcp")?,
            186 => f.write_str("bgp")?,
            other => write!(f, "{other}")?,
        }
        write!(f, " metric {}", self.key.metric)
    }
}

/// A nexthop object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nexthop {
    /// What it is.
    pub kind: NexthopKind,
    /// Its protocol number.
    pub protocol: u8,
}

/// What a nexthop object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NexthopKind {
    /// One gateway.
    Via {
        /// The gateway.
        gateway: IpAddr,
        /// The device it is reached by.
        dev: Box<str>,
    },
    /// Drops.
    Blackhole,
    /// A group.
    Group {
        /// Its members, sorted.
        members: Vec<Member>,
        /// How flows of members that stay, stay; a plain group hashes all of them anew.
        resilient: Option<Resilient>,
    },
    /// Something that we never install.
    Other,
}

impl NexthopKind {
    /// The members of a group; none of anything else.
    pub fn members(&self) -> &[Member] {
        match self {
            Self::Group { members, .. } => members,
            Self::Via { .. } | Self::Blackhole | Self::Other => &[],
        }
    }
}

/// A member of a group. Members are sorted by weight; `share` decides the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Its share, relative to the others.
    pub weight: u32,
    /// Its nexthop object.
    pub id: u32,
}

impl Member {
    /// One with weight 1.
    pub const fn equal(id: u32) -> Self {
        Self { weight: 1, id }
    }
}

/// What a member that leaves its group still carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leaving {
    /// Its buckets that had a packet within the group's idle time.
    pub busy: u32,
    /// For how long it has been seen leaving.
    pub since: Duration,
}

/// What makes a group resilient: flows hash into buckets, and a bucket that is in use stays with its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resilient {
    /// How many buckets there are; fixed when the group is made.
    pub buckets: u32,
    /// Seconds without a packet after which a bucket may move to a member that lacks some.
    pub idle: u32,
}

/// A link and its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: Box<str>,
    /// Its index.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier (`LOWER_UP`); without it the kernel refuses nexthops on the link and drops those that are there.
    pub carrier: bool,
    /// Loopback.
    pub loopback: bool,
    /// Addresses with the length of their subnet (host bits kept).
    pub addresses: Vec<(IpAddr, u8)>,
    /// IPv4 broadcast addresses.
    pub broadcasts: Vec<IpAddr>,
}

impl Link {
    /// Whether the kernel takes nexthops on it.
    pub const fn carries(&self) -> bool {
        self.up && self.carrier
    }

    /// The on-link subnets that its addresses make.
    pub fn subnets(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.addresses
            .iter()
            .map(|(address, len)| Prefix::masked(*address, *len))
    }

    /// The first address of a family, which the kernel uses as source.
    pub fn source(&self, family: Family) -> Option<IpAddr> {
        self.addresses
            .iter()
            .map(|(a, _)| *a)
            .find(|a| Family::of(*a) == family)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests write addresses that are right")]
mod of_tests {
    use super::{ForeignRoute, IpAddr, Link, Prefix, RouteKey};

    impl ForeignRoute {
        /// A route of the main table to a link, as the kernel makes it of an address.
        pub(crate) fn to_link(prefix: Prefix, dev: &str) -> Self {
            Self {
                key: RouteKey {
                    prefix,
                    metric: 0,
                    table: 254,
                    tos: 0,
                },
                protocol: 2,
                dev: Some(dev.into()),
                gatewayed: false,
                gateway: None,
                unicast: true,
            }
        }

        /// A route that a person added.
        pub(crate) fn via(prefix: Prefix, metric: u32, gateway: &str, dev: &str) -> Self {
            let mut route = Self::to_link(prefix, dev);
            route.key.metric = metric;
            Self {
                protocol: 4,
                gatewayed: true,
                gateway: Some(gateway.parse().unwrap()),
                ..route
            }
        }
    }

    impl Link {
        /// A link that is up, with addresses.
        pub(crate) fn with(name: &str, addresses: &[(&str, u8)]) -> Self {
            let address = |(address, len): &(&str, u8)| (address.parse().unwrap(), *len);
            let addresses: Vec<(IpAddr, u8)> = addresses.iter().map(address).collect();
            Self {
                name: name.into(),
                index: 1,
                up: true,
                carrier: true,
                loopback: name == "lo",
                addresses,
                broadcasts: Vec::new(),
            }
        }
    }
}
