//! Classic BPF programs: what a socket is to see at all.
//!
//! Pure. They run in the kernel for every packet that a device receives, so they are short, test what is
//! rarest first, and let an answer's first bytes through only.

use std::net::IpAddr;

use socket2::SockFilter;

use super::packet::READ;

/// The classic BPF program of a packet socket that is to see answers from `target` and nothing else: echo replies,
/// or TCP segments that open or refuse. It runs for every packet that its device receives.
pub(super) fn answers_only(target: IpAddr, tcp: bool) -> Vec<SockFilter> {
    match target {
        IpAddr::V4(target) => {
            let mut filter = Filter::default();
            filter.byte_is(
                9,
                if tcp {
                    libc::IPPROTO_TCP
                } else {
                    libc::IPPROTO_ICMP
                },
            );
            filter.word_is(12, target.to_bits());
            // X = length of the IP header, whose options are of any length.
            filter.push(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0);
            filter.transport(libc::BPF_IND, 0, tcp, 0);
            filter.finish()
        }
        IpAddr::V6(target) => {
            let mut filter = Filter::default();
            filter.byte_is(
                6,
                if tcp {
                    libc::IPPROTO_TCP
                } else {
                    libc::IPPROTO_ICMPV6
                },
            );
            for (word, offset) in target.octets().chunks_exact(4).zip((8..).step_by(4)) {
                filter.word_is(
                    offset,
                    word.iter()
                        .fold(0, |value, byte| value << 8 | u32::from(*byte)),
                );
            }
            filter.transport(libc::BPF_ABS, 40, tcp, 129);
            filter.finish()
        }
    }
}

/// A straight line of tests; the first that fails drops the packet.
#[derive(Default)]
struct Filter(Vec<(u32, bool, u32)>);

impl Filter {
    fn push(&mut self, code: u32, k: u32) {
        self.0.push((code, false, k));
    }

    fn test(&mut self, code: u32, k: u32) {
        self.0.push((libc::BPF_JMP | libc::BPF_K | code, true, k));
    }

    fn byte_is(&mut self, offset: u32, value: libc::c_int) {
        self.push(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, offset);
        self.test(libc::BPF_JEQ, value.unsigned_abs());
    }

    fn word_is(&mut self, offset: u32, value: u32) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
        self.test(libc::BPF_JEQ, value);
    }

    /// `header` is where the transport header begins, beyond X when `mode` is indirect.
    fn transport(&mut self, mode: u32, header: u32, tcp: bool, echo_reply: u32) {
        const TCP_FLAGS: u32 = 13;
        const SYN_OR_RST: u32 = 0b110;
        self.push(
            libc::BPF_LD | libc::BPF_B | mode,
            if tcp { header + TCP_FLAGS } else { header },
        );
        if tcp {
            self.test(libc::BPF_JSET, SYN_OR_RST);
        } else {
            self.test(libc::BPF_JEQ, echo_reply);
        }
    }

    #[allow(clippy::cast_possible_truncation)] // at most 15 instructions, and opcodes are 16 bits
    fn finish(self) -> Vec<SockFilter> {
        let len = self.0.len();
        let mut program: Vec<SockFilter> = self
            .0
            .into_iter()
            .enumerate()
            // A test that fails jumps over what is left and over the accepting return.
            .map(|(at, (code, test, k))| {
                SockFilter::new(code as u16, 0, if test { (len - at) as u8 } else { 0 }, k)
            })
            .collect();
        program.push(SockFilter::new(
            (libc::BPF_RET | libc::BPF_K) as u16,
            0,
            0,
            READ as u32,
        ));
        program.push(SockFilter::new(
            (libc::BPF_RET | libc::BPF_K) as u16,
            0,
            0,
            0,
        ));
        program
    }
}

/// The program of a socket that is to receive nothing at all.
pub(super) fn nothing() -> [SockFilter; 1] {
    #[allow(clippy::cast_possible_truncation)] // opcodes are 16 bits
    [SockFilter::new(
        (libc::BPF_RET | libc::BPF_K) as u16,
        0,
        0,
        0,
    )]
}

#[cfg(test)]
mod tests {
    use super::super::packet::tests::{echo_reply, pairs, tcp_answer};
    use super::super::packet::{Ping, Syn};
    use super::*;

    /// Whether a packet gets through `answers_only`, as the kernel runs it: filters work on any socket.
    fn passes(target: IpAddr, tcp: bool, packet: &[u8]) -> bool {
        let (from, to) = std::os::unix::net::UnixDatagram::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        socket2::SockRef::from(&to)
            .attach_filter(&answers_only(target, tcp))
            .unwrap();
        from.send(packet).unwrap();
        to.recv(&mut [0; 2048]).is_ok()
    }

    #[test]
    fn the_filter_lets_answers_of_the_target_through_and_nothing_else() {
        for (node, target) in pairs() {
            let ping = Ping::fresh();
            let syn = Syn::new((node, 40_000), (target, 443));
            let elsewhere = Syn::new((node, 40_000), (node, 443));
            let (yes, no) = (
                tcp_answer(&syn, |tcp| tcp.syn().ack(1)),
                tcp_answer(&syn, |tcp| tcp.rst().ack(1)),
            );
            assert!(passes(target, false, &echo_reply(&ping, target, node)));
            assert!(passes(target, true, &yes) && passes(target, true, &no));
            assert!(
                !passes(target, false, &echo_reply(&ping, node, target)),
                "another source"
            );
            assert!(
                !passes(target, false, &ping.packet(target, node).unwrap()),
                "a request"
            );
            assert!(
                !passes(target, false, &yes)
                    && !passes(target, true, &echo_reply(&ping, target, node)),
                "another protocol"
            );
            assert!(
                !passes(target, true, &tcp_answer(&syn, |tcp| tcp.ack(1))),
                "a data segment"
            );
            assert!(
                !passes(
                    target,
                    true,
                    &tcp_answer(&elsewhere, |tcp| tcp.syn().ack(1))
                ),
                "another source"
            );
            assert!(
                !passes(target, true, &yes[..20]),
                "a packet that ends too early"
            );
        }
    }

    #[test]
    fn the_filter_finds_the_transport_header_behind_ipv4_options() {
        let (node, target) = pairs()[0];
        let mut reply = echo_reply(&Ping::fresh(), target, node);
        reply.splice(20..20, [1; 8]); // eight no-operations
        reply[0] = 0x47;
        assert!(passes(target, false, &reply));
        reply[28] = 8;
        assert!(
            !passes(target, false, &reply),
            "an echo request behind options"
        );
    }
}
