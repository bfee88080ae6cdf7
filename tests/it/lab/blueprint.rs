//! The standard topology: a node, gateways that masquerade, and an internet that answers.
//!
//! ```text
//!   nd eth0 ---- switch "net" ---- sv eth0      the internet: 192.0.2.0/24, 2001:db8:f::/64; sv answers for EVERY other address
//!      eth1 -+-- switch "vpc"       |
//!            +------------- g1 eth1 | eth0      the VPC: 10.116.0.0/24, fd00:116::/64; gN masquerades what comes from it
//!            +------------- g2 eth1 | eth0
//!            +------------- g3 eth1 | eth0
//! ```

use super::Lab;

/// The node's and the gateways' addresses as the internet sees them in [`Lab::blueprint`].
pub const NODE_PUBLIC: &str = "192.0.2.2";
pub const G1_PUBLIC: &str = "192.0.2.5";
pub const G2_PUBLIC: &str = "192.0.2.6";
pub const G3_PUBLIC: &str = "192.0.2.7";
pub const NODE_PUBLIC6: &str = "2001:db8:f::2";
pub const G1_PUBLIC6: &str = "2001:db8:f::5";
pub const G2_PUBLIC6: &str = "2001:db8:f::6";
/// The gateways as the node sees them.
pub const G1: &str = "10.116.0.5";
pub const G2: &str = "10.116.0.6";
pub const G3: &str = "10.116.0.7";
pub const G1_V6: &str = "fd00:116::5";
pub const G2_V6: &str = "fd00:116::6";
/// The two addresses of the blueprint's scenario.
pub const ONE: &str = "34.160.111.145";
pub const TWO: &str = "34.117.59.81";

const DEFAULT_ROUTES: &str =
    "route add default via 192.0.2.1 dev eth0\nroute add ::/0 via 2001:db8:f::1 dev eth0\n";
/// What a real gateway runs, not a copy of it.
const GATEWAY_RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/gateway/gateway.nft");

impl Lab {
    /// The standard topology of the module's picture: node `nd`, three masquerading gateways `g1`, `g2`, `g3`, and `sv`, which answers
    /// for every address there is (ping, and the echo on TCP [`ECHO_PORT`]; UDP for [`ONE`] and [`TWO`]). The node's default route is
    /// by `eth0`, without a metric, as DigitalOcean's are.
    pub fn blueprint() -> Self {
        let lab = Self::new();
        lab.switch("net").switch("vpc").host("sv").host("nd");
        lab.plug("sv", "eth0", "net", &["192.0.2.1/24", "2001:db8:f::1/64"]);
        // AnyIP: with a local default route, a host takes every address for its own. In the main table, so that its subnets still win.
        lab.batch(
            "sv",
            "route add local default dev lo table main\nroute add local ::/0 dev lo table main\n",
        );
        lab.plug("nd", "eth0", "net", &["192.0.2.2/24", "2001:db8:f::2/64"]);
        lab.plug("nd", "eth1", "vpc", &["10.116.0.2/24", "fd00:116::2/64"]);
        lab.batch("nd", DEFAULT_ROUTES);
        for (name, last) in [("g1", 5), ("g2", 6), ("g3", 7)] {
            lab.gateway(name, last);
        }
        let server = lab.echo_server("sv", &[ONE, TWO]);
        lab.keep(server);
        lab
    }

    /// Adds a gateway to [`Lab::blueprint`]'s switches: `10.116.0.LAST` and `fd00:116::LAST` inside, `192.0.2.LAST` outside.
    pub fn gateway(&self, name: &str, last: u8) -> &Self {
        self.host(name);
        self.plug(
            name,
            "eth0",
            "net",
            &[
                &format!("192.0.2.{last}/24"),
                &format!("2001:db8:f::{last:x}/64"),
            ],
        );
        self.plug(
            name,
            "eth1",
            "vpc",
            &[
                &format!("10.116.0.{last}/24"),
                &format!("fd00:116::{last:x}/64"),
            ],
        );
        self.batch(name, DEFAULT_ROUTES);
        self.sysctl(name, "net.ipv4.ip_forward", "1");
        self.sysctl(name, "net.ipv6.conf.all.forwarding", "1");
        self.must(
            name,
            &[
                "nft",
                "-D",
                "public=eth0",
                "-D",
                "vpc=eth1",
                "-f",
                GATEWAY_RULES,
            ],
        );
        self
    }
}
