//! Probes of a target beyond the gateway, *through* the gateway, regardless of the routing table.
//!
//! A gateway that answers but no longer forwards or translates is found like this. Several
//! gateways may share one target, so the routing table cannot choose between them: the probe is an
//! IP packet of our own (ICMP echo or TCP SYN) sent to the gateway's link-layer address, and the answer is read
//! off the device. No route, rule or address is made; the only thing held is one packet socket.
//!
//! Decisions:
//! - A TCP target that refuses (RST) is a failure, as it is for the gateway itself. A gateway that
//!   rejects what it should forward forges exactly that packet.
//! - A connection that would open is reset at once, by the same path. The kernel, which knows nothing of
//!   it, would reset it as well, but by its routing table and thereby perhaps by another interface: while
//!   the probe lasts, the source port is held by a listening socket whose filter drops everything, and the kernel stays silent.
//! - Packet rules of the node see neither the probe nor, in time, the answer: a firewall that drops
//!   `ct state invalid` (which an answer to something it never saw is) does not disturb.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use socket2::{Domain, Protocol, Socket, Type};

use super::filter::{answers_only, nothing};
use super::packet::{Ping, READ, Syn, SynAnswer};
use super::wire::Wire;
use super::{Miss, Neighbours, ProbePath, Prober, bind_device, miss, socket_address};
use crate::config::Probe;
use crate::health::ProbeKey;
use crate::net::prefix::Family;

/// How long a link-layer address is used before it is looked up again.
const FRESH: Duration = Duration::from_secs(30);

/// How long a neighbour that was just asked for may take to answer before it is looked up again.
const RESOLVING: Duration = Duration::from_millis(50);

/// The discard service; whatever the gateway answers, the datagram makes the kernel look for its link-layer address.
const DISCARD: u16 = 9;

/// Probes one target through one gateway.
pub struct Through {
    gateway: IpAddr,
    target: IpAddr,
    /// `None` is ICMP echo.
    port: Option<u16>,
    neighbours: Arc<dyn Neighbours>,
    wire: Option<(ProbePath, Wire)>,
    neighbour: Option<Neighbour>,
    /// The last probe has had no answer (yet): the link-layer address may be an old one.
    unanswered: bool,
    /// The last look-up found nothing: no use in waiting for the next.
    silent: bool,
}

struct Neighbour {
    address: [u8; 6],
    seen: Instant,
}

impl Through {
    /// Nothing is opened before the first probe.
    pub fn new(key: &ProbeKey, target: IpAddr, neighbours: Arc<dyn Neighbours>) -> Self {
        let port = match key.check.probe {
            Probe::Tcp(port) => Some(port),
            Probe::Icmp | Probe::None => None,
        };
        Self {
            gateway: key.gateway,
            target,
            port,
            neighbours,
            wire: None,
            neighbour: None,
            unanswered: false,
            silent: false,
        }
    }

