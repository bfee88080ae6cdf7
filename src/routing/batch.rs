//! Batch lines for `ip` (iproute2), and what makes a route or nexthop ours.
//!
//! Pure. What to write is `diff`'s; running `ip` is `kernel::ip`'s. Only numbers are written where iproute2
//! would also take names, because the names depend on files of the host.
//! Every token is made from a typed value: a parse error ends an `ip -batch` even with `-force`.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use crate::net::prefix::Prefix;
use crate::routing::state::{Member, Resilient, RouteKey, Target};

/// The `main` table.
pub const MAIN_TABLE: u32 = 254;
/// Buckets of a new resilient group; the kernel refuses to change the number later. Enough that the smallest
/// share (weight 1 beside fifteen times 100) has a bucket, and that few flows share one: a bucket moves only as a whole.
pub const BUCKETS: u32 = 2048;
/// Seconds without a packet after which a bucket may move to a gateway that lacks some. NAT boxes of the
/// field forget silent flows after about as long, so a flow that is moved was lost anyway.
pub const IDLE_TIMER: u32 = 300;

/// What makes a route or nexthop ours: protocol, metric and table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Route protocol number, also of nexthops.
    pub protocol: u8,
    /// Metric of every route but the leak guard's.
    pub metric: u32,
    /// Table of every route.
    pub table: u32,
}

/// Metric of a leak guard's blackhole route.
pub const LEAK_GUARD_METRIC: u32 = 4_294_967_294;

impl Ownership {
    /// Where no flag changes it.
    pub const DEFAULT: Self = Self {
        protocol: 230,
        metric: 4242,
        table: MAIN_TABLE,
    };

    /// The key of the route for a prefix.
    pub const fn key(&self, prefix: Prefix) -> RouteKey {
        RouteKey {
            prefix,
            metric: self.metric,
            table: self.table,
            tos: 0,
        }
    }

    /// The key of the leak guard's blackhole route for a prefix.
    pub const fn leak_guard_key(&self, prefix: Prefix) -> RouteKey {
        RouteKey {
            prefix,
            metric: LEAK_GUARD_METRIC,
            table: self.table,
            tos: 0,
        }
    }
}

/// Whether a device name can be written into a batch line; the kernel allows quotes, `#` and backslashes in one.
pub fn safe_name(dev: &str) -> bool {
    !dev.is_empty()
        && dev
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'#'))
}

/// One line of an `ip -batch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A gateway's nexthop object.
    Gateway {
        /// Its id.
        id: u32,
        /// The gateway.
        gateway: IpAddr,
        /// The device it is reached by; a [`safe_name`].
        dev: &'a str,
    },
    /// A nexthop object that drops; the family is that of the `ip` that runs the batch.
    BlackholeNexthop {
        /// Its id.
        id: u32,
    },
    /// A nexthop group.
    Group {
        /// Its id.
        id: u32,
        /// Its members.
        members: &'a [Member],
        /// Absent for a plain group.
        resilient: Option<Resilient>,
    },
    /// A route that goes somewhere else from now on, or is new.
    Route {
        /// Its key.
        key: RouteKey,
        /// Where it goes.
        target: &'a Target,
        /// Whether the last read had a route of ours with this key. One that it had not is added, because `replace`
        /// would overwrite what somebody else has put there since.
        exists: bool,
    },
    /// A route that goes away.
    DeleteRoute {
        /// Its key.
        key: RouteKey,
        /// Where it goes now, so that a sibling with the same key is not taken instead.
        target: &'a Target,
    },
    /// A nexthop object or group that goes away, and with it, silently for IPv4, the routes that use it.
    DeleteNexthop {
        /// Its id.
        id: u32,
    },
}

