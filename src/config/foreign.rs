//! Files that are something else: a provider's JSON, a table, a web page, a manifest.
//!
//! Pure. Each is one problem with what to do about it, instead of one for each of its lines.

use super::problem::lines;
use super::yaml::Node;
use crate::net::prefix::Prefix;

/// How many lines of a file are looked at.
const SAMPLE: usize = 50;

/// Providers' JSON: what it contains, whose it is, and the filter that makes a list of it.
const PROVIDERS: [(&str, &str, &str); 8] = [
    (
        "\"ip_prefix\"",
        "AWS's",
        ".prefixes[].ip_prefix, .ipv6_prefixes[].ipv6_prefix",
    ),
    (
        "\"ipv4Prefix\"",
        "Google's",
        ".prefixes[] | .ipv4Prefix // .ipv6Prefix",
    ),
    (
        "\"verifiable_password_authentication\"",
        "GitHub's",
        ".hooks[], .web[], .api[], .git[]",
    ),
    (
        "\"addressPrefixes\"",
        "Azure's",
        ".values[].properties.addressPrefixes[]",
    ),
    (
        "\"ipv4_cidrs\"",
        "Cloudflare's",
        ".result.ipv4_cidrs[], .result.ipv6_cidrs[]",
    ),
    (
        "\"ipv6_addresses\"",
        "Fastly's",
        ".addresses[], .ipv6_addresses[]",
    ),
    ("\"cidrs\"", "Oracle's", ".regions[].cidrs[].cidr"),
    ("\"cidr\"", "Atlassian's", ".items[].cidr"),
];

/// What a list file is when it is no list; `name` is the file's.
pub(crate) fn list(name: &str, text: &str) -> Option<String> {
    let start = text.trim_start_matches('\u{feff}').trim_start();
    if let Some(what) = web_page(start) {
        return Some(what.to_owned());
    }
    if is_json(start) {
        return Some(json(name, text));
    }
    let sample: Vec<&str> = lines(text)
        .map(|(_, line)| line.split('#').next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .take(SAMPLE)
        .collect();
    if sample.iter().any(|line| is_prefix(line)) {
        return None;
    }
    if let Some(what) = manifest_text(text) {
        return Some(what);
    }
    table(name, &sample)
        .or_else(|| yaml_list(name, &sample))
        .or_else(|| none_at_all(&sample))
}

/// What a `routes.yaml` is when it is something else, from its text.
pub(crate) fn document_text(text: &str) -> Option<String> {
    let start = text.trim_start_matches('\u{feff}').trim_start();
    web_page(start)
        .map(str::to_owned)
        .or_else(|| provider(text).map(|(whose, filter)| {
            format!(
                "is {whose} JSON, not a configuration; make a list file of it with `jq -r '{filter}'`, and name that under `destinationFiles`"
            )
        }))
}

/// The same, from its values.
pub(crate) fn document(root: &Node<'_>) -> Option<String> {
    let kind = root.entry("kind").and_then(Node::text)?;
    root.entry("apiVersion")?;
    if let Some(what) = other_kind(root) {
        return Some(what);
    }
    Some(
        if kind == "ConfigMap" || kind == "List" || kind.ends_with("List") {
            format!(
                "is a manifest of kind {kind}; here belongs only what is under its key `routes.yaml`"
            )
        } else {
            format!("is a manifest of kind {kind}, not a configuration; expected a list `routes`")
        },
    )
}

/// Routes and policies of other programs, by their kind.
pub(crate) fn other_kind(root: &Node<'_>) -> Option<String> {
    let text = |key: &str| root.entry(key).and_then(Node::text).unwrap_or_default();
    let (kind, version) = (text("kind"), text("apiVersion"));
    let group = version.split('/').next().unwrap_or_default();
    let converted = |whose: &str| {
        format!(
            "is a {kind} of {whose}; `egress-routes convert` writes the `routes.yaml` that does the same"
        )
    };
    let policy = |whose: &str| {
        format!(
            "is {} {kind} of {whose}, which selects pods; routes are for whole nodes, so that none can be made of it: write `destinations` and `gateways` in a `routes.yaml`",
            if kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
                "an"
            } else {
                "a"
            }
        )
    };
    match (kind, group) {
        ("StaticRoute", "networking.digitalocean.com") => {
            Some(converted("DigitalOcean's operator"))
        }
        ("StaticRoute", _) if group.ends_with("ibm.com") => Some(converted("IBM's operator")),
        ("Route", "networking.doks.digitalocean.com") => Some(converted("the DOKS routing agent")),
        ("CiliumEgressGatewayPolicy" | "CiliumEgressNATPolicy", _) => Some(policy("Cilium")),
        ("EgressGatewayPolicy", "projectcalico.org" | "crd.projectcalico.org") => {
            Some(policy("Calico"))
        }
        ("EgressGatewayPolicy" | "EgressClusterPolicy" | "EgressPolicy" | "EgressGateway", _) => {
            Some(policy("another egress gateway"))
        }
        ("EgressIP" | "EgressService" | "AdminPolicyBasedExternalRoute" | "EgressFirewall", _) => {
            Some(policy("OVN-Kubernetes"))
        }
        ("Egress" | "ExternalIPPool", _) if group.ends_with("antrea.io") => Some(policy("Antrea")),
        ("VpcEgressGateway" | "VpcNatGateway" | "OvnEip" | "IptablesSnatRule", _) => {
            Some(policy("Kube-OVN"))
        }
        _ => None,
    }
}

