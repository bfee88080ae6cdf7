//! Lines of a batch, run as `ip` and the kernel run them.

use std::net::IpAddr;

use egress_routes::kernel::dump::BatchErrors;
use egress_routes::net::prefix::{Family, Prefix};
use egress_routes::routing::batch::MAIN_TABLE;
use egress_routes::routing::state::{Member, Resilient, RouteKey};

use super::{Entry, Model, ModelLink, Object, ObjectKind, Refusal, To, V6_METRIC};

type Done = Result<(), Refusal>;

const fn kernel(words: &'static str) -> Done {
    Err(Refusal::Kernel(words))
}

/// The value of a keyword, in any order.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == key)?;
    words.get(at + 1).copied()
}

/// A number; an error where there is something else.
fn number<T: std::str::FromStr>(words: &[&str], key: &str) -> Result<Option<T>, Refusal> {
    value(words, key)
        .map(|text| text.parse().map_err(|_| Refusal::Parser))
        .transpose()
}

/// A route as a line names it.
struct Named {
    key: RouteKey,
    protocol: Option<u8>,
    blackhole: bool,
    nhid: Option<u32>,
    via: Option<IpAddr>,
    dev: Option<Box<str>>,
    /// Its routers, where it names several next hops.
    several: Vec<IpAddr>,
}

/// What `ip -force -batch` reports of lines, each run with its place.
pub fn run_lines<'a>(
    lines: impl IntoIterator<Item = &'a str>,
    mut run: impl FnMut(usize, &'a str) -> Done,
) -> BatchErrors {
    let mut errors = BatchErrors::default();
    for (n, line) in lines.into_iter().enumerate() {
        match run(n, line) {
            Ok(()) => {}
            Err(Refusal::Kernel(why)) => errors.refused.push((n + 1, why.to_owned())),
            Err(Refusal::Parser) => {
                errors.stopped = Some(format!("What is \"{line}\"?"));
                break;
            }
        }
    }
    errors
}

impl Model {
    /// Runs `ip -force -batch` over a text to its end.
    pub fn batch(&mut self, family: Option<Family>, text: &str) -> BatchErrors {
        run_lines(text.lines(), |_, line| self.run(family, line))
    }

