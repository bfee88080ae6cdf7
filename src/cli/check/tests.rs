//! What `check` prints, and its exit codes.

use std::fs;

use super::*;

struct Ran {
    verdict: Verdict,
    out: String,
    err: String,
}

fn checked(path: &str, input: &[u8], colours: bool) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let verdict = run(Some(path), &mut &*input, colours, &mut out, &mut err).unwrap();
    Ran {
        verdict,
        out: String::from_utf8(out).unwrap(),
        err: String::from_utf8(err).unwrap(),
    }
}

/// With the directory's name taken out of what was printed.
fn in_directory(files: &[(&str, &str)], path: &str) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let ran = checked(
        dir.path()
            .join(path)
            .to_str()
            .unwrap()
            .trim_end_matches('/'),
        b"",
        false,
    );
    let plain = |text: &str| text.replace(dir.path().to_str().unwrap(), "DIR");
    Ran {
        out: plain(&ran.out),
        err: plain(&ran.err),
        verdict: ran.verdict,
    }
}

const GOOD: &str = "\
routes:
- name: partner-api
  gateways: [10.116.0.5]
  destinations: [203.0.113.0/24, 198.51.100.7]
- name: clouds
  gateways: [10.116.0.5, 10.116.0.6, fd00:116::5]
  strategy: failover
  failback: false
  destinationFiles: [aws.txt]
  except: [52.94.0.0/22, 192.0.2.0/24]
  whenDown: blackhole
  leakGuard: true
  healthCheck: {type: tcp, port: 443, interval: 500ms, target: 192.0.2.1}
  nodeSelector:
    matchLabels: {pool: web}
    matchExpressions: [{key: gpu, operator: DoesNotExist}, {key: zone, operator: In, values: [a, b]}]
protected: [64.225.0.0/16]
";
const AWS: &str = "52.94.0.0/20\n2600:1f00::/24\n";

