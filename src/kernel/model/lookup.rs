//! Where the model sends a packet.

use std::cmp::Reverse;
use std::net::IpAddr;

use egress_routes::net::prefix::Prefix;
use egress_routes::routing::batch::MAIN_TABLE;
use egress_routes::routing::state::RouteKey;

use super::{Entry, Model, ObjectKind, To};

/// Where packets to an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the node itself.
    Here,
    /// To the link itself.
    Link(Box<str>),
    /// To one of these routers, each by its link. One link may have no carrier.
    Routers(Vec<(IpAddr, Box<str>)>),
    /// Nowhere: dropped by a route.
    Dropped,
    /// Nowhere: there is no route.
    Unreachable,
}

impl Model {
    /// The route that takes packets to an address, from the main table; the first of the lowest metric of the longest prefix.
    pub fn route_for(&self, address: IpAddr) -> Option<(&RouteKey, &Entry)> {
        self.routes
            .iter()
            .filter(|(key, _)| {
                key.table == MAIN_TABLE && key.tos == 0 && key.prefix.contains(address)
            })
            .min_by_key(|(key, _)| (Reverse(key.prefix.len()), key.metric))
            .and_then(|(key, there)| Some((key, there.first()?)))
    }

    /// Where packets to an address go.
    pub fn way(&self, address: IpAddr) -> Way {
        let own = |(a, len): &(IpAddr, u8), loopback: bool| {
            *a == address || (loopback && Prefix::masked(*a, *len).contains(address))
        };
        if self
            .links
            .iter()
            .enumerate()
            .any(|(n, link)| link.addresses.iter().any(|a| own(a, n == 0)))
        {
            return Way::Here;
        }
        match self.route_for(address).map(|(_, entry)| &entry.to) {
            None => Way::Unreachable,
            Some(To::Blackhole) => Way::Dropped,
            Some(To::Link(dev, None)) => Way::Link(dev.clone()),
            Some(To::Link(dev, Some(router))) => Way::Routers(vec![(*router, dev.clone())]),
            Some(To::Several(dev, routers)) => {
                Way::Routers(routers.iter().map(|r| (*r, dev.clone())).collect())
            }
            Some(To::Object(id)) => self.through(*id),
        }
    }

    fn through(&self, id: u32) -> Way {
        match self.objects.get(&id).map(|object| &object.kind) {
            Some(ObjectKind::Via(router, dev)) => Way::Routers(vec![(*router, dev.clone())]),
            Some(ObjectKind::Group { members, .. }) => {
                let mut routers = Vec::new();
                for member in members {
                    match self.through(member.id) {
                        Way::Routers(some) => routers.extend(some),
                        other => return other,
                    }
                }
                Way::Routers(routers)
            }
            Some(ObjectKind::Blackhole(_)) | None => Way::Dropped,
        }
    }
}
