//! What is refused, where, and in which words.

use super::*;

#[test]
fn each_refused_configuration_is_refused_in_these_words() {
    let (mut cases, mut wrong, mut right) = (0, Vec::new(), String::new());
    let head = include_str!("refused.txt").split("\n=== ").next().unwrap();
    right.push_str(head);
    for case in include_str!("refused.txt").split("\n=== ").skip(1) {
        let (what, body) = case.split_once('\n').unwrap();
        let (mut parts, mut others, mut expected) =
            (vec![(ROUTES_YAML, String::new())], Vec::new(), Vec::new());
        for line in body.trim_end_matches('\n').split('\n') {
            if let Some(problem) = line.strip_prefix(">>> ") {
                expected.push(problem);
            } else if let Some(names) = line.strip_prefix("... ") {
                others = names.split(' ').map(str::to_owned).collect();
            } else if let Some(name) = line.strip_prefix("--- ") {
                parts.push((name, String::new()));
            } else {
                let text = &mut parts.last_mut().unwrap().1;
                text.push_str(line);
                text.push('\n');
            }
        }
        let lists: Vec<(&str, &[u8])> = parts[1..]
            .iter()
            .map(|(name, text)| (*name, text.as_bytes()))
            .collect();
        let files = Files {
            others,
            ..files(&parts[0].1, &lists)
        };
        let (reported, expected) = (reported(&files), expected.join("\n"));
        let kept: String = body
            .trim_end_matches('\n')
            .split('\n')
            .filter(|line| !line.starts_with(">>> "))
            .map(|line| format!("{line}\n"))
            .collect();
        let answer: String = reported
            .lines()
            .map(|line| format!(">>> {line}\n"))
            .collect();
        write!(right, "\n=== {what}\n{kept}{answer}").unwrap();
        if reported != expected {
            wrong.push(format!(
                "{what}\n  reported: {reported}\n  expected: {expected}"
            ));
        }
        cases += 1;
    }
    settle("refused.txt", &wrong, &right);
    assert!(cases > 140, "only {cases} cases were found in the file");
}

#[test]
fn bytes_that_are_no_text_are_refused_in_these_words() {
    let routes: &[(&[u8], &str)] = &[
        (
            b"",
            "routes.yaml:1:1: the file is empty; `routes: []` means that there are none",
        ),
        (
            b"---\n",
            "routes.yaml:1:4: the file is empty; `routes: []` means that there are none",
        ),
        (
            b"routes:\n\t- name: a\n",
            "routes.yaml:2:2: a tab; YAML is indented with spaces",
        ),
        (
            b"routes:\n- name: a\n  healthCheck: {type: icmp, inter",
            "routes.yaml:3:16: unclosed bracket '{'",
        ),
        (
            b"routes: []\n---\nroutes: []\n",
            "routes.yaml:3:1: a second YAML document starts here; the file holds one: take the `---` out",
        ),
        (
            b"routes: []\n---\nroutes: []\n",
            "routes.yaml:3:1: a second YAML document starts here; the file holds one: take the `---` out",
        ),
        (
            b"routes: []\n# caf\xe9\n",
            "routes.yaml:2:6: the byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            b"\xff\xfer\0o\0",
            "routes.yaml:1:1: is UTF-16; save it as UTF-8",
        ),
        (
            b"routes: []\n# a\0b\n",
            "routes.yaml:2:4: there is a zero byte; the file holds text only",
        ),
        (
            b"routes:\r\n- a\r\n",
            "routes.yaml:2:3: routes[0]: `a` is text; expected a mapping with `name`, `gateways`, `drainTimeout`, `strategy`, `failback`, `destinations`, `destinationFiles`, `except`, `whenDown`, `leakGuard`, `healthCheck` and `nodeSelector`",
        ),
        (
            b"routes: 1\rprotected: 2\r",
            "routes.yaml:1:9: routes: `1` is a number; expected a list of route sets\nroutes.yaml:2:12: protected: `2` is a number; expected a list of CIDRs",
        ),
    ];
    for (bytes, expected) in routes {
        assert_eq!(reported(&files(bytes, &[])), *expected);
    }
    let foo = "`1.2.3` is not an IP address or CIDR; expected one like `203.0.113.0/24`, `198.51.100.7` or `2001:db8::/32`";
    let lists: &[(&[u8], &str)] = &[
        (
            b"",
            "aws.txt:1:1: holds no CIDR; if that is intended, remove the file from `destinationFiles`",
        ),
        (
            b"192.0.2.0/24\n\xe9\n",
            "aws.txt:2:1: the byte 0xe9 is not UTF-8; save the file as UTF-8",
        ),
        (
            b"192.0.2.0/24\n\0\n",
            "aws.txt:2:1: there is a zero byte; the file holds text only",
        ),
        (b"192.0.2.0/24\r\n1.2.3\r\n", &format!("aws.txt:2:1: {foo}")),
        (b"192.0.2.0/24\r1.2.3", &format!("aws.txt:2:1: {foo}")),
        ("\u{feff}1.2.3".as_bytes(), &format!("aws.txt:1:1: {foo}")),
        (b"\t 1.2.3", &format!("aws.txt:1:3: {foo}")),
    ];
    for (bytes, expected) in lists {
        assert_eq!(reported(&files(LISTED, &[("aws.txt", bytes)])), *expected);
    }
}

