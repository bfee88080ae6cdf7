//! `balance`: what a change of gateways does to connections that are open.

use std::collections::{BTreeMap, BTreeSet};

use super::talk::{CONNECTIONS, Talk};
use super::traffic::{CHECK, LIMIT};
use crate::lab::{FABRIC, G3_PUBLIC};
use crate::lab::{Node, WrappedIp};

/// Connections that broke although their gateway was well.
#[derive(Debug)]
struct Broken {
    /// How many each gateway carried.
    carried: BTreeMap<String, usize>,
    of_the_cut: usize,
    of_the_others: usize,
    at_the_return: usize,
    opened_between: usize,
}

fn cut_and_return(wrapper: Option<&WrappedIp>) -> Broken {
    let node = Node::new(&format!(
        "routes:\n- name: a\n  gateways: [10.116.0.5, 10.116.0.6, 10.116.0.7]\n  destinations: [198.18.0.0/15]\n  {CHECK}\n"
    ));
    let agent = match wrapper {
        Some(wrapper) => node.agent_in_force_behind(wrapper),
        None => node.agent_in_force(&[]),
    };
    assert_eq!(
        agent.log().contains("no resilient nexthop groups"),
        wrapper.is_some(),
        "{}",
        agent.log()
    );
    node.wait_for_gateways("a", &["up*", "up*", "up*"]);
    let mut talk = Talk::start(&node);
    let sources = talk.sources();
    let mut carried = BTreeMap::new();
    for source in sources.values() {
        *carried.entry(source.clone()).or_default() += 1;
    }
    assert_eq!(carried.len(), 3, "{carried:?}");
    talk.round();
    assert_eq!(talk.broken(), BTreeSet::new());

    let states = || node.gateways("a").into_values().collect::<Vec<_>>();
    node.lab.ip(FABRIC, "link set g3-eth1 down");
    talk.until(|| states() == ["up*", "up*", "down"]);
    let first = talk.broken();
    let of_the_cut = first.iter().filter(|to| sources[*to] == G3_PUBLIC).count();
    let mut opened_between = Talk::start(&node);
    node.lab.ip(FABRIC, "link set g3-eth1 up");
    talk.until(|| states() == ["up*", "up*", "up*"]);
    (0..3).for_each(|_| opened_between.round());
    let at_the_return = talk.broken().difference(&first).count();
    Broken {
        carried,
        of_the_cut,
        of_the_others: first.len() - of_the_cut,
        at_the_return,
        opened_between: opened_between.broken().len(),
    }
}

#[test]
fn a_gateway_that_is_cut_and_returns_breaks_no_connection_of_the_others() {
    // How a kernel before 5.13 answers: the group is refused, the line is known.
    let without = WrappedIp::new("sed 's/ group .* type resilient .*/ group 1/'");
    let (resilient, plain) = (cut_and_return(None), cut_and_return(Some(&without)));
    println!(
        "{CONNECTIONS} connections over three gateways; one is cut and returns    resilient    plain groups"
    );
    println!(
        "  carried by each gateway                      {:?}    {:?}",
        resilient.carried.values(),
        plain.carried.values()
    );
    for (what, of) in [
        (
            "broken, of the gateway that was cut",
            (|b: &Broken| b.of_the_cut) as fn(&Broken) -> usize,
        ),
        ("broken at the cut, of the other two", |b| b.of_the_others),
        ("broken at its return, of those that were left", |b| {
            b.at_the_return
        }),
        (
            "broken at its return, of 300 that were opened without it",
            |b| b.opened_between,
        ),
    ] {
        println!("  {what:<63} {:>9} {:>15}", of(&resilient), of(&plain));
    }
    assert_eq!(
        (
            resilient.of_the_others,
            resilient.at_the_return,
            resilient.opened_between
        ),
        (0, 0, 0)
    );
    assert_eq!(
        resilient.of_the_cut, resilient.carried[G3_PUBLIC],
        "nobody but the gateway knows what it translated"
    );
    assert!(
        plain.of_the_others > 0 && plain.opened_between > 0,
        "the baseline shows nothing: {plain:?}"
    );
}

#[test]
fn connections_stay_when_the_agent_is_replaced_or_killed_and_when_a_gateway_is_added_to_the_list() {
    let routes = |gateways: &str| {
        format!(
            "routes:\n- name: a\n  gateways: [{gateways}]\n  destinations: [198.18.0.0/15]\n  {CHECK}\n"
        )
    };
    let mut node = Node::new(&routes("10.116.0.5, 10.116.0.6"));
    let mut agent = node.agent_in_force(&[]);
    node.wait_for_gateways("a", &["up*", "up*"]);
    let mut talk = Talk::start(&node);
    node.volume
        .routes(&routes("10.116.0.5, 10.116.0.6, 10.116.0.7"));
    talk.until(|| node.gateways("a").into_values().collect::<Vec<_>>() == ["up*", "up*", "up*"]);
    agent.signal("TERM");
    assert_eq!(agent.ends(LIMIT), Some(0));
    let mut agent = node.agent_in_force(&[]);
    talk.until(|| true);
    agent.kill();
    let _agent = node.agent_in_force(&[]);
    talk.until(|| true);
    assert_eq!(talk.broken(), BTreeSet::new());
}
