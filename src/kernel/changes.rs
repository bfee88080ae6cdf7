//! Whether routes changed while they were read.
//!
//! I/O on a netlink socket for as long as a read takes. IPv6 dumps need it: while other IPv6 routes change, the kernel lists
//! entries twice and leaves others out, with exit status 0 and no sign of it. IPv4 dumps do not.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// `RTNLGRP_IPV6_ROUTE` as a bit, linux/rtnetlink.h.
const IPV6_ROUTES: u32 = 1 << (11 - 1);

/// Listens from its making on. The kernel announces a change before the call that makes it returns.
pub(super) struct Changes(Socket);

impl Changes {
    /// Changes of IPv6 routes, made by any program.
    pub(super) fn of_v6_routes() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.set_non_blocking(true)?;
        socket.bind(&SocketAddr::new(0, IPV6_ROUTES))?;
        Ok(Self(socket))
    }

    /// Whether there was one. An uncertain case counts as one.
    pub(super) fn seen(&self) -> bool {
        let first = self.0.recv(&mut Vec::with_capacity(64), libc::MSG_DONTWAIT);
        first.map_or_else(|e| e.kind() != io::ErrorKind::WouldBlock, |_| true)
    }
}
