//! What no configuration can route: the protected ranges of a node, each with its reason; and whether a gateway can be a next hop there.
//!
//! Pure: reads a [`Kernel`] snapshot, [`Facts`] and the [`Config`], and decides.
//!
//! What counts as an on-link subnet: the subnets of the links' addresses, and routes that the kernel, a
//! router advertisement or DHCP made straight to a device (point-to-point peers, `noprefixroute`
//! addresses, IPv6 prefixes of an advertisement beside a /128 address). Routes to a device that a program
//! or person made (`10.0.0.0/8 dev wg0`, `default dev ppp0`) are routing, not subnets: they protect
//! nothing, but keep winning as any other route that is more specific than a destination. A length of 0
//! never makes a subnet, regardless of its owner. Documentation ranges are ordinary destinations.

use std::fmt;
use std::net::IpAddr;

use crate::config::Config;
use crate::net::prefix::Prefix;
use crate::net::prefix_set::{Nest, Ranges};
use crate::net::reserved;
use crate::routing::node_facts::Facts;
use crate::routing::state::{ForeignRoute, Kernel};

mod next_hop;

pub use next_hop::next_hop;

/// Protocols of routes straight to a device that describe the link itself: kernel, ra, dhcp (`/etc/iproute2/rt_protos`).
const LINK_PROTOCOLS: [u8; 3] = [2, 9, 16];

/// Why a range is protected. Ordered: of equal ranges the first names it best.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// An address behind the `kubernetes` Service, or of the Service.
    ApiServer,
    /// A gateway of a set, whether the set applies to this node or not.
    Gateway,
    /// An address of this node; holds the link's name.
    OwnAddress(Box<str>),
    /// A subnet on one of the node's links; holds the link's name.
    OnLink(Box<str>),
    /// The node's pod range.
    PodRange,
    /// Named in `protected`.
    Configured,
    /// Protected everywhere; holds what it is.
    BuiltIn(&'static str),
}

/// A protected range and its reason. `Display` names it for a person.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protection {
    /// What is protected.
    pub prefix: Prefix,
    /// Why.
    pub why: Why,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::ApiServer => write!(f, "the API server {}", Short(self.prefix)),
            Why::Gateway => write!(f, "the gateway {}", Short(self.prefix)),
            Why::OwnAddress(dev) => {
                write!(f, "the node's own address {} ({dev})", Short(self.prefix))
            }
            Why::OnLink(dev) => write!(f, "the node's on-link subnet {} ({dev})", self.prefix),
            Why::PodRange => write!(f, "the node's pod range {}", self.prefix),
            Why::Configured => write!(f, "the `protected` entry {}", self.prefix),
            Why::BuiltIn(what) => write!(f, "{what} {}", Short(self.prefix)),
        }
    }
}

/// A host without its `/32` or `/128`.
struct Short(Prefix);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == self.0.family().bits() {
            self.0.address().fmt(f)
        } else {
            self.0.fmt(f)
        }
    }
}

/// Everything protected on one node.
#[derive(Clone, Debug, Default)]
pub struct Protected {
    /// Sorted; the best reason of each prefix, so indices are those of `nest`.
    protections: Vec<Protection>,
    nest: Nest,
    ranges: Ranges,
    holes: Ranges,
}

impl Protected {
    /// Gathers contract section 4 from what is known; unknown facts add nothing.
    pub fn gather(kernel: &Kernel, facts: &Facts, config: &Config) -> Self {
        let mut all = built_in();
        of_links(kernel, &mut all);
        let mut host = |address: IpAddr, why: Why| {
            all.push(Protection {
                prefix: Prefix::host(address),
                why,
            });
        };
        for gateway in config.sets.iter().flat_map(|set| &set.gateways) {
            host(*gateway, Why::Gateway);
        }
        let (api_servers, pod_cidrs) = match facts {
            Facts::NoCluster => (&[][..], &[][..]),
            Facts::NotYet { api_servers } => (&api_servers[..], &[][..]),
            Facts::Known(known) => (&known.api_servers[..], &known.pod_cidrs[..]),
        };
        for address in api_servers {
            host(*address, Why::ApiServer);
        }
        all.extend(pod_cidrs.iter().map(|prefix| Protection {
            prefix: *prefix,
            why: Why::PodRange,
        }));
        all.extend(config.protected.iter().map(|prefix| Protection {
            prefix: *prefix,
            why: Why::Configured,
        }));
        Self::of(all)
    }

