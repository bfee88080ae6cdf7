//! `deploy/gateway/`: the files that cloud-init writes, run on a machine of the laboratory.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::lab::{CommandOutput, Lab, NODE_PUBLIC, wait_until};

/// The gateway under test, on the internet and in the VPC.
const PUBLIC: &str = "192.0.2.9";
const PUBLIC6: &str = "2001:db8:f::9";
/// Somewhere on the internet, which the node reaches through it.
const TO: &str = "198.51.100.7";
const TO6: &str = "2001:db8:7::7";

#[derive(Deserialize)]
struct CloudInit {
    write_files: Vec<WriteFile>,
    runcmd: Vec<String>,
}

#[derive(Deserialize)]
struct WriteFile {
    path: String,
    permissions: String,
    content: String,
}

fn cloud_init() -> CloudInit {
    let text = fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/deploy/gateway/cloud-init.yaml"
    ))
    .unwrap();
    assert!(
        text.starts_with("#cloud-config\n"),
        "what cloud-init knows its own files by"
    );
    serde_yaml::from_str(&text).unwrap()
}

/// Writes what cloud-init would, but in another directory.
fn install(dir: &Path) {
    for file in cloud_init().write_files {
        let path = dir.join(Path::new(&file.path).file_name().unwrap());
        fs::write(&path, file.content).unwrap();
        fs::set_permissions(
            &path,
            fs::Permissions::from_mode(u32::from_str_radix(&file.permissions, 8).unwrap()),
        )
        .unwrap();
    }
}

/// The laboratory with one more machine, not yet a gateway, whose interfaces have names of their own; the node routes two
/// destinations to it.
fn machine() -> (Lab, tempfile::TempDir) {
    let lab = Lab::blueprint();
    lab.host("gw");
    lab.plug(
        "gw",
        "wan-0",
        "net",
        &[&format!("{PUBLIC}/24"), &format!("{PUBLIC6}/64")],
    );
    lab.plug("gw", "ens7.20", "vpc", &["10.116.0.9/24", "fd00:116::9/64"]);
    lab.batch(
        "gw",
        "route add default via 192.0.2.1\nroute add ::/0 via 2001:db8:f::1\n",
    );
    lab.batch(
        "nd",
        &format!("route add {TO} via 10.116.0.9\nroute add {TO6} via fd00:116::9\n"),
    );
    let dir = tempfile::tempdir().unwrap();
    install(dir.path());
    (lab, dir)
}

fn start(lab: &Lab, dir: &Path) -> CommandOutput {
    lab.run("gw", &[dir.join("start")])
}

