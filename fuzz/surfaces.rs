//! What comes from outside, each as a function of any bytes that must neither panic nor take long nor let anything through.
//!
//! Fuzzed by `make fuzz`, and run over the kept corpus by the integration tests.

use std::collections::BTreeMap;
use std::net::IpAddr;

use egress_routes::config::{Config, Files, check_any_bytes, parse};
use egress_routes::kernel::dump::{read_batch_errors, read_links, read_nexthops};
use egress_routes::kernel::saved;
use egress_routes::net::prefix::Family;
use egress_routes::routing::batch::Ownership;
use egress_routes::routing::diff::diff;
use egress_routes::routing::node_facts::Facts;
use egress_routes::routing::resolve::{Inputs, resolve};
use egress_routes::routing::state::{Kernel, Link};

const OURS: Ownership = Ownership {
    protocol: 230,
    metric: 4242,
    table: 254,
};
const ROUTES_YAML: &[u8] = b"routes:
  - name: fuzz
    gateways: [10.116.0.5, 10.116.0.6, 'fd00:116::5']
    destinations: [0.0.0.0/0, '::/0', 203.0.113.0/24]
    destinationFiles: [aws.txt]
    except: [52.94.0.0/22]
    leakGuard: true
    healthCheck: {type: none}
protected: [64.225.0.0/16]
";

/// A `routes.yaml`, and behind a zero byte the list file `aws.txt`.
pub fn configuration(data: &[u8]) {
    let (routes, list) = match data.iter().position(|byte| *byte == 0) {
        Some(zero) => (&data[..zero], &data[zero + 1..]),
        None => (data, &data[data.len()..]),
    };
    check_any_bytes(routes, list);
    if let Some(config) = config(routes, list) {
        decide(&config, &node());
    }
}

/// A list file.
pub fn list(data: &[u8]) {
    check_any_bytes(ROUTES_YAML, data);
    if let Some(config) = config(ROUTES_YAML, data) {
        decide(&config, &node());
    }
}

/// What `ip -j` and `ip route save` print; the first byte selects the question.
pub fn ip_dumps(data: &[u8]) {
    let Some((question, said)) = data.split_first() else {
        return;
    };
    let mut kernel = Kernel::default();
    let mut routes = |family| {
        let saved = saved::read_routes(said, family, &OURS);
        saved.map(|saved| saved.into_kernel(&mut kernel)).is_ok()
    };
    let understood = match question {
        b'4' => routes(Family::V4),
        b'6' => routes(Family::V6),
        b'n' => read_nexthops(said, &mut kernel).is_ok(),
        _ => read_links(said, &mut kernel).is_ok(),
    };
    if understood {
        let here = node();
        kernel.links.extend(here.links);
        let config = config(ROUTES_YAML, b"198.51.100.0/24\n").expect("this one is good");
        decide(&config, &kernel);
    }
}

/// What `ip -force -batch -` prints on stderr.
pub fn batch_errors(data: &[u8]) {
    let errors = read_batch_errors(&String::from_utf8_lossy(data));
    let words = errors
        .refused
        .iter()
        .map(|(_, words)| words)
        .chain(&errors.stopped);
    words.for_each(|words| assert!(words.len() < 310, "{} bytes", words.len()));
    assert!(errors.refused.len() <= data.len() / "Command failed".len());
}

fn config(routes: &[u8], list: &[u8]) -> Option<Config> {
    let keys = BTreeMap::from([
        ("routes.yaml".to_owned(), routes.to_vec()),
        ("aws.txt".to_owned(), list.to_vec()),
    ]);
    parse(&Files::from_keys(&keys)?)
        .ok()
        .map(|checked| checked.config)
}

fn node() -> Kernel {
    let link = |name: &str, index, loopback, addresses: &[(&str, u8)]| Link {
        name: name.into(),
        index,
        up: true,
        carrier: true,
        loopback,
        addresses: addresses
            .iter()
            .filter_map(|(a, len)| Some((a.parse::<IpAddr>().ok()?, *len)))
            .collect(),
        broadcasts: Vec::new(),
    };
    Kernel {
        links: vec![
            link("lo", 1, true, &[("127.0.0.1", 8), ("::1", 128)]),
            link("eth1", 2, false, &[("10.116.0.2", 24), ("fd00:116::2", 64)]),
        ],
        ..Kernel::default()
    }
}

/// Decides what would be written; every line of it must be one that `ip` takes for what it is meant to be.
fn decide(config: &Config, kernel: &Kernel) {
    let inputs = Inputs {
        config,
        kernel,
        facts: &Facts::NoCluster,
        health: &BTreeMap::new(),
        ownership: &OURS,
    };
    let Ok(resolution) = resolve(&inputs) else {
        return;
    };
    let plan = diff(&resolution.wanted, kernel, &OURS, true);
    let mut text = String::new();
    for line in plan
        .v6_blackholes()
        .chain(plan.writes())
        .chain(plan.deletions())
    {
        text.clear();
        line.render(&OURS, &mut text);
        let body = text.strip_suffix('\n').expect("a line ends");
        assert!(
            body.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
                && !body.contains(['"', '\'', '\\', '#']),
            "{body:?}"
        );
        let verb = [
            "route add ",
            "route replace ",
            "route del ",
            "nexthop replace id ",
            "nexthop del id ",
        ];
        assert!(verb.iter().any(|verb| body.starts_with(verb)), "{body:?}");
        assert!(
            body.starts_with("nexthop del") || body.contains(" proto 230"),
            "{body:?}"
        );
    }
}
