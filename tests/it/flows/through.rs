//! A gateway that answers and yet does not forward.

use super::traffic::CHECK;
use super::traffic::LIMIT;
use crate::lab::Node;
use crate::lab::{G2_PUBLIC, wait_until};

#[test]
fn a_gateway_that_answers_ping_but_drops_what_it_should_forward_is_taken_out_with_target_and_stays_in_without()
 {
    let through = CHECK.replace('{', "{target: 192.0.2.1, ");
    let gateways = "gateways: [10.116.0.5, 10.116.0.6]";
    let node = Node::new(&format!(
        "routes:\n- name: through\n  {gateways}\n  destinations: [198.18.0.0/24]\n  {through}\n\
         - name: itself\n  {gateways}\n  destinations: [198.19.0.0/24]\n  {CHECK}\n"
    ));
    let _agent = node.agent_in_force(&[]);
    node.wait_for_gateways("through", &["up*", "up*"]);
    node.wait_for_gateways("itself", &["up*", "up*"]);
    let to = |net: &str| (1..=32).map(|n| format!("{net}.{n}")).collect::<Vec<_>>();
    let sources = |net: &str| -> Vec<String> {
        let to = to(net);
        let answers = node
            .lab
            .sources("nd", &to.iter().map(String::as_str).collect::<Vec<_>>());
        answers
            .into_values()
            .map(|source| source.map_or("-".to_owned(), |source| source.to_string()))
            .collect()
    };
    node.lab.nft(
        "g1",
        "table ip fault {\nchain forward {\ntype filter hook forward priority 0; policy drop\n}\n}",
    );
    node.wait_for_gateways("through", &["down", "up*"]);
    assert!(sources("198.18.0").iter().all(|source| source == G2_PUBLIC));
    let without = sources("198.19.0");
    println!(
        "without target, {} of {} addresses are lost",
        without.iter().filter(|s| *s == "-").count(),
        without.len()
    );
    assert!(
        without.iter().any(|source| source == "-")
            && without.iter().any(|source| source == G2_PUBLIC),
        "{without:?}"
    );
    node.wait_for_gateways("itself", &["up*", "up*"]);

    node.lab
        .must("g1", &["nft", "delete", "table", "ip", "fault"]);
    node.wait_for_gateways("through", &["up*", "up*"]);
    assert!(wait_until(LIMIT, || !sources("198.19.0").contains(&"-".to_owned())));
}
