//! What must hold on a node that boots before the API server can be reached: the first change is guarded too. Other rules excuse what is
//! decided while the server is away.

use super::clock::CONFIRM;
use super::node::OURS;
use super::rules::{BOUND, Verdict};
use super::world::World;
use crate::agent::rollout::Clock;

/// An agent began with nothing of ours in the kernel, has never heard the server, and nothing else has happened since.
#[derive(Default)]
pub(super) struct Boot {
    /// Since when its first change cuts off the server.
    cut_off: Option<Clock>,
}

impl World {
    pub(super) fn expect_boot(&mut self) {
        let kernel = self.state.borrow().model.dump(&OURS);
        let is_empty = kernel.own.is_empty() && kernel.records(&OURS).is_empty();
        self.rules.boot = (is_empty && !self.is_reachable()).then(Boot::default);
    }

    /// Where the server is there before `--confirm` is over, what cuts it off is taken back.
    pub(super) fn check_boot(&mut self) -> Verdict {
        let (now, has_way, blocked) = (self.now(), self.has_own_way(), self.is_blocked());
        let has_begun = self.agent.as_ref().is_some_and(|a| a.starting.is_none());
        let is_disturbed = !self.state.borrow().faults.is_empty() || self.rules.heard;
        let Some(boot) = self.rules.boot.as_mut().filter(|_| has_begun) else {
            return Ok(());
        };
        let since = boot.cut_off.or(blocked.then_some(now));
        boot.cut_off = since;
        let Some(since) = since else { return Ok(()) };
        if !blocked || is_disturbed || (!has_way && now >= since + CONFIRM) {
            self.rules.boot = None;
        } else if now > since + CONFIRM + BOUND {
            return Err(format!(
                "the first change cuts off the API server since {since:?}, and it is {now:?}"
            ));
        }
        Ok(())
    }
}