#[test]
fn a_list_file_may_have_comments_blank_lines_and_any_line_ending() {
    let expected = [p("192.0.2.0/24"), p("198.51.100.7")];
    for text in [
        "192.0.2.0/24\n198.51.100.7",
        "# x\n\n  192.0.2.0/24   # y\n\t198.51.100.7/32#z\n",
        "192.0.2.0/24\r\n198.51.100.7\r\n\r\n",
        "\u{feff}198.51.100.7\n192.0.2.0/24\n192.0.2.0/24\n",
    ] {
        assert_eq!(
            parse(&files(LISTED, &[("aws.txt", text.as_bytes())]))
                .unwrap()
                .config
                .sets[0]
                .destinations,
            expected,
            "{text:?}"
        );
    }
}

#[test]
fn an_unreadable_list_file_is_a_problem_where_it_is_named() {
    let mut files = files(LISTED, &[]);
    files.lists.insert(
        "aws.txt".to_owned(),
        Err(ListUnread::Other(
            "is a directory; expected a file".to_owned(),
        )),
    );
    assert_eq!(
        reported(&files),
        "routes.yaml:4:22: routes[0].destinationFiles[0]: `aws.txt` is a directory; expected a file"
    );
}

#[test]
fn sizes_beyond_the_limits_are_refused() {
    let mut large = b"routes: []\n#".to_vec();
    large.resize(MAX_FILE, b' ');
    assert_eq!(reported(&files(&large, &[])), "accepted");
    large.push(b' ');
    assert_eq!(
        reported(&files(&large, &[])),
        "routes.yaml:1:1: is larger than 4 MiB, which is the limit for a file"
    );
    assert_eq!(
        reported(&files(LISTED, &[("aws.txt", &large)])),
        "aws.txt:1:1: is larger than 4 MiB, which is the limit for a file"
    );
    large.pop();
    let three: Vec<(&str, &[u8])> = ["a", "b", "c"]
        .map(|name| (name, large.as_slice()))
        .to_vec();
    assert_eq!(
        reported(&files(LISTED, &three)),
        "routes.yaml:1:1: is larger than 8 MiB with its list files, which is the limit"
    );
    let sets: String = (0..=MAX_SETS)
        .map(|i| {
            format!(
                "- {{name: s{i}, gateways: [10.116.0.5], destinations: [{}]}}\n",
                Prefix::host(Family::V4.address(i as u128 + (1 << 30)))
            )
        })
        .collect();
    assert_eq!(
        reported(&files(format!("routes:\n{sets}"), &[])),
        "routes.yaml:2:3: routes: has 1001 route sets; at most 1000 are allowed"
    );
    let list: String = (0..=MAX_DESTINATIONS)
        .map(|i| format!("{}\n", Family::V4.address(i as u128)))
        .collect();
    assert_eq!(
        reported(&files(LISTED, &[("aws.txt", list.as_bytes())])),
        "routes.yaml:4:22: routes[0].destinationFiles[0]: with these, there are more than 250000 CIDRs in all, which is the limit"
    );
}

#[test]
fn a_flood_of_problems_is_counted_but_not_kept() {
    let list = "10.1.2.3/8\n".repeat(50_000);
    let problems = parse(&files(LISTED, &[("aws.txt", list.as_bytes())])).unwrap_err();
    assert_eq!((problems.kept.len(), problems.count()), (100, 50_000));
    assert!(problems.to_string().ends_with("\nand 49900 more"));
    assert!(problems.summary().ends_with(" (and 49995 more)"));
    let many = "- 10.1.2.3/8\n".repeat(500);
    let problems = parse(&files(
        format!(
            "routes:\n- name: a\n  gateways: [10.0.0.1]\n  destinations:\n  {}",
            many.replace('\n', "\n  ")
        ),
        &[],
    ))
    .unwrap_err();
    assert_eq!(problems.count(), 500);
}

#[test]
fn a_picture_shows_the_line_and_carets_under_the_value() {
    let text = "routes:\n- name: a\n  gateways: [10.116.0.5]\n  destinations: [203.0.113.0/24, 10.1.2.3/8]\n";
    let problems = parse(&files(text, &[])).unwrap_err();
    insta::assert_snapshot!(problems.kept[0].picture(false), @r"
    routes.yaml:4:34: routes[0].destinations[1]: `10.1.2.3/8` has host bits set; did you mean `10.0.0.0/8`?
      |
    4 |   destinations: [203.0.113.0/24, 10.1.2.3/8]
      |                                  ^^^^^^^^^^
    ");
    assert!(
        problems.kept[0]
            .picture(true)
            .ends_with("\u{1b}[31m^^^^^^^^^^\u{1b}[0m")
    );
    let long = format!(
        "routes: [{}{{name: A}}]",
        "{name: a, gateways: [10.0.0.1], destinations: [192.0.2.7]}, ".repeat(50)
    );
    let problems = parse(&files(long, &[])).unwrap_err();
    assert!(
        problems
            .kept
            .iter()
            .all(|problem| problem.source_line.chars().count() <= 120)
    );
    for problem in &problems.kept {
        let picture = problem.picture(false);
        let lines: Vec<&str> = picture.lines().collect();
        assert!(
            lines[3].chars().count() <= lines[2].chars().count() + 1,
            "the caret is under the line:\n{picture}"
        );
    }
}

#[test]
fn a_problem_is_one_line_whatever_is_in_the_file() {
    let problems = parse(&files("routes: []\n\"a\\nb\\e[31m\\u202e\": 1\n", &[])).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "routes.yaml:2:1: `a\\nb\\u{1b}[31m\\u{202e}` is not known here; expected `routes`, `protected` or `expectedRules`"
    );
}
