//! What `ip route save` prints: the kernel's own route messages, one after the other, behind a magic number.
//!
//! Pure. Running `ip` is `kernel::ip`'s. For 50,000 routes through two gateways `ip -j route show` makes 10 MB of text and takes more than
//! twice the time; and what a name means, a message does not leave to files of the host.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::hash::Hash;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::net::prefix::{Family, Prefix};
use crate::routing::batch::{MAIN_TABLE, Ownership, safe_name};
use crate::routing::state::{
    ELSEWHERE_KEPT, Elsewhere, ForeignRoute, Kernel, Link, OwnRoute, RouteKey, Target,
};

/// What `ip` writes first; iproute2's `route_dump_magic`.
const MAGIC: u32 = 0x4531_1224;
/// `struct nlmsghdr` and `struct rtmsg`.
const HEADER: usize = 16;
const RTMSG: usize = 12;
/// A message with thousands of next hops is shorter.
const LONGEST: usize = 1 << 20;
const RTM_NEWROUTE: u16 = 24;
// Attributes, linux/rtnetlink.h.
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTA_NH_ID: u16 = 30;
// Route types, linux/rtnetlink.h.
const RTN_UNICAST: u8 = 1;
const RTN_BLACKHOLE: u8 = 6;
const RTN_UNREACHABLE: u8 = 7;
const RTN_PROHIBIT: u8 = 8;
/// local, broadcast, anycast, multicast: the node's own addresses, not paths to elsewhere.
const RTN_OWN_ADDRESSES: std::ops::RangeInclusive<u8> = 2..=5;

/// Routes of a family, as far as they can be known without the names of links.
#[derive(Debug, Default)]
pub struct Saved {
    own: Vec<OwnRoute>,
    /// Routes with our protocol number that we never install.
    strays: Vec<(RouteKey, Stray)>,
    /// Each with the index of its link.
    foreign: Vec<(ForeignRoute, Option<u32>)>,
    elsewhere: Vec<Elsewhere>,
    lent: Vec<u32>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Stray {
    from: Option<Prefix>,
    gateway: Option<IpAddr>,
    link: Option<u32>,
}

/// Reads `ip -4|-6 route save table all` as it comes: the kernel repeats a group's members in every route.
pub fn read_routes(
    mut saved: impl Read,
    family: Family,
    ownership: &Ownership,
) -> Result<Saved, String> {
    let mut magic = [0; 4];
    let whole = fill(&mut saved, &mut magic)?;
    if !whole || u32::from_ne_bytes(magic) != MAGIC {
        return Err("this is not what `ip route save` prints".to_owned());
    }
    let mut routes = Saved::default();
    let (mut header, mut body) = ([0; HEADER], Vec::new());
    while fill(&mut saved, &mut header)? {
        let length = u32_at(&header, 0).unwrap_or_default() as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if kind != RTM_NEWROUTE || !(HEADER + RTMSG..=LONGEST).contains(&length) {
            return Err(format!(
                "a message of type {kind} and {length} bytes is no route"
            ));
        }
        // As netlink aligns them.
        body.resize((length - HEADER).next_multiple_of(4), 0);
        if !fill(&mut saved, &mut body)? {
            return Err(CUT.to_owned());
        }
        routes.add(&body[..length - HEADER], family, ownership)?;
    }
    Ok(routes)
}

const CUT: &str = "it ended in the middle of a route";

/// False at the end; an end in the middle is an error.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<bool, String> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Ok(false),
            Ok(0) => return Err(CUT.to_owned()),
            Ok(more) => filled += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(true)
}

/// One route, as its message has it.
#[derive(Default)]
struct Raw {
    destination: Option<IpAddr>,
    from: Option<IpAddr>,
    link: Option<u32>,
    gateway: Option<IpAddr>,
    /// There are several next hops, or one of the other family.
    gatewayed: bool,
    metric: u32,
    table: u32,
    nhid: Option<u32>,
}

impl Raw {
    fn read(message: &[u8], family: Family, table: u8) -> Result<Self, String> {
        let mut raw = Self {
            table: table.into(),
            ..Self::default()
        };
        for (kind, value) in attributes(message.get(RTMSG..).unwrap_or_default()) {
            let number = || u32_at(value, 0).ok_or("an attribute is too short".to_owned());
            match kind {
                RTA_DST => raw.destination = Some(address(value, family)?),
                RTA_SRC => raw.from = Some(address(value, family)?),
                RTA_OIF => raw.link = Some(number()?),
                RTA_GATEWAY => raw.gateway = Some(address(value, family)?),
                RTA_PRIORITY => raw.metric = number()?,
                RTA_MULTIPATH => raw.gatewayed = true,
                RTA_TABLE => raw.table = number()?,
                RTA_VIA => {
                    raw.gatewayed = true;
                    raw.gateway = raw.gateway.or_else(|| via(value));
                }
                RTA_NH_ID => raw.nhid = Some(number()?),
                _ => {}
            }
        }
        Ok(raw)
    }
}

/// How a route of this type drops packets, in `ip`'s word.
const fn drops(kind: u8) -> Option<&'static str> {
    match kind {
        RTN_BLACKHOLE => Some("blackhole"),
        RTN_UNREACHABLE => Some("unreachable"),
        RTN_PROHIBIT => Some("prohibit"),
        _ => None,
    }
}

