use std::fmt::Write as _;

use super::*;

/// As printed by `ip -j -N rule show` of iproute2 6.1 on Linux 6.18.
const RULES: &str = r#"[{"priority":0,"src":"all","table":"255"},{"priority":9,"src":"all","fwmark":"0x200","fwmask":"0xf00","table":"2004"},
{"priority":1000,"src":"all","l3mdev":null},{"priority":1536,"src":"10.244.0.7","table":"100"},
{"priority":2000,"src":"all","iif":"cni0","uid_start":5,"uid_end":10,"table":"100"},
{"priority":2001,"src":"all","dst":"9.9.9.0","dstlen":24,"ipproto":"ipproto-6","dport":53,"action":"6"},
{"priority":2002,"src":"all","goto":32766},
{"priority":2003,"not":null,"src":"10.0.0.0","srclen":8,"tos":"0x10","table":"100","suppress_prefixlen":0},
{"priority":2005,"src":"all","oif":"eth0","table":"100","flow_from":"3","flow_to":"4"},
{"priority":2007,"src":"all","sport_start":1,"sport_end":100,"table":"100"},
{"priority":2009,"src":"all","tun_id":7,"table":"100"},{"priority":5210,"src":"all","fwmark":"0x80000","fwmask":"0xff0000","table":"52"},
{"priority":32766,"src":"all","table":"254"},{"priority":32767,"src":"all","table":"253"}]"#;

#[test]
fn rules_of_every_kind_are_read_as_ip_writes_them() {
    let rules = read_rules(RULES.as_bytes()).unwrap();
    let mut words = String::new();
    for rule in &rules.0 {
        let _ = writeln!(words, "{}: {rule}", rule.priority);
    }
    insta::assert_snapshot!(words, @"
    0: from all lookup 255
    9: from all fwmark 0x200/0xf00 lookup 2004
    1000: from all lookup [l3mdev-table]
    1536: from 10.244.0.7 lookup 100
    2000: from all iif cni0 uidrange 5-10 lookup 100
    2001: from all to 9.9.9.0/24 ipproto 6 dport 53-53 blackhole
    2002: from all goto 32766
    2003: not from 10.0.0.0/8 tos 0x10 lookup 100
    2005: from all oif eth0 lookup 100
    2007: from all sport 1-100 lookup 100
    2009: from all tun_id lookup 100
    5210: from all fwmark 0x80000/0xff0000 lookup 52
    32766: from all lookup main
    32767: from all lookup 253
    ");
    let beyond: Vec<String> = rules.0.iter().filter_map(Rule::beyond_lookups).collect();
    assert_eq!(
        beyond,
        [
            "it selects packets whose program chose an interface itself",
            "a lookup cannot carry its `tun_id`"
        ]
    );
    assert_eq!(read_rules(b"\n").unwrap(), Rules::default());
    assert!(read_rules(b"[{\"priority\":0,").is_err());
}

#[test]
fn answers_differ_by_their_lines() {
    // As printed by `ip -j -d -N -force -batch` for six lines, the third and fifth of which the kernel refused.
    let printed = br#"[{"type":"1","dst":"203.0.113.0/24","nhid":10,"table":"254","protocol":"230","scope":"0","metric":4242,"flags":[],"nh_info":{"id":10,"group":[{"id":1},{"id":2}],"type":"resilient","resilient_args":{"buckets":32},"scope":"0","protocol":"230","flags":[]},"nexthops":[{"gateway":"10.116.0.5","dev":"eth0","weight":1,"flags":[]},{"gateway":"10.116.0.6","dev":"eth0","weight":1,"flags":[]}]}]
[{"type":"1","dst":"203.0.113.0/24","gateway":"10.116.0.9","dev":"eth0","table":"100","protocol":"4","scope":"0","flags":[]}]
[{"type":"2","dst":"10.116.0.2","dev":"eth0","protocol":"2","table":"255","scope":"254","prefsrc":"10.116.0.2","flags":[]}]
[{"type":"1","dst":"default","via":{"family":"inet6","host":"fe80::1"},"dev":"eth0","table":"254","protocol":"3","scope":"0","flags":[]}]
"#;
    let refused = "RTNETLINK answers: Network is unreachable\nCommand failed -:3\nRTNETLINK answers: Permission denied\nCommand failed -:5\n";
    let errors = || crate::kernel::dump::read_batch_errors(refused);
    let answers = read_answers(printed, errors(), 6).unwrap();
    let words: Vec<String> = answers
        .iter()
        .map(|answer| match answer {
            Answer::Route(found) => format!("{found} table {}", found.table.unwrap()),
            Answer::Refused(words) => words.clone(),
        })
        .collect();
    assert_eq!(
        words,
        [
            "203.0.113.0/24 via 10.116.0.5 dev eth0 table 254",
            "203.0.113.0/24 via 10.116.0.9 dev eth0 table 100",
            "Network is unreachable",
            "local 10.116.0.2/32 dev eth0 table 255",
            "Permission denied",
            "default via fe80::1 dev eth0 table 254",
        ]
    );
    for wrong in [5, 7] {
        assert!(
            read_answers(printed, errors(), wrong).is_err(),
            "{wrong} were asked"
        );
    }
}
