//! A kernel in memory: links, addresses, nexthop objects and routes of both families, as far as the agent can notice.
//!
//! Test code. It runs the text of a batch as `ip` and the kernel do, and gives the state that `ip` would
//! report. What it imitates was measured (Linux 6.18, iproute2 6.1), and `tests/it/model.rs` holds it to the real
//! kernel: where the two differ, this one is wrong. Faults of `ip` are not its business.

use std::collections::BTreeMap;
use std::net::IpAddr;

use egress_routes::net::prefix::{Family, Prefix};
use egress_routes::routing::batch::MAIN_TABLE;
use egress_routes::routing::state::{Member, Resilient, RouteKey};

mod batch;
mod dump;
mod lookup;

#[allow(unused_imports, reason = "tests/it compares dumps only")]
pub use {batch::run_lines, lookup::Way};

/// Routes that the kernel makes from addresses.
const PROTO_KERNEL: u8 = 2;
/// The metric that IPv6 gives a route without one, and that of its connected routes.
const V6_METRIC: u32 = 1024;
const V6_CONNECTED: u32 = 256;

/// Why a line did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The kernel refuses; the batch continues.
    Kernel(&'static str),
    /// `ip` does not understand; the batch ends.
    Parser,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLink {
    /// Its name; its index is its place plus one.
    pub name: Box<str>,
    /// Administratively up.
    pub up: bool,
    /// Whether there is a carrier.
    pub carrier: bool,
    /// Addresses with the length of their subnet.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A nexthop object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its protocol number.
    pub protocol: u8,
    /// What it is.
    pub kind: ObjectKind,
}

/// What a nexthop object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// One gateway, by the device with this name.
    Via(IpAddr, Box<str>),
    /// Drops packets of this family.
    Blackhole(Family),
    /// A group.
    Group {
        /// Its members, in the order in which they were written.
        members: Vec<Member>,
        /// Absent for a plain group.
        resilient: Option<Resilient>,
    },
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its protocol number.
    pub protocol: u8,
    /// Where it goes.
    pub to: To,
}

/// Where a route goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Through a nexthop object.
    Object(u32),
    /// Nowhere.
    Blackhole,
    /// To a link, or a router on it.
    Link(Box<str>, Option<IpAddr>),
    /// To several routers on one link; of IPv4 only.
    Several(Box<str>, Vec<IpAddr>),
}

impl To {
    /// The link that a route names itself, and the first router on it.
    fn hop(&self) -> Option<(&str, Option<IpAddr>)> {
        match self {
            Self::Link(dev, via) => Some((dev, *via)),
            Self::Several(dev, routers) => Some((dev, routers.first().copied())),
            Self::Object(_) | Self::Blackhole => None,
        }
    }
}

/// The kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Links by index, loopback first.
    pub links: Vec<ModelLink>,
    /// Nexthop objects by id.
    pub objects: BTreeMap<u32, Object>,
    /// Routes of the tables that are not `local`; those of one key in the kernel's order.
    pub routes: BTreeMap<RouteKey, Vec<Entry>>,
    /// A kernel before 5.12.
    pub without_resilient: bool,
}

impl Default for Model {
    fn default() -> Self {
        let loopback = ModelLink {
            name: "lo".into(),
            up: true,
            carrier: true,
            addresses: vec![
                (IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8),
                (IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128),
            ],
        };
        Self {
            links: vec![loopback],
            objects: BTreeMap::new(),
            routes: BTreeMap::new(),
            without_resilient: false,
        }
    }
}

impl Model {
    /// A node with three links: `eth0`, and two with gateways on them.
    pub fn node() -> Self {
        let mut model = Self::default();
        for (link, address, len) in [
            ("eth0", "192.0.2.2", 24),
            ("eth1", "10.116.0.250", 24),
            ("eth1", "fd00:116::250", 64),
            ("eth2", "10.116.0.251", 24),
            ("eth2", "10.117.0.250", 24),
        ] {
            if model.link(link).is_none() {
                model.add_link(link);
            }
            let address = address.parse().expect("an address");
            model.add_address(link, address, len);
        }
        model
    }