fn is_prefix(text: &str) -> bool {
    text.parse::<Prefix>().is_ok()
}

fn is_json(start: &str) -> bool {
    let inner = start
        .strip_prefix(['{', '['])
        .unwrap_or_default()
        .trim_start();
    // `{{ a template }}` and `[2001:db8::7]` are none.
    !start.starts_with("{{")
        && inner.starts_with(['"', '{', '[', '}', ']'])
        && (start.starts_with('{') || start.contains('\n') || start.matches('"').count() > 2)
}

fn provider(text: &str) -> Option<(&'static str, &'static str)> {
    let start = text.trim_start_matches('\u{feff}').trim_start();
    if !start.starts_with(['{', '[']) || start.contains("\"routes\"") {
        return None;
    }
    PROVIDERS
        .iter()
        .find(|(part, _, _)| text.contains(part))
        .map(|(_, whose, filter)| (*whose, *filter))
}

fn json(name: &str, text: &str) -> String {
    match provider(text) {
        Some((whose, filter)) => format!(
            "is {whose} JSON; a list file holds one CIDR a line: make it with `jq -r '{filter}' {name}`"
        ),
        None if text.trim_start().starts_with('[') => {
            format!("is JSON; a list file holds one CIDR a line: make it with `jq -r '.[]' {name}`")
        }
        None => format!(
            "is JSON; a list file holds one CIDR a line: make it with `jq -r '.. | strings' {name} | grep /`"
        ),
    }
}

fn web_page(start: &str) -> Option<&'static str> {
    let head: String = start.chars().take(15).collect::<String>().to_lowercase();
    (head.starts_with("<!doctype") || head.starts_with("<html") || head.starts_with("<?xml"))
        .then_some(
            "is a web page; the download led to a page for people, maybe an error or a login",
        )
}

fn manifest_text(text: &str) -> Option<String> {
    let has = |key: &str| text.lines().any(|line| line.starts_with(key));
    (has("kind:") && has("apiVersion:"))
        .then(|| "is a manifest; a list file holds one CIDR a line".to_owned())
}

/// Comma separated values of which one column, and only one, holds CIDRs.
fn table(name: &str, sample: &[&str]) -> Option<String> {
    let separator = [',', ';', '\t']
        .into_iter()
        .find(|mark| sample.last().is_some_and(|line| line.contains(*mark)))?;
    let cell = |cell: &str| is_prefix(cell.trim().trim_matches('"'));
    let last: Vec<&str> = sample.last()?.split(separator).collect();
    let mut columns = (1usize..).zip(&last).filter(|(_, text)| cell(text));
    let (column, _) = columns.next()?;
    if columns.next().is_some() || last.len() < 2 {
        return None;
    }
    let shown = match separator {
        '\t' => String::new(),
        mark => format!("-d'{mark}' "),
    };
    Some(format!(
        "is a table whose column {column} holds the CIDRs; a list file holds nothing else: make it with `cut {shown}-f{column} {name} | tr -d '\"'`"
    ))
}

/// `- 203.0.113.0/24` on each line.
fn yaml_list(name: &str, sample: &[&str]) -> Option<String> {
    let item = |line: &&&str| {
        line.strip_prefix("- ")
            .is_some_and(|rest| is_prefix(rest.trim().trim_matches(['"', '\''])))
    };
    let items = sample.iter().filter(item).count();
    (items > 2 && items + 1 >= sample.len()).then(|| {
        format!(
            "is a YAML list; a list file holds one CIDR a line and nothing else: make it with `sed -n \"s/^ *- *//p\" {name}`"
        )
    })
}

/// No line is like an address: whatever it is, it is not printed.
fn none_at_all(sample: &[&str]) -> Option<String> {
    let like_an_address = |line: &&&str| {
        let address = |c: char| c.is_ascii_hexdigit() || ".:/-*,; \"'[]()%_!".contains(c);
        let digits = line.chars().filter(char::is_ascii_digit).count();
        line.len() <= 64
            && digits > 0
            && line.contains(['.', ':', '/'])
            && line.chars().filter(|c| address(*c)).count() * 3 >= line.len() * 2
            || super::advice::template(line).is_some()
            || line.len() <= 64 && line.starts_with("ip route ")
            || super::advice::is_host_name(line)
    };
    (!sample.is_empty() && !sample.iter().any(|line| like_an_address(&line))).then(|| {
        "holds no CIDR on any line; a list file holds one CIDR a line, and this one is something else".to_owned()
    })
}
