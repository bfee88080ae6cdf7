//! Whether packets take the routes: which lookups to ask the kernel for, and what its answers mean.
//!
//! Pure. Asking is `kernel::lookup`'s. A route in the table is a promise; the kernel's own answer to `ip route get`
//! is the fact, because policy rules are looked at before the table. Of many destinations a sample is asked,
//! another one each time; what was found is asked again first, so that it is reported until it is gone.

mod questions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use crate::net::prefix::{Family, Prefix};
use crate::net::prefix_set::Nest;
use crate::report::status::{Problem, ProblemKind, SKIPPED_SHOWN, Taken};
use crate::routing::batch::{IDLE_TIMER, MAIN_TABLE, Ownership};
use crate::routing::diff::{Wanted, WantedGroup, WantedNexthop};
use crate::routing::origins::Origins;
use crate::routing::resolve::SetView;
use crate::routing::rule::{Action, Packet, Rule, Rules};
use crate::routing::share;
use crate::routing::state::Kernel;

/// Destinations that are looked up each time, as the node and as each pod range.
pub const SAMPLE: usize = 256;
/// The same for a set that a gateway has joined. To the kernel a lookup is use of a bucket, and only idle ones go to that gateway.
pub const SAMPLE_WHILE_JOINED: usize = 8;
/// For how long that is so: by then, what is idle has moved.
const JOINED: Duration = Duration::from_secs(2 * IDLE_TIMER as u64);
/// Lookups that rules with a selector of their own get each time, all rules together.
pub const RULE_LOOKUPS: usize = 1024;
/// Of these, what they share beyond one for each: a node may have a rule for each of hundreds of pods.
const RULES_SHARE: usize = 256;
/// Destinations that each such rule is tried with, at most.
const PER_RULE: usize = 8;
/// Routes of other tables that are tried for a destination in common, and findings that are asked again.
const MOST_HINTS: usize = 256;

/// All that a check looks at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the kernel shall have of ours.
    pub wanted: &'a Wanted,
    /// The sets that apply.
    pub sets: &'a [SetView],
    /// The kernel as read last.
    pub kernel: &'a Kernel,
    /// The node's pod ranges, as far as they are known.
    pub pod_cidrs: &'a [Prefix],
    /// Priorities of rules that may take traffic past the routes.
    pub expected: &'a [u32],
    /// What is ours.
    pub ownership: &'a Ownership,
    /// The time since some moment.
    pub now: Duration,
}

/// The policy rules of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesOfBoth {
    /// IPv4.
    pub v4: Rules,
    /// IPv6.
    pub v6: Rules,
}

impl RulesOfBoth {
    /// Those of a family.
    pub const fn of(&self, family: Family) -> &Rules {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// One lookup and what should come of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The packet.
    pub packet: Packet,
    /// The destination that it is for, as installed.
    pub prefix: Prefix,
    /// The set's place among the sets that apply; `None` where that is not known.
    pub set: Option<usize>,
    /// True where the packet should be dropped: nothing of the set is in force but a leak guard or a blackhole.
    pub dropped: bool,
}

impl Question {
    /// Appends the line for `ip -batch`.
    pub fn render(&self, out: &mut String) {
        render(&self.packet, out);
    }
}

/// Appends a lookup for `ip -batch`.
pub fn render(packet: &Packet, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "route get fibmatch {}{packet}", packet.to);
}

/// The kernel's answer for a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It takes this route.
    Route(Match),
    /// It takes none; the kernel's words.
    Refused(String),
}

/// A route as a lookup shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Its destination.
    pub prefix: Option<Prefix>,
    /// Its table; absent when `ip` does not print it.
    pub table: Option<u32>,
    /// Its protocol number.
    pub protocol: u8,
    /// Its metric.
    pub metric: u32,
    /// Its nexthop object.
    pub nhid: Option<u32>,
    /// Its next hop.
    pub gateway: Option<IpAddr>,
    /// Its device.
    pub dev: Option<Box<str>>,
    /// True for the node's own addresses: local, broadcast, anycast, multicast.
    pub local: bool,
}

impl fmt::Display for Match {
    /// As `ip` writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.local {
            f.write_str("local ")?;
        }
        match self.prefix {
            Some(prefix) if prefix.is_everything() => f.write_str("default")?,
            Some(prefix) => write!(f, "{prefix}")?,
            None => f.write_str("a route")?,
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        } else if let Some(nhid) = self.nhid {
            write!(f, " nhid {nhid}")?;
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        Ok(())
    }
}

impl Match {
    /// With its table, where that is another than `main`, and what distinguishes it from others.
    pub fn in_table(&self) -> String {
        let mut words = format!("{self} proto {} metric {}", self.protocol, self.metric);
        match self.table {
            // The kernel may answer with either of two tables for the node's own addresses.
            _ if self.local => {}
            None => {}
            Some(MAIN_TABLE) => words.push_str(" table main"),
            Some(table) => {
                let _ = write!(words, " table {table}");
            }
        }
        words
    }
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// By the set's name, empty where it is not known: destinations whose packets go elsewhere, and by what.
    pub bypassed: BTreeMap<String, Vec<Taken>>,
    /// The same for the message: each thing that takes packets once.
    pub by: Vec<String>,
    /// Rules that may take packets and that no lookup can show; each once, with the reason.
    pub not_evaluated: Vec<String>,
    /// How many lookups were asked.
    pub asked: usize,
}

