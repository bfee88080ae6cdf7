//! A kernel in memory that executes batch lines as the real one does, and can be made to fail.
//!
//! What it imitates was measured (Linux 6.18, iproute2 6.1): `replace` ignores the protocol and changes the first
//! route of a key only, a route needs its nexthop, deleting a nexthop takes groups and routes along without
//! a word, a group's type cannot change, and a line that `ip` does not understand ends the batch.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::str::SplitWhitespace;

use anyhow::bail;

use crate::kernel::dump::BatchErrors;
use crate::kernel::ip::{CHUNK, RouteTable, Unfit};
use crate::net::prefix::Family;
use crate::routing::batch::Ownership;
use crate::routing::state::{
    ForeignRoute, Kernel, Member, Nexthop, NexthopKind, OwnRoute, Resilient, RouteKey, Target,
};

/// What goes wrong at a call, reads and writes counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `ip` cannot be run; nothing is done.
    Error,
    /// `ip` hangs in the middle of a batch and is killed.
    Killed,
    /// A batch stops in the middle, with words and without a line number.
    Stops,
    /// The same without a word.
    StopsSilently,
    /// Every second line is refused.
    RefusesHalf,
    /// Just before the call all gateways, and what goes through them, vanish: the link went down and up.
    LinkFlaps,
    /// Just before the call somebody removes every second route of ours.
    RoutesVanish,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] = [
        Self::Error,
        Self::Killed,
        Self::Stops,
        Self::StopsSilently,
        Self::RefusesHalf,
        Self::LinkFlaps,
        Self::RoutesVanish,
    ];
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) key: RouteKey,
    pub(crate) protocol: u8,
    pub(crate) target: Target,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) nexthops: BTreeMap<u32, Nexthop>,
    /// Routes with one key in the kernel's order.
    routes: BTreeMap<RouteKey, Vec<Entry>>,
    calls: usize,
    fault: Option<(usize, Fault)>,
    /// The lines of each batch.
    pub(crate) batches: Vec<Vec<String>>,
    /// Words for a kernel without resilient groups.
    pub(crate) without_resilient: bool,
    /// A device without carrier: nexthops on it are refused.
    pub(crate) without_carrier: Option<&'static str>,
    /// IPv6 routes change all the time: reads leave every third one out.
    pub(crate) churn: bool,
}

#[derive(Debug)]
pub(crate) struct FakeTable {
    pub(crate) state: RefCell<State>,
    ownership: Ownership,
}

impl FakeTable {
    pub(crate) fn new(ownership: Ownership) -> Self {
        Self {
            state: RefCell::default(),
            ownership,
        }
    }

