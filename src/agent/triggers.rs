//! What wakes the agent, and when the next pass is due.
//!
//! Channels and timers; nothing is decided here but how soon a trigger is acted upon.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::rollout::Clock;
use crate::cli::args::RunArgs;
use crate::kernel::monitor::{self, GatewayLinks, Notification};
use crate::source::watch::Watch;

/// After the first notification the kernel is left alone for this long: one event seldom comes alone.
const SETTLE: Duration = Duration::from_millis(100);
/// The same for a link that gateways depend on: until its routes are back or blackholed, packets may leave by another path.
const SETTLE_LINK: Duration = Duration::from_millis(10);
/// A table that others change all the time is read at most for this part of the time; a pass takes about twice as long as its
/// reading. The first change after a rest does not wait.
const BUSY: u32 = 100;
/// And not for longer than this: the periodic read would come about then.
const LONGEST_REST: Duration = Duration::from_secs(15);
/// However often links of gateways change, passes take at most about a third of the time. The first change after a rest does not wait.
const REST: u32 = 3;

/// The sources of triggers.
pub(super) struct Triggers {
    /// The configuration may have changed.
    pub(super) directory: mpsc::Receiver<()>,
    /// Routes of others changed.
    pub(super) foreign: mpsc::Receiver<()>,
    /// Policy rules changed.
    pub(super) rules: mpsc::Receiver<()>,
    /// Routes or nexthops of ours may be gone.
    pub(super) ours: mpsc::Receiver<()>,
    /// A link or an address changed.
    pub(super) link: mpsc::Receiver<()>,
    /// It is time to read the kernel although nothing was noticed.
    pub(super) resync: Interval,
}

impl Triggers {
    pub(super) fn start(args: &RunArgs, links: Arc<GatewayLinks>) -> Self {
        let (changed, directory) = mpsc::channel(1);
        let mut watch = Watch::new(&args.node.config);
        tokio::spawn(async move {
            loop {
                watch.changed().await;
                // A full channel has a wake-up in it already.
                let _ = changed.try_send(());
            }
        });
        let (foreign, rules) = (mpsc::channel(1), mpsc::channel(1));
        let (ours, link) = (mpsc::channel(1), mpsc::channel(1));
        tokio::spawn(monitor::listen(
            args.node.kernel.ownership(),
            links,
            [foreign.0, rules.0, ours.0, link.0],
        ));
        let mut resync = interval_at(Instant::now() + args.resync, args.resync);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            directory,
            foreign: foreign.1,
            rules: rules.1,
            ours: ours.1,
            link: link.1,
            resync,
        }
    }
}

/// Why the next pass is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Causes {
    /// Another target, or a gateway's health.
    asked: bool,
    /// A link or address changed since the last pass: losses are explained.
    pub(super) link: bool,
    /// A policy rule changed since the last pass.
    rules: bool,
    /// The periodic read: unused objects are swept too.
    pub(super) resync: bool,
    due: Option<Clock>,
}

impl Causes {
    /// When the next pass is due, if at all.
    pub(super) const fn due(&self) -> Option<Clock> {
        self.due
    }

    /// Whether packets may take other paths than at the last lookups; routes of others wait for the periodic read. Nor is any of
    /// these only a loss of ours, whose repair the repair limit may delay.
    pub(super) const fn call_for_lookups(&self) -> bool {
        self.asked || self.link || self.rules || self.resync
    }

    /// Whether nothing is known to have changed: the periodic read is the only cause.
    pub(super) const fn only_resync(&self) -> bool {
        self.resync && !(self.asked || self.link || self.rules)
    }

    pub(super) fn target_changed(&mut self, now: Clock) {
        self.asked = true;
        self.by(now);
    }

    pub(super) fn health_changed(&mut self, now: Clock) {
        self.asked = true;
        self.by(now + SETTLE);
    }

    pub(super) fn resync_is_due(&mut self, now: Clock) {
        self.resync = true;
        self.by(now);
    }

    /// A kernel notification; `reading` is how long the last read took, `ended` when the last pass did.
    pub(super) fn notified(
        &mut self,
        notification: Notification,
        now: Clock,
        reading: Duration,
        ended: Option<Clock>,
    ) {
        let rested = |times| ended.map_or(now, |ended| ended + (reading * times).min(LONGEST_REST));
        self.link |= notification == Notification::Link;
        self.rules |= notification == Notification::Rule;
        self.by(match notification {
            Notification::Ours => now + SETTLE,
            Notification::Link => rested(REST).max(now + SETTLE_LINK),
            Notification::Foreign | Notification::Rule => rested(BUSY).max(now + SETTLE),
        });
    }

    /// A pass failed: what it was made for is still to do.
    pub(super) const fn take_up(&mut self, failed: Self) {
        self.asked |= failed.asked;
        self.link |= failed.link;
        self.rules |= failed.rules;
    }

    /// Something is left to do; at this time at the latest.
    pub(super) fn again(&mut self, at: Clock) {
        self.by(at);
    }

    fn by(&mut self, at: Clock) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_event_is_acted_upon_at_once_and_a_stream_of_them_leaves_time_for_others() {
        let now = Duration::from_mins(1);
        let due = |notification, ended| {
            let mut causes = Causes::default();
            causes.notified(notification, now, Duration::from_millis(300), ended);
            causes.due().unwrap().saturating_sub(now)
        };
        assert_eq!(due(Notification::Link, None), SETTLE_LINK);
        assert_eq!(
            due(Notification::Link, now.checked_sub(Duration::from_secs(5))),
            SETTLE_LINK
        );
        assert_eq!(
            due(Notification::Link, Some(now)),
            Duration::from_millis(900)
        );
        assert_eq!(
            due(Notification::Ours, Some(now)),
            SETTLE,
            "how often that is, is `repair_limit`'s"
        );
        assert_eq!(due(Notification::Foreign, None), SETTLE);
        assert_eq!(due(Notification::Foreign, Some(now)), LONGEST_REST);
    }
}
