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
    let options = Options {
        strict: false,
        output: Output::Table,
        colours,
    };
    let verdict = run(path, &mut &*input, options, &mut out, &mut err).unwrap();
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
    assert_eq!(ran.verdict, Verdict::Valid);
    insta::assert_snapshot!(ran.err, @"warning: set `clouds`: 1 entry of `except` that overlaps no destination: `192.0.2.0/24`");
    insta::assert_snapshot!(ran.out, @r"
    DIR: valid, revision 86f9601d8443, 2 route sets, 1 protected
      partner-api: balance via 10.116.0.5; 2 IPv4 destinations; icmp every 1s, down after 3, up after 5; when down hold; every node
      clouds: failover without failback via 10.116.0.5, 10.116.0.6, fd00:116::5; 1 IPv4 + 1 IPv6 destinations, except 2 IPv4; tcp port 443 to 192.0.2.1 every 500ms, down after 3, up after 5; when down blackhole, leak guard; nodes with pool=web, !gpu, zone in (a, b)
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
    DIR/mine.yaml:9:22: routes[1].destinationFiles[0]: `aws.txt` is not there; beside routes.yaml there are no files: add a key of that name to the ConfigMap
      |
    9 |   destinationFiles: [aws.txt]
      |                      ^^^^^^^
    DIR/mine.yaml: refused, 1 problem (revision a03f6a71d1bb)
    ");
}

#[test]
fn an_empty_list_of_sets_is_valid_and_reported_as_empty() {
    let ran = checked("-", b"routes: []\n", false);
    assert_eq!((ran.verdict, ran.err.as_str()), (Verdict::Valid, ""));
    assert_eq!(
        ran.out,
        "<stdin>: valid, revision 1b9a41b8dea5, no route sets: all routes will be removed\n"
    );
}

