//! Whether packets take the routes: which lookups to ask the kernel for, and what its answers mean.
//!
//! Pure. Asking is `kernel::lookup`'s. A route in the table is a promise; the kernel's own answer to `ip route get`
//! is the fact, because policy rules are looked at before the table. Of many destinations a sample is asked,
//! another one each time; what was found is asked again first, so that it is reported until it is gone.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use crate::net::prefix::{Family, Prefix};
use crate::net::prefix_set::Nest;
use crate::report::status::{Problem, ProblemKind, SKIPPED_SHOWN, Taken};
use crate::routing::batch::{MAIN_TABLE, Ownership};
use crate::routing::diff::{Wanted, WantedNexthop};
use crate::routing::resolve::SetView;
use crate::routing::rule::{Action, Origins, Packet, Rule, Rules, common, nth};
use crate::routing::state::{Kernel, Target};

/// Destinations that are looked up each time, as the node and as each pod range.
pub const SAMPLE: usize = 256;
/// Lookups that rules with a selector of their own get each time, all rules together.
pub const RULE_LOOKUPS: usize = 1024;
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

/// What the kernel says of a packet.
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
    /// Its table; absent when an `ip` does not say it.
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
    /// With its table, where that is another than `main`, and what tells it apart from others.
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
    /// The same, each thing that takes packets once: what the message says.
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
        Some(format!("traffic is taken past the routes: {first}{more}"))
    }

    /// Writes them into the sets that they concern; returns what concerns the whole node.
    pub fn report(&self, sets: &mut [SetView]) -> Vec<Problem> {
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
}

/// One wanted prefix.
#[derive(Clone, Copy, Debug)]
struct Aim {
    prefix: Prefix,
    set: Option<usize>,
    dropped: bool,
}

/// What a check is made of: asks, then judges.
#[derive(Debug)]
pub struct Check<'a> {
    view: View<'a>,
    rules: &'a RulesOfBoth,
    origins: Origins<'a>,
    /// By group: the set's place, and whether the group drops.
    groups: BTreeMap<u32, (Option<usize>, bool)>,
    /// The set whose leak guards are all that is in force, where it is only one.
    guarded: Option<usize>,
    foreign: Nest,
    not_evaluated: Vec<String>,
}

