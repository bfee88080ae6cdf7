//! The model's state as `ip` would report it and `kernel::dump` read it.

use std::net::IpAddr;

use egress_routes::net::prefix::Family;
use egress_routes::routing::batch::{MAIN_TABLE, Ownership};
use egress_routes::routing::state::{
    Elsewhere, ForeignRoute, Kernel, Link, Nexthop, NexthopKind, OwnRoute, Target,
};

use super::{Entry, Model, ObjectKind, To};

impl Model {
    /// One read of the whole.
    pub fn dump(&self, ownership: &Ownership) -> Kernel {
        let mut kernel = self.dump_nexthops();
        for (key, there) in &self.routes {
            for Entry { protocol, to } in there {
                if *protocol == ownership.protocol {
                    kernel.own.push(OwnRoute {
                        key: *key,
                        target: target(to),
                    });
                    continue;
                }
                if let To::Object(id) = to {
                    kernel.lent.insert(*id);
                }
                let family = key.prefix.family();
                let drops = self.drops(to);
                let is_ours_or_main = key.table == MAIN_TABLE || key.table == ownership.table;
                if !is_ours_or_main {
                    kernel.elsewhere.push(Elsewhere {
                        table: key.table,
                        prefix: key.prefix,
                        drops: drops.then_some("blackhole"),
                    });
                }
                if is_ours_or_main {
                    let (dev, gateway, gatewayed) = match to {
                        To::Object(_) if drops => (Some("lo".into()), None, true),
                        To::Object(id) => {
                            let (gateway, dev) = self.only_gateway(*id, family).unzip();
                            (dev, gateway, true)
                        }
                        // IPv6 keeps these on `lo`.
                        To::Blackhole => {
                            let dev = (family == Family::V6).then(|| "lo".into());
                            (dev, None, false)
                        }
                        To::Link(dev, via) => (Some(dev.clone()), *via, via.is_some()),
                        To::Several(..) => (None, None, true),
                    };
                    kernel.foreign.push(ForeignRoute {
                        key: *key,
                        protocol: *protocol,
                        dev,
                        gatewayed,
                        gateway,
                        unicast: !drops,
                    });
                }
            }
        }
        kernel.own.sort_unstable();
        kernel
    }

    /// Nexthops, links and addresses only.
    pub fn dump_nexthops(&self) -> Kernel {
        let mut kernel = Kernel::default();
        for (id, object) in &self.objects {
            let kind = match &object.kind {
                ObjectKind::Via(gateway, dev) => NexthopKind::Via {
                    gateway: *gateway,
                    dev: dev.clone(),
                },
                ObjectKind::Blackhole(_) => NexthopKind::Blackhole,
                ObjectKind::Group { members, resilient } => {
                    let mut members = members.clone();
                    members.sort_unstable();
                    NexthopKind::Group {
                        members,
                        resilient: *resilient,
                    }
                }
            };
            let protocol = object.protocol;
            kernel.nexthops.insert(*id, Nexthop { kind, protocol });
        }
        for (n, link) in self.links.iter().enumerate() {
            kernel.links.push(Link {
                name: link.name.clone(),
                index: u32::try_from(n).unwrap_or(u32::MAX) + 1,
                up: link.up,
                carrier: link.up && link.carrier,
                loopback: n == 0,
                addresses: link.addresses.clone(),
                broadcasts: Vec::new(),
            });
        }
        kernel
    }

    /// Whether `ip` shows a route as a blackhole.
    fn drops(&self, to: &To) -> bool {
        let To::Object(id) = to else {
            return *to == To::Blackhole;
        };
        match self.objects.get(id).map(|object| &object.kind) {
            Some(ObjectKind::Blackhole(_)) => true,
            Some(ObjectKind::Group { members, .. }) if members.len() == 1 => {
                self.drops(&To::Object(members[0].id))
            }
            _ => false,
        }
    }

    /// The gateway and device that `ip` prints with a route through a nexthop object: of one gateway, or of a group of one.
    fn only_gateway(&self, id: u32, family: Family) -> Option<(IpAddr, Box<str>)> {
        match self.objects.get(&id).map(|object| &object.kind) {
            Some(ObjectKind::Via(gateway, dev)) => Some((*gateway, dev.clone())),
            Some(ObjectKind::Group { members, .. })
                if members.len() == 1 && family == Family::V4 =>
            {
                self.only_gateway(members[0].id, family)
            }
            _ => None,
        }
    }
}

fn target(to: &To) -> Target {
    match to {
        To::Object(id) => Target::Nexthop(*id),
        To::Blackhole => Target::Blackhole,
        To::Link(dev, via) => {
            let via = via.map(|via| format!(" via {via}")).unwrap_or_default();
            Target::Stray(format!("{via} dev {dev}").into())
        }
        // A deletion cannot name it.
        To::Several(..) => Target::Stray(Box::default()),
    }
}