    /// Runs lines as somebody else would; a line that is refused fails the test.
    pub fn prepare(&mut self, lines: &str) {
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            if let Err(why) = self.run(None, line) {
                panic!("`{line}`: {why:?}");
            }
        }
    }

    /// Adds a link that is up.
    pub fn add_link(&mut self, name: &str) {
        self.links.push(ModelLink {
            name: name.into(),
            up: true,
            carrier: true,
            addresses: Vec::new(),
        });
    }

    /// A link by its name.
    pub fn link(&self, name: &str) -> Option<&ModelLink> {
        self.links.iter().find(|link| *link.name == *name)
    }

    fn link_mut(&mut self, name: &str) -> Option<&mut ModelLink> {
        self.links.iter_mut().find(|link| *link.name == *name)
    }

    /// `ip link set NAME up|down`.
    pub fn set_up(&mut self, name: &str, up: bool) {
        let Some(link) = self.link_mut(name).filter(|link| link.up != up) else {
            return;
        };
        link.up = up;
        if up {
            let addresses = link.addresses.clone();
            for (address, len) in addresses {
                self.connect(name, address, len);
            }
            return;
        }
        // IPv6 addresses go with the link, IPv4 addresses stay.
        link.addresses
            .retain(|(address, _)| Family::of(*address) == Family::V4);
        self.flush_objects(name);
        self.flush_link(name, None);
    }

    /// The other end of the cable comes or goes: routes stay, and are dead; nexthop objects go.
    pub fn set_carrier(&mut self, name: &str, carrier: bool) {
        let Some(link) = self.link_mut(name) else {
            return;
        };
        let lost = link.carrier && !carrier;
        link.carrier = carrier;
        if lost && link.up {
            self.flush_objects(name);
        }
    }

    /// `ip addr add ADDRESS/LEN dev NAME nodad`, of a subnet that the link has no address of.
    pub fn add_address(&mut self, name: &str, address: IpAddr, len: u8) {
        let Some(link) = self.link_mut(name) else {
            return;
        };
        if link.addresses.contains(&(address, len)) {
            return;
        }
        // IPv4 comes first, and IPv6 lists the newest first.
        let v4 = link
            .addresses
            .iter()
            .take_while(|(a, _)| Family::of(*a) == Family::V4)
            .count();
        link.addresses.insert(v4, (address, len));
        if link.up {
            self.connect(name, address, len);
        }
    }

    /// `ip addr del ADDRESS/LEN dev NAME`. With the last IPv4 address all IPv4 routes to the link go; those through
    /// nexthop objects stay.
    pub fn remove_address(&mut self, name: &str, address: IpAddr, len: u8) {
        let Some(link) = self.link_mut(name) else {
            return;
        };
        let Some(at) = link.addresses.iter().position(|a| *a == (address, len)) else {
            return;
        };
        link.addresses.remove(at);
        let family = Family::of(address);
        let subnet = Prefix::masked(address, len);
        let others = |link: &ModelLink, same: &dyn Fn(&(IpAddr, u8)) -> bool| {
            link.addresses.iter().any(same)
        };
        let shared = others(link, &|(a, l)| Prefix::masked(*a, *l) == subnet);
        let last = !others(link, &|(a, _)| Family::of(*a) == family);
        if !shared {
            let connected = Entry {
                protocol: PROTO_KERNEL,
                to: To::Link(name.into(), None),
            };
            if let Some(there) = self.routes.get_mut(&connected_key(subnet)) {
                there.retain(|entry| *entry != connected);
            }
        }
        if last && family == Family::V4 {
            self.flush_link(name, Some(family));
        }
        self.tidy();
    }

    fn connect(&mut self, name: &str, address: IpAddr, len: u8) {
        let subnet = Prefix::masked(address, len);
        let entry = Entry {
            protocol: PROTO_KERNEL,
            to: To::Link(name.into(), None),
        };
        let there = self.routes.entry(connected_key(subnet)).or_default();
        if !there.contains(&entry) {
            there.push(entry);
        }
    }

    fn flush_objects(&mut self, name: &str) {
        let on_it =
            |object: &Object| matches!(&object.kind, ObjectKind::Via(_, dev) if **dev == *name);
        let gone: Vec<u32> = self
            .objects
            .iter()
            .filter(|(_, object)| on_it(object))
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.drop_object(id));
    }

    fn flush_link(&mut self, name: &str, family: Option<Family>) {
        for (key, there) in &mut self.routes {
            if family.is_none_or(|family| key.prefix.family() == family) {
                there.retain(|entry| entry.to.hop().is_none_or(|(dev, _)| *dev != *name));
            }
        }
        self.tidy();
    }

    /// It leaves its groups; a group that is left empty goes too, and so do all routes through what went.
    fn drop_object(&mut self, id: u32) {
        self.objects.remove(&id);
        for there in self.routes.values_mut() {
            there.retain(|entry| entry.to != To::Object(id));
        }
        self.tidy();
        let mut empty = Vec::new();
        for (group, object) in &mut self.objects {
            if let ObjectKind::Group { members, .. } = &mut object.kind {
                members.retain(|member| member.id != id);
                if members.is_empty() {
                    empty.push(*group);
                }
            }
        }
        empty.into_iter().for_each(|group| self.drop_object(group));
    }

    fn tidy(&mut self) {
        self.routes.retain(|_, there| !there.is_empty());
    }
}

fn connected_key(subnet: Prefix) -> RouteKey {
    RouteKey {
        prefix: subnet,
        metric: match subnet.family() {
            Family::V4 => 0,
            Family::V6 => V6_CONNECTED,
        },
        table: MAIN_TABLE,
        tos: 0,
    }
}