    /// Runs lines as somebody else would; fails the test at a line that is refused.
    pub(crate) fn prepare(&self, lines: &str) {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Err(words) = self.state.borrow_mut().run(line) {
                panic!("`{line}`: {words:?}");
            }
        }
    }

    /// Runs lines and does not care about refusals.
    pub(crate) fn try_lines<'a>(&self, lines: impl IntoIterator<Item = &'a str>) {
        for line in lines {
            let _ = self.state.borrow_mut().run(line);
        }
    }

    /// The call with this number, counted from the next one as 1, goes wrong.
    pub(crate) fn fail_at(&self, call: usize, fault: Fault) {
        let mut state = self.state.borrow_mut();
        state.fault = Some((state.calls + call, fault));
    }

    /// A fault that has not happened yet does not happen.
    pub(crate) fn fail_no_more(&self) {
        self.state.borrow_mut().fault = None;
    }

    /// Calls made so far.
    pub(crate) fn calls(&self) -> usize {
        self.state.borrow().calls
    }

    /// Lines written since the last time this was asked.
    pub(crate) fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.state.borrow_mut().batches)
            .into_iter()
            .flatten()
            .collect()
    }

    /// Everything that is not ours.
    pub(crate) fn foreign(&self) -> (Vec<Entry>, BTreeMap<u32, Nexthop>) {
        let state = self.state.borrow();
        let routes = state
            .routes
            .values()
            .flatten()
            .filter(|r| r.protocol != self.ownership.protocol)
            .cloned()
            .collect();
        let nexthops = state
            .nexthops
            .iter()
            .filter(|(_, n)| n.protocol != self.ownership.protocol);
        (routes, nexthops.map(|(id, n)| (*id, n.clone())).collect())
    }

    /// The state as `ip` would report it.
    pub(crate) fn kernel(&self) -> Kernel {
        let state = self.state.borrow();
        let mut kernel = Kernel {
            nexthops: state.nexthops.clone(),
            ..Kernel::default()
        };
        for Entry {
            key,
            protocol,
            target,
        } in state.routes.values().flatten()
        {
            if *protocol == self.ownership.protocol {
                kernel.own.push(OwnRoute {
                    key: *key,
                    target: target.clone(),
                });
                continue;
            }
            if let Target::Nexthop(id) = target {
                kernel.lent.insert(*id);
            }
            let gatewayed = matches!(target, Target::Nexthop(_));
            let unicast = *target != Target::Blackhole;
            kernel.foreign.push(ForeignRoute {
                key: *key,
                protocol: *protocol,
                dev: None,
                gatewayed,
                gateway: None,
                unicast,
            });
        }
        kernel
            .own
            .sort_unstable_by(|a, b| (a.key, &a.target).cmp(&(b.key, &b.target)));
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
        let mut state = self.state.borrow_mut();
        state.calls += 1;
        let due = state
            .fault
            .filter(|(at, _)| *at == state.calls)
            .map(|(_, fault)| fault);
        match due {
            Some(Fault::LinkFlaps) => {
                let via = |n: &Nexthop| {
                    matches!(n.kind, NexthopKind::Via { .. })
                        && n.protocol == self.ownership.protocol
                };
                let gateways: Vec<u32> = state
                    .nexthops
                    .iter()
                    .filter(|(_, n)| via(n))
                    .map(|(id, _)| *id)
                    .collect();
                gateways.into_iter().for_each(|id| state.drop_nexthop(id));
            }
            Some(Fault::RoutesVanish) => {
                let ours = self.ownership.protocol;
                let mut stays = false;
                state.retain_routes(|r| {
                    stays = !stays;
                    r.protocol != ours || stays
                });
            }
            _ => {}
        }
        due
    }
}

impl RouteTable for FakeTable {
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
        let kernel = self.read().await?;
        Ok(Kernel {
            nexthops: kernel.nexthops,
            links: kernel.links,
            ..Kernel::default()
        })
    }

    async fn unfit(&self) -> Option<Unfit> {
        None
    }

    async fn write(&self, _family: Option<Family>, text: &str) -> anyhow::Result<BatchErrors> {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() <= CHUNK, "a batch of {} lines", lines.len());
        let fault = self.call();
        let mut state = self.state.borrow_mut();
        state
            .batches
            .push(lines.iter().map(|line| (*line).to_owned()).collect());
        let mut errors = BatchErrors::default();
        if fault == Some(Fault::Error) {
            bail!("`ip` could not be started");
        }
        for (n, line) in lines.iter().enumerate() {
            match fault {
                Some(Fault::Killed) if n * 2 >= lines.len() => {
                    bail!("`ip -force -batch -` was killed")
                }
                Some(Fault::Stops) if n * 2 >= lines.len() => {
                    errors.stopped = Some("any words".to_owned());
                    return Ok(errors);
                }
                Some(Fault::StopsSilently) if n * 2 >= lines.len() => return Ok(errors),
                Some(Fault::RefusesHalf) if n % 2 == 0 => {
                    errors
                        .refused
                        .push((n + 1, "No buffer space available".to_owned()));
                    continue;
                }
                _ => {}
            }
            match state.run(line) {
                Ok(()) => {}
                Err(Refusal::Kernel(words)) => errors.refused.push((n + 1, words.to_owned())),
                Err(Refusal::Parser) => {
                    errors.stopped = Some(format!("What is \"{line}\"?"));
                    return Ok(errors);
                }
            }
        }
        Ok(errors)
    }
}

#[derive(Debug)]
enum Refusal {
    /// The kernel refuses a line; the batch goes on.
    Kernel(&'static str),
    /// `ip` does not understand; the batch ends.
    Parser,
}

/// The value of a keyword, in any order.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words
        .iter()
        .position(|word| *word == key)
        .and_then(|at| words.get(at + 1))
        .copied()
}

