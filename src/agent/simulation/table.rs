//! The kernel in memory behind the agent's own seam, and what goes wrong with `ip` and with the node while it runs.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::bail;

use super::node::{API_ADDRESSES, LINKS, OURS};
use crate::kernel::dump::BatchErrors;
use crate::kernel::ip::{RouteTable, Unfit};
use crate::kernel::lookup::Lookup;
use crate::kernel::model::{Entry, Model, Refusal, To, Way};
use crate::net::prefix::{Family, Prefix};
use crate::routing::batch::MAIN_TABLE;
use crate::routing::lookup::{Answer, Match, RulesOfBoth};
use crate::routing::rule::{Action, Packet, Rule, Rules};
use crate::routing::state::{Kernel, OwnRoute, RouteKey, Target as RouteTarget};

/// How long the API server takes to answer, most often.
pub(super) const ANSWER: Duration = Duration::from_millis(10);
/// A run of `ip` that hangs is killed after this time.
const HANGS: Duration = Duration::from_secs(10);

/// What goes wrong at the next call that it can go wrong at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A read fails.
    ReadFails,
    /// A read hangs.
    ReadHangs,
    /// IPv6 routes change during every try of a read: each nth route is not seen.
    Churn(u8),
    /// The agent is killed while it reads.
    KilledReading,
    /// `ip` cannot be started for a batch.
    WriteFails,
    /// `ip` dies after these lines, and says so.
    Dies(u8),
    /// `ip` hangs after these lines, and is killed.
    Hangs(u8),
    /// The kernel refuses the line with this number.
    Refuses(u8),
    /// The agent and its `ip` are killed after these lines.
    Killed(u8),
    /// The agent is killed, and `ip` runs to its end.
    Orphaned,
    /// The agent is killed before the first answer to the next question.
    KilledAsking,
    /// A link loses its carrier before the line with this number, and has it back at once.
    Flaps(u8, u8),
}

/// Where a fault can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    Write,
    Question,
}

impl Fault {
    const fn call(self) -> Call {
        match self {
            Self::ReadFails | Self::ReadHangs | Self::Churn(_) | Self::KilledReading => Call::Read,
            Self::KilledAsking => Call::Question,
            _ => Call::Write,
        }
    }
}

/// What the rules look at after each step.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// The node's own default route leads to the API server.
    pub(super) has_way: bool,
    /// A route of ours takes its packets.
    pub(super) is_blocked: bool,
    /// Packets of a guarded set that leave another way, in words.
    pub(super) leak: Option<String>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) model: Model,
    pub(super) now: Duration,
    pub(super) faults: Vec<Fault>,
    /// Faults that have happened.
    pub(super) failed: usize,
    /// How long the API server takes to answer.
    pub(super) latency: Duration,
    /// The kernel has no memory for another route.
    pub(super) is_full: bool,
    /// The agent was killed within a call.
    pub(super) dead: bool,
    /// Something happened to a link during a call.
    pub(super) flapped: bool,
    /// Batches, and lines that were run.
    pub(super) batches: usize,
    pub(super) lines: usize,
    /// Routes that were deleted by a line.
    pub(super) deleted: Vec<OwnRoute>,
    /// Addresses whose packets must not leave another way, each with the length of the destination that covers it.
    guarded: Vec<(IpAddr, u8)>,
    /// What there is to see, until something changes.
    seen: Option<Seen>,
    /// What is not ours, as it was after the last thing that somebody else did.
    foreign: Vec<(RouteKey, Entry)>,
    /// The first rule that a line broke.
    pub(super) broken: Option<String>,
}

impl State {
    pub(super) fn new(model: Model) -> Self {
        let mut state = Self {
            model,
            now: Duration::ZERO,
            faults: Vec::new(),
            failed: 0,
            latency: ANSWER,
            is_full: false,
            dead: false,
            flapped: false,
            batches: 0,
            lines: 0,
            deleted: Vec::new(),
            guarded: Vec::new(),
            seen: None,
            foreign: Vec::new(),
            broken: None,
        };
        state.remember_foreign();
        state
    }

