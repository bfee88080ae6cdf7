//! Writing a plan and reading back what came of it.
//!
//! I/O through the `RouteTable` seam. What was applied is what the read-back shows, never what an
//! exit status claims. What could not be applied is a value of the [`Outcome`]; an `Err` means that
//! the kernel's state is not known.

mod outcome;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::iter::Peekable;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::kernel::dump::BatchErrors;
pub use crate::kernel::ip::CHURN;
use crate::kernel::ip::{CHUNK, RouteTable};
use crate::net::nexthop_id;
use crate::net::prefix::Family;
use crate::routing::batch::{Line, Ownership};
use crate::routing::diff::{GroupWrite, Plan, Wanted, diff, diff_nexthops, records_to};
use crate::routing::state::{Kernel, Member, NexthopKind, RouteKey, Target};
pub use outcome::{Counts, Outcome};

/// How many changes are named in a log line.
const EXAMPLES: usize = 5;

/// The kernel's words for a shortage: a refusal that says nothing about what it can do.
const SHORTAGES: [&str; 2] = ["No buffer space available", "Cannot allocate memory"];

/// How often it is tried to remove everything while IPv6 routes change.
const REMOVAL_TRIES: u32 = 10;

/// Writes kernel state and remembers what the kernel can do.
#[derive(Debug)]
pub struct Applier<T> {
    /// Runs `ip`.
    pub table: T,
    /// What is ours.
    pub ownership: Ownership,
    /// Whether groups are made resilient; false once the kernel has refused one, and not for a shortage.
    pub resilient: bool,
}

impl<T: RouteTable> Applier<T> {
    /// Brings the kernel from what was `found` to what is wanted, reads it back, and tries once more what is missing.
    /// `records` are the records of revisions that the kernel has to have from then on, or `None` to leave them; with something to
    /// change, they are written first.
    pub async fn apply(
        &mut self,
        wanted: &Wanted,
        found: Kernel,
        records: Option<&BTreeSet<u32>>,
    ) -> anyhow::Result<Outcome> {
        let plan = diff(wanted, &found, &self.ownership, self.resilient);
        if plan.is_empty() {
            return Ok(Outcome {
                kernel: found,
                left: plan,
                ..Outcome::default()
            });
        }
        let mut outcome = Outcome {
            wrote: true,
            examples: plan.describe(wanted, &found).take(EXAMPLES).collect(),
            ..Outcome::default()
        };
        let lines = self.lines_of(records, &found);
        drop(found);
        let started = Instant::now();
        self.write(&lines, &plan, true, &mut outcome).await?;
        outcome.writing = started.elapsed();
        let mut kernel = self.read_back(wanted, &plan, &outcome).await?;
        // What no run of `ip` came to was not refused.
        let refused = if outcome.stopped == 0 {
            refused(&plan, &kernel)
        } else {
            BTreeSet::new()
        };
        let possible = if refused.is_empty() {
            Cow::Borrowed(wanted)
        } else {
            Cow::Owned(wanted.without(&refused))
        };
        let mut again = diff(&possible, &kernel, &self.ownership, self.resilient);
        let once_refused = plan.nexthops.iter().filter(|(id, _)| refused.contains(id));
        again.nexthops.extend(once_refused.cloned());
        let lines = self.lines_of(records, &kernel);
        if !(again.is_empty() && lines.is_empty()) {
            kernel = self
                .once_more(&possible, &plan, again, kernel, &lines, &mut outcome)
                .await?;
        }
        let left = diff(wanted, &kernel, &self.ownership, self.resilient);
        outcome.compare(&plan, &left);
        (outcome.kernel, outcome.left) = (kernel, left);
        Ok(outcome)
    }