/// Packets of the named counters of the gateway's rules.
fn counters(lab: &Lab) -> BTreeMap<String, u64> {
    let json = lab.must(
        "gw",
        &[
            "nft",
            "-j",
            "list",
            "counters",
            "table",
            "inet",
            "egress_gateway",
        ],
    );
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let counters = json["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|object| object.get("counter"));
    counters
        .map(|counter| {
            (
                counter["name"].as_str().unwrap().to_owned(),
                counter["packets"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn cloud_init_holds_the_rules_of_the_file_beside_it_and_starts_what_it_writes() {
    let cloud_init = cloud_init();
    let rules = cloud_init
        .write_files
        .iter()
        .find(|file| file.path == "/opt/egress-gateway/gateway.nft")
        .unwrap();
    assert_eq!(
        rules.content,
        include_str!("../../deploy/gateway/gateway.nft")
    );
    let unit = cloud_init
        .write_files
        .iter()
        .find(|file| file.path.ends_with(".service"))
        .unwrap();
    let started = unit
        .content
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="))
        .unwrap();
    assert!(
        cloud_init
            .write_files
            .iter()
            .any(|file| file.path == started && file.permissions == "0755"),
        "{started}"
    );
    for other in ["ExecReload=", "ExecStopPost="] {
        let program = unit
            .content
            .lines()
            .find_map(|line| line.strip_prefix(other));
        let written = |path: &str| cloud_init.write_files.iter().any(|file| file.path == path);
        assert!(program.is_some_and(written), "{other}{program:?}");
    }
    let unit = Path::new(&unit.path).file_name().unwrap().to_str().unwrap();
    assert_eq!(
        cloud_init.runcmd.last().unwrap(),
        &format!("systemctl enable --now {unit}")
    );
}

#[test]
fn a_fresh_machine_translates_for_the_vpc_whatever_its_interfaces_are_called_and_starting_again_breaks_nothing()
 {
    let (lab, dir) = machine();
    assert_eq!(lab.source("nd", TO), "-");
    let output = start(&lab, dir.path());
    assert_eq!(
        (output.code, output.out.as_str()),
        (0, "egress-gateway: forwarding from ens7.20 to wan-0\n"),
        "{}",
        output.err
    );
    assert_eq!(lab.source("nd", TO), PUBLIC);
    assert_eq!(lab.source("nd", TO6), PUBLIC6);
    let mut held = lab.echo("nd", &["hold", "1000", "7007", TO, TO6]);
    held.wait_for("held 2 of 2", Duration::from_secs(5));
    assert_eq!(start(&lab, dir.path()).code, 0);
    held.tell("");
    held.wait_for("alive 2 broken 0", Duration::from_secs(5));
    let accept_ra = lab.must("gw", &["cat", "/proc/sys/net/ipv6/conf/wan-0/accept_ra"]);
    assert_eq!(
        accept_ra.trim(),
        "2",
        "or the machine would lose its IPv6 default route"
    );
}

#[test]
fn a_gateway_forwards_nothing_for_the_public_side_and_nothing_that_it_could_not_answer() {
    let (lab, dir) = machine();
    assert_eq!(start(&lab, dir.path()).code, 0);
    // From the internet into the VPC, and from the internet back out to it.
    lab.batch(
        "sv",
        &format!("route add 10.116.0.2 via {PUBLIC}\nroute add 203.0.113.77 via {PUBLIC}\n"),
    );
    let before = counters(&lab)["refused"];
    let to_node = lab.run("sv", &["ping", "-c1", "-W1", "10.116.0.2"]);
    let around = lab.run("sv", &["ping", "-c1", "-W1", "203.0.113.77"]);
    assert_ne!((to_node.code, around.code), (0, 0));
    assert_eq!(
        counters(&lab)["refused"] - before,
        2,
        "{to_node:?} {around:?}"
    );
    // Pod addresses that the node did not translate.
    lab.ip("nd", "addr add 10.244.0.5/32 dev lo");
    let pod = lab.run("nd", &["ping", "-c1", "-W1", "-I", "10.244.0.5", TO]);
    assert_ne!(pod.code, 0);
    assert_eq!(counters(&lab)["wrong_source"], 1, "{pod:?}");
    assert_eq!(
        lab.source("nd", TO),
        PUBLIC,
        "the node itself still gets through"
    );
}

#[test]
fn without_its_rules_a_gateway_forwards_nothing_whoever_removed_them() {
    let (lab, dir) = machine();
    // A machine on the public side that uses the gateway as its router, as in an open one.
    lab.batch(
        "sv",
        &format!("route add 10.116.0.0/24 via {PUBLIC}\nroute add fd00:116::/64 via {PUBLIC6}\n"),
    );
    let _inside = lab.echo_server("nd", &[]);
    let open = |lab: &Lab| ["10.116.0.2", "fd00:116::2"].map(|to| lab.source("sv", to));
    assert_eq!(start(&lab, dir.path()).code, 0);
    assert_eq!(open(&lab), ["-", "-"]);

    // By `nft flush ruleset`, or in the middle of a reload of nftables: forwarding itself is still on.
    lab.must("gw", &["nft", "flush", "ruleset"]);
    let forwards = || {
        let files = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
        files.map(|file| lab.must("gw", &["cat", &format!("/proc/sys/{file}")]))
    };
    assert_eq!(forwards(), ["1\n", "1\n"]);
    assert_eq!(open(&lab), ["-", "-"]);
    assert_eq!(
        (lab.source("nd", TO), lab.source("nd", TO6)),
        ("-".into(), "-".into())
    );

    // The same machine without the marks' rules is an open router: what the two lines above prove is not for another reason.
    for family in ["-4", "-6"] {
        for _ in 0..2 {
            lab.ip("gw", &format!("{family} rule del priority 90"));
        }
    }
    assert_eq!(open(&lab), ["192.0.2.1", "2001:db8:f::1"]);

    // As systemd does when nftables stops: forwarding first.
    let output = lab.run("gw", &[dir.path().join("stop")]);
    assert_eq!(
        (output.code, forwards()),
        (0, ["0\n", "0\n"].map(Into::into)),
        "{}",
        output.err
    );
    assert_eq!(open(&lab), ["-", "-"]);
    assert_eq!(start(&lab, dir.path()).code, 0);
    assert_eq!(open(&lab), ["-", "-"]);
    assert_eq!(
        (lab.source("nd", TO), lab.source("nd", TO6)),
        (PUBLIC.into(), PUBLIC6.into())
    );
}

#[test]
fn a_chosen_source_address_is_what_the_internet_sees_and_one_that_is_not_there_is_refused() {
    let (lab, dir) = machine();
    let chosen = [("SNAT", "192.0.2.77"), ("SNAT6", "2001:db8:f::77")];
    let start_as = || lab.run_with_env("gw", &[dir.path().join("start")], &chosen);
    let output = start_as();
    assert_eq!(output.code, 1);
    assert!(
        output
            .err
            .contains("192.0.2.77 is no address of this machine"),
        "{}",
        output.err
    );
    lab.batch(
        "gw",
        "addr add 192.0.2.77/24 dev wan-0\naddr add 2001:db8:f::77/64 dev wan-0 nodad\n",
    );
    let output = start_as();
    assert_eq!(
        (output.code, output.out.as_str()),
        (
            0,
            "egress-gateway: forwarding from ens7.20 to wan-0, IPv4 as 192.0.2.77, IPv6 as 2001:db8:f::77\n"
        ),
        "{}",
        output.err
    );
    assert_eq!(lab.source("nd", TO), "192.0.2.77");
    assert_eq!(lab.source("nd", TO6), "2001:db8:f::77");
    // Started again without, it is the machine's own.
    assert_eq!(start(&lab, dir.path()).code, 0);
    assert_eq!(lab.source("nd", TO), PUBLIC);
}

#[test]
fn by_an_anchor_gateway_only_forwarded_traffic_leaves_and_with_the_anchor_address() {
    let (lab, dir) = machine();
    // As a droplet has it: a second, private network on the public interface, behind whose router the reserved address is.
    lab.host("anchor");
    lab.plug("anchor", "eth0", "net", &["10.19.0.1/16", "192.0.2.50/24"]);
    lab.ip("anchor", "route add default via 192.0.2.1");
    lab.sysctl("anchor", "net.ipv4.ip_forward", "1");
    lab.nft(
        "anchor",
        "table ip nat {\nchain post { type nat hook postrouting priority srcnat\nip saddr 10.19.0.0/16 snat to 192.0.2.50\n}\n}",
    );
    lab.ip("gw", "addr add 10.19.0.5/16 dev wan-0");
    let metadata = "#!/bin/sh\n[ \"$*\" = '-fsS --max-time 5 http://169.254.169.254/metadata/v1/interfaces/public/0/anchor_ipv4/gateway' ] && echo 10.19.0.1\n";
    fs::write(dir.path().join("curl"), metadata).unwrap();
    fs::set_permissions(dir.path().join("curl"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        dir.path().display(),
        std::env::var("PATH").unwrap()
    );
    let env = [("ANCHOR_GATEWAY", "metadata"), ("PATH", path.as_str())];
    for _ in 0..2 {
        let output = lab.run_with_env("gw", &[dir.path().join("start")], &env);
        assert_eq!(
            (output.code, output.out.as_str()),
            (
                0,
                "egress-gateway: forwarding from ens7.20 to wan-0, IPv4 as 10.19.0.5\n"
            ),
            "{}",
            output.err
        );
        assert_eq!(lab.source("nd", TO), "192.0.2.50");
        assert_eq!(
            lab.source("gw", TO),
            PUBLIC,
            "the machine itself is as before"
        );
    }
    assert_eq!(lab.source("nd", TO6), PUBLIC6);
    // Somebody removes the rules: lost, rather than seen with another address.
    lab.must(
        "gw",
        &[
            "sh",
            "-c",
            "while ip rule del priority 91 2>/dev/null; do :; done",
        ],
    );
    assert_ne!(lab.source("nd", TO), PUBLIC);
    assert_eq!(start(&lab, dir.path()).code, 0);
    assert_eq!(lab.source("nd", TO), PUBLIC);
}

#[test]
fn connections_are_held_to_what_the_way_out_can_carry() {
    let (lab, dir) = machine();
    assert_eq!(start(&lab, dir.path()).code, 0);
    lab.ip("gw", "link set wan-0 mtu 1400");
    let mut held = lab.echo("nd", &["hold", "1000", "7007", TO, TO6]);
    held.wait_for("held 2 of 2", Duration::from_secs(5));
    let output = lab.must("nd", &["ss", "-Htin", "dport = 7007"]);
    let mss = |len: u32| output.contains(&format!(" mss:{len} "));
    // 1400 less 20 or 40 for IP, 20 for TCP and 12 for its timestamps.
    assert!(mss(1348) && mss(1328), "{output}");
    held.hang_up();
    assert!(wait_until(Duration::from_secs(5), || !held.runs()));
}

#[test]
fn a_machine_without_a_way_out_is_refused_and_does_not_forward() {
    let (lab, dir) = machine();
    lab.batch("gw", "route del default\nroute del ::/0\n");
    let output = start(&lab, dir.path());
    assert_eq!(output.code, 1);
    assert!(
        output
            .err
            .contains("no default route, so no public interface (yet)"),
        "{}",
        output.err
    );
    assert_eq!(
        lab.must("gw", &["cat", "/proc/sys/net/ipv4/ip_forward"])
            .trim(),
        "0"
    );
    lab.ip("gw", "route add default via 192.0.2.1");
    assert_eq!(start(&lab, dir.path()).code, 0);
    assert_eq!(lab.source("nd", TO), PUBLIC);
    assert_eq!(lab.source("nd", "198.51.100.8"), NODE_PUBLIC);
}
