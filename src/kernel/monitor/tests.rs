//! What is noticed and what the filters of the kernel keep back.

use super::*;

/// A message with one attribute, a nexthop's id.
fn message(kind: u16, protocol: u8) -> Vec<u8> {
    let mut message = 36u32.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.resize(28, 0);
    message[HEADER + RTM_PROTOCOL] = protocol;
    message[HEADER + RTM_TYPE] = 1;
    message.extend([8u16.to_ne_bytes(), RTA_NH_ID.to_ne_bytes()].concat());
    message.extend(7u32.to_ne_bytes());
    message
}

fn classify_here(message: &[u8], protocol: u8) -> Option<Notification> {
    classify(message, protocol, &GatewayLinks::default())
}

/// The same with a gateway of its own instead.
fn stray(protocol: u8) -> Vec<u8> {
    let mut message = message(RTM_NEWROUTE, protocol);
    message[30..32].copy_from_slice(&5u16.to_ne_bytes());
    message
}

#[test]
fn only_what_others_do_to_routes_is_a_reason_to_look() {
    assert_eq!(classify_here(&message(RTM_NEWROUTE, 230), 230), None);
    assert_eq!(classify_here(&message(RTM_NEWROUTE, 4), 230), None);
    assert_eq!(
        classify_here(&stray(230), 230),
        Some(Notification::Ours),
        "we never write such a route"
    );
    let mut guard = stray(230);
    guard[HEADER + RTM_TYPE] = RTN_BLACKHOLE;
    assert_eq!(classify_here(&guard, 230), None);
    let mut cut = stray(230);
    cut[28..30].copy_from_slice(&3u16.to_ne_bytes());
    assert_eq!(
        classify_here(&cut, 230),
        Some(Notification::Ours),
        "an attribute shorter than its own head ends the reading"
    );
    assert_eq!(
        classify_here(&message(RTM_DELROUTE, 230), 230),
        Some(Notification::Ours)
    );
    for (protocol, notification) in [(230, Some(Notification::Ours)), (4, None)] {
        let mut gone = message(RTM_DELNEXTHOP, 0);
        gone[HEADER + NH_PROTOCOL] = protocol;
        assert_eq!(classify_here(&gone, 230), notification);
    }
    for kind in [RTM_NEWRULE, RTM_DELRULE] {
        assert_eq!(
            classify_here(&message(kind, 0), 230),
            Some(Notification::Rule)
        );
    }
    assert_eq!(
        classify_here(&message(RTM_NEWLINK, 0), 230),
        Some(Notification::Link)
    );
    assert_eq!(
        classify_here(&message(RTM_DELADDR, 0), 230),
        Some(Notification::Link)
    );
}

/// Whether a message comes through a filter; filters work on any socket.
fn through(filter: &[SockFilter]) -> impl Fn(&[u8]) -> bool + use<> {
    let (from, to) = std::os::unix::net::UnixDatagram::pair().unwrap();
    to.set_nonblocking(true).unwrap();
    SockRef::from(&to).attach_filter(filter).unwrap();
    move |message| {
        let _ = from.send(message);
        to.recv(&mut [0; 64]).is_ok()
    }
}

#[test]
fn routes_of_others_are_noticed_in_the_tables_that_matter() {
    for (table, numbers) in [(254, [254, 254]), (100, [254, 100]), (1000, [254, 252])] {
        let ownership = Ownership {
            protocol: 230,
            metric: 4242,
            table,
        };
        let arrives = through(&foreign_only(&ownership));
        for (protocol, number) in [4, 230]
            .into_iter()
            .flat_map(|p| (0..=255).map(move |t| (p, t)))
        {
            let mut message = message(RTM_NEWROUTE, protocol);
            message[HEADER + RTM_TABLE] = number;
            let matters = protocol == 4 && numbers.contains(&number);
            assert_eq!(is_foreign(&message, &ownership), matters);
            assert_eq!(arrives(&message), matters, "{protocol} {number}");
        }
    }
}

#[test]
fn of_links_and_addresses_only_those_that_a_gateway_depends_on_are_urgent() {
    let message = |kind, family: i32, len, index: u32| {
        let mut message = message(kind, 0);
        message[HEADER] = u8::try_from(family).unwrap();
        message[HEADER + IFA_PREFIXLEN] = len;
        message[HEADER + IF_INDEX..HEADER + IF_INDEX + 4].copy_from_slice(&index.to_ne_bytes());
        message
    };
    let service = message(RTM_NEWADDR, libc::AF_INET, 32, 9);
    let subnet = message(RTM_NEWADDR, libc::AF_INET6, 64, 9);
    let veth = message(RTM_NEWLINK, 0, 0, 9);
    let near = message(RTM_DELADDR, libc::AF_INET, 32, 3);
    let urgent = |links: &GatewayLinks| {
        [&service, &subnet, &veth, &near]
            .map(|m| classify(m, 230, links) == Some(Notification::Link))
    };
    let links = GatewayLinks::default();
    assert_eq!(
        urgent(&links),
        [false, true, true, false],
        "nothing is known yet"
    );
    *links.0.lock().unwrap() = Some([3].into());
    assert_eq!(urgent(&links), [false, false, false, true]);
    assert_eq!(classify(&veth, 230, &links), Some(Notification::Foreign));
    // A gateway that no link leads to waits for any.
    links.update(["10.116.0.5".parse().unwrap()], &Kernel::default());
    assert_eq!(urgent(&links), [false, true, true, false]);
}

#[test]
fn the_kernel_keeps_back_what_would_be_passed_over_and_nothing_else() {
    let arrives = through(&without_our_own_writing(230));
    let mut guard = stray(230);
    guard[HEADER + RTM_TYPE] = RTN_BLACKHOLE;
    let kinds = [
        RTM_NEWLINK,
        RTM_DELADDR,
        RTM_NEWRULE,
        RTM_DELRULE,
        RTM_NEWROUTE,
        RTM_DELROUTE,
        RTM_NEWNEXTHOP,
        RTM_DELNEXTHOP,
    ];
    let nexthop = |kind| {
        let mut nexthop = message(kind, 4);
        nexthop[HEADER + NH_PROTOCOL] = 230;
        nexthop
    };
    let nexthops = [nexthop(RTM_NEWNEXTHOP), nexthop(RTM_DELNEXTHOP)];
    let messages = kinds
        .into_iter()
        .flat_map(|kind| [message(kind, 230), message(kind, 4)]);
    for message in messages
        .chain([stray(230), stray(4), guard])
        .chain(nexthops)
    {
        assert_eq!(
            arrives(&message),
            classify_here(&message, 230).is_some(),
            "{message:?}"
        );
    }
}

#[test]
fn the_weightiest_message_of_a_datagram_counts_and_garbage_ends_it() {
    let mut datagram = message(RTM_NEWROUTE, 4);
    datagram.extend(message(RTM_DELROUTE, 230));
    assert_eq!(
        classify_all(&datagram, 230, &GatewayLinks::default()),
        Some(Notification::Ours)
    );
    datagram.extend([1, 0, 0, 0, 9]);
    assert_eq!(
        classify_all(&datagram, 230, &GatewayLinks::default()),
        Some(Notification::Ours)
    );
    assert_eq!(classify_all(&[255; 7], 230, &GatewayLinks::default()), None);
    assert_eq!(classify_all(&[], 230, &GatewayLinks::default()), None);
}
