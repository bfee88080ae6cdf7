//! Noticing that the configuration directory may have changed.
//!
//! I/O. It only triggers: what is there is read by `source` and compared by revision. The directory is
//! watched, not a file in it (a ConfigMap volume swaps the link `..data`; a watch on a file sees the
//! first swap and nothing ever after), whatever the kind of the event (some file systems report the
//! swap as a write), and a slow poll runs beneath it, because inotify watches can be used up by others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// How long nothing more must happen before a change is looked at, and how long it may wait for that at the most.
#[derive(Clone, Copy, Debug)]
struct Patience {
    quiet: Duration,
    longest: Duration,
}

/// A change that comes alone: a swap is a handful of events within a millisecond.
const ALONE: Patience = Patience {
    quiet: Duration::from_millis(5),
    longest: Duration::from_millis(500),
};
/// The third change within [`SOON`], and on: each look may cost an apply. The second is prompt, because the first may have been
/// the directory that a swap's files are written to before the swap itself.
const STORM: Patience = Patience {
    quiet: Duration::from_millis(250),
    longest: Duration::from_secs(1),
};
/// What is soon.
const SOON: Duration = Duration::from_secs(1);
/// The poll beneath the watch; also how long a watch that could not be made is without a new try.
const POLL: Duration = Duration::from_secs(10);

/// Triggers when the directory may have changed.
#[derive(Debug)]
pub struct Watch {
    directory: PathBuf,
    watcher: Option<RecommendedWatcher>,
    events: mpsc::Receiver<()>,
    wake: mpsc::Sender<()>,
    /// When changes were looked at last: the one before the last, and the last.
    looked: [Option<Instant>; 2],
    warned: bool,
}

impl Watch {
    /// Starts to watch. A directory that is not there is no error: it may come.
    pub fn new(directory: &Path) -> Self {
        let (wake, events) = mpsc::channel(1);
        let mut watch = Self {
            directory: directory.to_owned(),
            watcher: None,
            events,
            wake,
            looked: [None; 2],
            warned: false,
        };
        watch.establish();
        watch
    }

    /// Waits until it is time to look: after a change, when it has been quiet for a moment or for too
    /// long not, and at every poll.
    pub async fn changed(&mut self) {
        let poll = Instant::now() + POLL;
        tokio::select! {
            // The sender is ours too, so this never ends with `None`.
            _ = self.events.recv() => {}
            () = sleep_until(poll) => {
                self.establish();
                return;
            }
        }
        let [before, last] = self.looked;
        let again = before.is_some_and(|looked| looked.elapsed() < SOON);
        settle(&mut self.events, if again { STORM } else { ALONE }).await;
        self.looked = [last, Some(Instant::now())];
    }

    /// Watches the directory anew: one that was replaced as a whole takes its old watch with it.
    fn establish(&mut self) {
        self.watcher = None;
        let wake = self.wake.clone();
        // A full channel has a wake-up in it already.
        let made = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if !event.is_ok_and(|event| is_reading(event.kind) || is_of_the_kubelet(&event.paths)) {
                let _ = wake.try_send(());
            }
        });
        let watched = made.and_then(|mut w| {
            w.watch(&self.directory, RecursiveMode::NonRecursive)
                .map(|()| w)
        });
        match watched {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                self.warned = false;
            }
            Err(error) if !self.warned => {
                self.warned = true;
                tracing::warn!(%error, directory = %self.directory.display(), "Cannot watch the configuration directory; looking every {} s instead", POLL.as_secs());
            }
            Err(_) => {}
        }
    }
}

/// Whether the event is only a read, such as the agent's own after each trigger. Every other kind may be a swap.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

/// Whether only names changed that the kubelet uses before a swap or after it: no key begins with two dots, and `..data` is the swap.
fn is_of_the_kubelet(paths: &[PathBuf]) -> bool {
    let name = |path: &PathBuf| {
        path.file_name()
            .map(|name| name.as_encoded_bytes().to_vec())
    };
    let is_beside = |name: Vec<u8>| name.starts_with(b"..") && name != b"..data";
    !paths.is_empty() && paths.iter().all(|path| name(path).is_some_and(is_beside))
}

/// Waits until `events` has been quiet for long enough.
async fn settle(events: &mut mpsc::Receiver<()>, Patience { quiet, longest }: Patience) {
    let end = Instant::now() + longest;
    loop {
        let next = (Instant::now() + quiet).min(end);
        tokio::select! {
            biased;
            () = sleep_until(next) => return,
            Some(()) = events.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storm_is_looked_at_when_it_has_lasted_long_enough() {
        let (wake, mut events) = mpsc::channel(1);
        let storm = tokio::spawn(async move {
            loop {
                let _ = wake.try_send(());
                tokio::time::sleep(ALONE.quiet / 2).await;
            }
        });
        let started = Instant::now();
        settle(&mut events, ALONE).await;
        assert_eq!(started.elapsed(), ALONE.longest);
        storm.abort();
    }

    #[test]
    fn what_the_kubelet_does_beside_a_swap_is_no_change() {
        let beside = |names: &[&str]| {
            let path = |name: &&str| Path::new("/etc/egress-routes").join(name);
            is_of_the_kubelet(&names.iter().map(path).collect::<Vec<_>>())
        };
        assert!(beside(&["..2026_11_27_04_00_00.1"]));
        assert!(beside(&["..data_tmp"]));
        assert!(!beside(&["..data_tmp", "..data"]));
        assert!(!beside(&["..data"]));
        assert!(!beside(&["routes.yaml"]));
        assert!(!beside(&[]), "who names nothing may mean anything");
    }

    #[tokio::test(start_paused = true)]
    async fn a_swap_is_prompt_although_its_directory_was_made_before_it_and_what_follows_soon_waits()
     {
        let mut watch = Watch::new(Path::new("/nowhere"));
        for patience in [ALONE, ALONE, STORM, STORM] {
            watch.wake.try_send(()).unwrap();
            let started = Instant::now();
            watch.changed().await;
            assert_eq!(started.elapsed(), patience.quiet);
        }
        tokio::time::sleep(SOON).await;
        watch.wake.try_send(()).unwrap();
        let started = Instant::now();
        watch.changed().await;
        assert_eq!(started.elapsed(), ALONE.quiet);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_change_is_looked_at_after_the_quiet_time() {
        let (_wake, mut events) = mpsc::channel(1);
        let started = Instant::now();
        settle(&mut events, ALONE).await;
        assert_eq!(started.elapsed(), ALONE.quiet);
    }
}
