//! ICMP echo to the gateway itself.
//!
//! A raw socket where `NET_RAW` allows it, else a datagram one where `net.ipv4.ping_group_range`
//! does. It is connected to the gateway, so that the kernel hands over the gateway's ICMP and no
//! other, and lives for one probe, so that nothing of it can go stale when addresses or devices change.
//!
//! Own code, not `surge-ping`: its raw socket wakes the agent for every ICMP packet that reaches the
//! node, it returns "destination unreachable" as an answer, and the packets for probes through a
//! gateway have to be built and read here anyway.

use std::io;
use std::net::{IpAddr, UdpSocket as AnySocket};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::packet::{Ping, READ};
use super::{Miss, ProbePath, Prober, bind_device, miss, socket_address};
use crate::net::prefix::Family;

/// Probes one gateway.
pub struct Echo {
    gateway: IpAddr,
}

impl Echo {
    /// Nothing is opened before the first probe, and nothing stays open after one.
    pub fn new(gateway: IpAddr) -> Self {
        Self { gateway }
    }

    async fn ping(&self, path: &ProbePath) -> Result<Duration, Miss> {
        let (socket, raw) = open(Family::of(self.gateway))?;
        self.exchange(&socket, raw, path)
            .await
            .map_err(|error| miss("ICMP echo", &error))
    }

    async fn exchange(
        &self,
        socket: &UdpSocket,
        raw: bool,
        path: &ProbePath,
    ) -> io::Result<Duration> {
        let family = Family::of(self.gateway);
        bind_device(&SockRef::from(socket), path)?;
        SockRef::from(socket).connect(&socket_address(self.gateway, 0, path).into())?;
        let ping = Ping::fresh();
        let start = Instant::now();
        SockRef::from(socket).send(&ping.message(family))?;
        let mut buffer = [0; READ];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let received = buffer.get(..length).unwrap_or_default();
            // Only raw IPv4 sockets hand over the IP header.
            let answered = match (raw, family) {
                (true, Family::V4) => ping.is_answered_by_packet(received),
                _ => ping.is_answered_by_message(family, received),
            };
            if answered {
                return Ok(start.elapsed());
            }
        }
    }
}

impl Prober for Echo {
    fn probe<'a>(&'a mut self, path: &'a ProbePath) -> BoxFuture<'a, Result<Duration, Miss>> {
        Box::pin(self.ping(path))
    }
}

/// An ICMP socket (of which `UdpSocket` only waits for packets), and whether it is a raw one.
fn open(family: Family) -> Result<(UdpSocket, bool), Miss> {
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let open = |kind: Type| Socket::new(domain, kind.nonblocking(), Some(protocol));
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let opened = match open(Type::RAW) {
        Ok(socket) => Ok((socket, true)),
        Err(error) if denied(&error) => open(Type::DGRAM).map(|socket| (socket, false)),
        Err(error) => Err(error),
    };
    match opened.and_then(|(socket, raw)| Ok((UdpSocket::from_std(AnySocket::from(socket))?, raw)))
    {
        Err(error) if denied(&error) => Err(Miss::Unsent(
            "not probed: no permission for ICMP: needs NET_RAW or net.ipv4.ping_group_range"
                .to_owned(),
        )),
        result => result.map_err(|error| Miss::Unsent(format!("not probed: ICMP socket: {error}"))),
    }
}
