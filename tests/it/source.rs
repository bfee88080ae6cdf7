//! Reading the configuration directory: one version of it, and never a wait.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use egress_routes::config::{self, ListUnread};
use egress_routes::source::{Kind, Reason, SourceError, read};

use crate::lab::Volume;

/// What a test finds in its environment when it has to be the reader that another process started: the directory to read.
const INSIDE: &str = "EGRESS_ROUTES_TEST_DIR";

fn routes(comment: &str) -> String {
    format!(
        "# {comment}\nroutes:\n- name: a\n  gateways: [10.116.0.5]\n  destinationFiles: [aws.txt]\n"
    )
}

fn refused(path: &Path) -> SourceError {
    let begun = Instant::now();
    let error = read(path).unwrap_err();
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "a read never waits"
    );
    error
}

fn why(path: &Path) -> String {
    refused(path)
        .to_string()
        .replace(&path.display().to_string(), "DIR")
}

#[test]
fn a_volume_is_read_below_the_version_that_data_points_to() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::new(dir.path());
    for n in 1..=3 {
        volume.write(&[
            ("routes.yaml", routes(&n.to_string())),
            ("aws.txt", format!("192.0.2.{n}\n")),
            ("unused.txt", "x".to_owned()),
        ]);
        let snapshot = read(dir.path()).unwrap();
        assert!(
            matches!(&snapshot.kind, Kind::Volume(target) if target.starts_with(fs::read_link(dir.path().join("..data")).unwrap()))
        );
        assert_eq!(
            snapshot.files.lists.keys().collect::<Vec<_>>(),
            ["aws.txt"],
            "only what is named is read"
        );
        let destinations = config::parse(&snapshot.files).unwrap().config.sets[0]
            .destinations
            .clone();
        assert_eq!(format!("{destinations:?}"), format!("[192.0.2.{n}/32]"));
        assert_eq!(
            read(&dir.path().join("routes.yaml")).unwrap(),
            snapshot,
            "the file's own path is the same configuration"
        );
    }
}

#[test]
fn keys_of_two_versions_are_never_mixed_while_the_volume_is_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let mut volume = Volume::new(dir.path());
    let mut write = |n: u32| {
        volume.write(&[
            ("routes.yaml", routes(&format!("198.51.100.{}", n % 250))),
            ("aws.txt", format!("198.51.100.{}\n", n % 250)),
        ]);
    };
    write(0);
    let done = AtomicBool::new(false);
    let (mut read_well, mut versions) = (0, std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..400).for_each(&mut write);
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) || read_well == 0 {
            match read(dir.path()) {
                Ok(snapshot) => {
                    let yaml = String::from_utf8(snapshot.files.routes_yaml).unwrap();
                    let list = String::from_utf8(snapshot.files.lists["aws.txt"].clone().unwrap())
                        .unwrap();
                    assert_eq!(yaml.lines().next().unwrap(), format!("# {}", list.trim()));
                    read_well += 1;
                    versions.insert(list);
                }
                Err(error) => assert_eq!(error.reason, Reason::Moving, "{error}"),
            }
        }
    });
    assert!(
        versions.len() > 1,
        "the volume changed while it was read {read_well} times"
    );
}

#[test]
fn a_plain_directory_and_a_single_file_are_read_too() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine.yaml"), routes("x")).unwrap();
    fs::write(dir.path().join("aws.txt"), "192.0.2.0/24\n").unwrap();
    let alone = read(&dir.path().join("mine.yaml")).unwrap();
    assert_eq!(alone.kind, Kind::Plain);
    assert!(
        config::parse(&alone.files).is_ok(),
        "list files lie beside it"
    );
    fs::rename(dir.path().join("mine.yaml"), dir.path().join("routes.yaml")).unwrap();
    assert_eq!(read(dir.path()).unwrap(), alone);
}

#[test]
fn a_file_that_is_mounted_by_itself_is_no_plain_one() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        assert_eq!(read(Path::new(&dir)).unwrap().kind, Kind::Single);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, elsewhere) = (dir.path().join("routes.yaml"), dir.path().join("elsewhere"));
    fs::write(&file, "").unwrap();
    fs::write(&elsewhere, "routes: []\n").unwrap();
    // A mount namespace of its own, so that nothing stays behind.
    let script = "mount --bind \"$2\" \"$1\" && exec \"$3\" --exact source::a_file_that_is_mounted_by_itself_is_no_plain_one --nocapture";
    let run = Command::new("unshare")
        .args(["-m", "sh", "-ec", script, "sh"])
        .args([&file, &elsewhere, &std::env::current_exe().unwrap()])
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && out.contains("1 passed"),
        "{out}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

#[test]
fn a_directory_without_routes_yaml_is_not_one_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let absent = |path: &Path| read(path).unwrap_err().is_not_configured();
    assert!(absent(dir.path()));
    assert!(!absent(&dir.path().join("nowhere")));
    let mut volume = Volume::new(dir.path().join("volume"));
    fs::create_dir(volume.path()).unwrap();
    volume.write(&[("other.yaml", "")]);
    assert!(absent(volume.path()));
    fs::create_dir(dir.path().join("plain")).unwrap();
    fs::create_dir(dir.path().join("plain/routes.yaml")).unwrap();
    assert!(!absent(&dir.path().join("plain")), "there is something");
    let dangling = dir.path().join("dangling");
    fs::create_dir(&dangling).unwrap();
    std::os::unix::fs::symlink("..gone", dangling.join("..data")).unwrap();
    assert_eq!(
        read(&dangling)
            .unwrap_err()
            .to_string()
            .split_once(": ")
            .unwrap()
            .1,
        "is not there, nor is its directory"
    );
    assert!(
        !absent(&dangling),
        "half a volume is no ConfigMap without the key"
    );
}