    async fn make_ready(&mut self, path: &ProbePath) -> Result<(), Miss> {
        if self.wire.as_ref().is_none_or(|(open, _)| open != path) {
            self.neighbour = None;
            self.wire = None;
            let filter = answers_only(self.target, self.port.is_some());
            let wire = Wire::open(path.index, Family::of(self.target), &filter).map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    Miss::Unsent("not probed: no permission for packet sockets: healthCheck.target needs NET_RAW".to_owned())
                }
                _ => Miss::Unsent(format!("not probed: packet socket on {}: {error}", path.dev)),
            })?;
            self.wire = Some((path.clone(), wire));
        }
        self.find_neighbour(path).await
    }

    async fn find_neighbour(&mut self, path: &ProbePath) -> Result<(), Miss> {
        if self
            .neighbour
            .as_ref()
            .is_some_and(|known| known.seen.elapsed() < FRESH && !self.unanswered)
        {
            return Ok(());
        }
        let mut found = self.look_up(path).await;
        if self.unanswered || !matches!(found, Ok(Some(_))) {
            // An address that the kernel has may be an old one as well: it asks again when it has something to send.
            wake(self.gateway, path);
        }
        if matches!(found, Ok(None)) && !self.silent {
            tokio::time::sleep(RESOLVING).await;
            found = self.look_up(path).await;
        }
        self.silent = matches!(found, Ok(None));
        match found {
            Ok(Some(address)) => {
                self.neighbour = Some(Neighbour {
                    address,
                    seen: Instant::now(),
                });
            }
            // The kernel forgets neighbours that it does not need; the last one known is good until it fails.
            Ok(None) if self.neighbour.is_some() && !self.unanswered => {}
            Ok(None) => {
                self.neighbour = None;
                return Err(Miss::Failed(format!(
                    "no link-layer address of {} on {}",
                    self.gateway, path.dev
                )));
            }
            Err(_) if self.neighbour.is_some() => {}
            Err(error) => {
                return Err(Miss::Unsent(format!(
                    "not probed: link-layer address of {}: {error:#}",
                    self.gateway
                )));
            }
        }
        Ok(())
    }

    async fn look_up(&self, path: &ProbePath) -> anyhow::Result<Option<[u8; 6]>> {
        self.neighbours.neighbour(self.gateway, &path.dev).await
    }

    async fn exchange(&mut self, path: &ProbePath) -> Result<Duration, Miss> {
        let (Some((_, wire)), Some(neighbour)) = (&self.wire, &self.neighbour) else {
            return Err(Miss::Unsent("not probed: not prepared".to_owned()));
        };
        self.unanswered = true;
        let result = match self.port {
            None => self.ping(wire, neighbour.address, path).await,
            Some(port) => self.connect(port, wire, neighbour.address, path).await,
        };
        match result {
            Ok(answer) => {
                self.unanswered = false;
                answer
            }
            Err(error) => {
                // The device may be another one by now, or gone: begin anew.
                self.wire = None;
                Err(miss(
                    &format!("packet to {} by {}", self.gateway, path.dev),
                    &error,
                ))
            }
        }
    }

    async fn ping(
        &self,
        wire: &Wire,
        to: [u8; 6],
        path: &ProbePath,
    ) -> io::Result<Result<Duration, Miss>> {
        let ping = Ping::fresh();
        let packet = ping.packet(path.source, self.target)?;
        let start = Instant::now();
        wire.send(&packet, to)?;
        let mut buffer = [0; READ];
        loop {
            let length = wire.receive(&mut buffer).await?;
            if ping.is_answered_by_packet(buffer.get(..length).unwrap_or_default()) {
                return Ok(Ok(start.elapsed()));
            }
        }
    }

    async fn connect(
        &self,
        port: u16,
        wire: &Wire,
        to: [u8; 6],
        path: &ProbePath,
    ) -> io::Result<Result<Duration, Miss>> {
        let held = hold_port(path.source)?;
        let local = held
            .local_addr()?
            .as_socket()
            .map_or(0, |address| address.port());
        let syn = Syn::new((path.source, local), (self.target, port));
        let packet = syn.packet()?;
        let start = Instant::now();
        wire.send(&packet, to)?;
        let mut buffer = [0; READ];
        loop {
            let length = wire.receive(&mut buffer).await?;
            match syn.answer(buffer.get(..length).unwrap_or_default()) {
                Some(SynAnswer::Opens) => {
                    let rtt = start.elapsed();
                    wire.send(&syn.reset()?, to)?;
                    return Ok(Ok(rtt));
                }
                Some(SynAnswer::Refuses) => {
                    return Ok(Err(Miss::Failed(format!(
                        "TCP port {port} of {}: connection refused",
                        self.target
                    ))));
                }
                None => {}
            }
        }
    }
}

impl Prober for Through {
    fn prepare<'a>(&'a mut self, path: &'a ProbePath) -> BoxFuture<'a, Result<(), Miss>> {
        Box::pin(self.make_ready(path))
    }

    fn probe<'a>(&'a mut self, path: &'a ProbePath) -> BoxFuture<'a, Result<Duration, Miss>> {
        Box::pin(self.exchange(path))
    }
}

/// A TCP port that nobody else gets, and for which the kernel answers nothing.
fn hold_port(source: IpAddr) -> io::Result<Socket> {
    let address = SocketAddr::new(source, 0);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.attach_filter(&nothing())?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket)
}

/// Makes the kernel look for the gateway's link-layer address. That it fails shows in the look-up.
fn wake(gateway: IpAddr, path: &ProbePath) {
    let any = match gateway {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let sent = Socket::new(
        Domain::for_address((any, 0).into()),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )
    .and_then(|socket| {
        bind_device(&socket, path)?;
        socket.send_to(&[0], &socket_address(gateway, DISCARD, path).into())
    });
    if let Err(error) = sent {
        tracing::debug!(%gateway, %error, "no datagram to the gateway");
    }
}