    /// Runs one line.
    pub fn run(&mut self, family: Option<Family>, line: &str) -> Done {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["nexthop", verb @ ("replace" | "add"), rest @ ..] => {
                self.write_object(*verb == "replace", family, rest)
            }
            ["nexthop", "del", rest @ ..] => {
                let id = number(rest, "id")?.ok_or(Refusal::Parser)?;
                if !self.objects.contains_key(&id) {
                    return kernel("No such file or directory");
                }
                self.drop_object(id);
                Ok(())
            }
            [
                "route",
                verb @ ("replace" | "add" | "append" | "del"),
                rest @ ..,
            ] => {
                let named = named(rest)?;
                match *verb {
                    "del" => self.delete_route(&named),
                    verb => self.write_route(verb, named),
                }
            }
            _ => Err(Refusal::Parser),
        }
    }

    // --- nexthop objects ---

    fn write_object(&mut self, replace: bool, family: Option<Family>, words: &[&str]) -> Done {
        let id: u32 = number(words, "id")?.ok_or(Refusal::Parser)?;
        let protocol = number(words, "proto")?.unwrap_or(0);
        let kind = if let Some(group) = value(words, "group") {
            let members: Result<Vec<Member>, Refusal> = group
                .split('/')
                .map(|member| {
                    let (id, weight) = member.split_once(',').unwrap_or((member, "1"));
                    match (id.parse(), weight.parse()) {
                        // The highest that iproute2 6.1 takes.
                        (Ok(id), Ok(weight @ 1..=256)) => Ok(Member { weight, id }),
                        _ => Err(Refusal::Parser),
                    }
                })
                .collect();
            let resilient = value(words, "type") == Some("resilient");
            let buckets = number(words, "buckets")?.unwrap_or(128);
            let idle = number(words, "idle_timer")?.unwrap_or(120);
            ObjectKind::Group {
                members: members?,
                resilient: resilient.then_some(Resilient { buckets, idle }),
            }
        } else if words.contains(&"blackhole") {
            ObjectKind::Blackhole(family.unwrap_or(Family::V4))
        } else {
            let gateway = number(words, "via")?.ok_or(Refusal::Parser)?;
            let dev = value(words, "dev").ok_or(Refusal::Parser)?;
            if self.link(dev).is_none() {
                return kernel("Cannot find device");
            }
            ObjectKind::Via(gateway, dev.into())
        };
        if !replace && self.objects.contains_key(&id) {
            return kernel("File exists");
        }
        if family.is_some() && matches!(kind, ObjectKind::Group { .. }) {
            return kernel("Invalid family for group");
        }
        self.check_object(&kind)?;
        self.check_change(id, &kind)?;
        self.objects.insert(id, Object { protocol, kind });
        Ok(())
    }

    fn check_object(&self, kind: &ObjectKind) -> Done {
        match kind {
            ObjectKind::Blackhole(_) => Ok(()),
            ObjectKind::Via(gateway, dev) => {
                match self.link(dev) {
                    Some(link) if !link.up => return kernel("Nexthop device is not up"),
                    Some(link) if !link.carrier => {
                        return kernel("Carrier for nexthop device is down");
                    }
                    _ => {}
                }
                if self.is_on_link(*gateway, dev) {
                    Ok(())
                } else {
                    kernel("Nexthop has invalid gateway")
                }
            }
            ObjectKind::Group { members, resilient } => {
                if resilient.is_some() && self.without_resilient {
                    return kernel("Invalid group type");
                }
                for (n, member) in members.iter().enumerate() {
                    if members[..n].iter().any(|other| other.id == member.id) {
                        return kernel("Nexthop id can not be used twice in a group");
                    }
                    match self.objects.get(&member.id).map(|object| &object.kind) {
                        None => return kernel("Invalid nexthop id"),
                        Some(ObjectKind::Group { .. }) => {
                            return kernel("Nexthop group can not have a group as a member");
                        }
                        Some(ObjectKind::Blackhole(_)) if members.len() > 1 => {
                            return kernel(
                                "Blackhole nexthop can not be used in a group with more than 1 path",
                            );
                        }
                        Some(_) => {}
                    }
                }
                Ok(())
            }
        }
    }

    /// What an object that exists may become.
    fn check_change(&self, id: u32, kind: &ObjectKind) -> Done {
        let Some(there) = self.objects.get(&id) else {
            return Ok(());
        };
        match (&there.kind, kind) {
            (
                ObjectKind::Group { resilient: old, .. },
                ObjectKind::Group { resilient: new, .. },
            ) => match (old, new) {
                (Some(old), Some(new)) if old.buckets != new.buckets => {
                    kernel("Can not change number of buckets of a resilient nexthop group")
                }
                (Some(_), Some(_)) | (None, None) => Ok(()),
                _ => kernel("Can not replace a nexthop group with one of a different type"),
            },
            (ObjectKind::Group { .. }, _) => {
                kernel("Can not replace a nexthop group with a nexthop")
            }
            (_, ObjectKind::Group { .. }) => {
                kernel("Can not replace a nexthop with a nexthop group")
            }
            (_, ObjectKind::Blackhole(_)) => {
                let in_a_larger_group = |object: &Object| {
                    matches!(&object.kind, ObjectKind::Group { members, .. }
                        if members.len() > 1 && members.iter().any(|member| member.id == id))
                };
                if self.objects.values().any(in_a_larger_group) {
                    return kernel(
                        "Blackhole nexthop can not be a member of a group with more than one path",
                    );
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether the kernel takes an address for a next hop by a device. IPv4 looks at routes straight to the link alone; IPv6 at the
    /// longest match by the device, which has to be such a route.
    fn is_on_link(&self, gateway: IpAddr, dev: &str) -> bool {
        let v4 = Family::of(gateway) == Family::V4;
        // The `local` table is asked too.
        let own = |link: &ModelLink| link.addresses.iter().any(|(a, _)| *a == gateway);
        if v4 && self.link(dev).is_some_and(own) {
            return true;
        }
        let counts = |to: &To| match to {
            To::Link(by, via) => **by == *dev && !(v4 && via.is_some()),
            To::Object(id) => !v4 && self.leaves_by(*id, dev),
            To::Several(..) | To::Blackhole => false,
        };
        let best = self
            .routes
            .iter()
            .filter(|(key, _)| {
                key.table == MAIN_TABLE && key.tos == 0 && key.prefix.contains(gateway)
            })
            .flat_map(|(key, there)| there.iter().map(move |entry| (key, entry)))
            .filter(|(_, entry)| counts(&entry.to))
            .min_by_key(|(key, _)| (std::cmp::Reverse(key.prefix.len()), key.metric));
        matches!(best.map(|(_, entry)| &entry.to), Some(To::Link(_, None)))
    }

    fn leaves_by(&self, id: u32, dev: &str) -> bool {
        match self.objects.get(&id).map(|object| &object.kind) {
            Some(ObjectKind::Via(_, by)) => **by == *dev,
            Some(ObjectKind::Group { members, .. }) => {
                members.iter().any(|member| self.leaves_by(member.id, dev))
            }
            _ => false,
        }
    }

    // --- routes ---

    fn write_route(&mut self, verb: &str, named: Named) -> Done {
        let key = Self::kept(named.key);
        let to = if named.blackhole {
            To::Blackhole
        } else if let Some(id) = named.nhid {
            if !self.objects.contains_key(&id) {
                return kernel("Nexthop id does not exist");
            }
            To::Object(id)
        } else {
            let dev = named.dev.ok_or(Refusal::Parser)?;
            match self.link(&dev) {
                None => return kernel("Cannot find device"),
                Some(link) if !link.up => return kernel("Network is down"),
                Some(_) => {}
            }
            let mut routers = named.via.iter().chain(&named.several);
            if routers.any(|via| !self.is_on_link(*via, &dev)) {
                return kernel("Nexthop has invalid gateway");
            }
            if named.several.is_empty() {
                To::Link(dev, named.via)
            } else {
                To::Several(dev, named.several)
            }
        };
        let entry = Entry {
            protocol: named.protocol.unwrap_or(3),
            to,
        };
        let there = self.routes.entry(key).or_default();
        match key.prefix.family() {
            Family::V4 => put_v4(verb, there, entry),
            Family::V6 => put_v6(verb, there, entry),
        }
    }

    fn delete_route(&mut self, named: &Named) -> Done {
        let like = match named.key.prefix.family() {
            Family::V4 => is_it_v4,
            Family::V6 => is_it_v6,
        };
        let RouteKey { metric, .. } = named.key;
        let of = |metric, table, tos| RouteKey {
            metric,
            table,
            tos,
            ..named.key
        };
        let keys = of(metric, 0, 0)
            ..=of(
                if metric == 0 { u32::MAX } else { metric },
                u32::MAX,
                u8::MAX,
            );
        for (key, there) in self.routes.range_mut(keys) {
            if (key.table, key.tos) != (named.key.table, named.key.tos) {
                continue;
            }
            let it = there.iter().position(|entry| {
                let protocol = named.protocol;
                protocol.is_none_or(|protocol| protocol == entry.protocol) && like(named, &entry.to)
            });
            if let Some(at) = it {
                there.remove(at);
                let key = *key;
                if there.is_empty() {
                    self.routes.remove(&key);
                }
                return Ok(());
            }
        }
        kernel("No such process")
    }
}

fn named(words: &[&str]) -> Result<Named, Refusal> {
    let blackhole = words.first() == Some(&"blackhole");
    let words = &words[usize::from(blackhole)..];
    let prefix: Prefix = match words.first() {
        Some(&"default") => Family::V4.everything(),
        Some(text) => text.parse().map_err(|_| Refusal::Parser)?,
        None => return Err(Refusal::Parser),
    };
    let tos = value(words, "tos").map_or(Some(0), |hex| {
        u8::from_str_radix(hex.trim_start_matches("0x"), 16).ok()
    });
    let key = RouteKey {
        prefix,
        metric: number(words, "metric")?.unwrap_or(0),
        table: number(words, "table")?.unwrap_or(MAIN_TABLE),
        tos: tos.ok_or(Refusal::Parser)?,
    };
    let hops = words.split(|word| *word == "nexthop").skip(1);
    let several: Result<Option<Vec<IpAddr>>, Refusal> =
        hops.map(|hop| number(hop, "via")).collect();
    Ok(Named {
        several: several?.ok_or(Refusal::Parser)?,
        key,
        protocol: number(words, "proto")?,
        blackhole,
        nhid: number(words, "nhid")?,
        via: number(words, "via")?,
        dev: value(words, "dev").map(Into::into),
    })
}

fn put_v4(verb: &str, there: &mut Vec<Entry>, entry: Entry) -> Done {
    let same = there.iter().position(|other| *other == entry);
    match (verb, same) {
        ("add", _) if !there.is_empty() => return kernel("File exists"),
        ("append", Some(_)) => return kernel("File exists"),
        ("replace", Some(at)) if at > 0 => return kernel("File exists"),
        ("replace", _) if !there.is_empty() => there[0] = entry,
        _ => there.push(entry),
    }
    Ok(())
}

/// IPv6 keeps routes through a gateway of their own apart from all others.
fn put_v6(verb: &str, there: &mut Vec<Entry>, entry: Entry) -> Done {
    let gatewayed = |entry: &Entry| matches!(entry.to, To::Link(_, Some(_)));
    match verb {
        "add" if !there.is_empty() => return kernel("File exists"),
        "replace" if !there.is_empty() => {
            let alike = there.iter().position(|o| gatewayed(o) == gatewayed(&entry));
            there[alike.unwrap_or(0)] = entry;
        }
        _ if there.iter().any(|other| other.to == entry.to) => return kernel("File exists"),
        _ => there.push(entry),
    }
    Ok(())
}

fn is_it_v4(named: &Named, to: &To) -> bool {
    if named.blackhole {
        return *to == To::Blackhole;
    }
    match to {
        To::Object(id) => named
            .nhid
            .map_or(named.dev.is_none() && named.via.is_none(), |nhid| {
                nhid == *id
            }),
        _ if named.nhid.is_some() => false,
        To::Blackhole => named.dev.is_none() && named.via.is_none(),
        _ => is_hop(named, to),
    }
}

/// Of several next hops the kernel looks at the first alone.
fn is_hop(named: &Named, to: &To) -> bool {
    to.hop().is_some_and(|(dev, via)| {
        named.dev.as_deref().is_none_or(|named| named == dev)
            && named.via.is_none_or(|named| Some(named) == via)
    })
}

/// IPv6 compares neither the type nor, for routes through objects, anything but the object.
fn is_it_v6(named: &Named, to: &To) -> bool {
    match to {
        To::Object(id) => named.nhid.is_none_or(|nhid| nhid == *id),
        _ if named.nhid.is_some() => false,
        To::Blackhole => named.via.is_none() && named.dev.as_deref().is_none_or(|dev| dev == "lo"),
        _ => is_hop(named, to),
    }
}

impl Model {
    /// A key of a route as the kernel keeps it: IPv6 gives one without a metric 1024.
    pub fn kept(key: RouteKey) -> RouteKey {
        let v6 = key.prefix.family() == Family::V6;
        RouteKey {
            metric: if v6 && key.metric == 0 {
                V6_METRIC
            } else {
                key.metric
            },
            ..key
        }
    }
}
