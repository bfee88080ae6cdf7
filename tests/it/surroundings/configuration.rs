//! Faults of the configuration's directory and what is in it.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::thread::sleep;

use super::{Duration, Lab, Numbered, SOON, fs, numbered, wait_until};

/// Replaces `routes.yaml` by something else; gets its path.
type Break = fn(&Path);

fn fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo")
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

const FAULTS: [(&str, Break); 9] = [
    ("is not there", |_| {}),
    ("loop of symbolic links", |path| {
        symlink("..loop", path).unwrap();
        symlink("routes.yaml", path.with_file_name("..loop")).unwrap();
    }),
    ("is not there", |path| symlink("nowhere", path).unwrap()),
    ("a FIFO", fifo),
    ("a directory", |path| fs::create_dir(path).unwrap()),
    ("permission denied", |path| {
        fs::write(path, numbered(9)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
    }),
    ("is empty", |path| fs::write(path, "").unwrap()),
    ("larger than", |path| {
        // Sparse: 100 MB of zero bytes that take no room.
        fs::File::create(path)
            .unwrap()
            .set_len(100_000_000)
            .unwrap();
    }),
    ("a device", |path| symlink("/dev/zero", path).unwrap()),
];

/// As in the container: uid 0 without the rights to pass over file modes.
const AS_IN_THE_POD: [&str; 2] = ["setpriv", "--bounding-set=-all,+net_admin,+net_raw"];

#[test]
fn whatever_stands_in_place_of_the_configuration_changes_no_route_and_is_named_until_a_good_one_is_there()
 {
    let mut node = Numbered::new(Lab::new());
    let path = node.dir.path().join("plain/routes.yaml");
    let directory = path.parent().unwrap().to_owned();
    fs::create_dir(&directory).unwrap();
    fs::write(&path, numbered(1)).unwrap();
    node.node.volume = crate::lab::Volume::new(&directory);
    let agent = node.agent_by(&AS_IN_THE_POD, &["--resync", "1s"]);
    node.is_well(&agent);
    for (words, break_it) in FAULTS {
        let routes = node.routes();
        fs::remove_file(&path).unwrap();
        break_it(&path);
        node.reports("Invalid", words, &agent);
        assert_eq!(node.routes(), routes, "{words}");
        node.lives();
        node.number += 1;
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        }
        let fresh = directory.join("fresh");
        fs::write(&fresh, numbered(node.number)).unwrap();
        fs::rename(&fresh, &path).unwrap();
        node.is_well(&agent);
    }
    assert!(
        agent.memory_kib().1 < 100 * 1024,
        "{} KiB",
        agent.memory_kib().1
    );
}

/// System calls that read, of a process so far.
fn reads(pid: u32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap();
    io.lines()
        .find_map(|line| line.strip_prefix("syscr: ")?.parse().ok())
        .unwrap()
}

#[test]
fn a_plain_directory_is_read_when_it_changes_and_reading_it_is_no_change() {
    let mut node = Numbered::new(Lab::new());
    let directory = node.dir.path().join("plain");
    fs::create_dir(&directory).unwrap();
    node.node.volume = crate::lab::Volume::new(&directory);
    fs::write(directory.join("routes.yaml"), numbered(1)).unwrap();
    let agent = node.agent(&["--resync", "10m"]);
    node.is_well(&agent);
    let span = Duration::from_secs(3);
    // Until what the start caused is over.
    let mut before = 0;
    let quiet = wait_until(SOON, || {
        let earlier = std::mem::replace(&mut before, reads(agent.pid()));
        sleep(span); // the span that is measured
        earlier > 0 && reads(agent.pid()) - before < 30
    });
    assert!(
        quiet,
        "{} reads in {span:?} in which nothing happens",
        reads(agent.pid()) - before
    );
    node.number = 2;
    fs::write(directory.join("routes.yaml"), numbered(2)).unwrap();
    node.is_well(&agent);
}

#[test]
fn a_directory_that_vanishes_and_comes_back_changes_no_route_and_is_followed_again() {
    let mut node = Numbered::new(Lab::new());
    let agent = node.agent(&["--resync", "1s"]);
    node.is_well(&agent);
    let routes = node.routes();
    let directory = node.volume.path().to_owned();
    fs::remove_dir_all(&directory).unwrap();
    node.reports("Invalid", "is not there", &agent);
    assert_eq!(node.routes(), routes);
    fs::create_dir(&directory).unwrap();
    node.node.volume = crate::lab::Volume::new(&directory);
    node.edit();
    node.is_well(&agent);
    // And is watched again, not only polled: this one is there well before the next poll.
    for _ in 0..3 {
        node.edit();
        node.is_well(&agent);
    }
}

#[test]
fn a_read_only_root_and_configuration_are_all_the_agent_needs() {
    let node = Numbered::new(Lab::new());
    let config = node.volume.path().to_str().unwrap();
    let script = format!(
        "mount --bind {config} {config} && mount -o remount,bind,ro {config} && mount -o remount,bind,ro / && exec \"$@\""
    );
    let agent = node.agent_by(
        &["unshare", "--mount", "sh", "-c", &script, "sh"],
        &["--resync", "1s"],
    );
    node.is_well(&agent);
    assert!(!agent.log().contains("Read-only"), "{}", agent.log());
}