    /// The next fault of this kind of call.
    pub(super) fn fault(&mut self, call: Call) -> Option<Fault> {
        let at = self.faults.iter().position(|fault| fault.call() == call)?;
        self.failed += 1;
        Some(self.faults.remove(at))
    }

    fn foreign(&self) -> impl Iterator<Item = (&RouteKey, &Entry)> {
        self.model
            .routes
            .iter()
            .flat_map(|(key, there)| there.iter().map(move |entry| (key, entry)))
            .filter(|(_, entry)| entry.protocol != OURS.protocol)
    }

    /// Somebody else changed something.
    pub(super) fn remember_foreign(&mut self) {
        self.seen = None;
        self.foreign = self.foreign().map(|(k, e)| (*k, e.clone())).collect();
    }

    /// Whether packets to an address of a guarded destination take a route that is wider than it and not ours.
    fn leaks(&self, (address, len): (IpAddr, u8)) -> bool {
        self.model.route_for(address).is_some_and(|(key, entry)| {
            entry.protocol != OURS.protocol
                && key.prefix.len() < len
                && matches!(self.model.way(address), Way::Routers(_) | Way::Link(_))
        })
    }

    pub(super) fn guarded(&self) -> &[(IpAddr, u8)] {
        &self.guarded
    }

    pub(super) fn guard(&mut self, guarded: Vec<(IpAddr, u8)>) {
        self.guarded = guarded;
        self.seen = None;
    }

    pub(super) fn seen(&mut self) -> Seen {
        if let Some(seen) = &self.seen {
            return seen.clone();
        }
        let link = self.model.link(LINKS[0].0);
        let is_up = link.is_some_and(|link| link.up && link.carrier);
        let is_default = |(key, _): &(&RouteKey, &Entry)| {
            key.prefix == Family::V4.everything() && key.table == OURS.table
        };
        let takes = |address| {
            let taken = self.model.route_for(address);
            taken.is_some_and(|(_, entry)| entry.protocol == OURS.protocol)
        };
        let seen = Seen {
            has_way: is_up && self.foreign().any(|route| is_default(&route)),
            is_blocked: API_ADDRESSES.into_iter().any(takes),
            leak: self.leak(),
        };
        self.seen = Some(seen.clone());
        seen
    }

    fn leak(&self) -> Option<String> {
        let (address, _) = self.guarded.iter().find(|guarded| self.leaks(**guarded))?;
        Some(format!("packets to {address} of a guarded set leak"))
    }

    fn run(&mut self, family: Option<Family>, line: &str) -> Result<(), Refusal> {
        self.lines += 1;
        if self.is_full && line.starts_with("route") && !line.starts_with("route del") {
            return Err(Refusal::Kernel("Cannot allocate memory"));
        }
        // A line of a route changes the ways of the addresses in its prefix only.
        let prefix: Option<Prefix> = line
            .starts_with("route")
            .then(|| line.split(' ').find_map(|word| word.parse().ok()))
            .flatten();
        let before = prefix.filter(|_| line.starts_with("route del"));
        let before = before.map(|prefix| self.own_at(prefix));
        let result = self.model.run(family, line);
        if let (Some(prefix), Some(before)) = (prefix, before) {
            let after = self.own_at(prefix);
            self.deleted
                .extend(before.into_iter().filter(|route| !after.contains(route)));
        }
        if self.broken.is_none() {
            if prefix.is_none_or(|prefix| self.is_watched(prefix)) {
                self.seen = None;
            }
            let leak = self.seen().leak;
            self.broken = leak.map(|leak| format!("{leak} after `{line}`"));
        }
        if self.broken.is_none() && !self.is_foreign_kept(prefix) {
            self.broken = Some(format!("what is not ours was changed by `{line}`"));
        }
        result
    }

    /// Whether what is not ours is as it was, of this prefix only where there is one.
    fn is_foreign_kept(&self, prefix: Option<Prefix>) -> bool {
        let before = self.foreign.iter().map(|(key, entry)| (key, entry));
        let Some(prefix) = prefix else {
            return self.foreign().eq(before);
        };
        let is_foreign = |(_, entry): &(&RouteKey, &Entry)| entry.protocol != OURS.protocol;
        let now = self.at(prefix).filter(is_foreign);
        now.eq(before.filter(|(key, _)| key.prefix == prefix))
    }

