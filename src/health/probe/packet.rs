//! The packets of probes: echo messages, and whole IP packets for probes through a gateway.
//!
//! Pure: bytes out, bytes in. Sending and receiving them is `echo`'s and `through`'s. Answers come from the
//! network: whatever they hold, reading one ends in "is the answer" or "is not".

use std::io;
use std::net::IpAddr;

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Slice, Icmpv4Type, Icmpv6Header, Icmpv6Slice, Icmpv6Type,
    IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, LaxSlicedPacket,
    PacketBuilder, PacketBuilderStep, TransportSlice, ip_number,
};

use super::random;
use crate::net::prefix::Family;

/// Hops a probe may take.
const TTL: u8 = 64;

/// What a TCP probe offers to receive; it never does.
const WINDOW: u16 = 1024;

/// One echo request. Its answer is known by sequence number and payload: the identifier is
/// rewritten by datagram ICMP sockets and by translating gateways.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ping {
    header: IcmpEchoHeader,
    mark: [u8; 8],
}

impl Ping {
    /// Unlike any before.
    #[allow(clippy::cast_possible_truncation)] // any 16 bits do
    pub(super) fn fresh() -> Self {
        let header = random();
        Self {
            header: IcmpEchoHeader {
                id: header as u16,
                seq: (header >> 16) as u16,
            },
            mark: random().to_be_bytes(),
        }
    }

    /// The ICMP message alone. The checksum of `ICMPv6` covers addresses that only the kernel knows: it fills it in.
    pub(super) fn message(&self, family: Family) -> Vec<u8> {
        let mut message = match family {
            Family::V4 => {
                Icmpv4Header::with_checksum(Icmpv4Type::EchoRequest(self.header), &self.mark)
                    .to_bytes()
                    .to_vec()
            }
            Family::V6 => Icmpv6Header::new(Icmpv6Type::EchoRequest(self.header))
                .to_bytes()
                .to_vec(),
        };
        message.extend_from_slice(&self.mark);
        message
    }

    /// The whole IP packet.
    pub(super) fn packet(&self, source: IpAddr, target: IpAddr) -> io::Result<Vec<u8>> {
        let IcmpEchoHeader { id, seq } = self.header;
        let ip = ip(source, target)?;
        let mut bytes = Vec::new();
        match Family::of(target) {
            Family::V4 => ip
                .icmpv4_echo_request(id, seq)
                .write(&mut bytes, &self.mark),
            Family::V6 => ip
                .icmpv6_echo_request(id, seq)
                .write(&mut bytes, &self.mark),
        }
        .map_err(io::Error::other)?;
        Ok(bytes)
    }

    /// Whether this ICMP message answers it.
    pub(super) fn is_answered_by_message(&self, family: Family, message: &[u8]) -> bool {
        match family {
            Family::V4 => Icmpv4Slice::from_slice(message)
                .is_ok_and(|icmp| self.is_answered_by(&TransportSlice::Icmpv4(icmp))),
            Family::V6 => Icmpv6Slice::from_slice(message)
                .is_ok_and(|icmp| self.is_answered_by(&TransportSlice::Icmpv6(icmp))),
        }
    }

    /// Whether this IP packet answers it, from any sender.
    pub(super) fn is_answered_by_packet(&self, packet: &[u8]) -> bool {
        transport(packet).is_some_and(|transport| self.is_answered_by(&transport))
    }

    fn is_answered_by(&self, transport: &TransportSlice<'_>) -> bool {
        let (seq, payload) = match transport {
            TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
                Icmpv4Type::EchoReply(header) => (header.seq, icmp.payload()),
                _ => return false,
            },
            TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
                Icmpv6Type::EchoReply(header) => (header.seq, icmp.payload()),
                _ => return false,
            },
            _ => return false,
        };
        seq == self.header.seq && payload == self.mark
    }
}

/// One attempt to open a TCP connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Syn {
    source: (IpAddr, u16),
    target: (IpAddr, u16),
    sequence: u32,
}

/// The target's answer to a [`Syn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SynAnswer {
    /// It would open the connection.
    Opens,
    /// It refuses.
    Refuses,
}

impl Syn {
    /// From an address and port of this node.
    #[allow(clippy::cast_possible_truncation)] // any 32 bits do
    pub(super) fn new(source: (IpAddr, u16), target: (IpAddr, u16)) -> Self {
        Self {
            source,
            target,
            sequence: random() as u32,
        }
    }

