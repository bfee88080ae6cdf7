//! Noticing that the kernel's routes, nexthops, links or addresses may have changed.
//!
//! I/O on a netlink socket that is only listened to. It triggers: what is there is read with `ip`. The
//! kernel drops IPv4 routes without a word when a link goes down, when the last address of an
//! interface goes and when a nexthop goes, so each of those is a reason to look.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use socket2::{SockFilter, SockRef};
use tokio::sync::mpsc;

use crate::kernel::saved::attributes;
use crate::net::prefix::Family;
use crate::routing::batch::{MAIN_TABLE, Ownership};
use crate::routing::protected;
use crate::routing::state::Kernel;

// linux/rtnetlink.h
const ROUTES: u32 = 1 << (7 - 1) // IPv4 routes
    | 1 << (11 - 1); // IPv6 routes
const GROUPS: u32 = ROUTES
    | 1 // links
    | 1 << (5 - 1) // IPv4 addresses
    | 1 << (8 - 1) // IPv4 policy rules
    | 1 << (9 - 1) // IPv6 addresses
    | 1 << (19 - 1) // IPv6 policy rules
    | 1 << (32 - 1); // nexthops
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const HEADER: usize = 16;
// Offsets behind the message header in `struct rtmsg`, and its length.
const RTM_TABLE: usize = 4;
const RTM_PROTOCOL: usize = 5;
const RTM_TYPE: usize = 7;
const RTMSG: usize = 12;
const RTN_BLACKHOLE: u8 = 6;
/// What a route message has as table when the number is above 255.
const RT_TABLE_COMPAT: u8 = 252;
// In `struct nhmsg`, and in `struct ifaddrmsg` and `struct ifinfomsg`.
const NH_PROTOCOL: usize = 2;
const IFA_PREFIXLEN: usize = 1;
const IF_INDEX: usize = 4;
const RTA_NH_ID: u16 = 30;
/// How long routes of others are left alone after the first that changed: taking each from the socket as it comes costs more than
/// the pass that follows.
const GATHER: Duration = Duration::from_millis(100);
/// How long after a failure to open or read the socket it is opened again.
const REOPEN: Duration = Duration::from_secs(5);

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notification {
    /// A route of another program, or a link or an address that no gateway depends on: matters for shadows and cuts.
    Foreign,
    /// A policy rule changed: it may take packets past our routes.
    Rule,
    /// A route or nexthop of ours may be gone or changed.
    Ours,
    /// A link or an address changed that gateways depend on: the kernel may have dropped routes by itself.
    Link,
}

/// The links that gateways are reached by, shared with the code that decides on routes: pods and Service addresses come and go on
/// others by the thousand.
#[derive(Debug, Default)]
pub struct GatewayLinks(Mutex<Option<BTreeSet<u32>>>);

impl GatewayLinks {
    /// Takes over what the last read shows of these gateways. While one cannot be used, any link may be the one that it waits for.
    pub fn update(&self, gateways: impl IntoIterator<Item = IpAddr>, kernel: &Kernel) {
        let index = |gateway| {
            let dev = protected::next_hop(gateway, kernel).ok()?;
            let link = kernel.links.iter().find(|link| link.name == dev)?;
            Some(link.index)
        };
        let known = gateways.into_iter().map(index).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// `host` is an address without a subnet: only of a gateway's own link can it take routes along when it goes.
    fn notified(&self, index: u32, host: bool) -> Notification {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some(links) if links.contains(&index) => Notification::Link,
            None if !host => Notification::Link,
            _ => Notification::Foreign,
        }
    }
}

