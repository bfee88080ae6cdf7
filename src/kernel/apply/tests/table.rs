//! The kernel in memory behind the seam of `apply`, an `ip` that fails when it is asked to, and a record of what was written.

use std::cell::RefCell;

use anyhow::bail;

use super::OURS;
use crate::kernel::dump::BatchErrors;
use crate::kernel::ip::{CHUNK, RouteTable, Unfit};
use crate::kernel::model::{Entry, Model, Object, Refusal, run_lines};
use crate::net::prefix::Family;
use crate::routing::state::{Kernel, RouteKey};

/// What goes wrong at a call, reads and writes counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `ip` cannot be run; nothing is done.
    Error,
    /// `ip` hangs in the middle of a batch and is killed.
    Killed,
    /// A batch stops in the middle, with a message and without a line number.
    Stops,
    /// The same without a message.
    StopsSilently,
    /// Every second line is refused.
    RefusesHalf,
    /// Just before the call the gateways' links lose their carrier and have it back: all nexthop objects on them, and what goes
    /// through these, vanish.
    LinkFlaps,
    /// Just before the call somebody removes every second route of ours.
    RoutesVanish,
}

impl Fault {
    pub(super) const ALL: [Self; 7] = [
        Self::Error,
        Self::Killed,
        Self::Stops,
        Self::StopsSilently,
        Self::RefusesHalf,
        Self::LinkFlaps,
        Self::RoutesVanish,
    ];
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) model: Model,
    calls: usize,
    fault: Option<(usize, Fault)>,
    /// Lines given to `ip`.
    lines: Vec<String>,
    /// IPv6 routes change all the time: reads leave every third one out.
    pub(super) churn: bool,
}

#[derive(Debug)]
pub(super) struct Table(pub(super) RefCell<State>);

impl Table {
    /// On a node that has nothing of ours.
    pub(super) fn new() -> Self {
        Self(RefCell::new(State {
            model: Model::node(),
            calls: 0,
            fault: None,
            lines: Vec::new(),
            churn: false,
        }))
    }

    /// Runs lines as somebody else would; fails the test at a line that is refused.
    pub(super) fn prepare(&self, lines: &str) {
        self.0.borrow_mut().model.prepare(lines);
    }

    /// The call with this number, counted from the next one as 1, goes wrong.
    pub(super) fn fail_at(&self, call: usize, fault: Fault) {
        let mut state = self.0.borrow_mut();
        state.fault = Some((state.calls + call, fault));
    }

    /// A fault that has not happened yet does not happen.
    pub(super) fn fail_no_more(&self) {
        self.0.borrow_mut().fault = None;
    }

    /// Calls made so far.
    pub(super) fn calls(&self) -> usize {
        self.0.borrow().calls
    }

    /// Lines written since the last time this was asked.
    pub(super) fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.0.borrow_mut().lines)
    }

    /// Everything that is not ours: routes with their keys, and objects with their ids.
    #[allow(clippy::type_complexity)]
    pub(super) fn foreign(&self) -> (Vec<(RouteKey, Entry)>, Vec<(u32, Object)>) {
        let model = &self.0.borrow().model;
        let routes = model.routes.iter();
        let routes =
            routes.flat_map(|(key, there)| there.iter().map(|entry| (*key, entry.clone())));
        let objects = model
            .objects
            .iter()
            .filter(|(_, o)| o.protocol != OURS.protocol);
        (
            routes
                .filter(|(_, r)| r.protocol != OURS.protocol)
                .collect(),
            objects.map(|(id, o)| (*id, o.clone())).collect(),
        )
    }

    /// The state as `ip` would report it.
    pub(super) fn kernel(&self) -> Kernel {
        let state = self.0.borrow();
        let mut kernel = state.model.dump(&OURS);
        if state.churn {
            let mut n = state.calls;
            kernel.own.retain(|r| {
                n += 1;
                r.key.prefix.family() == Family::V4 || !n.is_multiple_of(3)
            });
            kernel.uncertain_v6 = true;
        }
        kernel
    }

    /// Counts a call; the fault that is due at it.
    fn call(&self) -> Option<Fault> {
        let state = &mut *self.0.borrow_mut();
        state.calls += 1;
        let (_, due) = state.fault.filter(|(at, _)| *at == state.calls)?;
        match due {
            Fault::LinkFlaps => {
                for link in ["eth1", "eth2"] {
                    state.model.set_carrier(link, false);
                    state.model.set_carrier(link, true);
                }
            }
            Fault::RoutesVanish => {
                let mut stays = false;
                for there in state.model.routes.values_mut() {
                    there.retain(|r| {
                        stays = !stays;
                        r.protocol != OURS.protocol || stays
                    });
                }
            }
            _ => {}
        }
        Some(due)
    }
}

impl RouteTable for Table {
    async fn read(&self) -> anyhow::Result<Kernel> {
        match self.call() {
            Some(Fault::Error | Fault::Killed) => bail!("the dump failed"),
            _ => Ok(self.kernel()),
        }
    }

    async fn read_to_compare(&self) -> anyhow::Result<Option<Kernel>> {
        self.read().await.map(Some)
    }

    async fn read_nexthops(&self) -> anyhow::Result<Kernel> {
        self.read().await?;
        Ok(self.0.borrow().model.dump_nexthops())
    }

    async fn unfit(&self) -> Option<Unfit> {
        None
    }

    async fn write(&self, family: Option<Family>, text: &str) -> anyhow::Result<BatchErrors> {
        let fault = self.call();
        let state = &mut *self.0.borrow_mut();
        let count = text.lines().count();
        assert!(count <= CHUNK, "a batch of {count} lines");
        state.lines.extend(text.lines().map(str::to_owned));
        let run = match fault {
            Some(Fault::Error) => bail!("`ip` could not be started"),
            Some(Fault::Killed | Fault::Stops | Fault::StopsSilently) => count.div_ceil(2),
            _ => count,
        };
        let mut errors = run_lines(text.lines().take(run), |n, line| {
            if fault == Some(Fault::RefusesHalf) && n % 2 == 0 {
                return Err(Refusal::Kernel("No buffer space available"));
            }
            state.model.run(family, line)
        });
        match fault {
            Some(Fault::Killed) => bail!("`ip -force -batch -` was killed"),
            Some(Fault::Stops) => errors.stopped = Some("any words".to_owned()),
            _ => {}
        }
        Ok(errors)
    }
}