    /// The packet that asks.
    pub(super) fn packet(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let ip = ip(self.source.0, self.target.0)?;
        ip.tcp(self.source.1, self.target.1, self.sequence, WINDOW)
            .syn()
            .write(&mut bytes, &[])
            .map_err(io::Error::other)?;
        Ok(bytes)
    }

    /// The packet that takes it back, so that the target keeps nothing half open.
    pub(super) fn reset(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let ip = ip(self.source.0, self.target.0)?;
        let tcp = ip.tcp(
            self.source.1,
            self.target.1,
            self.sequence.wrapping_add(1),
            0,
        );
        tcp.rst().write(&mut bytes, &[]).map_err(io::Error::other)?;
        Ok(bytes)
    }

    /// The answer in this IP packet; `None` when it is not one.
    pub(super) fn answer(&self, packet: &[u8]) -> Option<SynAnswer> {
        let Some(TransportSlice::Tcp(tcp)) = transport(packet) else {
            return None;
        };
        let ours = tcp.source_port() == self.target.1
            && tcp.destination_port() == self.source.1
            && tcp.ack()
            && tcp.acknowledgment_number() == self.sequence.wrapping_add(1);
        match (ours, tcp.rst(), tcp.syn()) {
            (true, true, _) => Some(SynAnswer::Refuses),
            (true, false, true) => Some(SynAnswer::Opens),
            _ => None,
        }
    }
}

/// Bytes of an answer that are read: more than the headers of any.
pub(super) const READ: usize = 256;

fn transport(packet: &[u8]) -> Option<TransportSlice<'_>> {
    LaxSlicedPacket::from_ip(packet).ok()?.transport
}

fn ip(source: IpAddr, target: IpAddr) -> io::Result<PacketBuilderStep<IpHeaders>> {
    let headers = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            // Length and protocol are the builder's; that never fails for zero.
            let header = Ipv4Header::new(0, TTL, ip_number::ICMP, source.octets(), target.octets())
                .map_err(io::Error::other)?;
            IpHeaders::Ipv4(header, Ipv4Extensions::default())
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let header = Ipv6Header {
                hop_limit: TTL,
                source: source.octets(),
                destination: target.octets(),
                ..Default::default()
            };
            IpHeaders::Ipv6(header, Ipv6Extensions::default())
        }
        _ => {
            return Err(io::Error::other(format!(
                "no source address of the family of {target}"
            )));
        }
    };
    Ok(PacketBuilder::ip(headers))
}

#[cfg(test)]
pub(super) mod tests {
    use etherparse::{SlicedPacket, TcpSlice};
    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The addresses of both families: node, target.
    pub(in crate::health::probe) fn pairs() -> [(IpAddr, IpAddr); 2] {
        [
            (address("10.116.0.9"), address("192.0.2.1")),
            (address("fd00:116::9"), address("2001:db8::1")),
        ]
    }

    pub(in crate::health::probe) fn echo_reply(ping: &Ping, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let IcmpEchoHeader { id, seq } = ping.header;
        let mut bytes = Vec::new();
        match Family::of(from) {
            // The identifier is another one, as behind a translating gateway.
            Family::V4 => ip(from, to)
                .unwrap()
                .icmpv4_echo_reply(id ^ 1, seq)
                .write(&mut bytes, &ping.mark)
                .unwrap(),
            Family::V6 => ip(from, to)
                .unwrap()
                .icmpv6_echo_reply(id ^ 1, seq)
                .write(&mut bytes, &ping.mark)
                .unwrap(),
        }
        bytes
    }

    pub(in crate::health::probe) fn tcp_answer(
        syn: &Syn,
        build: impl FnOnce(
            PacketBuilderStep<etherparse::TcpHeader>,
        ) -> PacketBuilderStep<etherparse::TcpHeader>,
    ) -> Vec<u8> {
        let mut bytes = Vec::new();
        build(
            ip(syn.target.0, syn.source.0)
                .unwrap()
                .tcp(syn.target.1, syn.source.1, 77, 1024),
        )
        .write(&mut bytes, &[])
        .unwrap();
        bytes
    }