/// `ID` or `ID,WEIGHT`, as far as iproute2 6.1 takes it.
fn member(word: &str) -> Option<Member> {
    let (id, weight) = word.split_once(',').unwrap_or((word, "1"));
    let weight = weight.parse().ok().filter(|w| (1..=256).contains(w))?;
    Some(Member {
        weight,
        id: id.parse().ok()?,
    })
}

fn number<T: std::str::FromStr>(words: &[&str], key: &str) -> Option<T> {
    value(words, key)?.parse().ok()
}

impl State {
    fn run(&mut self, line: &str) -> Result<(), Refusal> {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("nexthop"), Some("replace")) => self.nexthop_replace(&words.collect::<Vec<_>>()),
            (Some("nexthop"), Some("del")) => self.nexthop_del(&words.collect::<Vec<_>>()),
            (Some("route"), Some(verb @ ("add" | "replace" | "append" | "del"))) => {
                self.route(verb, words)
            }
            _ => Err(Refusal::Parser),
        }
    }

    fn nexthop_replace(&mut self, words: &[&str]) -> Result<(), Refusal> {
        let id: u32 = number(words, "id").ok_or(Refusal::Parser)?;
        let protocol = number(words, "proto").ok_or(Refusal::Parser)?;
        let kind = if let Some(group) = value(words, "group") {
            let members: Option<Vec<Member>> = group.split('/').map(member).collect();
            let mut members = members.ok_or(Refusal::Parser)?;
            members.sort_unstable();
            let resilient = value(words, "type") == Some("resilient");
            NexthopKind::Group {
                members,
                resilient: resilient.then(|| Resilient {
                    buckets: number(words, "buckets").unwrap_or(128),
                    idle: number(words, "idle_timer").unwrap_or(120),
                }),
            }
        } else if words.contains(&"blackhole") {
            NexthopKind::Blackhole
        } else {
            let gateway = number(words, "via").ok_or(Refusal::Parser)?;
            NexthopKind::Via {
                gateway,
                dev: value(words, "dev").ok_or(Refusal::Parser)?.into(),
            }
        };
        self.check_nexthop(id, &kind).map_err(Refusal::Kernel)?;
        self.nexthops.insert(id, Nexthop { kind, protocol });
        Ok(())
    }

    fn check_nexthop(&self, id: u32, kind: &NexthopKind) -> Result<(), &'static str> {
        let there = self.nexthops.get(&id).map(|n| &n.kind);
        match (kind, there) {
            (NexthopKind::Group { .. }, Some(NexthopKind::Via { .. } | NexthopKind::Blackhole)) => {
                return Err("Can not replace a nexthop with a nexthop group");
            }
            (NexthopKind::Via { .. } | NexthopKind::Blackhole, Some(NexthopKind::Group { .. })) => {
                return Err("Can not replace a nexthop group with a nexthop");
            }
            (
                NexthopKind::Group { resilient: new, .. },
                Some(NexthopKind::Group { resilient: old, .. }),
            ) if new.is_some() != old.is_some() => {
                return Err("Can not replace a nexthop group with one of a different type");
            }
            (
                NexthopKind::Group {
                    resilient: Some(new),
                    ..
                },
                Some(NexthopKind::Group {
                    resilient: Some(old),
                    ..
                }),
            ) if new.buckets != old.buckets => {
                return Err("Can not change number of buckets of a resilient nexthop group");
            }
            (
                NexthopKind::Group {
                    resilient: Some(_), ..
                },
                _,
            ) if self.without_resilient => return Err("Invalid group type"),
            _ => {}
        }
        if let (NexthopKind::Via { dev, .. }, Some(dead)) = (kind, self.without_carrier)
            && **dev == *dead
        {
            return Err("Carrier for nexthop device is down");
        }
        let NexthopKind::Group { members, .. } = kind else {
            return Ok(());
        };
        for member in members {
            match self.nexthops.get(&member.id).map(|n| &n.kind) {
                None => return Err("Invalid nexthop id"),
                Some(NexthopKind::Group { .. }) => {
                    return Err("Nexthop group can not have a group as a member");
                }
                Some(NexthopKind::Blackhole) if members.len() > 1 => {
                    return Err(
                        "Blackhole nexthop can not be used in a group with more than 1 path",
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn nexthop_del(&mut self, words: &[&str]) -> Result<(), Refusal> {
        let id = number(words, "id").ok_or(Refusal::Parser)?;
        if !self.nexthops.contains_key(&id) {
            return Err(Refusal::Kernel("No such file or directory"));
        }
        self.drop_nexthop(id);
        Ok(())
    }

    /// It leaves its groups; a group that is left empty goes too, and so do all routes through what went.
    fn drop_nexthop(&mut self, id: u32) {
        self.nexthops.remove(&id);
        self.retain_routes(|r| r.target != Target::Nexthop(id));
        let mut empty = Vec::new();
        for (group, nexthop) in &mut self.nexthops {
            if let NexthopKind::Group { members, .. } = &mut nexthop.kind {
                members.retain(|member| member.id != id);
                if members.is_empty() {
                    empty.push(*group);
                }
            }
        }
        empty.into_iter().for_each(|group| self.drop_nexthop(group));
    }

    fn route(&mut self, verb: &str, words: SplitWhitespace<'_>) -> Result<(), Refusal> {
        let mut words: Vec<&str> = words.collect();
        let blackhole = words.first() == Some(&"blackhole");
        if blackhole {
            words.remove(0);
        }
        let prefix = words
            .first()
            .and_then(|text| text.parse().ok())
            .ok_or(Refusal::Parser)?;
        let tos = value(&words, "tos").map_or(Some(0), |hex| {
            u8::from_str_radix(hex.trim_start_matches("0x"), 16).ok()
        });
        let (metric, table) = (
            number(&words, "metric").ok_or(Refusal::Parser)?,
            number(&words, "table").ok_or(Refusal::Parser)?,
        );
        let key = RouteKey {
            prefix,
            metric,
            table,
            tos: tos.ok_or(Refusal::Parser)?,
        };
        let protocol: u8 = number(&words, "proto").ok_or(Refusal::Parser)?;
        let target = match (blackhole, number(&words, "nhid")) {
            (true, _) => Target::Blackhole,
            (_, Some(id)) => Target::Nexthop(id),
            _ => Target::Stray(
                ["via", "dev"]
                    .iter()
                    .filter_map(|k| Some(format!(" {k} {}", value(&words, k)?)))
                    .collect::<String>()
                    .into(),
            ),
        };
        let entry = Entry {
            key,
            protocol,
            target,
        };
        if verb == "del" {
            self.route_del(&entry)
        } else {
            self.route_put(entry, verb)
        }
        .map_err(Refusal::Kernel)
    }

    fn route_put(&mut self, entry: Entry, verb: &str) -> Result<(), &'static str> {
        if let Target::Nexthop(id) = entry.target
            && !self.nexthops.contains_key(&id)
        {
            return Err("Nexthop id does not exist");
        }
        let there = self.routes.entry(entry.key).or_default();
        match (verb, there.iter().position(|r| *r == entry)) {
            ("add", _) if !there.is_empty() => return Err("File exists"),
            ("append", Some(_)) => return Err("File exists"),
            ("replace", Some(at)) if at > 0 => return Err("File exists"),
            ("replace", _) if !there.is_empty() => there[0] = entry,
            _ => there.push(entry),
        }
        Ok(())
    }

    fn route_del(&mut self, like: &Entry) -> Result<(), &'static str> {
        let RouteKey {
            prefix,
            metric,
            table,
            tos,
        } = like.key;
        let keys = match metric {
            // Any, the lowest first.
            0 => {
                RouteKey {
                    table: 0,
                    tos: 0,
                    ..like.key
                }..=RouteKey {
                    prefix,
                    metric: u32::MAX,
                    table: u32::MAX,
                    tos: u8::MAX,
                }
            }
            _ => like.key..=like.key,
        };
        let is_it = |r: &Entry| {
            r.protocol == like.protocol
                && (like.target == Target::Stray("".into()) || r.target == like.target)
        };
        for (_, routes) in self
            .routes
            .range_mut(keys)
            .filter(|(key, _)| (key.table, key.tos) == (table, tos))
        {
            if let Some(at) = routes.iter().position(is_it) {
                routes.remove(at);
                return Ok(());
            }
        }
        Err("No such process")
    }

    fn retain_routes(&mut self, mut stays: impl FnMut(&Entry) -> bool) {
        self.routes
            .values_mut()
            .for_each(|routes| routes.retain(&mut stays));
    }
}