#[test]
fn all_problems_are_shown_at_once_with_the_offending_lines() {
    let yaml = b"routes:\n- name: a\n  gateways: [10.116.0.5/24]\n  destinations: [10.1.2.3/8]\n";
    let ran = checked("-", yaml, false);
    assert_eq!((ran.verdict, ran.out.as_str()), (Verdict::Refused, ""));
    insta::assert_snapshot!(ran.err, @r"
    <stdin>:3:14: routes[0].gateways[0]: `10.116.0.5/24` is a CIDR; a gateway is one address: write `10.116.0.5`
      |
    3 |   gateways: [10.116.0.5/24]
      |              ^^^^^^^^^^^^^
    <stdin>:4:18: routes[0].destinations[0]: `10.1.2.3/8` has host bits set; did you mean `10.0.0.0/8`?
      |
    4 |   destinations: [10.1.2.3/8]
      |                  ^^^^^^^^^^
    <stdin>: refused, 2 problems (revision 15fcd6b36cde)
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
            .starts_with("<stdin>: ConfigMap good: valid, revision "),
        "{}",
        ran.out
    );
    assert!(
        ran.err
            .contains("\n<stdin>: ConfigMap bad: refused, 2 problems (revision "),
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
fn what_cannot_be_read_is_not_what_is_refused() {
    let none = checked(
        "-",
        b"apiVersion: v1\nkind: ConfigMap\ndata: {x: y}\n",
        false,
    );
    assert_eq!(
        (none.verdict, none.err.as_str()),
        (
            Verdict::Unread,
            "<stdin>: there is no ConfigMap with a key `routes.yaml` in it\n"
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

const WRONG: &str = "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinations: [10.1.2.3/8]\n  destinationFiles: [aws.txt]\n- name: a\n  gateways: [10.116.0.5]\n  destinations: [192.0.2.0/24]\n";

fn manifest(routes: &str, more: &str) -> String {
    let routes = routes.replace('\n', "\n    ");
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: egress-routes\n  namespace: kube-system\ndata:\n  routes.yaml: |\n    {}\n{more}",
        routes.trim_end()
    )
}

#[test]
fn each_place_is_that_of_the_file_that_was_given() {
    let list = "  aws.txt: |\n    192.0.2.0/24\n    10.1.2.3/8\n";
    let stream = format!(
        "# two documents\nkind: Service\napiVersion: v1\n---\n{}",
        manifest(WRONG, list)
    );
    let ran = in_directory(&[("two.yaml", &stream)], "two.yaml");
    assert_eq!(ran.verdict, Verdict::Refused);
    insta::assert_snapshot!(ran.err, @r"
    DIR/two.yaml:15:22: routes[0].destinations[0]: `10.1.2.3/8` has host bits set; did you mean `10.0.0.0/8`?
       |
    15 |       destinations: [10.1.2.3/8]
       |                      ^^^^^^^^^^
    DIR/two.yaml:17:13: routes[1].name: `a` is taken by the set on line 13; names are unique
       |
    17 |     - name: a
       |             ^
    DIR/two.yaml:22:5: `10.1.2.3/8` has host bits set; did you mean `10.0.0.0/8`?
       |
    22 |     10.1.2.3/8
       |     ^^^^^^^^^^
    DIR/two.yaml: ConfigMap kube-system/egress-routes: refused, 3 problems (revision 9675ecce2db0)
    ");
    let ran = in_directory(&[("routes.yaml", WRONG), ("aws.txt", "10.1.2.3/8\n")], "");
    assert!(
        ran.err.starts_with("DIR/routes.yaml:4:18: ") && ran.err.contains("\nDIR/aws.txt:1:1: "),
        "{}",
        ran.err
    );
}

#[test]
fn a_place_in_a_json_string_is_the_one_where_an_editor_finds_it() {
    let json = r#"{"kind": "ConfigMap", "apiVersion": "v1", "data": {"routes.yaml": "routes:\n- name: \"a\"\n  gateways: [10.1.1.1/8]\n"}}"#;
    let ran = checked("-", json.as_bytes(), false);
    let column = json.find("10.1.1.1").unwrap() + 1;
    assert!(
        ran.err
            .contains(&format!("<stdin>:1:{column}: routes[0].gateways[0]: ")),
        "{}",
        ran.err
    );
    let folded =
        "kind: ConfigMap\napiVersion: v1\ndata:\n  routes.yaml: >\n    routes:\n\n    - name: A\n";
    let ran = checked("-", folded.as_bytes(), false);
    assert!(ran.err.contains("<stdin>:5:5: "), "{}", ran.err);
}

#[test]
fn manifests_that_would_not_reach_the_agents_are_refused_or_warned_of() {
    let checked = |text: &str| {
        let ran = checked("-", text.as_bytes(), false);
        (ran.verdict, ran.err)
    };
    let good = manifest("routes: []\n", "");
    assert_eq!(checked(&good), (Verdict::Valid, String::new()));
    for (from, to, verdict, expected) in [
        (
            "name: egress-routes",
            "name: egress",
            Verdict::Valid,
            "warning: the ConfigMap is named `egress`; agents mount `egress-routes`, unless their DaemonSet is changed too\n",
        ),
        (
            "namespace: kube-system",
            "namespace: default",
            Verdict::Valid,
            "warning: the ConfigMap is in namespace `default`; agents mount the one in their own, which is `kube-system` unless it is changed too\n",
        ),
        (
            "\ndata:",
            "\nimmutable: true\ndata:",
            Verdict::Valid,
            "warning: ConfigMap `kube-system/egress-routes`: `immutable: true` means that it cannot be edited; take it out, or every change needs a new ConfigMap and new pods\n",
        ),
        (
            "\ndata:",
            "\ndata:\n  retries: 3",
            Verdict::Refused,
            "<stdin>:7:12: `retries` is not text, and the API server takes nothing else; put it in quotes\n  |\n7 |   retries: 3\n  |            ^\n<stdin>: ConfigMap kube-system/egress-routes: refused, 1 problem\n",
        ),
        (
            "  routes.yaml:",
            "  routes.yml:",
            Verdict::Refused,
            "<stdin>:7:3: the key is `routes.yml`; agents read `routes.yaml`\n  |\n7 |   routes.yml: |\n  |   ^^^^^^^^^^\n<stdin>: refused, 1 problem\n",
        ),
        (
            "kind: ConfigMap",
            "kind: Secret",
            Verdict::Refused,
            "<stdin>:2:7: is a Secret with a key `routes.yaml`; agents read a ConfigMap, and nothing in it is secret\n  |\n2 | kind: Secret\n  |       ^^^^^^\n<stdin>: refused, 1 problem\n",
        ),
        (
            "apiVersion: v1\n",
            "apiVersion: v1\nkind: Service\nspec: [\n---\napiVersion: v1\n",
            Verdict::Valid,
            "warning: another document of the stream cannot be decoded: <stdin>:3:7: unclosed bracket '['\n",
        ),
        (
            "apiVersion: v1\n",
            "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\n---\napiVersion: v1\n",
            Verdict::Valid,
            "warning: <stdin>:2:7: is a CiliumEgressGatewayPolicy of Cilium, which selects pods; routes are for whole nodes, so that none can be made of it: write `destinations` and `gateways` in a `routes.yaml`\n",
        ),
    ] {
        let text = good.replacen(from, to, 1);
        assert_eq!(checked(&text), (verdict, expected.to_owned()), "{text}");
    }
    let (verdict, err) = checked(
        "apiVersion: networking.digitalocean.com/v1\nkind: StaticRoute\nspec: {destinations: [203.0.113.7], gateway: 10.116.0.5}\n",
    );
    assert_eq!(verdict, Verdict::Refused);
    assert!(err.contains("`egress-routes convert` writes"), "{err}");
}

#[test]
fn what_cannot_be_stored_is_no_valid_configuration() {
    let list = |bytes: usize| {
        let lines = "    198.51.100.7\n".repeat(bytes / 13);
        manifest(
            "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinationFiles: [a.txt]\n",
            &format!("  a.txt: |\n{lines}"),
        )
    };
    let fine = checked("-", list(200_000).as_bytes(), false);
    assert_eq!((fine.verdict, fine.err.as_str()), (Verdict::Valid, ""));
    let large = checked("-", list(300_000).as_bytes(), false);
    assert_eq!(large.verdict, Verdict::Valid);
    assert_eq!(
        large.err,
        "warning: ConfigMap `kube-system/egress-routes` is too large for a plain `kubectl apply`, which keeps a copy of it in an annotation of at most 262144 bytes; use `kubectl apply --server-side`, or `kubectl create` and `kubectl replace`\n"
    );
    let none = checked("-", list(1_100_000).as_bytes(), false);
    assert_eq!(none.verdict, Verdict::Refused);
    assert!(
        none.err.contains("bytes; a ConfigMap has at most 1048576: give lists ConfigMaps of their own, in one projected volume\n"),
        "{}",
        &none.err[none.err.len() - 400..]
    );
}

#[test]
fn a_list_of_another_configmap_is_found_as_in_a_projected_volume() {
    let routes = "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinationFiles: [a.txt]\n";
    let other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: lists}\ndata:\n  a.txt: |\n    198.51.100.7\n";
    let ran = checked(
        "-",
        format!("{}---\n{other}", manifest(routes, "")).as_bytes(),
        false,
    );
    assert_eq!(
        (ran.verdict, ran.err.as_str()),
        (
            Verdict::Valid,
            "warning: `a.txt` is in the ConfigMap `lists`; agents find it only where one projected volume holds both\n"
        )
    );
}

#[test]
fn no_link_leads_out_of_the_directory_and_no_secret_is_shown() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("token");
    fs::write(&secret, "198.51.100.7\nsecret-word\n").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let routes = "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinationFiles: [a.txt]\n";
    fs::write(dir.path().join("routes.yaml"), routes).unwrap();
    std::os::unix::fs::symlink(&secret, dir.path().join("a.txt")).unwrap();
    for path in [dir.path().to_owned(), dir.path().join("routes.yaml")] {
        let ran = checked(path.to_str().unwrap(), b"", false);
        assert_eq!(ran.verdict, Verdict::Refused);
        assert!(
            ran.err
                .contains("`a.txt` is a link out of the directory; put the file itself there"),
            "{}",
            ran.err
        );
        assert!(!ran.err.contains("secret-word"), "{}", ran.err);
    }
    fs::remove_file(dir.path().join("a.txt")).unwrap();
    fs::write(dir.path().join("b"), "198.51.100.7\n").unwrap();
    std::os::unix::fs::symlink("b", dir.path().join("a.txt")).unwrap();
    assert_eq!(
        checked(dir.path().to_str().unwrap(), b"", false).verdict,
        Verdict::Valid
    );
    fs::remove_file(dir.path().join("routes.yaml")).unwrap();
    std::os::unix::fs::symlink(&secret, dir.path().join("routes.yaml")).unwrap();
    let ran = checked(dir.path().to_str().unwrap(), b"", false);
    assert!(
        ran.verdict == Verdict::Unread && !ran.err.contains("secret-word"),
        "{}",
        ran.err
    );
}

#[test]
fn strict_refuses_what_is_warned_of_and_json_says_all_of_it() {
    let run = |input: &str, strict: bool, output: Output| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let options = Options {
            strict,
            output,
            colours: false,
        };
        let verdict = run("-", &mut input.as_bytes(), options, &mut out, &mut err).unwrap();
        (
            verdict,
            String::from_utf8(out).unwrap(),
            String::from_utf8(err).unwrap(),
        )
    };
    let warned = "routes:\n- name: a\n  gateways: [203.0.113.9]\n  destinations: [198.51.100.7]\n";
    assert_eq!(run(warned, false, Output::Table).0, Verdict::Valid);
    let (verdict, _, err) = run(warned, true, Output::Table);
    assert_eq!(verdict, Verdict::Refused);
    assert!(
        err.ends_with("\n1 warning, which `--strict` refuses\n"),
        "{err}"
    );
    assert_eq!(run("routes: []\n", true, Output::Table).0, Verdict::Valid);
    let (verdict, out, err) = run(warned, true, Output::Json);
    assert_eq!((verdict, err.as_str()), (Verdict::Refused, ""));
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let entry = &json["configurations"][0];
    assert_eq!(
        (&json["valid"], &entry["warnings"][0]["kind"]),
        (&true.into(), &"oddGateway".into())
    );
    assert_eq!(entry["sets"][0]["destinations"], 1);
    let (verdict, out, _) = run("routes:\n- name: a\n  gateways: [x]\n", false, Output::Json);
    assert_eq!(verdict, Verdict::Refused);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let problem = &json["configurations"][0]["problems"][1];
    insta::assert_snapshot!(problem, @r#"{"column":14,"file":"<stdin>","kind":"configRefused","line":3,"path":"routes[0].gateways[0]","set":"a","text":"`x` is not an IP address; expected one like `10.116.0.5` or `fd00:116::5`"}"#);
}