    fn lines_of(&self, records: Option<&BTreeSet<u32>>, kernel: &Kernel) -> Vec<Line<'static>> {
        records.map_or_else(Vec::new, |records| {
            records_to(records, kernel, &self.ownership)
        })
    }

    /// What the kernel has after writing the plan. Where the read is uncertain, what was there before counts as there, and so does
    /// a route that the kernel refused to add because there is one: whose it is, the next certain read shows.
    async fn read_back(
        &self,
        wanted: &Wanted,
        plan: &Plan,
        outcome: &Outcome,
    ) -> anyhow::Result<Kernel> {
        let read = self.table.read().await;
        let mut kernel = read.context("reading back what was applied")?;
        if kernel.uncertain_v6 {
            let left = diff(wanted, &kernel, &self.ownership, self.resilient).replace;
            let written: HashSet<&RouteKey> = plan.replace.iter().map(|w| &w.route.key).collect();
            let there = left.into_iter().map(|w| w.route).filter(|r| {
                r.key.prefix.family() == Family::V6
                    && (!written.contains(&r.key) || outcome.existing.contains(&r.key))
            });
            kernel.own.extend(there);
            kernel.own.sort_unstable();
        }
        Ok(kernel)
    }

    /// A second try at once: a batch may have stopped at a line, a device may have come back, and a
    /// kernel without resilient groups refuses only now.
    async fn once_more(
        &mut self,
        wanted: &Wanted,
        first: &Plan,
        left: Plan,
        kernel: Kernel,
        records: &[Line<'static>],
        outcome: &mut Outcome,
    ) -> anyhow::Result<Kernel> {
        let has = |m: &Member| kernel.nexthops.contains_key(&m.id);
        let mut missing = left.groups.iter();
        // Not because a member was refused, nor because no run of `ip` came to it.
        let refused = outcome.stopped == 0
            && missing.any(|g| {
                let tried = |f: &GroupWrite| f.id == g.id && f.members.iter().all(has);
                g.resilient.is_some() && !g.exists && first.groups.iter().any(tried)
            });
        let plan = if refused {
            diff(wanted, &kernel, &self.ownership, false)
        } else {
            left
        };
        drop(kernel);
        let complaints = std::mem::take(&mut outcome.complaints);
        let is_short = |text: &String| SHORTAGES.iter().any(|words| text.contains(words));
        outcome.words.clear();
        self.write(records, &plan, false, outcome).await?;
        let kernel = self.read_back(wanted, first, outcome).await?;
        if refused
            && !complaints.iter().any(is_short)
            && plan.groups.iter().all(|g| {
                kernel
                    .nexthops
                    .get(&g.id)
                    .is_some_and(|n| matches!(n.kind, NexthopKind::Group { .. }))
            })
        {
            self.resilient = false;
            tracing::warn!(
                kernel = complaints.first().map_or("nothing", String::as_str),
                "This kernel has no resilient nexthop groups; plain ones are used, and a change of gateways moves flows of the others too"
            );
        }
        Ok(kernel)
    }

    /// Re-points groups without looking at routes: what a change of health needs at once. It is decided on the nexthops and links
    /// that the kernel has now, and on the routes of the last pass. Returns what was written.
    pub async fn repoint(
        &mut self,
        last: &Kernel,
        decide: impl FnOnce(&Kernel) -> Wanted,
    ) -> anyhow::Result<(Counts, Duration)> {
        let now = self.table.read_nexthops().await?;
        let kernel = Kernel {
            nexthops: now.nexthops,
            links: now.links,
            ..last.clone()
        };
        let wanted = &decide(&kernel);
        let mut plan = Plan::default();
        diff_nexthops(wanted, &kernel, &self.ownership, self.resilient, &mut plan);
        let started = Instant::now();
        let mut outcome = Outcome::default();
        if !plan.nexthops.is_empty() && plan.groups.iter().any(|g| g.exists) {
            // Objects first: one that the kernel refuses must not cost a group its other members.
            let objects = Plan {
                nexthops: std::mem::take(&mut plan.nexthops),
                ..Plan::default()
            };
            self.write(&[], &objects, true, &mut outcome).await?;
            let kernel = self.table.read_nexthops().await?;
            let possible = wanted.without(&refused(&objects, &kernel));
            plan = Plan::default();
            let resilient = self.resilient;
            diff_nexthops(&possible, &kernel, &self.ownership, resilient, &mut plan);
        }
        // A group that is not there has lost its routes; that is for a whole apply.
        plan.groups.retain(|g| g.exists);
        plan.clear.clear();
        plan.conflicts.clear();
        if plan.groups.is_empty() {
            return Ok((Counts::default(), Duration::ZERO));
        }
        self.write(&[], &plan, true, &mut outcome).await?;
        Ok((
            Counts {
                nexthops: plan.nexthops.len() + plan.groups.len(),
                ..Counts::default()
            },
            started.elapsed(),
        ))
    }

    /// Deletes nexthop objects that a verified read showed to be unused.
    pub async fn sweep(&mut self, unused: &[u32]) -> anyhow::Result<()> {
        let lines = unused.iter().map(|id| Line::DeleteNexthop { id: *id });
        // One that somebody else deleted meanwhile is as good as deleted.
        self.write_lines(None, lines, &mut Outcome::default())
            .await
            .map(drop)
    }

    /// Writes lines beside all plans: records of revisions. Returns whether the kernel took all of them.
    pub async fn write_few(&mut self, lines: &[Line<'_>]) -> anyhow::Result<bool> {
        let mut outcome = Outcome::default();
        let ran = self.write_lines(None, lines.iter().cloned(), &mut outcome);
        Ok(ran.await? == Ran::Whole)
    }

    /// Removes every route and nexthop object of ours; the result is what is left, empty when none is. While IPv6 routes of
    /// others change, it looks again: what one read left out the next one shows.
    pub async fn remove_all(&mut self) -> anyhow::Result<Outcome> {
        let nothing = Wanted::default();
        let mut deleted = 0;
        let mut tries = 0;
        loop {
            tries += 1;
            let mut found = self.table.read().await?;
            let uncertain = std::mem::take(&mut found.uncertain_v6);
            if uncertain {
                // Each route is named in full, so only ours can go. An object may carry somebody else's routes too.
                found.nexthops.clear();
            }
            let mut outcome = self.apply(&nothing, found, None).await?;
            // Records among them are needed as long as there are routes.
            if outcome.left.is_empty() && !outcome.left.unused.is_empty() {
                self.sweep(&outcome.left.unused).await?;
                outcome.kernel = self.table.read().await?;
                outcome.left = diff(&nothing, &outcome.kernel, &self.ownership, self.resilient);
            }
            deleted += outcome.changed.deleted;
            let uncertain = uncertain || outcome.kernel.uncertain_v6;
            // A batch that died leaves some of them.
            let left = &outcome.left;
            let is_done = !uncertain && left.is_empty() && left.unused.is_empty();
            if is_done || tries == REMOVAL_TRIES {
                outcome.changed.deleted = deleted;
                if uncertain {
                    outcome.complain(CHURN.to_owned());
                }
                return Ok(outcome);
            }
        }
    }

    /// Writes, then deletes. Records come first. Those of a change that may be taken back come in a run of their own: the change must not
    /// be in the kernel without them when the agent is killed. Deletions wait for the next look at the kernel when a write before them did
    /// not run, and at the `first` try also when one was refused: what goes may be what the traffic falls back to.
    async fn write(
        &mut self,
        records: &[Line<'static>],
        plan: &Plan,
        first: bool,
        outcome: &mut Outcome,
    ) -> anyhow::Result<()> {
        let guards = |line: &Line<'_>| match line {
            Line::BlackholeNexthop { id } => nexthop_id::is_unconfirmed(*id),
            Line::DeleteNexthop { id } => nexthop_id::is_rejected(*id),
            _ => false,
        };
        let (alone, records) = if records.iter().any(guards) {
            (records, &[][..])
        } else {
            (&[][..], records)
        };
        let ran = self
            .write_lines(None, alone.iter().cloned(), outcome)
            .await?;
        if ran != Ran::Whole {
            outcome.stopped += u64::from(ran == Ran::Refused);
            return Ok(());
        }
        // These alone need an `ip -6`: a batch line cannot name the family of a blackhole.
        let blackholes: Vec<Line<'_>> = plan.v6_blackholes().collect();
        let mut ran = self
            .write_lines(Some(Family::V6), blackholes.into_iter(), outcome)
            .await?;
        if ran != Ran::Stopped {
            let writes = records.iter().cloned().chain(plan.writes());
            ran = ran.max(self.write_lines(None, writes, outcome).await?);
        }
        if ran == Ran::Whole || (ran == Ran::Refused && !first) {
            self.write_lines(None, plan.deletions(), outcome).await?;
        }
        Ok(())
    }

    async fn write_lines<'a>(
        &mut self,
        family: Option<Family>,
        lines: impl Iterator<Item = Line<'a>>,
        outcome: &mut Outcome,
    ) -> anyhow::Result<Ran> {
        let mut ran = Ran::Whole;
        let mut lines = lines.peekable();
        while lines.peek().is_some() && ran != Ran::Stopped {
            let first = Chunk::take(&mut lines, &self.ownership, |_| true);
            // The next one may run beside it where no line of either waits for one of the other.
            let second = match first.are_like {
                Some(like) => {
                    Chunk::take(&mut lines, &self.ownership, |l| Like::of(l) == Some(like))
                }
                None => Chunk::default(),
            };
            let run = async |chunk: &Chunk<'_>| {
                if chunk.lines.is_empty() {
                    return Ok(BatchErrors::default());
                }
                self.table.write(family, &chunk.text).await
            };
            let (one, other) = futures::join!(run(&first), run(&second));
            for (chunk, errors) in [(first, one?), (second, other?)] {
                ran = ran.max(Ran::of(&errors));
                outcome.note(&chunk.lines, errors);
            }
        }
        Ok(ran)
    }
}

