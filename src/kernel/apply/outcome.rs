//! What came of an apply: what changed, what is left, and what the kernel refused.
//!
//! Pure values and questions about them. Writing and reading back is `apply`'s.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::CHURN;
use crate::kernel::dump::BatchErrors;
use crate::report::status::{Problem, ProblemKind};
use crate::routing::batch::{LEAK_GUARD_METRIC, Line};
use crate::routing::diff::{Plan, RouteWrite, Wanted};
use crate::routing::state::{Kernel, OwnRoute, RouteKey, Target};

/// How many refusals are kept verbatim.
const WORDS_KEPT: usize = 1000;
/// What came of an apply.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The kernel after it.
    pub kernel: Kernel,
    /// Whether `ip` was given anything to write.
    pub wrote: bool,
    /// What changed, as the read-back shows.
    pub changed: Counts,
    /// What is still to do: refused by the kernel, or blocked by what is not ours.
    pub left: Plan,
    /// The kernel's words for routes that it refused; the first thousand.
    pub words: BTreeMap<RouteKey, String>,
    /// Routes that the kernel did not add because there was one with that key.
    pub existing: HashSet<RouteKey>,
    /// Other refusals: nexthops, groups, a batch that stopped.
    pub complaints: Vec<String>,
    /// How many of the removed routes had our protocol number and a target that is never ours.
    pub strays: usize,
    /// Runs of `ip` that ended before their last line, or came to nothing because what had to be there before was refused.
    pub stopped: u64,
    /// Up to five of the changes, as `diff` prints them.
    pub examples: Vec<String>,
    /// How long the `ip` batches took.
    pub writing: Duration,
}

/// Counts of changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Routes written.
    pub replaced: usize,
    /// Routes removed.
    pub deleted: usize,
    /// Nexthop objects and groups written.
    pub nexthops: usize,
}

impl Counts {
    /// Whether anything changed.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether something was written, and not only removed.
    pub fn restores(&self) -> bool {
        self.replaced + self.nexthops > 0
    }
}

impl Outcome {
    /// How many of the wanted routes through each group or nexthop are in the kernel.
    pub fn installed(&self, wanted: &Wanted) -> BTreeMap<u32, usize> {
        let mut installed = BTreeMap::new();
        let mut have = self.kernel.own.iter().peekable();
        for want in &wanted.routes {
            let Some(id) = want.target.nexthop() else {
                continue;
            };
            while have.next_if(|r| *r < want).is_some() {}
            if have.peek().is_some_and(|r| **r == *want) {
                *installed.entry(id).or_default() += 1;
            }
        }
        installed
    }

    /// Whether the kernel is known to have all that is wanted and nothing else of ours. Otherwise another pass is due soon.
    pub fn is_settled(&self) -> bool {
        self.left.is_done() && self.left.conflicts.is_empty() && !self.kernel.uncertain_v6
    }

    /// Whether the kernel took what was written and does not have it all the same: somebody else undoes it at once.
    pub fn is_undone(&self) -> bool {
        let taken = self.stopped == 0 && self.words.is_empty() && self.complaints.is_empty();
        self.wrote && taken && !self.left.is_empty()
    }

    /// What is wrong, for a person: each with an example or the kernel's words.
    pub fn problems(&self) -> Vec<Problem> {
        let complaint = |text: &String| Problem::of_node(ProblemKind::KernelFailed, text);
        let mut problems: Vec<Problem> = self.complaints.iter().map(complaint).collect();
        let mut missing = |text: String| {
            problems.push(Problem::of_node(ProblemKind::NotInstalled, text));
        };
        let refused = self
            .left
            .replace
            .iter()
            .filter(|w| w.route.key.metric != LEAK_GUARD_METRIC)
            .count();
        if let Some((key, words)) = self.words.iter().next() {
            missing(format!(
                "the kernel refused {refused} route(s), among them {}: {words}",
                key.prefix
            ));
        } else if refused > 0 && self.complaints.is_empty() {
            missing(format!("{refused} route(s) did not stay in the kernel"));
        }
        if self.left.postponed > 0 {
            let text = format!(
                "{} IPv6 route(s) wait to be removed: {CHURN}",
                self.left.postponed
            );
            problems.push(Problem::of_node(ProblemKind::KernelFailed, text));
        }
        let conflicts = self.left.conflicts.iter().take(5);
        problems.extend(conflicts.map(|c| Problem::of_node(ProblemKind::Shadowed, c.to_string())));
        problems
    }
}

impl Outcome {
    /// What changed: the plan without what is left of it.
    pub(super) fn compare(&mut self, plan: &Plan, left: &Plan) {
        let missing: HashSet<RouteKey> = left.replace.iter().map(|w| w.route.key).collect();
        let written = |w: &&RouteWrite| {
            let key = &w.route.key;
            !missing.contains(key) && !self.existing.contains(key)
        };
        self.changed = Counts {
            replaced: plan.replace.iter().filter(written).count(),
            deleted: (plan.delete.len() + plan.dropped.len())
                .saturating_sub(left.delete.len() + left.dropped.len()),
            nexthops: (plan.nexthops.len() + plan.groups.len())
                .saturating_sub(left.nexthops.len() + left.groups.len()),
        };
        let strays = |plan: &Plan| {
            let stray = |r: &&OwnRoute| matches!(r.target, Target::Stray(_));
            plan.delete.iter().filter(stray).count()
        };
        self.strays = strays(plan).saturating_sub(strays(left));
        // What is there after all needs no words.
        self.words.retain(|key, _| missing.contains(key));
    }

    /// Takes up what a batch reported about its lines.
    pub(super) fn note(&mut self, chunk: &[Line<'_>], errors: BatchErrors) {
        for (number, words) in errors.refused {
            match number.checked_sub(1).and_then(|n| chunk.get(n)) {
                Some(Line::Route {
                    key, exists: false, ..
                }) if words.contains("File exists") => {
                    self.existing.insert(*key);
                }
                Some(Line::Route { key, .. }) if self.words.len() < WORDS_KEPT => {
                    self.words.insert(*key, words);
                }
                Some(Line::Gateway { gateway, dev, .. }) => {
                    self.complain(format!(
                        "the kernel refused gateway {gateway} on {dev}: {words}"
                    ));
                }
                Some(Line::Group { .. } | Line::BlackholeNexthop { .. }) => {
                    self.complain(format!("the kernel refused a nexthop group: {words}"));
                }
                // What is gone already is as good as deleted; of more routes than are kept verbatim the count is enough.
                Some(
                    Line::DeleteRoute { .. } | Line::DeleteNexthop { .. } | Line::Route { .. },
                )
                | None => {}
            }
        }
        if let Some(words) = errors.stopped {
            self.stopped += 1;
            self.complain(format!("`ip -batch` stopped: {words}"));
        }
    }

    pub(super) fn complain(&mut self, what: String) {
        if self.complaints.len() < 20 && !self.complaints.contains(&what) {
            self.complaints.push(what);
        }
    }
}
