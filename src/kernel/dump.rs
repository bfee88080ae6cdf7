//! What `ip` (iproute2) prints: nexthops and links as JSON, and batch errors.
//!
//! Pure. Running `ip` is `kernel::ip`'s, routes are `saved`'s. Dumps are read with `-N`, because the names depend on files of the host.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::Deserialize;
use serde::de::{self, IgnoredAny, Visitor};

use crate::net::prefix::Family;
use crate::routing::state::{Kernel, Leaving, Link, Member, Nexthop, NexthopKind, Resilient};

/// A number that `ip -N` prints as text, decimal or hexadecimal; text that is no number is a name from
/// a host's table that `-N` should have kept away.
pub(super) struct Number(pub(super) u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Number, E> {
                u32::try_from(n).map(Number).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Number, E> {
                let number = match text.strip_prefix("0x") {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => text.parse(),
                };
                number.map(Number).map_err(|_| {
                    E::custom(format!(
                        "`{text}` is not a number; is this `ip` from iproute2 5.12 or later?"
                    ))
                })
            }
        }
        d.deserialize_any(V)
    }
}

fn byte(number: u32, what: &str) -> Result<u8, String> {
    u8::try_from(number).map_err(|_| format!("{what} {number} is more than 255"))
}

#[derive(Deserialize)]
struct RawNexthop {
    id: u32,
    #[serde(default)]
    gateway: Option<IpAddr>,
    #[serde(default)]
    dev: Option<Box<str>>,
    #[serde(default, deserialize_with = "present")]
    blackhole: bool,
    #[serde(default)]
    group: Option<Vec<RawMember>>,
    #[serde(default, rename = "type")]
    kind: Option<Box<str>>,
    #[serde(default)]
    resilient_args: RawResilient,
    #[serde(default)]
    protocol: Option<Number>,
}

#[derive(Deserialize)]
struct RawMember {
    id: u32,
    #[serde(default)]
    weight: Option<u32>,
}

#[derive(Deserialize, Default)]
struct RawResilient {
    #[serde(default)]
    buckets: u32,
    /// Seconds; not whole only where it is none of ours.
    #[serde(default)]
    idle_timer: Option<serde_json::Number>,
}

/// Reads `ip -j -N nexthop show`.
pub fn read_nexthops(json: &[u8], kernel: &mut Kernel) -> Result<(), serde_json::Error> {
    let list: Vec<RawNexthop> = if blank(json) {
        Vec::new()
    } else {
        serde_json::from_slice(json)?
    };
    for raw in list {
        let number = raw.protocol.as_ref().map_or(0, |n| n.0);
        let protocol = byte(number, "protocol").map_err(de::Error::custom)?;
        let (id, kind) = (raw.id, raw.kind());
        kernel.nexthops.insert(id, Nexthop { kind, protocol });
    }
    Ok(())
}

impl RawNexthop {
    fn kind(self) -> NexthopKind {
        match (self.group, self.gateway, self.dev) {
            (Some(group), ..) => {
                let member = |m: RawMember| Member {
                    weight: m.weight.unwrap_or(1),
                    id: m.id,
                };
                let mut members: Vec<Member> = group.into_iter().map(member).collect();
                members.sort_unstable();
                let resilient = self.kind.as_deref() == Some("resilient");
                NexthopKind::Group {
                    members,
                    resilient: resilient.then(|| self.resilient_args.read()),
                }
            }
            (None, Some(gateway), Some(dev)) => NexthopKind::Via { gateway, dev },
            (None, None, None) if self.blackhole => NexthopKind::Blackhole,
            _ => NexthopKind::Other,
        }
    }
}

impl RawResilient {
    fn read(self) -> Resilient {
        let idle = self.idle_timer.and_then(|n| n.as_u64()?.try_into().ok());
        Resilient {
            buckets: self.buckets,
            idle: idle.unwrap_or(0),
        }
    }
}

/// Reads `ip -j nexthop bucket show` and counts, for the members of `idle_times`, the buckets that are in use.
pub fn read_buckets(
    json: &[u8],
    idle_times: &BTreeMap<(u32, u32), u32>,
    leaving: &mut BTreeMap<(u32, u32), Leaving>,
) -> Result<(), serde_json::Error> {
    #[derive(Deserialize)]
    struct Raw {
        id: u32,
        bucket: Bucket,
    }
    #[derive(Deserialize)]
    struct Bucket {
        nhid: u32,
        /// Seconds.
        idle_time: f64,
    }
    let list: Vec<Raw> = if blank(json) {
        Vec::new()
    } else {
        serde_json::from_slice(json)?
    };
    for raw in list {
        let key = (raw.id, raw.bucket.nhid);
        if let Some(idle) = idle_times.get(&key)
            && raw.bucket.idle_time < f64::from(*idle)
        {
            leaving.entry(key).or_default().busy += 1;
        }
    }
    Ok(())
}

/// `ip` prints `"blackhole": null` for yes.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(d).map(|_| true)
}

fn blank(json: &[u8]) -> bool {
    json.iter().all(u8::is_ascii_whitespace)
}

