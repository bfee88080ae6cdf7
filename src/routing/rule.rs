//! Policy rules as `ip rule` shows them: what each selects, where it leads, and a packet that it would take.
//!
//! Pure. Reading them is `kernel::lookup`'s. What the kernel does with a packet is asked of the kernel, never
//! computed here: the model only makes the question, and names the rule when the answer comes from another table.

use std::fmt;
use std::net::IpAddr;

use crate::net::prefix::{Family, Prefix, value_of};
use crate::routing::batch::{MAIN_TABLE, safe_name};
use crate::routing::origins::Origins;

/// One policy rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Its place; the lowest is looked up first.
    pub priority: u32,
    /// True when it takes what the selector does not select.
    pub not: bool,
    /// What it selects.
    pub selector: Selector,
    /// What it does.
    pub action: Action,
}

/// What a rule selects; absent fields select everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Source.
    pub from: Option<Prefix>,
    /// Destination.
    pub to: Option<Prefix>,
    /// Incoming interface; `lo` is what the node sends itself.
    pub iif: Option<Box<str>>,
    /// The interface that the sending program chose.
    pub oif: Option<Box<str>>,
    /// Mark and mask.
    pub mark: Option<(u32, u32)>,
    /// Type of service.
    pub tos: Option<u8>,
    /// User ids, both inside.
    pub uids: Option<(u32, u32)>,
    /// Transport protocol.
    pub protocol: Option<u8>,
    /// Source ports, both inside.
    pub sports: Option<(u16, u16)>,
    /// Destination ports, both inside.
    pub dports: Option<(u16, u16)>,
    /// What else it selects by, that cannot be asked for; in `ip`'s words.
    pub other: Option<Box<str>>,
}

/// What a rule does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Looks up this table.
    Table(u32),
    /// Looks up the table of the packet's VRF.
    Vrf,
    /// Goes on at this priority.
    Goto(u32),
    /// Drops; in `ip`'s word.
    Drop(&'static str),
    /// Nothing, or something that no lookup shows.
    #[default]
    Nothing,
}

/// A packet to look up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Packet {
    /// Where it goes.
    pub to: IpAddr,
    /// Its source; absent while the node may choose.
    pub from: Option<IpAddr>,
    /// Where it came in; absent for what the node sends itself.
    pub iif: Option<Box<str>>,
    /// Its mark.
    pub mark: u32,
    /// Its type of service.
    pub tos: u8,
    /// Its sender's user id.
    pub uid: Option<u32>,
    /// Its transport protocol.
    pub protocol: Option<u8>,
    /// Its source port.
    pub sport: Option<u16>,
    /// Its destination port.
    pub dport: Option<u16>,
}

impl Packet {
    /// One that the node sends itself.
    pub const fn to(to: IpAddr) -> Self {
        Self {
            to,
            from: None,
            iif: None,
            mark: 0,
            tos: 0,
            uid: None,
            protocol: None,
            sport: None,
            dport: None,
        }
    }

    /// The same elsewhere.
    #[must_use]
    pub fn towards(&self, to: IpAddr) -> Self {
        Self { to, ..self.clone() }
    }
}

impl fmt::Display for Packet {
    /// All but the destination, as `ip route get` wants it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = self.from {
            write!(f, " from {from}")?;
        }
        if let Some(iif) = self.iif.as_deref().filter(|iif| safe_name(iif)) {
            write!(f, " iif {iif}")?;
        }
        if self.mark != 0 {
            write!(f, " mark {:#x}", self.mark)?;
        }
        if self.tos != 0 {
            write!(f, " tos {:#04x}", self.tos)?;
        }
        if let Some(uid) = self.uid {
            write!(f, " uid {uid}")?;
        }
        match self.protocol {
            Some(6) => f.write_str(" ipproto tcp")?,
            Some(17) => f.write_str(" ipproto udp")?,
            Some(1) => f.write_str(" ipproto icmp")?,
            Some(58) => f.write_str(" ipproto ipv6-icmp")?,
            _ => {}
        }
        if let Some(port) = self.sport {
            write!(f, " sport {port}")?;
        }
        if let Some(port) = self.dport {
            write!(f, " dport {port}")?;
        }
        Ok(())
    }
}

