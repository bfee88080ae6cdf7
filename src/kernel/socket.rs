//! The kernel's routes from a netlink socket of ours, which costs half of an `ip route save`.
//!
//! I/O, and only to notice that something changed: what is written is decided on what `ip` reads. So a socket that fails or lies can
//! cause a read by `ip`, or put off what the next look finds, and never a change.

use std::io;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use socket2::SockRef;

use crate::kernel::changes::Changes;
use crate::kernel::saved::{Saved, number_of};
use crate::net::prefix::Family;
use crate::routing::batch::Ownership;

// linux/netlink.h and linux/rtnetlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// `struct nlmsghdr` and `struct rtmsg`.
const HEADER: usize = 16;
const RTMSG: usize = 12;
/// The number of the one request of a socket.
const SEQUENCE: u32 = 1;
/// The kernel's dumps come in datagrams of up to 32 KiB.
const DATAGRAM: usize = 32 * 1024;
/// How long the kernel may take for all routes, and how long for one datagram.
const TIME_LIMIT: Duration = Duration::from_secs(10);
const NEXT: Duration = Duration::from_secs(1);

/// The routes of both families. Whatever is not certain is an error.
pub(super) fn routes_of_both(ownership: &Ownership) -> Result<[Saved; 2], String> {
    let v4 = routes(Family::V4, ownership)?;
    let changes = Changes::of_v6_routes().map_err(|error| error.to_string())?;
    let v6 = routes(Family::V6, ownership)?;
    if changes.seen() {
        return Err("IPv6 routes changed meanwhile".to_owned());
    }
    Ok([v4, v6])
}

fn routes(family: Family, ownership: &Ownership) -> Result<Saved, String> {
    let words = |error: io::Error| error.to_string();
    let socket = ask(family).map_err(words)?;
    let started = Instant::now();
    let mut routes = Saved::default();
    let mut datagram = Vec::with_capacity(DATAGRAM);
    while started.elapsed() < TIME_LIMIT {
        datagram.clear();
        let length = socket.recv(&mut datagram, libc::MSG_TRUNC).map_err(words)?;
        if length > datagram.len() {
            return Err("a datagram was cut".to_owned());
        }
        if add(&datagram, &mut routes, family, ownership)? == Rest::Done {
            return Ok(routes);
        }
    }
    Err(format!("it took longer than {} s", TIME_LIMIT.as_secs()))
}

/// Sends the request. The kernel is the only one that a connected socket hears.
fn ask(family: Family) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    SockRef::from(&socket).set_read_timeout(Some(NEXT))?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // Without it the kernel adds what it remembers of single addresses. Nexthop objects are younger than it.
    socket.set_netlink_get_strict_chk(true)?;
    let mut request = [0; HEADER + RTMSG];
    let length = u32::try_from(request.len()).unwrap_or_default();
    request[..4].copy_from_slice(&length.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETROUTE.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    request[8..12].copy_from_slice(&SEQUENCE.to_ne_bytes());
    request[HEADER] = u8::try_from(number_of(family)).unwrap_or_default();
    socket.send(&request, 0)?;
    Ok(socket)
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    More,
    Done,
}

/// Adds the routes of one datagram.
fn add(
    mut datagram: &[u8],
    routes: &mut Saved,
    family: Family,
    ownership: &Ownership,
) -> Result<Rest, String> {
    while !datagram.is_empty() {
        let header: &[u8; HEADER] = datagram.first_chunk().ok_or("half a message")?;
        let number = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|n| header[at + n]));
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let (length, kind, flags) = (number(0) as usize, half(4), half(6));
        let body = datagram.get(HEADER..length).ok_or("half a message")?;
        if number(8) != SEQUENCE {
            return Err("an answer to another question".to_owned());
        }
        if flags & NLM_F_DUMP_INTR != 0 {
            return Err("the kernel interrupted the dump".to_owned());
        }
        match kind {
            RTM_NEWROUTE => routes.add(body, family, ownership)?,
            // Behind it is the error that ended the dump, or 0.
            NLMSG_DONE if body.first_chunk() == Some(&[0; 4]) => return Ok(Rest::Done),
            NLMSG_DONE | NLMSG_ERROR => return Err("the kernel ended the dump".to_owned()),
            _ => return Err(format!("a message of type {kind} is no route")),
        }
        // As netlink aligns them.
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    Ok(Rest::More)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::state::Kernel;

    const OURS: Ownership = Ownership::DEFAULT;

    fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        message
    }

    /// What comes of a datagram: the number of routes and whether more is to come, or why it counts for nothing.
    fn read(datagram: &[u8]) -> Result<(usize, Rest), String> {
        let (mut routes, mut kernel) = (Saved::default(), Kernel::default());
        let rest = add(datagram, &mut routes, Family::V4, &OURS)?;
        routes.into_kernel(&mut kernel);
        Ok((kernel.own.len(), rest))
    }

    /// The blackhole 0.0.0.0/0 of ours.
    const ROUTE: [u8; RTMSG] = [2, 0, 0, 0, 254, 230, 0, 6, 0, 0, 0, 0];

    #[test]
    fn routes_are_taken_until_the_kernel_ends_the_dump_without_an_error() {
        let route = message(RTM_NEWROUTE, 2, SEQUENCE, &ROUTE);
        let two = [route.clone(), route.clone()].concat();
        assert_eq!(read(&two).unwrap(), (2, Rest::More));
        let done = message(NLMSG_DONE, 2, SEQUENCE, &[0; 4]);
        assert_eq!(read(&[route, done].concat()).unwrap(), (1, Rest::Done));
    }

    #[test]
    fn whatever_is_not_certain_counts_for_nothing() {
        let route = message(RTM_NEWROUTE, 2, SEQUENCE, &ROUTE);
        let cut = &route[..route.len() - 4];
        for (bad, why) in [
            (cut.to_vec(), "half a message"),
            (route[..10].to_vec(), "half a message"),
            (vec![0; HEADER], "half a message"),
            (
                message(RTM_NEWROUTE, 2, 7, &ROUTE),
                "an answer to another question",
            ),
            (
                message(RTM_NEWROUTE, 2 | NLM_F_DUMP_INTR, SEQUENCE, &ROUTE),
                "the kernel interrupted the dump",
            ),
            (
                message(NLMSG_DONE, 2 | NLM_F_DUMP_INTR, SEQUENCE, &[0; 4]),
                "the kernel interrupted the dump",
            ),
            (
                message(NLMSG_DONE, 2, SEQUENCE, &(-90_i32).to_ne_bytes()),
                "the kernel ended the dump",
            ),
            (
                message(NLMSG_DONE, 2, SEQUENCE, &[]),
                "the kernel ended the dump",
            ),
            (
                message(NLMSG_ERROR, 0, SEQUENCE, &[0; 20]),
                "the kernel ended the dump",
            ),
            (
                message(16, 2, SEQUENCE, &ROUTE),
                "a message of type 16 is no route",
            ),
        ] {
            assert_eq!(read(&bad).unwrap_err(), why, "{bad:?}");
        }
    }
}