    fn tcp(packet: &[u8]) -> TcpSlice<'_> {
        match SlicedPacket::from_ip(packet).unwrap().transport {
            Some(TransportSlice::Tcp(tcp)) => tcp,
            other => panic!("not TCP: {other:?}"),
        }
    }

    #[test]
    fn an_echo_reply_answers_its_request_even_when_padded_to_the_shortest_ethernet_frame() {
        for (node, target) in pairs() {
            let ping = Ping::fresh();
            let mut reply = echo_reply(&ping, target, node);
            assert!(ping.is_answered_by_packet(&reply));
            reply.resize(reply.len().max(46) + 10, 0);
            assert!(ping.is_answered_by_packet(&reply));
        }
    }

    #[test]
    fn an_echo_request_and_the_answer_to_another_ping_are_not_answers() {
        for (node, target) in pairs() {
            let ping = Ping::fresh();
            assert!(!ping.is_answered_by_packet(&ping.packet(node, target).unwrap()));
            assert!(!ping.is_answered_by_packet(&echo_reply(&Ping::fresh(), target, node)));
            assert!(
                !ping.is_answered_by_message(Family::of(node), &ping.message(Family::of(node)))
            );
        }
    }

    #[test]
    fn the_packets_are_whole_and_their_checksums_right() {
        for (node, target) in pairs() {
            let packet = Ping::fresh().packet(node, target).unwrap();
            let sliced = SlicedPacket::from_ip(&packet).unwrap();
            match (sliced.transport, node, target) {
                (Some(TransportSlice::Icmpv4(icmp)), ..) => {
                    assert_eq!(
                        icmp.header().icmp_type.calc_checksum(icmp.payload()),
                        icmp.checksum()
                    );
                }
                (Some(TransportSlice::Icmpv6(icmp)), IpAddr::V6(node), IpAddr::V6(target)) => {
                    assert!(icmp.is_checksum_valid(node.octets(), target.octets()));
                }
                other => panic!("not ICMP: {other:?}"),
            }
            let syn = Syn::new((node, 40_000), (target, 443));
            for packet in [syn.packet().unwrap(), syn.reset().unwrap()] {
                let tcp = tcp(&packet);
                let checksum = match (node, target) {
                    (IpAddr::V4(node), IpAddr::V4(target)) => tcp
                        .calc_checksum_ipv4(node.octets(), target.octets())
                        .unwrap(),
                    (IpAddr::V6(node), IpAddr::V6(target)) => tcp
                        .calc_checksum_ipv6(node.octets(), target.octets())
                        .unwrap(),
                    _ => unreachable!(),
                };
                assert_eq!(tcp.checksum(), checksum);
            }
        }
    }

    #[test]
    fn a_source_of_the_other_family_is_an_error() {
        let error = Ping::fresh()
            .packet(address("10.0.0.1"), address("2001:db8::1"))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no source address of the family of 2001:db8::1"
        );
    }

    #[test]
    fn a_syn_is_answered_yes_by_syn_ack_and_no_by_reset_and_by_nothing_else() {
        for (node, target) in pairs() {
            let syn = Syn::new((node, 40_000), (target, 443));
            let next = syn.sequence.wrapping_add(1);
            assert_eq!(
                syn.answer(&tcp_answer(&syn, |tcp| tcp.syn().ack(next))),
                Some(SynAnswer::Opens)
            );
            assert_eq!(
                syn.answer(&tcp_answer(&syn, |tcp| tcp.rst().ack(next))),
                Some(SynAnswer::Refuses)
            );
            assert_eq!(
                syn.answer(&tcp_answer(&syn, |tcp| tcp.syn().ack(next ^ 1))),
                None,
                "the answer to another attempt"
            );
            assert_eq!(
                syn.answer(&tcp_answer(&syn, PacketBuilderStep::rst)),
                None,
                "anybody could have guessed that"
            );
            assert_eq!(syn.answer(&tcp_answer(&syn, |tcp| tcp.ack(next))), None);
            let other_port = Syn {
                source: (node, 40_001),
                ..syn
            };
            assert_eq!(
                other_port.answer(&tcp_answer(&syn, |tcp| tcp.syn().ack(next))),
                None
            );
            assert_eq!(
                tcp(&syn.reset().unwrap()).sequence_number(),
                next,
                "what the target accepts as a reset"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_from_the_network_panic_or_pass_for_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..READ), version in 0_u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | *first & 0x0f;
            }
            let ping = Ping::fresh();
            prop_assert!(!ping.is_answered_by_packet(&bytes));
            for family in Family::BOTH {
                prop_assert!(!ping.is_answered_by_message(family, &bytes));
            }
            for (node, target) in pairs() {
                prop_assert_eq!(Syn::new((node, 40_000), (target, 443)).answer(&bytes), None);
            }
        }
    }
}