#[test]
fn what_is_not_there_is_reported_with_what_is() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(
        why(dir.path()),
        "DIR/routes.yaml: is not there; the ConfigMap needs a key `routes.yaml`, and it is empty; add the key with `kubectl edit configmap` or from your own copy (`routes: []` in it removes every route)"
    );
    fs::write(dir.path().join("route.yaml"), "").unwrap();
    assert_eq!(
        why(dir.path()),
        "DIR/routes.yaml: is not there; the ConfigMap needs a key `routes.yaml`, and it has route.yaml; add the key with `kubectl edit configmap` or from your own copy (`routes: []` in it removes every route)"
    );
    assert_eq!(
        why(&dir.path().join("nowhere")),
        "DIR: is not there; mount the ConfigMap there, or name the right directory"
    );
    let mut volume = Volume::new(dir.path().join("volume"));
    fs::create_dir(volume.path()).unwrap();
    volume.write(&[("other.yaml", "")]);
    assert_eq!(
        why(volume.path()),
        "DIR/routes.yaml: is not there; the ConfigMap needs a key `routes.yaml`, and it has other.yaml; add the key with `kubectl edit configmap` or from your own copy (`routes: []` in it removes every route)"
    );
}

#[test]
fn whatever_stands_in_place_of_routes_yaml_is_named_and_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("routes.yaml");
    assert!(
        Command::new("mkfifo")
            .arg(&file)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        why(dir.path()),
        "DIR/routes.yaml: is a FIFO; expected a file"
    );
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(
        why(dir.path()),
        "DIR/routes.yaml: is a directory; expected a file"
    );
    fs::remove_dir(&file).unwrap();
    symlink("routes.yaml", &file).unwrap();
    assert_eq!(
        why(dir.path()),
        "DIR/routes.yaml: is a loop of symbolic links; expected a file"
    );
    fs::remove_file(&file).unwrap();
    symlink("/dev/zero", &file).unwrap();
    assert_eq!(
        why(dir.path()),
        "DIR/routes.yaml: is a device; expected a file"
    );
    fs::remove_file(&file).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(&file).unwrap();
    assert_eq!(
        why(dir.path()),
        "DIR/routes.yaml: is a socket or device that nothing serves; expected a file"
    );
    drop(socket);
    assert_eq!(
        why(&file.join("x")),
        "DIR: has a file where a directory is expected"
    );
}

#[test]
fn a_list_file_that_cannot_be_read_is_a_problem_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("routes.yaml"), routes("x")).unwrap();
    fs::write(dir.path().join("gcp.txt"), "").unwrap();
    let output = || {
        config::parse(&read(dir.path()).unwrap().files)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        output(),
        "routes.yaml:5:22: routes[0].destinationFiles[0]: `aws.txt` is not there; the files that are there: `gcp.txt`"
    );
    fs::create_dir(dir.path().join("aws.txt")).unwrap();
    assert_eq!(
        output(),
        "routes.yaml:5:22: routes[0].destinationFiles[0]: `aws.txt` is a directory; expected a file"
    );
}

#[test]
fn an_enormous_file_is_cut_just_beyond_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("routes.yaml"), routes("x")).unwrap();
    let list = fs::File::create(dir.path().join("aws.txt")).unwrap();
    list.set_len(1 << 40).unwrap(); // sparse
    let files = read(dir.path()).unwrap().files;
    assert_eq!(
        files.lists["aws.txt"].as_ref().map(Vec::len),
        Ok(config::MAX_FILE + 1)
    );
    assert_eq!(
        config::parse(&files).unwrap_err().to_string(),
        "aws.txt:1:1: is larger than 4 MiB, which is the limit for a file"
    );
}

#[test]
fn a_file_without_read_permission_is_reported_as_such() {
    if let Some(dir) = std::env::var_os(INSIDE) {
        let files = read(Path::new(&dir)).unwrap().files;
        println!("{:?}", files.lists["aws.txt"]);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.path().join("routes.yaml"), routes("x")).unwrap();
    fs::write(dir.path().join("aws.txt"), "192.0.2.0/24\n").unwrap();
    fs::set_permissions(
        dir.path().join("aws.txt"),
        fs::Permissions::from_mode(0o000),
    )
    .unwrap();
    let unread: Result<Vec<u8>, _> = Err(ListUnread::Other(
        "permission denied; give the agent's user read permission".to_owned(),
    ));
    // Root without CAP_DAC_OVERRIDE, as the agent is in its container.
    let run = Command::new("setpriv")
        .args([
            "--bounding-set=-dac_override,-dac_read_search",
            "--inh-caps=-dac_override,-dac_read_search",
        ])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "source::a_file_without_read_permission_is_reported_as_such",
            "--nocapture",
        ])
        .env(INSIDE, dir.path())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && out.contains(&format!("{unread:?}")),
        "{out}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}