/// What a netlink message is about; `None` when it is no reason to look. A new route of ours is our
/// own writing, unless it is one that we never write. Routes of others have a socket of their own.
fn classify(message: &[u8], protocol: u8, links: &GatewayLinks) -> Option<Notification> {
    let kind = u16::from_ne_bytes([*message.get(4)?, *message.get(5)?]);
    let byte = |at: usize| message.get(HEADER + at).copied();
    let index = || {
        let bytes = message.get(HEADER + IF_INDEX..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    };
    let ours = byte(RTM_PROTOCOL) == Some(protocol);
    match kind {
        RTM_NEWADDR | RTM_DELADDR => {
            let v6 = byte(0).map(i32::from) == Some(libc::AF_INET6);
            let family = if v6 { Family::V6 } else { Family::V4 };
            let host = byte(IFA_PREFIXLEN) == Some(family.bits());
            Some(links.notified(index()?, host))
        }
        RTM_NEWLINK..RTM_NEWADDR => Some(links.notified(index()?, false)),
        RTM_NEWRULE | RTM_DELRULE => Some(Notification::Rule),
        RTM_DELNEXTHOP => (byte(NH_PROTOCOL) == Some(protocol)).then_some(Notification::Ours),
        RTM_DELROUTE => ours.then_some(Notification::Ours),
        RTM_NEWROUTE => (ours && is_stray(message)).then_some(Notification::Ours),
        _ => None,
    }
}

/// Whether a route message is another program's, in a table that matters.
fn is_foreign(message: &[u8], ownership: &Ownership) -> bool {
    let byte = |at: usize| message.get(HEADER + at).copied();
    byte(RTM_PROTOCOL).is_some_and(|protocol| protocol != ownership.protocol)
        && byte(RTM_TABLE).is_some_and(|table| tables(ownership).contains(&table))
}

/// As route messages have them.
fn tables(ownership: &Ownership) -> [u8; 2] {
    [MAIN_TABLE, ownership.table].map(|table| u8::try_from(table).unwrap_or(RT_TABLE_COMPAT))
}

/// Whether a route of our protocol is neither a leak guard nor through a nexthop object.
fn is_stray(message: &[u8]) -> bool {
    let mut attributes = attributes(message.get(HEADER + RTMSG..).unwrap_or_default());
    message.get(HEADER + RTM_TYPE) != Some(&RTN_BLACKHOLE)
        && !attributes.any(|(kind, _)| kind == RTA_NH_ID)
}

/// All messages of one datagram; the weightiest counts.
fn classify_all(mut datagram: &[u8], protocol: u8, links: &GatewayLinks) -> Option<Notification> {
    let mut weightiest = None;
    while let Some(length) = datagram.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        if length < HEADER || length > datagram.len() {
            break;
        }
        weightiest = weightiest.max(classify(&datagram[..length], protocol, links));
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    weightiest
}

/// An instruction before its jumps are short enough: opcode, jump if true, jump if not, value.
type Instruction = (u32, u8, u8, u32);

fn load(size: u32, offset: usize) -> Instruction {
    let offset = u32::try_from(offset).unwrap_or(u32::MAX);
    (libc::BPF_LD | size | libc::BPF_ABS, 0, 0, offset)
}

const fn equal(value: u32, yes: u8, no: u8) -> Instruction {
    (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, yes, no, value)
}

/// A message type; loads are in network order, the message is in the machine's.
const fn kind(kind: u16, yes: u8, no: u8) -> Instruction {
    equal(u16::from_be_bytes(kind.to_ne_bytes()) as u32, yes, no)
}

const PASS: Instruction = (libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX);
const DROP: Instruction = (libc::BPF_RET | libc::BPF_K, 0, 0, 0);

fn program(instructions: &[Instruction]) -> Vec<SockFilter> {
    let filter = |(code, yes, no, k): &Instruction| {
        SockFilter::new(u16::try_from(*code).unwrap_or_default(), *yes, *no, *k)
    };
    instructions.iter().map(filter).collect()
}

/// The classic BPF program of a socket that is not to see what [`classify`] would pass over: the kernel announces each
/// route of a group that is re-pointed, and to take tens of thousands from it makes the switch itself wait.
fn without_our_own_writing(protocol: u8) -> Vec<SockFilter> {
    // linux/filter.h: A becomes the offset of the first attribute of the kind X that is found from A on; 0 when there is none.
    const ATTRIBUTE: u32 = 0xffff_f000 + 12;
    const ATTRIBUTES: u32 = 28; // HEADER + RTMSG
    let protocol = u32::from(protocol);
    program(&[
        load(libc::BPF_H, 4),
        kind(RTM_NEWROUTE, 8, 0),
        kind(RTM_DELROUTE, 5, 0),
        kind(RTM_NEWNEXTHOP, 14, 0),
        kind(RTM_DELNEXTHOP, 1, 0),
        PASS,
        load(libc::BPF_B, HEADER + NH_PROTOCOL),
        equal(protocol, 11, 10),
        load(libc::BPF_B, HEADER + RTM_PROTOCOL), // of a route that went
        equal(protocol, 9, 8),
        load(libc::BPF_B, HEADER + RTM_PROTOCOL), // of a new route
        equal(protocol, 0, 6),
        load(libc::BPF_B, HEADER + RTM_TYPE),
        equal(u32::from(RTN_BLACKHOLE), 4, 0),
        (libc::BPF_LD | libc::BPF_IMM, 0, 0, ATTRIBUTES),
        (libc::BPF_LDX | libc::BPF_IMM, 0, 0, u32::from(RTA_NH_ID)),
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, ATTRIBUTE),
        equal(0, 1, 0),
        DROP,
        PASS,
    ])
}

