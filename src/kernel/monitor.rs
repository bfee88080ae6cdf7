//! Noticing that the kernel's routes, nexthops, links or addresses may have changed.
//!
//! I/O on a netlink socket that is only listened to. It triggers: what is there is read with `ip`. The
//! kernel drops IPv4 routes without a word when a link goes down, when the last address of an
//! interface goes and when a nexthop goes, so each of those is a reason to look.

use std::time::Duration;

use netlink_sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};
use socket2::{SockFilter, SockRef};
use tokio::sync::mpsc;

// linux/rtnetlink.h
const GROUPS: u32 = 1 // links
    | 1 << (5 - 1) // IPv4 addresses
    | 1 << (7 - 1) // IPv4 routes
    | 1 << (8 - 1) // IPv4 policy rules
    | 1 << (9 - 1) // IPv6 addresses
    | 1 << (11 - 1) // IPv6 routes
    | 1 << (19 - 1) // IPv6 policy rules
    | 1 << (32 - 1); // nexthops
const RTM_NEWLINK: u16 = 16;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTM_DELNEXTHOP: u16 = 105;
const HEADER: usize = 16;
// Offsets behind the message header in `struct rtmsg`, and its length.
const RTM_PROTOCOL: usize = 5;
const RTM_TYPE: usize = 7;
const RTMSG: usize = 12;
const RTN_BLACKHOLE: u8 = 6;
const RTA_NH_ID: u16 = 30;
/// How long after a failure to open or read the socket it is opened again.
const REOPEN: Duration = Duration::from_secs(5);

/// What a notification is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Notice {
    /// A route of somebody else: matters for shadows and cuts.
    Foreign,
    /// A policy rule changed: it may take packets past our routes.
    Rule,
    /// A route or nexthop of ours may be gone or changed.
    Ours,
    /// A link or an address changed: the kernel may have dropped routes by itself.
    Link,
}

/// What a netlink message is about; `None` when it is no reason to look. A new route of ours is our
/// own writing, unless it is one that we never write.
fn classify(message: &[u8], protocol: u8) -> Option<Notice> {
    let kind = u16::from_ne_bytes([*message.get(4)?, *message.get(5)?]);
    let ours = message.get(HEADER + RTM_PROTOCOL) == Some(&protocol);
    match kind {
        RTM_NEWLINK..=RTM_DELADDR => Some(Notice::Link),
        RTM_NEWRULE | RTM_DELRULE => Some(Notice::Rule),
        RTM_DELNEXTHOP => Some(Notice::Ours),
        RTM_DELROUTE if ours => Some(Notice::Ours),
        RTM_NEWROUTE if ours => is_stray(message).then_some(Notice::Ours),
        RTM_NEWROUTE | RTM_DELROUTE => Some(Notice::Foreign),
        _ => None,
    }
}

/// Whether a route of our protocol is neither a leak guard nor through a nexthop object.
fn is_stray(message: &[u8]) -> bool {
    let mut attributes = message.get(HEADER + RTMSG..).unwrap_or_default();
    if message.get(HEADER + RTM_TYPE) == Some(&RTN_BLACKHOLE) {
        return false;
    }
    while let Some([a, b, c, d]) = attributes.first_chunk() {
        let (length, kind) = (
            usize::from(u16::from_ne_bytes([*a, *b])),
            u16::from_ne_bytes([*c, *d]),
        );
        if kind == RTA_NH_ID {
            return false;
        }
        if length < 4 {
            break;
        }
        attributes = attributes
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    true
}

/// All messages of one datagram; the weightiest counts.
fn classify_all(mut datagram: &[u8], protocol: u8) -> Option<Notice> {
    let mut weightiest = None;
    while let Some(length) = datagram.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*length) as usize;
        if length < HEADER || length > datagram.len() {
            break;
        }
        weightiest = weightiest.max(classify(&datagram[..length], protocol));
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    weightiest
}