impl Selector {
    fn selects(&self, packet: &Packet) -> bool {
        let within = |range: Option<(u16, u16)>, port: Option<u16>| {
            range.is_none_or(|(first, last)| port.is_some_and(|p| first <= p && p <= last))
        };
        let nowhere = Family::of(packet.to).everything().address();
        let uid = packet.uid.or_else(|| packet.iif.is_none().then_some(0));
        self.other.is_none()
            && self.oif.is_none()
            && self
                .from
                .is_none_or(|p| p.contains(packet.from.unwrap_or(nowhere)))
            && self.to.is_none_or(|p| p.contains(packet.to))
            && self
                .iif
                .as_deref()
                .is_none_or(|iif| iif == packet.iif.as_deref().unwrap_or("lo"))
            && self
                .mark
                .is_none_or(|(mark, mask)| (packet.mark ^ mark) & mask == 0)
            && self.tos.is_none_or(|tos| tos == packet.tos)
            && self
                .uids
                .is_none_or(|(first, last)| uid.is_some_and(|u| first <= u && u <= last))
            && self.protocol.is_none_or(|p| packet.protocol == Some(p))
            && within(self.sports, packet.sport)
            && within(self.dports, packet.dport)
    }

    /// Whether every packet to a destination is as good as any other.
    pub fn is_only_by_destination(&self) -> bool {
        *self
            == Self {
                to: self.to,
                ..Self::default()
            }
    }
}

impl Rule {
    /// Whether the kernel would look at what it does for this packet.
    pub fn takes(&self, packet: &Packet) -> bool {
        self.selector.other.is_none() && self.selector.selects(packet) != self.not
    }

    /// Why no lookup can show what it takes.
    pub fn beyond_lookups(&self) -> Option<String> {
        if let Some(other) = &self.selector.other {
            return Some(format!("a lookup cannot carry its `{other}`"));
        }
        if self.selector.oif.is_some() {
            return Some("it selects packets whose program chose an interface itself".to_owned());
        }
        match self.selector.protocol {
            None | Some(1 | 6 | 17 | 58) => None,
            Some(other) => Some(format!("a lookup cannot carry transport protocol {other}")),
        }
    }

    /// A packet of each kind of origin that it takes; without a destination of its own, `to` is any.
    pub fn packets(&self, to: IpAddr, origins: &Origins<'_>) -> Vec<Packet> {
        let bases = origins.packets(to);
        let mut packets: Vec<Packet> = if self.not {
            bases
        } else {
            self.senders(to, origins)
                .into_iter()
                .map(|p| self.dressed(p))
                .collect()
        };
        // Of those that were made some may not fit: a user id is nothing that a forwarded packet has.
        packets.retain(|packet| self.takes(packet));
        packets.dedup();
        packets
    }

    /// Who may send what it selects: source and incoming interface.
    fn senders(&self, to: IpAddr, origins: &Origins<'_>) -> Vec<Packet> {
        let local = self.selector.iif.as_deref() == Some("lo");
        let by_iif = |packet: &Packet| {
            self.selector
                .iif
                .as_deref()
                .is_none_or(|iif| iif == packet.iif.as_deref().unwrap_or("lo"))
        };
        let mut senders = origins.packets(to);
        match self.selector.from {
            None => {}
            Some(from) => {
                senders.retain(|p| p.from.is_some_and(|source| from.contains(source)));
                if let Some(own) = origins.own_address_in(from) {
                    senders.push(Packet {
                        from: Some(own),
                        ..Packet::to(to)
                    });
                } else if senders.is_empty() && from.family() == Family::of(to) {
                    let source = origins.address_in(from);
                    let iif = if local {
                        None
                    } else {
                        self.selector
                            .iif
                            .clone()
                            .or_else(|| origins.incoming(source))
                    };
                    senders.extend(iif.map(|iif| Packet {
                        from: Some(source),
                        iif: Some(iif),
                        ..Packet::to(to)
                    }));
                }
            }
        }
        senders.retain(by_iif);
        if let (true, Some(iif), None) = (
            senders.is_empty() && !local,
            &self.selector.iif,
            self.selector.from,
        ) {
            let behind = origins.behind(iif, Family::of(to));
            senders.extend(behind.map(|from| Packet {
                from: Some(from),
                iif: Some(iif.clone()),
                ..Packet::to(to)
            }));
        }
        senders
    }