    /// Exactly these; without the built-in ones.
    pub fn of(mut protections: Vec<Protection>) -> Self {
        protections.sort();
        protections.dedup_by_key(|p| p.prefix);
        let prefixes = || protections.iter().map(|p| p.prefix);
        let (nest, ranges) = (Nest::of(prefixes()), Ranges::of(prefixes()));
        let own = |p: &&Protection| {
            p.prefix.len() == p.prefix.family().bits() && matches!(p.why, Why::OwnAddress(_))
        };
        let holes = protections.iter().filter(|p| !own(p)).map(|p| p.prefix);
        Self {
            nest,
            ranges,
            holes: Ranges::of(holes),
            protections,
        }
    }

    /// All protected addresses.
    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// Those that have to be left out of wider routes: all but the node's own addresses, which the `local` table takes before any
    /// route of ours is looked at. A node with IPVS has thousands of them, and another with each new Service.
    pub fn holes(&self) -> &Ranges {
        &self.holes
    }

    /// All protections, sorted by prefix, one for each.
    pub fn iter(&self) -> impl Iterator<Item = &Protection> {
        self.protections.iter()
    }

    /// The most specific protection that is equal to or covers the prefix.
    pub fn covering(&self, prefix: Prefix) -> Option<&Protection> {
        self.protections.get(self.nest.covering(prefix).next()?)
    }

    /// Why a destination must be skipped: `is the API server 203.0.113.5`, `inside the node's on-link subnet 10.116.0.0/24 (eth1)`;
    /// `None` when some of it may be routed.
    pub fn forbids(&self, destination: Prefix) -> Option<String> {
        if !self.ranges.covers(destination) {
            return None;
        }
        Some(match self.covering(destination) {
            Some(protection) if protection.prefix == destination => format!("is {protection}"),
            Some(protection) => format!("inside {protection}"),
            None => {
                // In this order what a prefix covers comes right after it.
                let inside = self.protections.partition_point(|p| p.prefix < destination);
                let first = self
                    .protections
                    .get(inside)
                    .map(|p| format!(", the first is {p}"));
                format!("made up of protected ranges{}", first.unwrap_or_default())
            }
        })
    }
}

fn built_in() -> Vec<Protection> {
    reserved::ranges()
        .map(|(prefix, what)| Protection {
            prefix,
            why: Why::BuiltIn(what),
        })
        .collect()
}

/// Addresses and on-link subnets, of links that are down too: IPv4 keeps its addresses there, and a link that flaps
/// must not move a route. (IPv6 addresses go with their link.)
fn of_links(kernel: &Kernel, all: &mut Vec<Protection>) {
    let mut found = Vec::new();
    for link in &kernel.links {
        for (address, len) in &link.addresses {
            found.push(Protection {
                prefix: Prefix::host(*address),
                why: Why::OwnAddress(link.name.clone()),
            });
            found.push(Protection {
                prefix: Prefix::masked(*address, *len),
                why: Why::OnLink(link.name.clone()),
            });
        }
    }
    for route in kernel
        .foreign
        .iter()
        .filter(|route| LINK_PROTOCOLS.contains(&route.protocol))
    {
        if let Some(dev) = on_link_by(route) {
            found.push(Protection {
                prefix: route.key.prefix,
                why: Why::OnLink(dev.into()),
            });
        }
    }
    // What is protected everywhere needs no second reason: every veth has a link-local address and subnet.
    let everywhere = Ranges::of(all.iter().map(|p| p.prefix));
    all.extend(
        found
            .into_iter()
            .filter(|p| p.prefix.len() > 0 && !everywhere.covers(p.prefix)),
    );
}

/// The device of a route straight to it.
fn on_link_by(route: &ForeignRoute) -> Option<&str> {
    if route.unicast && !route.gatewayed {
        route.dev.as_deref()
    } else {
        None
    }
}

/// The protections that hold on every node; for checks that know no node.
pub fn everywhere() -> Protected {
    Protected::of(built_in())
}

#[cfg(test)]
mod tests;