/// The classic BPF program of a socket that is not to see routes which [`classify`] would pass over: the kernel announces each
/// route of a group that is re-pointed, and to take tens of thousands from it makes the switch itself wait.
#[allow(
    clippy::cast_possible_truncation,
    reason = "opcodes are 16 bits, and offsets less than a hundred"
)]
fn without_our_own_writing(protocol: u8) -> Vec<SockFilter> {
    // linux/filter.h: A becomes the offset of the first attribute of the kind X that is found from A on; 0 when there is none.
    const ATTRIBUTE: u32 = 0xffff_f000 + 12;
    let load = |size, offset: usize| (libc::BPF_LD | size | libc::BPF_ABS, 0, 0, offset as u32);
    let same = |no, value: u32| (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, no, value);
    let program = [
        load(libc::BPF_H, 4),
        // Loads are in network order, the message is in the machine's.
        same(9, u32::from(u16::from_be_bytes(RTM_NEWROUTE.to_ne_bytes()))),
        load(libc::BPF_B, HEADER + RTM_PROTOCOL),
        same(7, protocol.into()),
        load(libc::BPF_B, HEADER + RTM_TYPE),
        (
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            4,
            0,
            RTN_BLACKHOLE.into(),
        ),
        (libc::BPF_LD | libc::BPF_IMM, 0, 0, (HEADER + RTMSG) as u32),
        (libc::BPF_LDX | libc::BPF_IMM, 0, 0, RTA_NH_ID.into()),
        (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, ATTRIBUTE),
        (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, 0),
        (libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        (libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    program
        .into_iter()
        .map(|(code, yes, no, k)| SockFilter::new(code as u16, yes, no, k))
        .collect()
}

/// Listens for ever. A channel that is full has a nudge in it already; `Ours` and `Link` have a channel each,
/// so that the flood of one does not hide the other.
pub async fn listen(protocol: u8, triggers: [mpsc::Sender<()>; 4]) {
    let mut warned = false;
    loop {
        let error = match listen_once(protocol, &triggers).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        if !warned {
            warned = true;
            tracing::warn!(%error, "Cannot listen for kernel notifications; lost routes come back at the next --resync");
        }
        tokio::time::sleep(REOPEN).await;
    }
}

async fn listen_once(
    protocol: u8,
    triggers: &[mpsc::Sender<()>; 4],
) -> std::io::Result<std::convert::Infallible> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    // Without it more is received and passed over.
    let _ = SockRef::from(socket.socket_ref()).attach_filter(&without_our_own_writing(protocol));
    socket.socket_mut().bind(&SocketAddr::new(0, GROUPS))?;
    let mut buffer = bytes_of_a_datagram();
    loop {
        buffer.clear();
        let notice = match socket.recv(&mut buffer).await {
            Ok(()) => classify_all(&buffer, protocol),
            // Overrun: anything may have been in what was lost. As `Link` it would explain every loss, and who
            // removes thousands of routes at once, again and again, would never be found out.
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Some(Notice::Ours),
            Err(e) => return Err(e),
        };
        if let Some(notice) = notice {
            let _ = triggers[notice as usize].try_send(());
        }
    }
}

/// The kernel's dumps and notifications come in datagrams of up to 32 KiB; a longer one is cut, which only hides a nudge.
fn bytes_of_a_datagram() -> Vec<u8> {
    Vec::with_capacity(32 * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with one attribute, a nexthop's id.
    fn message(kind: u16, protocol: u8) -> Vec<u8> {
        let mut message = 36u32.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(28, 0);
        message[HEADER + RTM_PROTOCOL] = protocol;
        message[HEADER + RTM_TYPE] = 1;
        message.extend([8u16.to_ne_bytes(), RTA_NH_ID.to_ne_bytes()].concat());
        message.extend(7u32.to_ne_bytes());
        message
    }

    /// The same with a gateway of its own instead.
    fn stray(protocol: u8) -> Vec<u8> {
        let mut message = message(RTM_NEWROUTE, protocol);
        message[30..32].copy_from_slice(&5u16.to_ne_bytes());
        message
    }

    #[test]
    fn only_what_others_do_to_routes_is_a_reason_to_look() {
        assert_eq!(classify(&message(RTM_NEWROUTE, 230), 230), None);
        assert_eq!(
            classify(&message(RTM_NEWROUTE, 4), 230),
            Some(Notice::Foreign)
        );
        assert_eq!(
            classify(&stray(230), 230),
            Some(Notice::Ours),
            "we never write such a route"
        );
        let mut guard = stray(230);
        guard[HEADER + RTM_TYPE] = RTN_BLACKHOLE;
        assert_eq!(classify(&guard, 230), None);
        let mut cut = stray(230);
        cut[28..30].copy_from_slice(&3u16.to_ne_bytes());
        assert_eq!(
            classify(&cut, 230),
            Some(Notice::Ours),
            "an attribute shorter than its own head ends the reading"
        );
        assert_eq!(
            classify(&message(RTM_DELROUTE, 230), 230),
            Some(Notice::Ours)
        );
        assert_eq!(
            classify(&message(RTM_DELNEXTHOP, 0), 230),
            Some(Notice::Ours)
        );
        for kind in [RTM_NEWRULE, RTM_DELRULE] {
            assert_eq!(classify(&message(kind, 0), 230), Some(Notice::Rule));
        }
        assert_eq!(classify(&message(RTM_NEWLINK, 0), 230), Some(Notice::Link));
        assert_eq!(classify(&message(RTM_DELADDR, 0), 230), Some(Notice::Link));
    }

    #[test]
    fn the_kernel_keeps_back_what_would_be_passed_over_and_nothing_else() {
        let (from, to) = std::os::unix::net::UnixDatagram::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        // Filters work on any socket.
        SockRef::from(&to)
            .attach_filter(&without_our_own_writing(230))
            .unwrap();
        let arrives = |message: &[u8]| {
            let _ = from.send(message);
            to.recv(&mut [0; 64]).is_ok()
        };
        let mut guard = stray(230);
        guard[HEADER + RTM_TYPE] = RTN_BLACKHOLE;
        let kinds = [
            RTM_NEWLINK,
            RTM_DELADDR,
            RTM_NEWRULE,
            RTM_DELRULE,
            RTM_NEWROUTE,
            RTM_DELROUTE,
            RTM_DELNEXTHOP,
        ];
        let messages = kinds
            .into_iter()
            .flat_map(|kind| [message(kind, 230), message(kind, 4)]);
        for message in messages.chain([stray(230), stray(4), guard]) {
            assert_eq!(
                arrives(&message),
                classify(&message, 230).is_some(),
                "{message:?}"
            );
        }
    }

    #[test]
    fn the_weightiest_message_of_a_datagram_counts_and_garbage_ends_it() {
        let mut datagram = message(RTM_NEWROUTE, 4);
        datagram.extend(message(RTM_DELROUTE, 230));
        assert_eq!(classify_all(&datagram, 230), Some(Notice::Ours));
        datagram.extend([1, 0, 0, 0, 9]);
        assert_eq!(classify_all(&datagram, 230), Some(Notice::Ours));
        assert_eq!(classify_all(&[255; 7], 230), None);
        assert_eq!(classify_all(&[], 230), None);
    }
}
