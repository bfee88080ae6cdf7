//! TCP connect to a port of the gateway.
//!
//! What is checked is the port: a gateway that refuses the connection is as failed as one that is
//! silent. The connection is closed by a reset, so that neither side keeps a closed one for a minute.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;

use super::{Miss, ProbePath, Prober, bind_device, miss, socket_address};

/// Probes one port of one gateway.
pub struct Connect {
    gateway: IpAddr,
    port: u16,
}

impl Connect {
    /// Nothing is opened before the first probe, and nothing stays open after one.
    pub fn new(gateway: IpAddr, port: u16) -> Self {
        Self { gateway, port }
    }

    async fn connect(&self, path: &ProbePath) -> Result<Duration, Miss> {
        let address = socket_address(self.gateway, self.port, path);
        let doing = format!("TCP port {}", self.port);
        let opened = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )
        .and_then(|socket| {
            bind_device(&socket, path)
                .and_then(|()| socket.set_linger(Some(Duration::ZERO)))
                .map(|()| socket)
        });
        let socket =
            opened.map_err(|error| Miss::Unsent(format!("not probed: {doing}: {error}")))?;
        let start = Instant::now();
        match TcpSocket::from_std_stream(socket.into())
            .connect(address)
            .await
        {
            Ok(_closed_when_dropped) => Ok(start.elapsed()),
            Err(error) => Err(miss(&doing, &error)),
        }
    }
}

impl Prober for Connect {
    fn probe<'a>(&'a mut self, path: &'a ProbePath) -> BoxFuture<'a, Result<Duration, Miss>> {
        Box::pin(self.connect(path))
    }
}
