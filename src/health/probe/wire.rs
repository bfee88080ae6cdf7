//! A packet socket on one device: IP packets out to a link-layer address, filtered IP packets in.
//!
//! It goes below routing table, connection tracking and packet rules: what is sent leaves by this
//! device to this neighbour, and what is received is seen before any rule can drop it. It leaves
//! nothing in the kernel when it is closed.

use std::io;
use std::net::UdpSocket as AnySocket;

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use crate::net::prefix::Family;

/// Answers that wait to be read. Small: between probes nothing reads them.
const RECEIVE_BUFFER: usize = 16 * 1024;

/// A packet socket (needs `NET_RAW`).
pub(super) struct Wire {
    /// Waits for packets; nothing else of it is UDP. `None` only while it is dropped.
    socket: Option<UdpSocket>,
    protocol: u16,
    index: u32,
}

impl Wire {
    /// Opens a socket that sees what `filter` lets through of a family's packets on the device with this index.
    pub(super) fn open(index: u32, family: Family, filter: &[SockFilter]) -> io::Result<Self> {
        // No protocol until it is bound: an unfiltered socket would first see whatever comes.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking(), None)?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        socket.attach_filter(filter)?;
        let protocol = match family {
            Family::V4 => libc::ETH_P_IP,
            Family::V6 => libc::ETH_P_IPV6,
        };
        let protocol = u16::try_from(protocol).map_err(io::Error::other)?.to_be();
        socket.bind(&link_layer(protocol, index, None)?)?;
        Ok(Self {
            socket: Some(UdpSocket::from_std(AnySocket::from(socket))?),
            protocol,
            index,
        })
    }

    /// Sends an IP packet to a neighbour.
    pub(super) fn send(&self, packet: &[u8], to: [u8; 6]) -> io::Result<()> {
        let sent = SockRef::from(self.socket()?)
            .send_to(packet, &link_layer(self.protocol, self.index, Some(to))?)?;
        if sent == packet.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Waits for the next packet; a longer one is cut to the buffer.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket()?.recv(buffer).await
    }

    fn socket(&self) -> io::Result<&UdpSocket> {
        self.socket
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Wire {
    /// The kernel takes some ten milliseconds to close a packet socket (it waits until no packet is on its way to
    /// it any more), in which this thread would wait.
    fn drop(&mut self) {
        if let (Some(socket), Ok(runtime)) =
            (self.socket.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn_blocking(move || drop(socket.into_std()));
        }
    }
}

/// `protocol` in network byte order.
#[allow(unsafe_code)]
fn link_layer(protocol: u16, index: u32, to: Option<[u8; 6]>) -> io::Result<SockAddr> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is the address type of AF_PACKET; all of its fields are integers, so the zeroed storage holds a valid one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = protocol;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    if let Some(to) = to {
        address.sll_halen = 6;
        address.sll_addr[..6].copy_from_slice(&to);
    }
    let length =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: family and length are those of the `sockaddr_ll` just written.
    Ok(unsafe { SockAddr::new(storage, length) })
}
