//! Long lists: installed, switched, found unchanged, removed.

use super::*;

/// Installs the files as one set's, then switches it to the second gateway under a stream of lookups.
fn installs_and_switches(files: &[(String, String)]) {
    let mut node = node();
    let names = files
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let write = |node: &mut Node, gateway: &str| {
        let yaml = routes(&[set(
            "clouds",
            gateway,
            "",
            &format!("    destinationFiles: [{names}]\n"),
        )]);
        let mut keys = vec![("routes.yaml", yaml)];
        keys.extend(
            files
                .iter()
                .map(|(name, text)| (name.as_str(), text.clone())),
        );
        node.volume.write(&keys);
    };
    write(&mut node, G1);
    let ip = WrappedIp::new("cat");
    let agent = node.agent_behind(&ip, &[]);
    in_force(&agent, 1);
    let before = node.status();
    let count = before["sets"][0]["wanted"].as_u64().unwrap();
    assert_eq!(
        (&before["status"], &before["sets"][0]["installed"]),
        (&"Ready".into(), &count.into())
    );
    assert!(count > 7000, "{count}");

    // Some destinations, asked for over and over.
    let own: Vec<String> = node.own().into_iter().step_by(250).collect();
    let address = |prefix: &String| prefix.split('/').next().unwrap().to_owned();
    let asked: String = own
        .iter()
        .map(|prefix| format!("route get {}\n", address(prefix)))
        .collect();
    let asked = node.file("asked", &asked);
    let asking = node.lab.spawn(
        "nd",
        &[
            "sh",
            "-c",
            &format!("while ip -o -batch {asked}; do sleep 0.02; done"),
        ],
    );
    assert!(
        wait_until(LIMIT, || asking.log().contains(&format!("via {G1} "))),
        "{}",
        asking.log()
    );
    ip.forget();
    let start = Instant::now();
    write(&mut node, G2);
    let switched = |asking: &Running| {
        asking
            .log()
            .lines()
            .last()
            .is_some_and(|line| line.contains(&format!("via {G2} ")))
    };
    assert!(wait_until(LIMIT, || switched(&asking)), "{}", agent.log());
    println!(
        "{count} routes: from the edit to the first lookup through the second gateway {:?}",
        start.elapsed()
    );
    in_force(&agent, 2);
    asking.signal("TERM");
    let (first, second, other) =
        asking
            .log()
            .lines()
            .fold((0, 0, Vec::new()), |(first, second, mut other), line| {
                let by = |gateway: &str| line.contains(&format!("via {gateway} dev eth1"));
                if !by(G1) && !by(G2) {
                    other.push(line.to_owned());
                }
                (
                    first + usize::from(by(G1)),
                    second + usize::from(by(G2)),
                    other,
                )
            });
    assert!(
        first > 20 && second > 0 && other.is_empty(),
        "{first} by the first, {second} by the second, missed: {other:?}"
    );
    let batches = ip.batches();
    assert_eq!(batches.len(), 1, "{batches:?}");
    assert!(
        !batches[0].lines().any(|line| line.starts_with("route")),
        "{batches:?}"
    );
    println!(
        "{first} lookups by the first, {second} by the second gateway, none missed; the batch was:\n{}",
        batches[0]
    );
    assert_eq!(node.own().len() as u64, count);
}

#[test]
fn thousands_of_prefixes_are_installed_and_switched_by_one_edit_in_one_batch_without_a_route_line_or_a_missed_lookup()
 {
    installs_and_switches(&[("list.txt".to_owned(), listed(&prefixes(7600)))]);
}

/// `apply`, again, `diff`, `cleanup`, with tables compared.
fn comes_and_goes(files: &[(String, String)]) -> u64 {
    let mut node = node();
    let names = files
        .iter()
        .map(|(name, _)| name.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    let yaml = routes(&[set(
        "all",
        &format!("{G1}, {G2}, '{G1_V6}'"),
        "",
        &format!("    destinationFiles: [{names}]\n"),
    )]);
    let mut keys = vec![("routes.yaml", yaml)];
    keys.extend(
        files
            .iter()
            .map(|(name, text)| (name.as_str(), text.clone())),
    );
    node.volume.write(&keys);
    let before = node.everything();
    let start = Instant::now();
    let output = node.command(&["apply"]);
    assert_eq!(output.code, 0, "{}{}", output.out, output.err);
    println!("apply took {:?}: {}", start.elapsed(), output.out);
    let during = node.everything();
    let count = node.own().len() as u64;
    let diff = node.command(&["diff"]);
    assert_eq!(
        (diff.code, diff.out.as_str()),
        (0, "nothing to change\n"),
        "{}",
        diff.err
    );
    let ip = WrappedIp::new("cat");
    let again = [
        AGENT,
        "apply",
        "--config",
        node.volume.path().to_str().unwrap(),
    ];
    let again = node.lab.run_with_env("nd", &again, &[("PATH", &ip.path())]);
    assert_eq!(
        (again.code, ip.batches().len()),
        (0, 0),
        "{}{}",
        again.out,
        again.err
    );
    assert_eq!(node.everything(), during);
    let output = node.lab.egress_routes("nd", &["cleanup"]);
    assert_eq!(
        (output.code, output.out),
        (0, format!("{count} routes removed\n")),
        "{}",
        output.err
    );
    assert_eq!(node.everything(), before);
    count
}

#[test]
fn prefixes_of_both_families_come_by_apply_are_found_unchanged_and_go_by_cleanup_without_a_trace() {
    let files = [(
        "list.txt".to_owned(),
        listed(&prefixes(2500)) + &listed(&prefixes6(1500)),
    )];
    assert_eq!(comes_and_goes(&files), 4000);
}

/// The published lists of cloud providers.
mod published {
    use super::*;

    /// Where they are; not part of the sources. Without them the tests fail; `hack/test` leaves them out then and counts them as skipped.
    fn lists() -> std::path::PathBuf {
        let lists = std::env::var_os("CIDR_LISTS").map(std::path::PathBuf::from);
        lists.expect("set CIDR_LISTS to a directory with aws4.txt, aws6.txt, azure4.txt, …, or leave these tests out by `--skip published::`")
    }

    fn read(lists: &Path, names: &[&str]) -> Vec<(String, String)> {
        names
            .iter()
            .map(|name| {
                (
                    format!("{name}.txt"),
                    std::fs::read_to_string(lists.join(format!("{name}.txt"))).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn the_lists_of_two_clouds_are_installed_and_switched_by_one_edit_in_one_batch_without_a_route_line_or_a_missed_lookup()
     {
        installs_and_switches(&read(&lists(), &["aws4", "gcp4"]));
    }

    #[test]
    fn all_lists_of_both_families_come_by_apply_are_found_unchanged_and_go_by_cleanup_without_a_trace()
     {
        let four = ["aws4", "azure4", "cloudflare4", "gcp4", "github4"];
        let six = ["aws6", "azure6", "cloudflare6", "gcp6", "github6"];
        let count = comes_and_goes(&read(&lists(), &[four, six].concat()));
        println!("{count} routes");
        assert!(count > 50_000, "{count}");
    }
}
