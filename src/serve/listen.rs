//! Where the HTTP port is opened, and where it never is.
//!
//! Pure. All addresses are refused. A global one is refused too, unless a flag allows it: a kubelet that knows no better when a node
//! boots names the public address, and then the port is opened on loopback instead, with a warning.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, bail};

/// What `--listen` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address and a port.
    At(SocketAddr),
    /// A port whose address the kubelet did not know: `$(HOST_IP)` was empty.
    Nowhere(u16),
}

/// Why the port is on loopback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// Where it is.
    pub at: SocketAddr,
    why: String,
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; listening on {} instead", self.why, self.at)
    }
}

impl Listen {
    /// The address that is bound, and why it is not the one that was given.
    pub fn address(&self, allow_global: bool) -> Result<SocketAddr, Fallback> {
        let (why, loopback, port) = match *self {
            Self::At(address) if allow_global || !is_global(address.ip()) => return Ok(address),
            Self::At(address) => (
                format!(
                    "{} is a global address, where everybody can read gateways and counts; --listen-global allows it",
                    address.ip()
                ),
                match address {
                    SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                    SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
                },
                address.port(),
            ),
            Self::Nowhere(port) => (
                "the node had no address when the pod started".to_owned(),
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                port,
            ),
        };
        Err(Fallback {
            at: SocketAddr::new(loopback, port),
            why,
        })
    }
}

/// Reads `--listen`: an address and a port, but never "all addresses".
pub fn parse(text: &str) -> anyhow::Result<Listen> {
    // A manifest's `$(HOST_IP):9465` has no brackets around an IPv6 address, and nothing at all where the kubelet knows none.
    let bare = || {
        let (ip, port) = text.rsplit_once(':')?;
        let port = port.parse().ok()?;
        match ip {
            "" | "$(HOST_IP)" => Some(Listen::Nowhere(port)),
            ip => Some(Listen::At(SocketAddr::new(ip.parse().ok()?, port))),
        }
    };
    let listen = text
        .parse()
        .ok()
        .map(Listen::At)
        .or_else(bare)
        .with_context(|| {
            format!("`{text}` is not an address with a port, like `127.0.0.1:9465` or `[::1]:9465`")
        })?;
    if matches!(&listen, Listen::At(address) if address.ip().to_canonical().is_unspecified()) {
        bail!(
            "`{text}` would listen on every address of the node, public ones included; name one, like `127.0.0.1:9465` or the node's internal address"
        );
    }
    Ok(listen)
}

/// Whether the internet may reach it: not loopback, link-local, private (RFC 1918, unique local), shared (RFC 6598) or for documentation.
fn is_global(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let is_shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_documentation()
                || is_shared)
        }
        IpAddr::V6(ip) => {
            let is_documentation = ip.segments()[..2] == [0x2001, 0xdb8];
            !(ip.is_loopback()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
                || is_documentation)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_on_all_addresses_is_refused() {
        for text in ["0.0.0.0:9465", "[::]:9465", "[::ffff:0.0.0.0]:9465"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("every address of the node"), "{error}");
        }
        for text in ["9465", "localhost:9465", "10.0.0.1", ":", "$(POD_IP):9465"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("is not an address with a port"), "{text}");
        }
    }

    #[test]
    fn a_node_internal_address_is_taken_as_it_is() {
        for text in [
            "127.0.0.1:9465",
            "[::1]:9465",
            "10.116.0.2:9465",
            "100.64.0.1:9465",
            "[fd00:116::2]:9465",
            "169.254.1.1:9465",
        ] {
            let address = parse(text).unwrap().address(false);
            assert_eq!(address.unwrap().to_string(), text);
        }
        assert_eq!(
            parse("fd00:116::2:9465").unwrap(),
            Listen::At("[fd00:116::2]:9465".parse().unwrap()),
            "as a manifest writes it"
        );
    }

    #[test]
    fn a_global_address_is_loopback_instead_unless_a_flag_allows_it() {
        for (text, instead) in [
            ("8.8.8.8:9465", "127.0.0.1:9465"),
            ("100.128.0.1:9465", "127.0.0.1:9465"),
            ("[2a03::1]:9465", "[::1]:9465"),
            ("[::ffff:8.8.8.8]:9465", "[::1]:9465"),
            (":9465", "127.0.0.1:9465"),
            ("$(HOST_IP):9465", "127.0.0.1:9465"),
        ] {
            let fallback = parse(text).unwrap().address(false).unwrap_err();
            assert_eq!(fallback.at.to_string(), instead, "{text}");
        }
        assert_eq!(
            parse("8.8.8.8:9465")
                .unwrap()
                .address(true)
                .unwrap()
                .to_string(),
            "8.8.8.8:9465"
        );
        let words = parse("8.8.8.8:9465").unwrap().address(false).unwrap_err();
        assert_eq!(
            words.to_string(),
            "8.8.8.8 is a global address, where everybody can read gateways and counts; --listen-global allows it; listening on 127.0.0.1:9465 instead"
        );
        assert!(
            parse(":9465").unwrap().address(true).is_err(),
            "no flag knows an address"
        );
    }
}
