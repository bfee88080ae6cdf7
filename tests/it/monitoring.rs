//! The dashboard and the alert rules speak of metrics that exist, with labels that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use egress_routes::report::metrics::{Change, Metrics};
use egress_routes::report::status::GatewayState;
use serde_json::Value;

use super::api::status;

/// Series names, each with its labels, as an agent with something to report renders them.
fn rendered() -> BTreeMap<String, BTreeSet<String>> {
    let metrics = Metrics::new();
    metrics.observe(&status("0123456789ab", 9, GatewayState::Up));
    metrics.applied(Duration::from_millis(40));
    metrics.changed(Change::Replace, 1);
    metrics.asked_api("get", "200");
    let mut series = BTreeMap::<String, BTreeSet<String>>::new();
    for line in metrics
        .render()
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
    {
        let name = line.split(['{', ' ']).next().unwrap();
        let labels = line
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map_or("", |(labels, _)| labels);
        let names = labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .map(|(name, _)| name.to_owned());
        series.entry(name.to_owned()).or_default().extend(names);
    }
    series
}

/// Every `egress_routes_…` in an expression, with the labels that it is selected by.
fn used(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(at) = rest.find("egress_routes_") {
        let end = rest[at..]
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .map_or(rest.len(), |end| at + end);
        let name = rest[at..end].to_owned();
        rest = &rest[end..];
        let selector = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'))
            .map_or("", |(selector, _)| selector);
        let labels = selector
            .split(',')
            .filter_map(|part| part.split_once(['=', '!']))
            .map(|(label, _)| label.trim().to_owned());
        found.push((name, labels.collect()));
    }
    found
}

fn assert_all_exist(place: &str, expression: &str, series: &BTreeMap<String, BTreeSet<String>>) {
    let used = used(expression);
    assert!(
        !used.is_empty(),
        "{place}: `{expression}` is about none of our metrics"
    );
    for (name, labels) in used {
        let known = series
            .get(&name)
            .unwrap_or_else(|| panic!("{place}: there is no metric {name} in `{expression}`"));
        for label in labels {
            assert!(
                known.contains(&label),
                "{place}: {name} has no label {label}; it has {known:?}"
            );
        }
    }
}

fn file(name: &str) -> String {
    fs::read_to_string(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/monitoring")).join(name),
    )
    .unwrap()
}

#[test]
fn every_alert_asks_for_metrics_that_exist_and_says_what_is_wrong() {
    let rules: Value = serde_yaml::from_str(&file("egress-routes.rules.yaml")).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 8);
    let (series, tests) = (rendered(), file("egress-routes.test.yaml"));
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert_all_exist(name, rule["expr"].as_str().unwrap(), &series);
        assert!(
            rule["annotations"]["summary"].is_string()
                && rule["annotations"]["description"].is_string(),
            "{name}"
        );
        assert!(tests.contains(name), "{name} has no test");
    }
}

#[test]
fn the_prometheus_operator_gets_the_same_rules_and_scrapes_the_port_that_the_pods_have() {
    let yaml = |text: &str| -> Value { serde_yaml::from_str(text).unwrap() };
    let plain = yaml(&file("egress-routes.rules.yaml"));
    let rule = yaml(&file("prometheusrule.yaml"));
    assert_eq!(rule["kind"], "PrometheusRule");
    assert_eq!(rule["spec"], plain);
    let monitor = yaml(&file("podmonitor.yaml"));
    let daemonset = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/daemonset.yaml"
    ))
    .unwrap();
    let objects: Vec<Value> = serde_yaml::from_multiple(&daemonset).unwrap();
    let set = objects
        .iter()
        .find(|object| object["kind"] == "DaemonSet")
        .unwrap();
    assert_eq!(monitor["spec"]["selector"], set["spec"]["selector"]);
    let port = &set["spec"]["template"]["spec"]["containers"][0]["ports"][0];
    assert_eq!(
        monitor["spec"]["podMetricsEndpoints"][0]["port"],
        port["name"]
    );
}

#[test]
fn every_panel_of_the_dashboard_asks_for_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&file("dashboard.json")).unwrap();
    let (series, mut shown) = (rendered(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert_all_exist(panel["title"].as_str().unwrap(), expression, &series);
            shown.extend(used(expression).into_iter().map(|(name, _)| name));
        }
    }
    let plain = |name: &&String| !name.ends_with("_sum") && !name.ends_with("_count");
    let missing: Vec<&String> = series
        .keys()
        .filter(plain)
        .filter(|name| !shown.contains(*name))
        .collect();
    assert!(missing.is_empty(), "no panel shows {missing:?}");
}
