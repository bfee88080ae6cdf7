use super::*;

const OURS: Ownership = Ownership::DEFAULT;

/// A message as the kernel makes it.
struct Message {
    /// `struct rtmsg` without its flags: family, lengths, tos, table, protocol, scope, type.
    head: [u8; 8],
    attributes: Vec<(u16, Vec<u8>)>,
}

fn message(head: [u8; 8]) -> Message {
    Message {
        head,
        attributes: Vec::new(),
    }
}

impl Message {
    fn with(mut self, kind: u16, value: impl Into<Vec<u8>>) -> Self {
        self.attributes.push((kind, value.into()));
        self
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.with(kind, value.to_ne_bytes())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut body = self.head.to_vec();
        body.extend([0; 4]);
        for (kind, value) in &self.attributes {
            let length = u16::try_from(value.len() + 4).unwrap();
            body.extend(length.to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut bytes = u32::try_from(HEADER + body.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(RTM_NEWROUTE.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }
}

/// 203.0.113.0/24 nhid 200 proto 230 metric 4242, which repeats its group's members.
fn ours() -> Message {
    message([2, 24, 0, 0, 254, 230, 0, 1])
        .number(RTA_TABLE, 254)
        .with(RTA_DST, [203, 0, 113, 0])
        .number(RTA_PRIORITY, 4242)
        .number(RTA_NH_ID, 200)
        .with(RTA_MULTIPATH, [0; 28])
}

fn saved(messages: &[Message]) -> Vec<u8> {
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    bytes.extend(messages.iter().flat_map(Message::bytes));
    bytes
}

fn kernel(messages: &[Message], family: Family) -> Kernel {
    let link = |name: &str, index| Link {
        name: name.into(),
        index,
        up: true,
        carrier: true,
        loopback: false,
        addresses: Vec::new(),
        broadcasts: Vec::new(),
    };
    let mut kernel = Kernel {
        links: vec![link("eth0", 2), link("e'1", 3)],
        ..Kernel::default()
    };
    read_routes(&*saved(messages), family, &OURS)
        .unwrap()
        .into_kernel(&mut kernel);
    kernel
}

#[test]
fn routes_are_sorted_into_ours_strays_and_theirs() {
    let guard = message([2, 24, 0, 0, 254, 230, 0, RTN_BLACKHOLE])
        .with(RTA_DST, [203, 0, 113, 0])
        .number(RTA_PRIORITY, 4_294_967_294);
    let stray = message([2, 32, 0, 16, 100, 230, 0, 1])
        .with(RTA_DST, [198, 51, 100, 7])
        .with(RTA_GATEWAY, [10, 116, 0, 9])
        .number(RTA_OIF, 2);
    let of_a_link_with_a_bad_name = message([2, 32, 0, 0, 254, 230, 0, 1])
        .with(RTA_DST, [198, 51, 100, 8])
        .number(RTA_OIF, 3);
    let default = message([2, 0, 0, 0, 254, 3, 0, 1])
        .with(RTA_GATEWAY, [10, 0, 0, 1])
        .number(RTA_OIF, 2);
    let by_the_other_family = message([2, 24, 0, 0, 254, 4, 0, 1])
        .with(RTA_DST, [192, 0, 2, 0])
        .with(RTA_VIA, [&10_u16.to_ne_bytes()[..], &[0xfe; 16]].concat())
        .number(RTA_OIF, 9);
    let local = message([2, 32, 0, 0, 255, 2, 254, 2]).with(RTA_DST, [10, 116, 0, 2]);
    let elsewhere = message([2, 8, 0, 0, 0, 4, 0, 1])
        .number(RTA_TABLE, 1000)
        .with(RTA_DST, [10, 0, 0, 0])
        .number(RTA_NH_ID, 77);
    let prohibited = message([2, 16, 0, 0, 0, 4, 0, 8])
        .number(RTA_TABLE, 1000)
        .with(RTA_DST, [10, 1, 0, 0]);
    let kernel = kernel(
        &[
            ours(),
            guard,
            stray,
            of_a_link_with_a_bad_name,
            default,
            by_the_other_family,
            local,
            elsewhere,
            prohibited,
        ],
        Family::V4,
    );
    let own: Vec<String> = kernel
        .own
        .iter()
        .map(|r| {
            let RouteKey {
                prefix,
                metric,
                table,
                tos,
            } = r.key;
            format!("{prefix} {metric} {table} {tos} {:?}", r.target)
        })
        .collect();
    assert_eq!(
        own,
        [
            "203.0.113.0/24 4242 254 0 Nexthop(200)",
            "203.0.113.0/24 4294967294 254 0 Blackhole",
            "198.51.100.7/32 0 100 16 Stray(\" via 10.116.0.9 dev eth0\")",
            "198.51.100.8/32 0 254 0 Stray(\"\")",
        ]
    );
    let foreign: Vec<String> = kernel
        .foreign
        .iter()
        .map(|r| format!("{r}, gatewayed: {}", r.gatewayed))
        .collect();
    assert_eq!(
        foreign,
        [
            "0.0.0.0/0 via 10.0.0.1 dev eth0 proto boot metric 0, gatewayed: true",
            "192.0.2.0/24 via fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe dev if9 proto static metric 0, gatewayed: true",
        ]
    );
    let drops = [(None, "10.0.0.0/8"), (Some("prohibit"), "10.1.0.0/16")];
    let there = drops.map(|(drops, prefix)| Elsewhere {
        table: 1000,
        prefix: prefix.parse().unwrap(),
        drops,
    });
    assert_eq!(kernel.elsewhere, there);
    assert_eq!(kernel.lent, [77].into());
}

#[test]
fn a_route_from_a_source_is_a_stray_and_a_prefix_that_no_person_may_write_does_not_fail_the_read() {
    let from = message([10, 0, 64, 0, 254, 230, 0, 1])
        .with(RTA_SRC, [&[0x20, 1, 0xd, 0xb8][..], &[0; 12]].concat())
        .number(RTA_NH_ID, 200);
    let mapped = message([10, 96, 0, 0, 254, 2, 0, 7])
        .with(RTA_DST, [&[0; 10][..], &[0xff; 2], &[0; 4]].concat());
    let kernel = kernel(&[from, mapped], Family::V6);
    assert_eq!(
        kernel.own[0].target,
        Target::Stray(Box::new(" from 2001:db8::/64".to_owned()))
    );
    assert_eq!(kernel.foreign.len(), 1);
}

#[test]
fn what_is_cut_short_or_is_something_else_is_an_error_and_no_routes_are_not() {
    let read = |bytes: &[u8]| read_routes(bytes, Family::V4, &OURS).map(|saved| saved.own.len());
    assert_eq!(read(&saved(&[])), Ok(0));
    let whole = saved(&[ours(), ours()]);
    assert_eq!(read(&whole), Ok(2));
    let first = saved(&[ours()]).len();
    for cut in (0..whole.len()).filter(|cut| *cut != 4 && *cut != first) {
        assert!(read(&whole[..cut]).is_err(), "cut to {cut} bytes");
    }
    assert!(
        read(b"Segmentation fault <html>")
            .unwrap_err()
            .contains("ip route save")
    );
    let mut done = saved(&[ours()]);
    done[8] = 3;
    assert!(read(&done).unwrap_err().contains("type 3"));
    let mut endless = saved(&[ours()]);
    endless[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert!(read(&endless).is_err());
    assert!(
        read_routes(&*whole, Family::V6, &OURS).is_err(),
        "the other family"
    );
    assert!(
        read(&saved(&[
            message([2, 8, 0, 0, 254, 3, 0, 1]).with(RTA_DST, [10])
        ]))
        .is_err()
    );
}

#[test]
fn what_two_reads_saw_is_there_once() {
    let read = |messages: &[Message]| read_routes(&*saved(messages), Family::V4, &OURS).unwrap();
    let other = || message([2, 8, 0, 0, 254, 3, 0, 1]).with(RTA_DST, [10, 0, 0, 0]);
    let mut saved = read(&[ours(), other()]);
    saved.merge(read(&[other()]));
    saved.merge(read(&[ours(), ours()]));
    assert_eq!((saved.own.len(), saved.foreign.len()), (1, 1));
}
