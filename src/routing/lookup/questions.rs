//! Which lookups to ask for: a bounded sample that rotates, and packets for each policy rule.
//!
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{
    Check, MOST_HINTS, PER_RULE, Question, RULE_LOOKUPS, RULES_SHARE, Rotation, SAMPLE,
    SAMPLE_WHILE_JOINED,
};
use crate::net::prefix::{Family, Prefix};
use crate::routing::resolve::SetView;
use crate::routing::rule::{Action, Packet, Rule, common, nth};
use crate::routing::state::{Elsewhere, Target};

/// One wanted prefix.
#[derive(Clone, Copy, Debug)]
struct Probe {
    prefix: Prefix,
    set: Option<usize>,
    dropped: bool,
}

impl Check<'_> {
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
        let found_before = questions.len();
        let joined = rotation.note_joined(self.view);
        let sample = self.sample(round, &joined);
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
        // What was found to pass the group before touches no bucket.
        let others = questions.split_off(found_before);
        let may_ask = |question: &Question| !self.is_left(question.prefix);
        questions.extend(others.into_iter().filter(may_ask));
        let mut seen = BTreeSet::new();
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
        // Another table than `main`: the rules that lead to it decide for whom the routes are.
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
    fn sample(&self, round: u64, joined: &BTreeSet<u32>) -> Vec<Probe> {
        let mut counts: BTreeMap<Option<usize>, usize> = BTreeMap::new();
        for target in self.targets() {
            *counts.entry(target.set).or_default() += 1;
        }
        let share = (SAMPLE / counts.len().max(1)).max(1);
        let is_joined = |set: &SetView| set.groups.values().any(|id| joined.contains(id));
        let quota = |set: Option<usize>| match set.and_then(|set| self.view.sets.get(set)) {
            Some(set) if is_joined(set) => share.min(SAMPLE_WHILE_JOINED),
            _ => share,
        };
        // More sets than lookups: some of the sets each time.
        let turns = counts.len().div_ceil(SAMPLE).max(1) as u64;
        let mut seen: BTreeMap<Option<usize>, usize> = BTreeMap::new();
        let mut sample = Vec::new();
        for target in self.targets() {
            let n = seen.entry(target.set).or_default();
            let at = *n;
            *n += 1;
            let count = counts[&target.set];
            let quota = quota(target.set);
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
    fn targets(&self) -> impl Iterator<Item = Probe> + '_ {
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
                Probe {
                    prefix,
                    set,
                    dropped,
                }
            })
    }

    /// Whether a gateway leaves the group of a prefix.
    fn is_left(&self, prefix: Prefix) -> bool {
        let routes = &self.view.wanted.routes;
        let at = routes.partition_point(|route| route.key.prefix < prefix);
        let same = routes[at..].iter().take_while(|r| r.key.prefix == prefix);
        let leads =
            |target: &Target| matches!(target, Target::Nexthop(id) if self.left.contains(id));
        !self.left.is_empty() && same.into_iter().any(|route| leads(&route.target))
    }

    fn wanted_at(&self, prefix: Prefix) -> Option<Probe> {
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
                    return Some(Probe {
                        prefix,
                        set,
                        dropped,
                    });
                }
                _ => {
                    target = Some(Probe {
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
    fn wanted_in(&self, range: Prefix, n: u64) -> Option<Probe> {
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
    fn hints(&self, family: Family, tables: &[u32], round: u64) -> Vec<(Prefix, Probe)> {
        let routes = self.view.kernel.elsewhere.iter();
        let there = routes.filter(|r| r.prefix.family() == family && tables.contains(&r.table));
        let common = |route: &Elsewhere| {
            let target = self.wanted_in(route.prefix, round)?;
            Some((common(route.prefix, target.prefix)?, target))
        };
        there.filter_map(common).take(MOST_HINTS).collect()
    }

    /// Each rule that may take packets past the table, with packets that it takes.
    fn ask_rules(&mut self, sample: &[Probe], round: u64, questions: &mut Vec<Question>) {
        let table = self.view.ownership.table;
        for family in Family::BOTH {
            let of_family: Vec<Probe> = sample
                .iter()
                .filter(|t| t.prefix.family() == family)
                .copied()
                .collect();
            let Some(any) = of_family.first() else {
                continue;
            };
            let rules = self.rules.of(family).before(table);
            let suspects: Vec<&Rule> = rules.iter().filter(|rule| self.may_bypass(rule)).collect();
            let each = (RULES_SHARE / suspects.len().max(1)).clamp(1, PER_RULE);
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

    /// Whether packets that it takes may miss the table, and neither `expectedRules` nor the usual packets decide it.
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
        sample: &[Probe],
        round: u64,
        most: usize,
    ) -> Vec<(IpAddr, Probe)> {
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
        let mut targets: Vec<(IpAddr, Probe)> = hints
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
}

fn question(packet: Packet, target: Probe) -> Question {
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
