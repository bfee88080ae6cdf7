//! Whether a node's labels satisfy a set's `nodeSelector`, as Kubernetes decides it.
//!
//! Pure. Checking what the user wrote is `config`'s.

use std::collections::BTreeMap;

use crate::config::{NodeSelector, Operator};

/// `matchLabels` and `matchExpressions` must all hold; an empty selector matches every node.
pub fn matches(selector: &NodeSelector, labels: &BTreeMap<String, String>) -> bool {
    let label = |key: &String| labels.get(key);
    selector
        .match_labels
        .iter()
        .all(|(key, value)| label(key) == Some(value))
        && selector.match_expressions.iter().all(|requirement| {
            match (&requirement.operator, label(&requirement.key)) {
                (Operator::In(values), Some(value)) => values.contains(value),
                (Operator::NotIn(values), Some(value)) => !values.contains(value),
                (Operator::In(_) | Operator::Exists, None) | (Operator::DoesNotExist, Some(_)) => {
                    false
                }
                (Operator::NotIn(_) | Operator::DoesNotExist, None)
                | (Operator::Exists, Some(_)) => true,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Requirement;

    fn selects(operator: Operator, labels: &[(&str, &str)]) -> bool {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let requirement = Requirement {
            key: "pool".to_owned(),
            operator,
        };
        matches(
            &NodeSelector {
                match_expressions: vec![requirement],
                ..NodeSelector::default()
            },
            &labels,
        )
    }

    #[test]
    fn an_absent_label_satisfies_only_the_negative_operators() {
        let web = || vec!["web".to_owned()];
        assert!(!selects(Operator::In(web()), &[]));
        assert!(selects(Operator::NotIn(web()), &[]));
        assert!(!selects(Operator::Exists, &[]));
        assert!(selects(Operator::DoesNotExist, &[]));
    }

    #[test]
    fn a_present_label_is_compared_by_value() {
        let web = || vec!["web".to_owned()];
        assert!(selects(Operator::In(web()), &[("pool", "web")]));
        assert!(!selects(Operator::In(web()), &[("pool", "db")]));
        assert!(!selects(Operator::NotIn(web()), &[("pool", "web")]));
        assert!(selects(Operator::NotIn(web()), &[("pool", "db")]));
        assert!(selects(Operator::Exists, &[("pool", "")]));
        assert!(!selects(Operator::DoesNotExist, &[("pool", "")]));
    }

    #[test]
    fn every_match_label_must_be_equal() {
        let labels = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<BTreeMap<_, _>>()
        };
        let selector = NodeSelector {
            match_labels: labels(&[("a", "1"), ("b", "2")]),
            ..NodeSelector::default()
        };
        assert!(matches(
            &selector,
            &labels(&[("a", "1"), ("b", "2"), ("c", "3")])
        ));
        assert!(!matches(&selector, &labels(&[("a", "1"), ("b", "3")])));
        assert!(!matches(&selector, &labels(&[("a", "1")])));
        assert!(matches(&NodeSelector::default(), &labels(&[])));
    }
}
