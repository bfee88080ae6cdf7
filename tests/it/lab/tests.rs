//! The laboratory itself: hosts reach each other as they should, and nothing of it outlives its test.

use std::path::Path;
use std::time::Duration;
use std::{fs, process};

use super::*;

#[test]
fn the_echo_host_answers_with_the_source_that_it_sees() {
    if let Ok(args) = std::env::var(ECHO_ARGS) {
        let args: Vec<String> = args.lines().map(str::to_owned).collect();
        // Not a return: the harness would add its own words, and the exit code is the answer.
        let code = echo::play(&args);
        #[allow(clippy::exit, reason = "this process is the echo program")]
        process::exit(i32::from(code != process::ExitCode::SUCCESS));
    }
    let lab = Lab::new();
    let _server = lab.echo_server(FABRIC, &["127.0.0.1"]);
    assert_eq!(lab.source(FABRIC, "127.0.0.9"), "127.0.0.1");
    assert_eq!(lab.source(FABRIC, "::1"), "::1");
    assert_eq!(lab.source(FABRIC, "255.255.255.255"), "-");
    let mut held = lab.echo(FABRIC, &["hold", "500", "7007", "127.0.0.2", "127.0.0.3"]);
    held.wait_for("held 2 of 2", Duration::from_secs(5));
    held.tell("once");
    held.wait_for("alive 2 broken 0", Duration::from_secs(5));
    held.hang_up();
    assert_eq!(held.ends(Duration::from_secs(5)), Some(0));
}

#[test]
fn two_hosts_on_a_cable_reach_each_other() {
    let lab = Lab::new();
    lab.host("a").host("b").link(
        ("a", "eth0", &["10.0.0.1/24", "fd00::1/64"]),
        ("b", "eth0", &["10.0.0.2/24", "fd00::2/64"]),
    );
    let _server = lab.echo_server("b", &["10.0.0.2"]);
    assert_eq!(lab.source("a", "10.0.0.2"), "10.0.0.1");
    assert_eq!(lab.source("a", "fd00::2"), "fd00::1");
    lab.ip("b", "link set eth0 down");
    assert_eq!(lab.source("a", "10.0.0.2"), "-");
}

#[test]
fn the_blueprints_node_leaves_with_its_own_address_and_a_route_makes_it_leave_by_a_gateway() {
    let lab = Lab::blueprint();
    for to in [ONE, TWO, "198.18.5.5", "169.254.169.254"] {
        assert_eq!(lab.source("nd", to), NODE_PUBLIC, "to {to}");
    }
    assert_eq!(lab.source("nd", "2606:4700::1111"), NODE_PUBLIC6);
    lab.batch("nd", &format!("route add {ONE} via {G1}\nroute add {TWO} via {G2}\nroute add 2606:4700::/32 via {G2_V6}\n"));
    assert_eq!(lab.source("nd", ONE), G1_PUBLIC);
    assert_eq!(lab.source("nd", TWO), G2_PUBLIC);
    assert_eq!(lab.source("nd", "2606:4700::1111"), G2_PUBLIC6);
    assert_eq!(lab.source("nd", "198.18.5.5"), NODE_PUBLIC);
    assert_eq!(
        lab.json("nd", "route show 34.160.111.145")[0]["gateway"],
        G1
    );
}

#[test]
fn a_volume_shows_one_whole_version_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::new(dir.path());
    for round in 1..=3 {
        volume.write(&[
            ("routes.yaml", format!("round {round}")),
            ("aws.txt", String::new()),
        ]);
        assert_eq!(
            fs::read_to_string(dir.path().join("routes.yaml")).unwrap(),
            format!("round {round}")
        );
    }
    volume.routes("last");
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["..2026_11_22_12_00_00.000000004", "..data", "routes.yaml"]
    );
}

#[test]
fn a_laboratory_ends_with_its_programs() {
    let lab = Lab::new();
    lab.host("a");
    let mut sleeper = lab.spawn("a", &["sleep", "300"]);
    let (pid, holder) = (sleeper.pid(), lab.holder.id());
    assert!(sleeper.runs());
    let name = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    assert!(
        wait_until(Duration::from_secs(5), || name().trim() == "sleep"),
        "pid {pid} is `{}`, not the program itself",
        name()
    );
    drop(sleeper);
    drop(lab);
    for pid in [pid, holder] {
        assert!(
            !Path::new(&format!("/proc/{pid}")).exists(),
            "process {pid} outlived its laboratory"
        );
    }
}