impl<'a> Check<'a> {
    /// Of this state of things.
    pub fn new(view: View<'a>, rules: &'a RulesOfBoth) -> Self {
        let mut groups = BTreeMap::new();
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
            guarded,
            not_evaluated: Vec::new(),
        }
    }

    /// What to ask: what was found last time, a sample of all sets, and each rule with packets that it takes.
    pub fn questions(&mut self, rotation: &mut Rotation) -> Vec<Question> {
        let round = rotation.round;
        rotation.round = round.wrapping_add(1);
        let mut questions = Vec::new();
        for (packet, prefix) in rotation.again.drain(..) {
            if let Some(target) = self.wanted_at(prefix) {
                questions.push(question(packet, target));
            }
        }
        let sample = self.sample(round);
        for target in &sample {
            let to = self.address_of(target.prefix, round);
            questions.extend(
                self.usual(to)
                    .into_iter()
                    .map(|packet| question(packet, *target)),
            );
        }
        self.ask_hints(round, &mut questions);
        self.ask_rules(&sample, round, &mut questions);
        let mut seen = std::collections::BTreeSet::new();
        questions.retain(|q| seen.insert((q.packet.clone(), q.prefix)));
        questions
    }

    /// Packets of the usual origins, as far as a rule leads them to the table of the routes.
    fn usual(&self, to: IpAddr) -> Vec<Packet> {
        let rules = self.rules.of(Family::of(to));
        let table = self.view.ownership.table;
        let packets = self.origins.packets(to);
        if rules.lead_all_to(table) {
            return packets;
        }
        // Another table than `main`: the rules that lead to it say for whom the routes are.
        let leading = rules
            .0
            .iter()
            .filter(|rule| rule.action == Action::Table(table))
            .take(PER_RULE);
        leading
            .flat_map(|rule| rule.packets(to, &self.origins))
            .collect()
    }

    /// A part of each set's prefixes, another one each round; all of small sets.
    fn sample(&self, round: u64) -> Vec<Aim> {
        let mut counts: BTreeMap<Option<usize>, usize> = BTreeMap::new();
        for target in self.targets() {
            *counts.entry(target.set).or_default() += 1;
        }
        let quota = (SAMPLE / counts.len().max(1)).max(1);
        // More sets than lookups: some of the sets each time.
        let turns = counts.len().div_ceil(SAMPLE).max(1) as u64;
        let mut seen: BTreeMap<Option<usize>, usize> = BTreeMap::new();
        let mut sample = Vec::new();
        for target in self.targets() {
            let n = seen.entry(target.set).or_default();
            let at = *n;
            *n += 1;
            let count = counts[&target.set];
            let parts = count.div_ceil(quota).max(1) as u64;
            let part = usize::try_from((round / turns) % parts).unwrap_or(0);
            let is_due = target
                .set
                .is_none_or(|set| set as u64 % turns == round % turns);
            if is_due && at / quota == part {
                sample.push(target);
            }
        }
        sample
    }

    /// Every wanted prefix once: a leak guard counts where it is all that is in force.
    fn targets(&self) -> impl Iterator<Item = Aim> + '_ {
        self.view
            .wanted
            .routes
            .chunk_by(|a, b| a.key.prefix == b.key.prefix)
            .map(|same| {
                let prefix = same[0].key.prefix;
                let through = same.iter().find_map(|route| match route.target {
                    Target::Nexthop(id) => self.groups.get(&id).copied(),
                    _ => None,
                });
                let (set, dropped) = through.unwrap_or((self.guarded, true));
                Aim {
                    prefix,
                    set,
                    dropped,
                }
            })
    }

    fn wanted_at(&self, prefix: Prefix) -> Option<Aim> {
        let routes = &self.view.wanted.routes;
        let at = routes.partition_point(|route| route.key.prefix < prefix);
        let same = routes[at..]
            .iter()
            .take_while(|route| route.key.prefix == prefix);
        let mut target = None;
        for route in same {
            match route.target {
                Target::Nexthop(id) => {
                    let (set, dropped) = self.groups.get(&id).copied().unwrap_or((None, false));
                    return Some(Aim {
                        prefix,
                        set,
                        dropped,
                    });
                }
                _ => {
                    target = Some(Aim {
                        prefix,
                        set: self.guarded,
                        dropped: true,
                    });
                }
            }
        }
        target
    }

    /// A wanted prefix that has addresses in common with a range: one around it or the n-th inside.
    fn wanted_in(&self, range: Prefix, n: u64) -> Option<Aim> {
        for len in (0..=range.len()).rev() {
            if let Some(target) = self.wanted_at(Prefix::masked(range.address(), len)) {
                return Some(target);
            }
        }
        let routes = &self.view.wanted.routes;
        let from = routes.partition_point(|route| route.key.prefix < range);
        let inside = routes[from..].partition_point(|route| range.covers(route.key.prefix));
        let at = usize::try_from(n % inside.max(1) as u64).unwrap_or(0);
        let route = routes[from..from + inside].get(at)?;
        self.wanted_at(route.key.prefix)
    }

    /// An address of the prefix that no more specific route of others takes, as far as a few tries find one.
    fn address_of(&self, prefix: Prefix, n: u64) -> IpAddr {
        let tries = [n, 0, u64::MAX / 3, 2, 7, 1 << 7, 1 << 15];
        let free = |address: &IpAddr| {
            let inside = self
                .foreign
                .covering(Prefix::host(*address))
                .next()
                .and_then(|i| self.foreign.get(i));
            inside.is_none_or(|foreign| foreign.len() <= prefix.len())
        };
        let mut addresses = tries.map(|n| nth(prefix, n)).into_iter();
        addresses.find(free).unwrap_or_else(|| nth(prefix, n))
    }

    /// Routes of other tables that have a destination in common with ours, as the usual packets find them.
    fn ask_hints(&self, round: u64, questions: &mut Vec<Question>) {
        let table = self.view.ownership.table;
        for family in Family::BOTH {
            let rules = self.rules.of(family).before(table);
            let tables = rules
                .iter()
                .filter(|rule| rule.selector.is_only_by_destination());
            let tables: Vec<u32> = tables
                .filter_map(table_of)
                .filter(|t| *t != table)
                .collect();
            for (range, target) in self.hints(family, &tables, round) {
                let to = nth(range, round);
                questions.extend(
                    self.usual(to)
                        .into_iter()
                        .map(|packet| question(packet, target)),
                );
            }
        }
    }

    /// What these tables and our routes have in common.
    fn hints(&self, family: Family, tables: &[u32], round: u64) -> Vec<(Prefix, Aim)> {
        let routes = self.view.kernel.elsewhere.iter();
        let there =
            routes.filter(|(table, prefix)| prefix.family() == family && tables.contains(table));
        let common = |(_, prefix): &(u32, Prefix)| {
            let target = self.wanted_in(*prefix, round)?;
            Some((common(*prefix, target.prefix)?, target))
        };
        there.filter_map(common).take(MOST_HINTS).collect()
    }

    /// Each rule that may take packets past the table, with packets that it takes.
    fn ask_rules(&mut self, sample: &[Aim], round: u64, questions: &mut Vec<Question>) {
        let table = self.view.ownership.table;
        for family in Family::BOTH {
            let of_family: Vec<Aim> = sample
                .iter()
                .filter(|t| t.prefix.family() == family)
                .copied()
                .collect();
            let Some(any) = of_family.first() else {
                continue;
            };
            let rules = self.rules.of(family).before(table);
            let suspects: Vec<&Rule> = rules.iter().filter(|rule| self.may_bypass(rule)).collect();
            let each = (RULE_LOOKUPS / suspects.len().max(1)).clamp(1, PER_RULE);
            let turns = suspects.len().div_ceil(RULE_LOOKUPS).max(1) as u64;
            for (n, rule) in suspects.into_iter().enumerate() {
                if n as u64 % turns != round % turns {
                    continue;
                }
                if let Some(why) = rule.beyond_lookups() {
                    self.not_evaluated
                        .push(format!("policy rule {} ({rule}): {why}", rule.priority));
                    continue;
                }
                let packets = rule.packets(
                    rule.selector.to.map_or(any.prefix, |to| to).address(),
                    &self.origins,
                );
                let mut targets =
                    self.for_rule(rule, family, &of_family, round.wrapping_add(n as u64), each);
                targets.truncate(each);
                for (to, target) in targets {
                    questions.extend(
                        packets
                            .iter()
                            .map(|packet| question(packet.towards(to), target)),
                    );
                }
            }
        }
    }

    /// Whether packets that it takes may miss the table, and neither the operator nor the usual packets say enough of it.
    fn may_bypass(&self, rule: &Rule) -> bool {
        let leads_elsewhere = match rule.action {
            Action::Table(table) => table != self.view.ownership.table,
            Action::Vrf | Action::Goto(_) | Action::Nothing => false,
            Action::Drop(_) => true,
        };
        let asked_anyway = rule.selector.is_only_by_destination() && rule.selector.to.is_none();
        leads_elsewhere && !asked_anyway && !self.view.expected.contains(&rule.priority)
    }

    /// Addresses to try a rule with: what its own destination or its table has in common with ours, then any.
    fn for_rule(
        &self,
        rule: &Rule,
        family: Family,
        sample: &[Aim],
        round: u64,
        most: usize,
    ) -> Vec<(IpAddr, Aim)> {
        if let Some(to) = rule.selector.to.filter(|_| !rule.not) {
            let target = self.wanted_in(to, round);
            let both = target.and_then(|target| Some((common(to, target.prefix)?, target)));
            return both
                .map(|(range, target)| (nth(range, round), target))
                .into_iter()
                .collect();
        }
        let tables: Vec<u32> = table_of(rule).into_iter().collect();
        let mut hints = self.hints(family, &tables, round);
        let at = usize::try_from(round % hints.len().max(1) as u64).unwrap_or(0);
        hints.rotate_left(at);
        let mut targets: Vec<(IpAddr, Aim)> = hints
            .into_iter()
            .take(most.div_ceil(2))
            .map(|(range, target)| (nth(range, round), target))
            .collect();
        let at = usize::try_from(round.wrapping_mul(most as u64) % sample.len().max(1) as u64)
            .unwrap_or(0);
        let turned = sample.iter().cycle().skip(at).take(most.min(sample.len()));
        targets.extend(turned.map(|target| (self.address_of(target.prefix, round), *target)));
        targets
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
                let decides = |action: &Action| match action {
                    Action::Table(table) => *table == ours,
                    Action::Drop(_) => true,
                    _ => false,
                };
                let rule = rules.first(&question.packet, decides)?;
                let Action::Drop(word) = rule.action else {
                    return None;
                };
                (!self.is_expected(rule)).then(|| format!("{}: dropped ({word})", in_words(rule)))
            }
            Answer::Route(found) => {
                let table = found.table.unwrap_or(ours);
                if table == ours || self.stays(found) {
                    return None;
                }
                match rules.first(&question.packet, |action| *action == Action::Table(table)) {
                    Some(rule) if self.is_expected(rule) => None,
                    Some(rule) => Some(format!("{}: {found}", in_words(rule))),
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
                in_words(rule)
            )),
            None => Some(format!("table {table}, for packets{packet}: {found}")),
        }
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
pub fn in_words(rule: &Rule) -> String {
    format!("policy rule {} ({rule})", rule.priority)
}

fn question(packet: Packet, target: Aim) -> Question {
    Question {
        packet,
        prefix: target.prefix,
        set: target.set,
        dropped: target.dropped,
    }
}

const fn table_of(rule: &Rule) -> Option<u32> {
    match rule.action {
        Action::Table(table) => Some(table),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests;