    /// Whether the way of an address that is looked at may lead through this prefix.
    fn is_watched(&self, prefix: Prefix) -> bool {
        let guarded = self.guarded.iter().map(|(address, _)| *address);
        let mut watched = API_ADDRESSES.into_iter().chain(guarded);
        prefix.len() == 0 || watched.any(|address| prefix.contains(address))
    }

    /// All routes of this prefix.
    fn at(&self, prefix: Prefix) -> impl Iterator<Item = (&RouteKey, &Entry)> {
        let key = |n: u32, tos| RouteKey {
            prefix,
            metric: n,
            table: n,
            tos,
        };
        let there = self.model.routes.range(key(0, 0)..=key(u32::MAX, u8::MAX));
        there.flat_map(|(key, there)| there.iter().map(move |entry| (key, entry)))
    }

    /// Our routes of this prefix.
    fn own_at(&self, prefix: Prefix) -> Vec<OwnRoute> {
        let ours = self
            .at(prefix)
            .filter(|(_, entry)| entry.protocol == OURS.protocol);
        ours.filter_map(|(key, entry)| {
            let target = match entry.to {
                To::Object(id) => RouteTarget::Nexthop(id),
                To::Blackhole => RouteTarget::Blackhole,
                // Somebody else's with our protocol.
                To::Link(..) | To::Several(..) => return None,
            };
            Some(OwnRoute { key: *key, target })
        })
        .collect()
    }

    fn flap(&mut self, link: u8) {
        let (link, _) = LINKS[usize::from(link) % LINKS.len()];
        let has = self.model.link(link).is_some_and(|link| link.carrier);
        if has {
            self.model.set_carrier(link, false);
            self.model.set_carrier(link, true);
            self.flapped = true;
            self.remember_foreign();
        }
    }
}

/// Our routes.
pub(super) fn own(model: &Model) -> Vec<OwnRoute> {
    model.dump(&OURS).own
}

#[derive(Clone, Debug)]
pub(super) struct Table(pub(super) Rc<RefCell<State>>);

impl Table {
    fn reading(&self) -> anyhow::Result<Option<Fault>> {
        if self.0.borrow().dead {
            bail!("the agent is dead");
        }
        let mut state = self.0.borrow_mut();
        let fault = state.fault(Call::Read);
        match fault {
            Some(Fault::ReadFails) => bail!("the dump failed"),
            Some(Fault::ReadHangs) => {
                state.now += HANGS;
                bail!("the dump hung")
            }
            Some(Fault::KilledReading) => {
                state.dead = true;
                bail!("the agent was killed")
            }
            fault => Ok(fault),
        }
    }
}

/// What a dump during churn shows.
fn lie(kernel: &mut Kernel, n: u8) {
    let mut seen = 0_u8;
    let mut is_shown = |prefix: Prefix| {
        seen = seen.wrapping_add(1);
        prefix.family() == Family::V4 || !seen.is_multiple_of(n.max(2))
    };
    kernel.own.retain(|route| is_shown(route.key.prefix));
    kernel.foreign.retain(|route| is_shown(route.key.prefix));
    kernel.uncertain_v6 = true;
}

impl RouteTable for Table {
    async fn read(&self) -> anyhow::Result<Kernel> {
        let fault = self.reading()?;
        let mut kernel = self.0.borrow().model.dump(&OURS);
        if let Some(Fault::Churn(n)) = fault {
            lie(&mut kernel, n);
        }
        Ok(kernel)
    }

    /// What a socket leaves out it mostly leaves out without a word, of either family.
    async fn read_to_compare(&self) -> anyhow::Result<Option<Kernel>> {
        let fault = self.reading()?;
        let mut kernel = self.0.borrow().model.dump(&OURS);
        if let Some(Fault::Churn(n)) = fault {
            if n == 2 {
                return Ok(None);
            }
            let mut seen = 0_u8;
            kernel.own.retain(|_| {
                seen = seen.wrapping_add(1);
                !seen.is_multiple_of(n.max(2))
            });
        }
        Ok(Some(kernel))
    }