    fn dressed(&self, mut packet: Packet) -> Packet {
        let s = &self.selector;
        packet.mark = s.mark.map_or(0, |(mark, mask)| mark & mask);
        packet.tos = s.tos.unwrap_or(0);
        // What is forwarded belongs to no user of this node.
        packet.uid = s
            .uids
            .map(|(first, _)| first)
            .filter(|_| packet.iif.is_none());
        packet.protocol = s
            .protocol
            .or_else(|| (s.sports.is_some() || s.dports.is_some()).then_some(6));
        packet.sport = s.sports.map(|(first, _)| first);
        packet.dport = s.dports.map(|(first, _)| first);
        packet
    }
}

impl fmt::Display for Rule {
    /// As `ip rule` writes it, without the priority.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.selector;
        if self.not {
            f.write_str("not ")?;
        }
        match s.from {
            Some(from) if from.len() == from.family().bits() => {
                write!(f, "from {}", from.address())?;
            }
            Some(from) => write!(f, "from {from}")?,
            None => f.write_str("from all")?,
        }
        if let Some(to) = s.to {
            write!(f, " to {to}")?;
        }
        match s.mark {
            Some((mark, u32::MAX)) => write!(f, " fwmark {mark:#x}")?,
            Some((mark, mask)) => write!(f, " fwmark {mark:#x}/{mask:#x}")?,
            None => {}
        }
        if let Some(iif) = &s.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(oif) = &s.oif {
            write!(f, " oif {oif}")?;
        }
        if let Some(tos) = s.tos {
            write!(f, " tos {tos:#04x}")?;
        }
        if let Some((first, last)) = s.uids {
            write!(f, " uidrange {first}-{last}")?;
        }
        if let Some(protocol) = s.protocol {
            write!(f, " ipproto {protocol}")?;
        }
        if let Some((first, last)) = s.sports {
            write!(f, " sport {first}-{last}")?;
        }
        if let Some((first, last)) = s.dports {
            write!(f, " dport {first}-{last}")?;
        }
        if let Some(other) = &s.other {
            write!(f, " {other}")?;
        }
        match &self.action {
            Action::Table(MAIN_TABLE) => f.write_str(" lookup main"),
            Action::Table(table) => write!(f, " lookup {table}"),
            Action::Vrf => f.write_str(" lookup [l3mdev-table]"),
            Action::Goto(priority) => write!(f, " goto {priority}"),
            Action::Drop(word) => write!(f, " {word}"),
            Action::Nothing => Ok(()),
        }
    }
}

/// The rules of one family, the first looked up first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    /// The rules that are looked up before the first that leads every packet to this table.
    pub fn before(&self, table: u32) -> &[Rule] {
        let all = |rule: &Rule| {
            !rule.not && rule.selector == Selector::default() && rule.action == Action::Table(table)
        };
        let end = self.0.iter().position(all).unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// Whether every packet that no earlier rule takes is looked up in this table.
    pub fn lead_all_to(&self, table: u32) -> bool {
        self.before(table).len() < self.0.len()
    }

    /// The first rule that takes the packet and does this.
    pub fn first(&self, packet: &Packet, does: impl Fn(&Action) -> bool) -> Option<&Rule> {
        let mut from = 0;
        for rule in &self.0 {
            if rule.priority < from || !rule.takes(packet) {
                continue;
            }
            if does(&rule.action) {
                return Some(rule);
            }
            if let Action::Goto(priority) = rule.action {
                from = from.max(priority);
            }
        }
        None
    }
}

/// The longest range of addresses in both, where one is inside the other.
pub fn common(one: Prefix, other: Prefix) -> Option<Prefix> {
    if one.covers(other) {
        Some(other)
    } else {
        other.covers(one).then_some(one)
    }
}

/// The n-th address of a range, round and round, past the first where there are more.
pub fn nth(range: Prefix, n: u64) -> IpAddr {
    let (first, last) = range.range();
    let size = last - first;
    let at = if size == 0 {
        0
    } else {
        1 + u128::from(n) % size
    };
    debug_assert!(value_of(range.address()) == first);
    range.family().address(first + at)
}

#[cfg(test)]
mod tests;
