//! Where packets come from on this node, and the interface that each comes in by.
//!
//! Pure. A lookup for a packet that could not arrive there would be refused by the kernel's check of sources.

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::net::prefix::{Family, Prefix};
use crate::routing::batch::{MAIN_TABLE, safe_name};
use crate::routing::rule::Packet;
use crate::routing::state::Kernel;

/// Where packets come from on this node: itself, its pods, and every other source with a route here.
#[derive(Clone, Debug)]
pub struct Origins<'a> {
    kernel: &'a Kernel,
    /// A pod's address and the interface it comes in by.
    pods: Vec<(IpAddr, Box<str>)>,
}

/// Of how many pod ranges a packet is looked up.
const POD_RANGES: usize = 4;

impl<'a> Origins<'a> {
    /// As the kernel and the API have it.
    pub fn new(kernel: &'a Kernel, pod_cidrs: &[Prefix]) -> Self {
        let mut origins = Self {
            kernel,
            pods: Vec::new(),
        };
        for range in pod_cidrs.iter().take(POD_RANGES) {
            let address = origins.address_in(*range);
            if let Some(iif) = origins.incoming(address) {
                origins.pods.push((address, iif));
            }
        }
        origins
    }

    /// A packet of the node itself and one of each pod range, of the destination's family.
    pub fn packets(&self, to: IpAddr) -> Vec<Packet> {
        let pods = self
            .pods
            .iter()
            .filter(|(from, _)| Family::of(*from) == Family::of(to));
        let forwarded = pods.map(|(from, iif)| Packet {
            from: Some(*from),
            iif: Some(iif.clone()),
            ..Packet::to(to)
        });
        std::iter::once(Packet::to(to)).chain(forwarded).collect()
    }

    /// Whether an address is one of the node's own.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.kernel
            .links
            .iter()
            .flat_map(|link| &link.addresses)
            .any(|(own, _)| *own == address)
    }

    pub(super) fn own_address_in(&self, range: Prefix) -> Option<IpAddr> {
        let mut own = self
            .kernel
            .links
            .iter()
            .filter(|link| link.up && !link.loopback)
            .flat_map(|link| &link.addresses);
        own.find(|(address, _)| range.contains(*address))
            .map(|(address, _)| *address)
    }

    /// An address of the range that a machine here may well have: one with a route of its own, or the first that is not the node's.
    pub(super) fn address_in(&self, range: Prefix) -> IpAddr {
        let hosts = self.kernel.foreign.iter().filter(|route| {
            let prefix = route.key.prefix;
            route.unicast
                && route.key.table == MAIN_TABLE
                && prefix.len() == prefix.family().bits()
                && range.covers(prefix)
        });
        let mut known = hosts
            .map(|route| route.key.prefix.address())
            .filter(|address| !self.is_own(*address));
        if let Some(address) = known.next() {
            return address;
        }
        let (first, last) = range.range();
        let mut candidates = (first..=last)
            .take(8)
            .map(|n| range.family().address(n))
            .skip(usize::from(last - first > 1));
        candidates
            .find(|address| !self.is_own(*address))
            .unwrap_or_else(|| range.address())
    }

    /// The interface that packets of this source come in by: the one that leads back to it. The subnet of an interface in a VRF has
    /// its route in another table, and counts all the same.
    pub fn incoming(&self, source: IpAddr) -> Option<Box<str>> {
        let routes = self.kernel.foreign.iter().filter(|route| {
            route.unicast && route.key.table == MAIN_TABLE && route.key.prefix.contains(source)
        });
        let by_route =
            routes.map(|r| (r.key.prefix.len(), Reverse(r.key.metric), r.dev.as_deref()));
        let links = self.kernel.links.iter().filter(|l| l.up && !l.loopback);
        let by_subnet = links.flat_map(|link| {
            let around = link.subnets().filter(|subnet| subnet.contains(source));
            around.map(|subnet| (subnet.len(), Reverse(u32::MAX), Some(&*link.name)))
        });
        let (_, _, dev) = by_route.chain(by_subnet).max()?;
        let dev = dev?;
        let up = self
            .kernel
            .links
            .iter()
            .find(|link| *link.name == *dev && link.up && !link.loopback)?;
        safe_name(dev).then(|| up.name.clone())
    }

    /// A neighbour on an interface.
    pub(super) fn behind(&self, iif: &str, family: Family) -> Option<IpAddr> {
        let link = self
            .kernel
            .links
            .iter()
            .find(|link| *link.name == *iif && link.up && safe_name(&link.name))?;
        let by_route = self.kernel.foreign.iter().find(|route| {
            route.unicast
                && route.key.table == MAIN_TABLE
                && route.dev.as_deref() == Some(iif)
                && route.key.prefix.family() == family
                && route.key.prefix.len() > 0
                && !is_link_local(route.key.prefix)
        });
        let range = by_route.map(|route| route.key.prefix).or_else(|| {
            link.subnets()
                .find(|subnet| subnet.family() == family && !is_link_local(*subnet))
        })?;
        let (first, last) = range.range();
        let near = (first..=last).take(64).map(|n| family.address(n)).skip(1);
        let mut near = near.filter(|address| !self.is_own(*address));
        near.find(|address| self.incoming(*address).as_deref() == Some(iif))
            .or_else(|| Some(self.address_in(range)))
    }
}

fn is_link_local(prefix: Prefix) -> bool {
    match prefix.address() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