impl Findings {
    /// What takes packets past the routes, for a message: the first and how many there are.
    pub fn words(&self) -> Option<String> {
        let first = self.by.first()?;
        let more = match self.by.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        Some(format!("traffic bypasses the routes: {first}{more}"))
    }

    /// Writes them into the sets that they concern, in place of what was found before; returns what concerns the whole node.
    pub fn report(&self, sets: &mut [SetView]) -> Vec<Problem> {
        for set in &mut *sets {
            set.bypassed.clear();
            set.problems.retain(|p| p.kind != ProblemKind::Bypassed);
        }
        let Some(words) = self.words() else {
            return Vec::new();
        };
        let mut named = false;
        for set in sets {
            let Some(taken) = self.bypassed.get(&set.name) else {
                continue;
            };
            named = true;
            set.bypassed.clone_from(taken);
            let example = taken
                .first()
                .map(|t| format!("{} ({})", t.destination, t.by))
                .unwrap_or_default();
            set.problems.push(Problem::of_set(
                ProblemKind::Bypassed,
                &set.name,
                format!(
                    "{} destination(s) of set `{}` are bypassed, among them {example}",
                    taken.len(),
                    set.name
                ),
            ));
        }
        if named {
            Vec::new()
        } else {
            vec![Problem::of_node(ProblemKind::Bypassed, words)]
        }
    }
}

/// What one check leaves for the next.
#[derive(Clone, Debug, Default)]
pub struct Rotation {
    round: u64,
    /// What was found last.
    again: Vec<(Packet, Prefix)>,
    /// By group: its gateways, and until when one has just joined.
    joined: BTreeMap<u32, (BTreeSet<IpAddr>, Option<Duration>)>,
}

impl Rotation {
    /// Takes note of the gateways of each group; the groups that one has just joined.
    fn note_joined(&mut self, view: View<'_>) -> BTreeSet<u32> {
        let wanted = view.wanted;
        let gateways = |group: &WantedGroup| {
            let members = group.members.iter();
            members
                .filter(|member| !share::is_leaving(**member, &group.members))
                .filter_map(|member| wanted.nexthops.get(&member.id)?.gateway())
                .collect::<BTreeSet<IpAddr>>()
        };
        let groups = wanted.groups.iter().map(|(id, group)| {
            let now = gateways(group);
            let until = match self.joined.get(id) {
                Some((before, _)) if now.len() > 1 && !now.is_subset(before) => {
                    Some(view.now + JOINED)
                }
                Some((_, until)) => until.filter(|until| *until > view.now),
                None => None,
            };
            (*id, (now, until))
        });
        self.joined = groups.collect();
        let joined = self.joined.iter().filter(|(_, (_, until))| until.is_some());
        joined.map(|(id, _)| *id).collect()
    }
}

/// What a check is made of: asks, then judges.
#[derive(Debug)]
pub struct Check<'a> {
    view: View<'a>,
    rules: &'a RulesOfBoth,
    origins: Origins<'a>,
    /// By group: the set's place, and whether the group drops.
    groups: BTreeMap<u32, (Option<usize>, bool)>,
    /// Groups that a gateway leaves. To the kernel a lookup is use of a bucket, and would keep it with that gateway.
    left: BTreeSet<u32>,
    /// The set whose leak guards are all that is in force, where it is only one.
    guarded: Option<usize>,
    foreign: Nest,
    not_evaluated: Vec<String>,
}

impl<'a> Check<'a> {
    /// Of this state of things.
    pub fn new(view: View<'a>, rules: &'a RulesOfBoth) -> Self {
        let mut groups = BTreeMap::new();
        let mut left = BTreeSet::new();
        for (id, group) in &view.wanted.groups {
            let blackhole = |id: &u32| {
                matches!(
                    view.wanted.nexthops.get(id),
                    Some(WantedNexthop::Blackhole(_))
                )
            };
            let drops = group.members.iter().all(|member| blackhole(&member.id));
            let set = view
                .sets
                .iter()
                .position(|set| set.groups.values().any(|g| g == id));
            groups.insert(*id, (set, drops));
            let gateway = |id| view.wanted.nexthops.get(&id)?.gateway();
            if share::has_leaving(&group.members, gateway) {
                left.insert(*id);
            }
        }
        let mut without = (0..view.sets.len()).filter(|n| view.sets[*n].groups.is_empty());
        let guarded = without.next().filter(|_| without.next().is_none());
        let table = view.ownership.table;
        let foreign = view
            .kernel
            .foreign
            .iter()
            .filter(|r| r.key.table == table && r.key.prefix.len() > 0);
        Self {
            origins: Origins::new(view.kernel, view.pod_cidrs),
            foreign: Nest::of(foreign.map(|r| r.key.prefix)),
            view,
            rules,
            groups,
            left,
            guarded,
            not_evaluated: Vec::new(),
        }
    }