impl Saved {
    /// Adds a message without its `struct nlmsghdr`.
    pub(super) fn add(
        &mut self,
        message: &[u8],
        family: Family,
        ownership: &Ownership,
    ) -> Result<(), String> {
        let Some(&[of, len, src_len, tos, table, protocol, _, kind]) = message.first_chunk() else {
            return Err(CUT.to_owned());
        };
        if i32::from(of) != number_of(family) {
            return Err(format!(
                "a route of address family {of} is no {family} route"
            ));
        }
        let raw = Raw::read(message, family, table)?;
        let key = RouteKey {
            prefix: Prefix::masked(raw.destination.unwrap_or(family.address(0)), len),
            metric: raw.metric,
            table: raw.table,
            tos,
        };
        if protocol == ownership.protocol {
            self.add_own(key, kind, &raw, src_len, family);
            return Ok(());
        }
        if let Some(id) = raw.nhid {
            // Neighbours in the dump mostly share theirs.
            if self.lent.last() != Some(&id) {
                self.lent.push(id);
            }
        }
        let is_ours_or_main = key.table == ownership.table || key.table == MAIN_TABLE;
        let drops = drops(kind);
        let matters = kind == RTN_UNICAST || drops.is_some();
        if matters && !is_ours_or_main && self.elsewhere.len() < ELSEWHERE_KEPT {
            self.elsewhere.push(Elsewhere {
                table: key.table,
                prefix: key.prefix,
                drops,
            });
        }
        if !RTN_OWN_ADDRESSES.contains(&kind) && is_ours_or_main {
            let route = ForeignRoute {
                key,
                protocol,
                dev: None,
                gatewayed: raw.gatewayed || raw.gateway.is_some() || raw.nhid.is_some(),
                gateway: raw.gateway,
                unicast: kind == RTN_UNICAST,
            };
            self.foreign.push((route, raw.link));
        }
        Ok(())
    }

    fn add_own(&mut self, key: RouteKey, kind: u8, raw: &Raw, src_len: u8, family: Family) {
        let target = match (raw.nhid, kind) {
            (Some(id), _) if src_len == 0 => Target::Nexthop(id),
            (None, RTN_BLACKHOLE) if src_len == 0 => Target::Blackhole,
            _ => {
                let from = raw.from.unwrap_or(family.address(0));
                let stray = Stray {
                    from: (src_len > 0).then(|| Prefix::masked(from, src_len)),
                    gateway: raw.gateway.filter(|gateway| Family::of(*gateway) == family),
                    link: raw.link,
                };
                return self.strays.push((key, stray));
            }
        };
        self.own.push(OwnRoute { key, target });
    }

    /// Names the links, and puts all of it into `kernel`, which has them.
    pub fn into_kernel(mut self, kernel: &mut Kernel) {
        let name = |link: u32| name_of(&kernel.links, link);
        self.own
            .extend(self.strays.iter().map(|(key, stray)| OwnRoute {
                key: *key,
                target: Target::Stray(stray.words(name).into()),
            }));
        self.own.shrink_to_fit();
        if kernel.own.is_empty() {
            // Millions of bytes, which need not be there twice.
            kernel.own = std::mem::take(&mut self.own);
        } else {
            kernel.own.reserve_exact(self.own.len());
            kernel.own.append(&mut self.own);
        }
        kernel
            .foreign
            .extend(self.foreign.into_iter().map(|(route, link)| ForeignRoute {
                dev: link.map(name),
                ..route
            }));
        kernel.elsewhere.append(&mut self.elsewhere);
        kernel.lent.extend(self.lent);
    }

    /// Adds what another read of the same routes saw; of one that was seen twice, once.
    pub fn merge(&mut self, other: Self) {
        unite(&mut self.own, other.own);
        unite(&mut self.strays, other.strays);
        unite(&mut self.foreign, other.foreign);
        unite(&mut self.elsewhere, other.elsewhere);
        self.lent.extend(other.lent);
    }
}

fn unite<T: Eq + Hash>(these: &mut Vec<T>, others: Vec<T>) {
    let all: HashSet<T> = these.drain(..).chain(others).collect();
    these.extend(all);
}

impl Stray {
    /// What names it to `ip route del` beside its key.
    fn words(&self, name: impl Fn(u32) -> Box<str>) -> String {
        // Writing to a String cannot fail.
        let mut words = String::new();
        if let Some(from) = self.from {
            let _ = write!(words, " from {from}");
        }
        if let Some(gateway) = self.gateway {
            let _ = write!(words, " via {gateway}");
        }
        if let Some(dev) = self.link.map(name).filter(|dev| safe_name(dev)) {
            let _ = write!(words, " dev {dev}");
        }
        words
    }
}

/// A link that came after the links were read has the name that `ip` gives to unknown ones; its own notification makes another pass.
fn name_of(links: &[Link], index: u32) -> Box<str> {
    let link = links.iter().find(|link| link.index == index);
    link.map_or_else(|| format!("if{index}").into(), |link| link.name.clone())
}

pub(super) const fn number_of(family: Family) -> i32 {
    match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    }
}

/// The attributes behind a message's head: type and value of each.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d] = *bytes.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        // The upper two bits are the layout of the value.
        Some((u16::from_ne_bytes([c, d]) & 0x3fff, value))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn address(value: &[u8], family: Family) -> Result<IpAddr, String> {
    let address = match family {
        Family::V4 => value
            .first_chunk()
            .map(|a: &[u8; 4]| Ipv4Addr::from(*a).into()),
        Family::V6 => value
            .first_chunk()
            .map(|a: &[u8; 16]| Ipv6Addr::from(*a).into()),
    };
    address.ok_or_else(|| format!("{} bytes are no {family} address", value.len()))
}

/// `struct rtvia`: the family, and an address of it.
fn via(value: &[u8]) -> Option<IpAddr> {
    let (family, value) = value.split_first_chunk::<2>()?;
    let of = i32::from(u16::from_ne_bytes(*family));
    let family = Family::BOTH.into_iter().find(|f| number_of(*f) == of)?;
    address(value, family).ok()
}

#[cfg(test)]
mod tests;