/// The lines of one run of `ip`.
#[derive(Default)]
struct Chunk<'a> {
    lines: Vec<Line<'a>>,
    text: String,
    /// What all of them are.
    are_like: Option<Like>,
}

/// Lines that do not depend on each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Like {
    /// Routes through nexthops.
    Routes,
    /// Leak guards.
    Blackholes,
}

impl Like {
    const fn of(line: &Line<'_>) -> Option<Self> {
        match line {
            Line::Route { target, .. } => Some(match target {
                Target::Blackhole => Self::Blackholes,
                Target::Nexthop(_) | Target::Stray(_) => Self::Routes,
            }),
            _ => None,
        }
    }
}

impl<'a> Chunk<'a> {
    fn take(
        lines: &mut Peekable<impl Iterator<Item = Line<'a>>>,
        ownership: &Ownership,
        belongs: impl Fn(&Line<'a>) -> bool,
    ) -> Self {
        let mut chunk = Self::default();
        while let Some(line) = lines.next_if(|line| chunk.lines.len() < CHUNK && belongs(line)) {
            line.render(ownership, &mut chunk.text);
            chunk.lines.push(line);
        }
        let like = chunk.lines.first().and_then(Like::of);
        chunk.are_like = like.filter(|_| chunk.lines.iter().all(|line| Like::of(line) == like));
        chunk
    }
}

/// How far the lines of a write came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ran {
    /// All were taken.
    Whole,
    /// All ran, and the kernel refused some.
    Refused,
    /// A run of `ip` ended before its last line; what came after it was not tried.
    Stopped,
}

/// Gateways of a plan that are not in the kernel after it.
fn refused(plan: &Plan, kernel: &Kernel) -> BTreeSet<u32> {
    let ids = plan.nexthops.iter().map(|(id, _)| *id);
    ids.filter(|id| !kernel.nexthops.contains_key(id)).collect()
}

impl Ran {
    fn of(errors: &BatchErrors) -> Self {
        if errors.stopped.is_some() {
            Self::Stopped
        } else if errors.refused.is_empty() {
            Self::Whole
        } else {
            Self::Refused
        }
    }
}

#[cfg(test)]
mod tests;