    /// What the answers mean, one for each question.
    pub fn judge(
        self,
        questions: &[Question],
        answers: &[Answer],
        rotation: &mut Rotation,
    ) -> Findings {
        let mut findings = Findings {
            asked: questions.len(),
            not_evaluated: self.not_evaluated.clone(),
            ..Findings::default()
        };
        for (question, answer) in questions.iter().zip(answers) {
            let Some(by) = self.taken_by(question, answer) else {
                continue;
            };
            if rotation.again.len() < MOST_HINTS {
                rotation
                    .again
                    .push((question.packet.clone(), question.prefix));
            }
            let taken = Taken {
                destination: question.prefix.to_string(),
                by: by.clone(),
            };
            if !findings.by.contains(&by) && findings.by.len() < MOST_HINTS {
                findings.by.push(by);
            }
            let set = question.set.and_then(|set| self.view.sets.get(set));
            let name = set.map(|set| set.name.clone()).unwrap_or_default();
            let of_set = findings.bypassed.entry(name).or_default();
            if of_set.len() < SKIPPED_SHOWN
                && !of_set.iter().any(|t| t.destination == taken.destination)
            {
                of_set.push(taken);
            }
        }
        for family in Family::BOTH {
            findings.by.extend(self.unreachable_table(family));
        }
        findings
    }

    /// Routes in a table that no rule leads to.
    fn unreachable_table(&self, family: Family) -> Option<String> {
        let table = self.view.ownership.table;
        let leads = |rule: &Rule| rule.action == Action::Table(table);
        let has_routes = self
            .view
            .wanted
            .routes
            .iter()
            .any(|r| r.key.prefix.family() == family);
        let rules = &self.rules.of(family).0;
        (has_routes && !rules.is_empty() && !rules.iter().any(leads)).then(|| {
            format!("no {family} policy rule leads to table {table}, where the routes are")
        })
    }

    /// The rule or route that takes the packet elsewhere; `None` when it goes where it should, or stays on the node.
    pub fn taken_by(&self, question: &Question, answer: &Answer) -> Option<String> {
        let rules = self.rules.of(Family::of(question.packet.to));
        let ours = self.view.ownership.table;
        match answer {
            Answer::Refused(_) if question.dropped => None,
            Answer::Refused(_) => {
                let to = question.packet.to;
                let decides = |action: &Action| match action {
                    Action::Table(table) => *table == ours || self.drops_in(*table, to).is_some(),
                    Action::Drop(_) => true,
                    _ => false,
                };
                let rule = rules.first(&question.packet, decides)?;
                let how = match rule.action {
                    Action::Drop(word) => format!("dropped ({word})"),
                    Action::Table(table) if table != ours => self.drops_in(table, to)?,
                    _ => return None,
                };
                (!self.is_expected(rule)).then(|| format!("{}: {how}", describe(rule)))
            }
            Answer::Route(found) => {
                let table = found.table.unwrap_or(ours);
                if table == ours || self.stays(found) {
                    return None;
                }
                match rules.first(&question.packet, |action| *action == Action::Table(table)) {
                    Some(rule) if self.is_expected(rule) => None,
                    Some(rule) => Some(format!("{}: {found}", describe(rule))),
                    None => self.taken_by_vrf(rules, question, table, found),
                }
            }
        }
    }

    fn taken_by_vrf(
        &self,
        rules: &Rules,
        question: &Question,
        table: u32,
        found: &Match,
    ) -> Option<String> {
        let packet = &question.packet;
        match rules.first(packet, |action| *action == Action::Vrf) {
            Some(rule) if self.is_expected(rule) => None,
            Some(rule) => Some(format!(
                "{}, table {table} for packets{packet}: {found}",
                describe(rule)
            )),
            None => Some(format!("table {table}, for packets{packet}: {found}")),
        }
    }

    /// The route of another table that drops packets to this address, in words: a lookup that is refused does not show it.
    fn drops_in(&self, table: u32, to: IpAddr) -> Option<String> {
        let routes = self.view.kernel.elsewhere.iter();
        let there = routes.filter(|r| r.table == table && r.prefix.contains(to));
        let decides = there.max_by_key(|r| r.prefix.len())?;
        Some(format!("{} {}", decides.drops?, decides.prefix))
    }

    fn is_expected(&self, rule: &Rule) -> bool {
        self.view.expected.contains(&rule.priority)
    }

    /// Whether the packet is handed to a program of this node: Cilium's proxy, a local socket.
    fn stays(&self, found: &Match) -> bool {
        found.local
            || found.dev.as_deref() == Some("lo")
            || found.gateway.is_some_and(|g| self.origins.is_own(g))
    }
}

/// A rule for a person.
pub fn describe(rule: &Rule) -> String {
    format!("policy rule {} ({rule})", rule.priority)
}

#[cfg(test)]
pub(crate) mod tests;