/// Reads `ip -j -N addr show`.
pub fn read_links(json: &[u8], kernel: &mut Kernel) -> Result<(), serde_json::Error> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(default)]
        ifname: Option<Box<str>>,
        #[serde(default)]
        ifindex: u32,
        #[serde(default)]
        flags: Vec<Box<str>>,
        #[serde(default)]
        addr_info: Vec<Address>,
    }
    #[derive(Deserialize)]
    struct Address {
        #[serde(default)]
        local: Option<IpAddr>,
        #[serde(default)]
        prefixlen: u8,
        #[serde(default)]
        broadcast: Option<IpAddr>,
        /// The far end of a point-to-point link; the subnet is then its, not ours.
        #[serde(default, rename = "address")]
        peer: Option<IpAddr>,
    }
    let list: Vec<Raw> = if blank(json) {
        Vec::new()
    } else {
        serde_json::from_slice(json)?
    };
    for raw in list {
        let Some(name) = raw.ifname else { continue };
        let has = |flag: &str| raw.flags.iter().any(|f| **f == *flag);
        let (up, loopback) = (has("UP"), has("LOOPBACK"));
        let broadcasts = raw.addr_info.iter().filter_map(|a| a.broadcast).collect();
        let addresses = raw.addr_info.iter().filter_map(|a| {
            let local = a.local?;
            Some((
                local,
                if a.peer.is_some() {
                    Family::of(local).bits()
                } else {
                    a.prefixlen
                },
            ))
        });
        kernel.links.push(Link {
            up,
            carrier: has("LOWER_UP"),
            loopback,
            addresses: addresses.collect(),
            broadcasts,
            name,
            index: raw.ifindex,
        });
    }
    Ok(())
}

/// A batch's stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchErrors {
    /// The 1-based line and the kernel's words, for each line that the kernel refused.
    pub refused: Vec<(usize, String)>,
    /// The last message without a line number: `ip` could not parse a line and stopped there.
    pub stopped: Option<String>,
}

/// Reads the stderr of `ip -force -batch -`: words, then `Command failed -:LINE`.
pub fn read_batch_errors(stderr: &str) -> BatchErrors {
    let mut errors = BatchErrors::default();
    let mut words = String::new();
    for line in stderr.lines().map(str::trim).filter(|l| !l.is_empty()) {
        if let Some(number) = line
            .strip_prefix("Command failed ")
            .and_then(|place| place.rsplit(':').next()?.parse().ok())
        {
            errors.refused.push((number, std::mem::take(&mut words)));
            continue;
        }
        let reason = line
            .strip_prefix("RTNETLINK answers: ")
            .or_else(|| line.strip_prefix("Error: "))
            .unwrap_or(line);
        let reason = reason.trim_end_matches('.');
        // The last lines matter most; bounded because it is outside text.
        if words.len() + reason.len() < 300 {
            if !words.is_empty() {
                words.push_str("; ");
            }
            words.push_str(reason);
        }
    }
    errors.stopped = (!words.is_empty()).then_some(words);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nexthops_are_read_with_their_kind() {
        let mut kernel = Kernel::default();
        let json = r#"[{"id":100,"gateway":"10.116.0.5","dev":"e1","scope":"253","protocol":"230","flags":[]},
            {"id":200,"group":[{"id":101},{"id":100}],"type":"resilient","resilient_args":{"buckets":512,"idle_timer":300,"unbalanced_timer":0,"unbalanced_time":0},"protocol":"230","flags":[]},
            {"id":201,"group":[{"id":100,"weight":3}],"protocol":"230"},
            {"id":300,"blackhole":null,"protocol":"230","flags":[]}]"#;
        read_nexthops(json.as_bytes(), &mut kernel).unwrap();
        let kinds: Vec<&NexthopKind> = kernel.nexthops.values().map(|n| &n.kind).collect();
        assert_eq!(
            *kinds[0],
            NexthopKind::Via {
                gateway: "10.116.0.5".parse().unwrap(),
                dev: "e1".into()
            }
        );
        assert_eq!(
            *kinds[1],
            NexthopKind::Group {
                members: vec![Member::equal(100), Member::equal(101)],
                resilient: Some(Resilient {
                    buckets: 512,
                    idle: 300
                })
            }
        );
        assert_eq!(
            *kinds[2],
            NexthopKind::Group {
                members: vec![Member { weight: 3, id: 100 }],
                resilient: None
            }
        );
        assert_eq!(*kinds[3], NexthopKind::Blackhole);
    }

    #[test]
    fn batch_errors_name_the_line_and_the_kernels_words() {
        let stderr = "Error: Nexthop has invalid gateway.\nCommand failed -:1\nRTNETLINK answers: File exists\nCommand failed -:30\nError: any valid prefix is expected rather than \"x\".\n";
        let errors = read_batch_errors(stderr);
        assert_eq!(
            errors.refused,
            [
                (1, "Nexthop has invalid gateway".to_owned()),
                (30, "File exists".to_owned())
            ]
        );
        assert_eq!(
            errors.stopped.as_deref(),
            Some("any valid prefix is expected rather than \"x\"")
        );
        assert_eq!(read_batch_errors(""), BatchErrors::default());
    }
}