/// The same for [`is_foreign`].
fn foreign_only(ownership: &Ownership) -> Vec<SockFilter> {
    let [main, ours] = tables(ownership).map(u32::from);
    program(&[
        load(libc::BPF_B, HEADER + RTM_PROTOCOL),
        equal(u32::from(ownership.protocol), 3, 0),
        load(libc::BPF_B, HEADER + RTM_TABLE),
        equal(main, 2, 0),
        equal(ours, 1, 0),
        DROP,
        PASS,
    ])
}

/// Listens for ever. A channel that is full has a wake-up in it already; each kind of notification has a channel of its own,
/// so that the flood of one does not hide the other.
pub async fn listen(
    ownership: Ownership,
    links: Arc<GatewayLinks>,
    triggers: [mpsc::Sender<()>; 4],
) {
    let mut warned = false;
    loop {
        let done = tokio::try_join!(
            listen_to_ours(ownership.protocol, &links, &triggers),
            listen_to_others(&ownership, &triggers[Notification::Foreign as usize])
        );
        let error = match done {
            Ok((never, _)) => match never {},
            Err(error) => error,
        };
        if !warned {
            warned = true;
            tracing::warn!(%error, "Cannot listen for kernel notifications; lost routes come back at the next --resync");
        }
        tokio::time::sleep(REOPEN).await;
    }
}

/// A socket without what the filter drops; where the kernel takes no filter, more is received and passed over.
fn open(groups: u32, filter: &[SockFilter]) -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let _ = SockRef::from(socket.socket_ref()).attach_filter(filter);
    socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

async fn listen_to_ours(
    protocol: u8,
    links: &GatewayLinks,
    triggers: &[mpsc::Sender<()>; 4],
) -> io::Result<std::convert::Infallible> {
    let socket = open(GROUPS, &without_our_own_writing(protocol))?;
    let mut buffer = bytes_of_a_datagram();
    loop {
        buffer.clear();
        let notification = match socket.recv(&mut buffer).await {
            Ok(()) => classify_all(&buffer, protocol, links),
            // Overrun: anything may have been in what was lost. As `Link` it would explain every loss, and who
            // removes thousands of routes at once, again and again, would never be found out.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Some(Notification::Ours),
            Err(e) => return Err(e),
        };
        if let Some(notification) = notification {
            let _ = triggers[notification as usize].try_send(());
        }
    }
}

async fn listen_to_others(
    ownership: &Ownership,
    trigger: &mpsc::Sender<()>,
) -> io::Result<std::convert::Infallible> {
    let socket = open(ROUTES, &foreign_only(ownership))?;
    let mut buffer = bytes_of_a_datagram();
    loop {
        buffer.clear();
        match socket.recv(&mut buffer).await {
            Ok(()) if !is_foreign(&buffer, ownership) => continue,
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(e) => return Err(e),
        }
        let _ = trigger.try_send(());
        tokio::time::sleep(GATHER).await;
        if drain(&socket, &mut buffer) {
            // What came meanwhile may have come after the look that the first one caused.
            let _ = trigger.try_send(());
        }
    }
}

/// Takes what is there without looking at it; whether there was something.
fn drain(socket: &TokioSocket, buffer: &mut Vec<u8>) -> bool {
    let mut any = false;
    loop {
        buffer.clear();
        match socket.socket_ref().recv(buffer, libc::MSG_DONTWAIT) {
            Err(e) if e.raw_os_error() != Some(libc::ENOBUFS) => return any,
            _ => any = true,
        }
    }
}

/// The kernel's dumps and notifications come in datagrams of up to 32 KiB; a longer one is cut, which only hides a wake-up.
fn bytes_of_a_datagram() -> Vec<u8> {
    Vec::with_capacity(32 * 1024)
}

#[cfg(test)]
mod tests;
