//! `--echo URL`: what source address the far side sees.
//!
//! I/O. Plain HTTP to the explained address, on a socket with the packet's mark and source, so that the kernel
//! chooses the path that was explained. Everything has a time limit, and the answer a length.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::routing::rule::Packet;

/// For all of it: connecting, asking and reading.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest answer: an address is short, and pages around one are not long.
const LONGEST: usize = 64 * 1024;

/// Fetches the URL from the packet's destination; the first address in the answer.
pub(super) async fn fetch(url: &str, packet: &Packet) -> anyhow::Result<IpAddr> {
    let what = || format!("fetching {url} from {}", packet.to);
    match timeout(LIMIT, ask(url, packet)).await {
        Ok(seen) => seen.with_context(what),
        Err(_) => bail!(
            "fetching {url} from {}: no answer within {} s",
            packet.to,
            LIMIT.as_secs()
        ),
    }
}

async fn ask(url: &str, packet: &Packet) -> anyhow::Result<IpAddr> {
    let uri: Uri = url.parse().context("this is not a URL")?;
    ensure!(
        uri.scheme_str() == Some("http"),
        "only plain http:// can be fetched"
    );
    let host = uri.host().context("the URL has no host")?;
    let literal: Option<IpAddr> = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok();
    ensure!(
        literal.is_none_or(|literal| literal == packet.to),
        "the URL names another address; use {} or a host name, which is sent to {} too",
        packet.to,
        packet.to
    );
    let to = SocketAddr::new(packet.to, uri.port_u16().unwrap_or(80));
    let stream = connect(to, packet).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let talk = async {
        let authority = uri.authority().map_or(host, |authority| authority.as_str());
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path)
            .header(header::HOST, authority)
            .header(
                header::USER_AGENT,
                concat!("egress-routes/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        ensure!(
            answer.status().is_success(),
            "it answered {}",
            answer.status()
        );
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        let body = body
            .map_err(|why| anyhow::anyhow!("reading the answer: {why}"))?
            .to_bytes();
        address_in(&String::from_utf8_lossy(&body)).context("there is no address in the answer")
    };
    // The connection has to be driven while it is talked over; it may end with its last byte.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! { seen = talk => seen, () = drive => bail!("the connection ended") }
}

async fn connect(to: SocketAddr, packet: &Packet) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if packet.mark != 0 {
        socket
            .set_mark(packet.mark)
            .context("marking the connection needs root or NET_ADMIN")?;
    }
    if let Some(from) = packet.from {
        ensure!(
            packet.iif.is_none(),
            "{from} is not one of the node's addresses, so the node cannot fetch from it; omit `--from`"
        );
        socket
            .bind(&SocketAddr::new(from, 0).into())
            .with_context(|| format!("binding to {from}"))?;
    }
    socket.set_nonblocking(true)?;
    let stream = tokio::net::TcpSocket::from_std_stream(socket.into());
    stream
        .connect(to)
        .await
        .with_context(|| format!("connecting to {to}"))
}

/// The first address in a text, plain or JSON.
fn address_in(text: &str) -> Option<IpAddr> {
    let words = text.split(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':'));
    words
        .filter(|word| word.contains(['.', ':']))
        .find_map(|word| {
            word.trim_matches(':')
                .parse()
                .ok()
                .or_else(|| word.parse().ok())
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_what_such_services_answer() {
        let cases = [
            ("203.0.113.9\n", "203.0.113.9"),
            (r#"{"ip":"2001:db8::9","country":"DE"}"#, "2001:db8::9"),
            ("Your address: 203.0.113.9.", "203.0.113.9"),
            ("<p>::1</p>", "::1"),
        ];
        for (text, address) in cases {
            assert_eq!(
                address_in(text.trim_end_matches('.')),
                address.parse().ok(),
                "{text}"
            );
        }
        assert_eq!(address_in("no address, 12:34 Uhr, v1.2.3"), None);
    }
}
