//! A route that somebody else adds between the read of the kernel and the write: it stays.

use super::*;

#[test]
fn a_foreign_route_that_comes_between_the_read_and_the_write_is_not_overwritten_and_ours_comes_when_it_goes()
 {
    let mut node = node();
    node.volume
        .routes(&routes(&[set("a", G1, "203.0.113.0/26", "")]));
    let theirs = [
        ("-4", "198.51.100.0/24", "192.0.2.1"),
        ("-6", "2001:db8:7::/48", "fd00:116::9"),
    ];
    // What the agent reads first does not have them: they come with the very batch that brings ours.
    let add: String = theirs
        .iter()
        .map(|(family, to, via)| {
            format!("ip {family} route add {to} via {via} proto static metric 4242\n")
        })
        .collect();
    let once = node.path().join("once");
    let batch = node.path().join("batch");
    let ip = WrappedIp::new(&format!(
        "{{ cat >{batch}; if [ ! -e {once} ] && grep -q 198.51.100.0/24 {batch}; then : >{once}\n{add}fi; cat {batch}; }}",
        batch = batch.display(),
        once = once.display()
    ));
    let agent = node.agent_behind(&ip, &["--resync", "1s"]);
    in_force(&agent, 1);
    let mut wanted = BTreeSet::from(["203.0.113.0/26".to_owned()]);
    assert_eq!(node.own(), wanted);
    let destinations = "203.0.113.0/26, 198.51.100.0/24, '2001:db8:7::/48'";
    let yaml = routes(&[set("a", &format!("{G1}, '{G1_V6}'"), destinations, "")]);
    node.volume.routes(&yaml);
    let status = node.becomes("Degraded");
    assert!(once.exists(), "the batch came");
    let shown = theirs
        .map(|(family, to, _)| node.lab.ip("nd", &format!("{family} -N route show {to}")))
        .concat();
    assert!(
        shown.matches("proto 4 ").count() == 2 && !shown.contains("proto 230"),
        "{shown}\n{}",
        agent.log()
    );
    let message = status["message"].as_str().unwrap();
    assert!(
        message.contains("198.51.100.0/24 metric 4242 belongs to route protocol 4"),
        "{message}"
    );
    for (family, to, _) in theirs {
        node.lab
            .ip("nd", &format!("{family} route del {to} proto static"));
        wanted.insert(to.to_owned());
    }
    node.owns(&wanted);
    node.becomes("Ready");
}