impl Line<'_> {
    /// Appends the line. Every attribute is stated every time: `replace` drops what is not restated.
    pub fn render(&self, ownership: &Ownership, out: &mut String) {
        let protocol = ownership.protocol;
        // Writing to a String cannot fail.
        let _ = match self {
            Line::Gateway { id, gateway, dev } => writeln!(
                out,
                "nexthop replace id {id} via {gateway} dev {dev} proto {protocol}"
            ),
            Line::BlackholeNexthop { id } => {
                writeln!(out, "nexthop replace id {id} blackhole proto {protocol}")
            }
            Line::Group {
                id,
                members,
                resilient,
            } => {
                let _ = write!(out, "nexthop replace id {id} group ");
                render_members(members, out);
                if let Some(Resilient { buckets, idle }) = resilient {
                    let _ = write!(out, " type resilient buckets {buckets} idle_timer {idle}");
                }
                writeln!(out, " proto {protocol}")
            }
            Line::Route {
                key,
                target,
                exists,
            } => {
                let verb = if *exists { "replace" } else { "add" };
                render_route(verb, key, target, protocol, out)
            }
            Line::DeleteRoute { key, target } => render_route("del", key, target, protocol, out),
            Line::DeleteNexthop { id } => writeln!(out, "nexthop del id {id}"),
        };
    }
}

fn render_members(members: &[Member], out: &mut String) {
    for (n, Member { weight, id }) in members.iter().enumerate() {
        let _ = write!(out, "{}{id}", if n == 0 { "" } else { "/" });
        if *weight != 1 {
            let _ = write!(out, ",{weight}");
        }
    }
}

fn render_route(
    verb: &str,
    key: &RouteKey,
    target: &Target,
    protocol: u8,
    out: &mut String,
) -> fmt::Result {
    let RouteKey {
        prefix,
        metric,
        table,
        tos,
    } = key;
    match target {
        Target::Nexthop(id) => write!(out, "route {verb} {prefix} nhid {id}"),
        Target::Blackhole => write!(out, "route {verb} blackhole {prefix}"),
        Target::Stray(words) => write!(out, "route {verb} {prefix}{words}"),
    }?;
    // Ours have none.
    if *tos != 0 {
        write!(out, " tos {tos:#04x}")?;
    }
    writeln!(out, " proto {protocol} metric {metric} table {table}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ownership = Ownership::DEFAULT;

    #[test]
    fn every_line_says_all_there_is_to_say() {
        let mut out = String::new();
        let key = OURS.key("203.0.113.0/24".parse().unwrap());
        for line in [
            Line::Gateway {
                id: 1,
                gateway: "10.116.0.5".parse().unwrap(),
                dev: "eth1",
            },
            Line::BlackholeNexthop { id: 2 },
            Line::Group {
                id: 3,
                members: &[Member::equal(1), Member { weight: 256, id: 2 }],
                resilient: Some(Resilient {
                    buckets: 512,
                    idle: IDLE_TIMER,
                }),
            },
            Line::Group {
                id: 3,
                members: &[Member::equal(1)],
                resilient: None,
            },
            Line::Route {
                key,
                target: &Target::Nexthop(3),
                exists: true,
            },
            Line::Route {
                key: OURS.leak_guard_key(key.prefix),
                target: &Target::Blackhole,
                exists: false,
            },
            Line::DeleteRoute {
                key: RouteKey { tos: 16, ..key },
                target: &Target::Stray(Box::new(" dev eth1".to_owned())),
            },
            Line::DeleteNexthop { id: 3 },
        ] {
            line.render(&OURS, &mut out);
        }
        insta::assert_snapshot!(out, @r"
        nexthop replace id 1 via 10.116.0.5 dev eth1 proto 230
        nexthop replace id 2 blackhole proto 230
        nexthop replace id 3 group 1/2,256 type resilient buckets 512 idle_timer 300 proto 230
        nexthop replace id 3 group 1 proto 230
        route replace 203.0.113.0/24 nhid 3 proto 230 metric 4242 table 254
        route add blackhole 203.0.113.0/24 proto 230 metric 4294967294 table 254
        route del 203.0.113.0/24 dev eth1 tos 0x10 proto 230 metric 4242 table 254
        nexthop del id 3
        ");
    }
}