    async fn read_nexthops(&self) -> anyhow::Result<Kernel> {
        self.reading()?;
        Ok(self.0.borrow().model.dump_nexthops())
    }

    async fn write(&self, family: Option<Family>, text: &str) -> anyhow::Result<BatchErrors> {
        if self.0.borrow().dead {
            bail!("the agent is dead");
        }
        let mut state = self.0.borrow_mut();
        let fault = state.fault(Call::Write);
        state.batches += 1;
        if fault == Some(Fault::WriteFails) {
            bail!("`ip` could not be started");
        }
        let most = match fault {
            Some(Fault::Dies(n) | Fault::Hangs(n) | Fault::Killed(n)) => usize::from(n),
            _ => usize::MAX,
        };
        let mut errors = BatchErrors::default();
        for (n, line) in text.lines().enumerate().take(most) {
            match fault {
                Some(Fault::Refuses(at)) if usize::from(at) == n => {
                    let words = "No buffer space available".to_owned();
                    errors.refused.push((n + 1, words));
                    continue;
                }
                Some(Fault::Flaps(link, at)) if usize::from(at) == n => state.flap(link),
                _ => {}
            }
            match state.run(family, line) {
                Ok(()) => {}
                Err(Refusal::Kernel(words)) => errors.refused.push((n + 1, words.to_owned())),
                Err(Refusal::Parser) => {
                    let words = format!("`ip` does not understand `{line}`");
                    state.broken.get_or_insert(words.clone());
                    errors.stopped = Some(words);
                    return Ok(errors);
                }
            }
        }
        match fault {
            Some(Fault::Dies(_)) => errors.stopped = Some("it died".to_owned()),
            Some(Fault::Hangs(_)) => {
                state.now += HANGS;
                bail!("it hung and was killed")
            }
            Some(Fault::Killed(_) | Fault::Orphaned) => {
                state.dead = true;
                bail!("the agent was killed")
            }
            _ => {}
        }
        Ok(errors)
    }

    async fn unfit(&self) -> Option<Unfit> {
        None
    }
}

impl Lookup for Table {
    async fn read_rules(&self) -> anyhow::Result<RulesOfBoth> {
        self.reading()?;
        let main = || {
            Rules(vec![Rule {
                priority: 32766,
                action: Action::Table(MAIN_TABLE),
                ..Rule::default()
            }])
        };
        Ok(RulesOfBoth {
            v4: main(),
            v6: main(),
        })
    }

    async fn look_up(&self, packets: &[Packet]) -> anyhow::Result<Vec<Answer>> {
        self.reading()?;
        let state = self.0.borrow();
        Ok(packets
            .iter()
            .map(|packet| answer(&state.model, packet.to))
            .collect())
    }
}

/// What `ip route get fibmatch` answers.
fn answer(model: &Model, to: IpAddr) -> Answer {
    match model.way(to) {
        Way::Here => {
            return Answer::Route(Match {
                local: true,
                ..Match::default()
            });
        }
        Way::Dropped => return Answer::Refused("Invalid argument".to_owned()),
        Way::Unreachable => return Answer::Refused("Network is unreachable".to_owned()),
        Way::Link(_) | Way::Routers(_) => {}
    }
    let Some((key, entry)) = model.route_for(to) else {
        return Answer::Refused("No such process".to_owned());
    };
    let (nhid, gateway, dev) = match &entry.to {
        To::Object(id) => (Some(*id), None, None),
        To::Blackhole | To::Several(..) => (None, None, None),
        To::Link(dev, gateway) => (None, *gateway, Some(dev.clone())),
    };
    Answer::Route(Match {
        prefix: Some(key.prefix),
        table: Some(key.table),
        protocol: entry.protocol,
        metric: key.metric,
        nhid,
        gateway,
        dev,
        local: false,
    })
}