#[test]
fn a_valid_directory_is_summed_up_with_its_warnings() {
    let ran = in_directory(&[("routes.yaml", GOOD), ("aws.txt", AWS)], "");
    assert_eq!((ran.verdict, ran.err.as_str()), (Verdict::Valid, ""));
    insta::assert_snapshot!(ran.out, @r"
    DIR: valid, revision 86f9601d8443, 2 route sets, 1 protected
      partner-api: balance via 10.116.0.5; 2 IPv4 destinations; icmp every 1s, down after 3, up after 5; when down hold; every node
      clouds: failover without failback via 10.116.0.5, 10.116.0.6, fd00:116::5; 1 IPv4 + 1 IPv6 destinations, except 2 IPv4; tcp port 443 to 192.0.2.1 every 500ms, down after 3, up after 5; when down blackhole, leak guard; nodes with pool=web, !gpu, zone in (a, b)
    warning: set `clouds`: 1 entry of `except` that no destination has anything in common with: `192.0.2.0/24`
    ");
}

#[test]
fn a_single_file_is_checked_under_its_own_name_with_list_files_beside_it() {
    assert_eq!(
        in_directory(&[("mine.yaml", GOOD), ("aws.txt", AWS)], "mine.yaml").verdict,
        Verdict::Valid
    );
    let ran = in_directory(&[("mine.yaml", GOOD)], "mine.yaml");
    assert_eq!((ran.verdict, ran.out.as_str()), (Verdict::Refused, ""));
    insta::assert_snapshot!(ran.err, @r"
    mine.yaml:9:22: routes[1].destinationFiles[0]: `aws.txt` is not there; the files that are there: `mine.yaml`
      |
    9 |   destinationFiles: [aws.txt]
      |                      ^^^^^^^
    DIR/mine.yaml: refused, 1 problem (revision a03f6a71d1bb)
    ");
}

#[test]
fn an_empty_list_of_sets_is_valid_and_said_to_be_empty() {
    let ran = checked("-", b"routes: []\n", false);
    assert_eq!((ran.verdict, ran.err.as_str()), (Verdict::Valid, ""));
    assert_eq!(
        ran.out,
        "standard input: valid, revision 1b9a41b8dea5, no route sets, so that every route is taken away\n"
    );
}

#[test]
fn all_problems_are_shown_at_once_with_the_offending_lines() {
    let yaml = b"routes:\n- name: a\n  gateways: [10.116.0.5/24]\n  destinations: [10.1.2.3/8]\n";
    let ran = checked("-", yaml, false);
    assert_eq!((ran.verdict, ran.out.as_str()), (Verdict::Refused, ""));
    insta::assert_snapshot!(ran.err, @r"
    routes.yaml:3:14: routes[0].gateways[0]: `10.116.0.5/24` is a CIDR; a gateway is one address: write `10.116.0.5`
      |
    3 |   gateways: [10.116.0.5/24]
      |              ^^^^^^^^^^^^^
    routes.yaml:4:18: routes[0].destinations[0]: `10.1.2.3/8` has host bits set; did you mean `10.0.0.0/8`?
      |
    4 |   destinations: [10.1.2.3/8]
      |                  ^^^^^^^^^^
    standard input: refused, 2 problems (revision 15fcd6b36cde)
    ");
    assert!(
        checked("-", yaml, true).err.contains("\u{1b}[31m^"),
        "in colour, where they are wanted"
    );
}

#[test]
fn manifests_are_checked_wherever_the_configmap_is() {
    let map = |name: &str, routes: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  routes.yaml: |\n    {}\n",
            routes.replace('\n', "\n    ")
        )
    };
    let two = format!(
        "apiVersion: v1\nkind: Namespace\n---\n{}---\n{}",
        map("good", "routes: []"),
        map("bad", "routes:\n- name: a\n")
    );
    let ran = checked("-", two.as_bytes(), false);
    assert_eq!(ran.verdict, Verdict::Refused);
    assert!(
        ran.out
            .starts_with("standard input: ConfigMap good: valid, revision "),
        "{}",
        ran.out
    );
    assert!(
        ran.err
            .contains("\nstandard input: ConfigMap bad: refused, 2 problems (revision "),
        "{}",
        ran.err
    );
    let ran = in_directory(
        &[
            ("configmap.yaml", &map("good", "routes: []")),
            ("daemonset.yaml", "kind: DaemonSet\napiVersion: apps/v1\n"),
        ],
        "",
    );
    assert_eq!(ran.verdict, Verdict::Valid, "{}", ran.err);
    assert!(
        ran.out
            .starts_with("DIR/configmap.yaml: ConfigMap good: valid"),
        "{}",
        ran.out
    );
}

#[test]
fn what_cannot_be_read_is_told_from_what_is_refused() {
    let none = checked(
        "-",
        b"apiVersion: v1\nkind: ConfigMap\ndata: {x: y}\n",
        false,
    );
    assert_eq!(
        (none.verdict, none.err.as_str()),
        (
            Verdict::Unread,
            "standard input: there is no ConfigMap with a key `routes.yaml` in it\n"
        )
    );
    assert_eq!(
        checked("/nowhere/at/all", b"", false).err,
        "/nowhere/at/all: is not there\n"
    );
    assert_eq!(
        checked("/nowhere/at/all", b"", false).verdict,
        Verdict::Unread
    );
    assert_eq!(
        checked("/dev/zero", b"", false).err,
        "/dev/zero: is a device; expected a file\n"
    );
    let empty = in_directory(&[], "");
    assert_eq!(
        (empty.verdict, empty.err.as_str()),
        (
            Verdict::Unread,
            "DIR/routes.yaml: is not there; the ConfigMap needs a key `routes.yaml`, and it is empty; add the key with `kubectl edit configmap` or from your own copy (`routes: []` in it removes every route)\n"
        )
    );
    assert_eq!(
        checked("-", b"", false).verdict,
        Verdict::Refused,
        "an empty file was read, and says nothing"
    );
    assert_eq!(checked("-", b"\xff", false).verdict, Verdict::Refused);
    assert_eq!(Verdict::Unread as u8, 2);
}
