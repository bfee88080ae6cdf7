//! What this node shall have: configuration, kernel, API facts and health in, wanted state out.
//!
//! Pure. Which prefixes remain of a destination is `exclude`'s, what is protected and which device
//! reaches a gateway `protect`'s; here it is decided which sets apply, which gateways of a set carry
//! its routes now, and what is said about it.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::{Config, Failback, Probe, RouteSet, Strategy, WhenDown};
use crate::health::{HealthView, ProbeKey, State};
use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};
use crate::report::status::{
    GatewayState, GatewayStatus, Problem, ProblemKind, SKIPPED_SHOWN, SetStatus, Skipped, Taken,
};
use crate::routing::batch::{BUCKETS, IDLE_TIMER, Ownership};
use crate::routing::diff::{Wanted, WantedGroup, WantedNexthop};
use crate::routing::exclude;
use crate::routing::node_facts::Facts;
use crate::routing::node_selector;
use crate::routing::overridden::{Destinations, Overridden, overridden};
use crate::routing::protected;
use crate::routing::share::{self, Candidate, Carries, Shared};
use crate::routing::state::{Kernel, Member, NexthopKind, OwnRoute, Target};

/// All that is known when it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// The kernel as read last.
    pub kernel: &'a Kernel,
    /// What the API says of this node.
    pub facts: &'a Facts,
    /// The gateways' health.
    pub health: &'a HealthView,
    /// What is ours.
    pub ownership: &'a Ownership,
}

/// The decision.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    /// What the kernel shall have.
    pub wanted: Wanted,
    /// The sets that apply, in the order of the file, for reports; then those of which nobody can say it.
    pub sets: Vec<SetView>,
    /// Worth a word although nothing is wrong on this node.
    pub notes: Vec<String>,
}

/// One set on this node.
#[derive(Clone, Debug)]
pub struct SetView {
    /// Its name.
    pub name: String,
    /// How its gateways share.
    pub strategy: Strategy,
    /// What happens when none is healthy.
    pub when_down: WhenDown,
    /// In listed order.
    pub gateways: Vec<GatewayStatus>,
    /// Its group per family that has routes.
    pub groups: BTreeMap<Family, u32>,
    /// Prefixes wanted on this node.
    pub wanted: usize,
    /// Destinations that are not routed as written; the first of them.
    pub skipped: Vec<Skipped>,
    /// How many there are.
    pub skipped_total: usize,
    /// Routes of others inside its destinations.
    pub overridden: Overridden,
    /// Whether a blackhole twin guards each destination.
    pub leak_guard: bool,
    /// Destinations whose packets go elsewhere, as lookups show.
    pub bypassed: Vec<Taken>,
    /// Families without a healthy gateway, each with what is done about it.
    pub down: BTreeMap<Family, String>,
    /// What is not in force although wanted.
    pub problems: Vec<Problem>,
    /// Whether it applies is not known yet.
    pub undecided: bool,
}

impl SetView {
    fn empty(set: &RouteSet) -> Self {
        Self {
            name: set.name.clone(),
            strategy: set.strategy,
            when_down: set.when_down,
            gateways: Vec::new(),
            groups: BTreeMap::new(),
            wanted: 0,
            skipped: Vec::new(),
            skipped_total: 0,
            overridden: Overridden::default(),
            leak_guard: set.leak_guard,
            bypassed: Vec::new(),
            down: BTreeMap::new(),
            problems: Vec::new(),
            undecided: false,
        }
    }

    /// More specific routes of others that win inside its destinations: how many, and up to five of them.
    pub fn overridden_in_words(&self) -> Option<String> {
        let total = Some(self.overridden.total).filter(|total| *total > 0)?;
        let shown = self.overridden.shown.iter().take(5);
        let examples: Vec<String> = shown
            .map(|t| format!("{} by {}", t.destination, t.by))
            .collect();
        Some(format!(
            "set `{}`: {total} more specific route(s) of others win inside its destinations, among them {}",
            self.name,
            examples.join(", ")
        ))
    }

    /// A set of which nobody can say whether it applies.
    fn skipped(set: &RouteSet, reason: &str) -> Self {
        let shown = set.destinations.iter().take(SKIPPED_SHOWN);
        let skipped = shown
            .map(|prefix| Skipped {
                destination: prefix.to_string(),
                reason: reason.to_owned(),
            })
            .collect();
        Self {
            skipped,
            skipped_total: set.destinations.len(),
            ..Self::empty(set)
        }
    }
}

/// Whether a set applies to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Applies {
    Yes,
    No,
    NobodyToAsk,
    /// Not known, and no trace of it in the kernel.
    NotYet,
}

impl Inputs<'_> {
    fn applies(&self, set: &RouteSet) -> Applies {
        let Some(wanted) = &set.node_selector else {
            return Applies::Yes;
        };
        match self.facts {
            Facts::NoCluster => Applies::NobodyToAsk,
            Facts::Known(facts) if node_selector::matches(wanted, &facts.labels) => Applies::Yes,
            Facts::Known(_) => Applies::No,
            // The kernel remembers what an earlier agent knew.
            Facts::NotYet { .. } => {
                let there = |family| {
                    self.kernel
                        .nexthops
                        .contains_key(&nexthop_id::group(&set.name, family))
                };
                if Family::BOTH.into_iter().any(there) || self.is_guarded(set) {
                    Applies::Yes
                } else {
                    Applies::NotYet
                }
            }
        }
    }

    /// Whether the kernel has leak guards of this set, which outlive its group.
    fn is_guarded(&self, set: &RouteSet) -> bool {
        let own = &self.kernel.own;
        let of_another = |prefix: &Prefix| {
            let mut others = self
                .config
                .sets
                .iter()
                .filter(|other| other.name != set.name && other.leak_guard);
            others.any(|other| other.destinations.binary_search(prefix).is_ok())
        };
        set.leak_guard
            && set.destinations.iter().any(|destination| {
                let from = own.partition_point(|route| route.key.prefix < *destination);
                let inside = own[from..]
                    .iter()
                    .take_while(|route| destination.covers(route.key.prefix));
                let mut guards = inside
                    .filter(|route| route.key == self.ownership.leak_guard_key(route.key.prefix));
                guards
                    .any(|guard| guard.key.prefix == *destination || !of_another(&guard.key.prefix))
            })
    }

    /// The sets that apply to this node.
    pub fn applicable(&self) -> impl Iterator<Item = &RouteSet> {
        self.config
            .sets
            .iter()
            .filter(|set| self.applies(set) == Applies::Yes)
    }
}

/// Which gateways carry a set's routes of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    /// These.
    Gateways(Shared),
    /// What the kernel has, because nothing better can be had: no gateway is usable and routes are held.
    AsFound(WantedGroup),
    /// Packets are dropped.
    Blackhole,
    /// The routes are withdrawn.
    Withdraw,
    /// There is no gateway that the kernel would take.
    Nothing,
}

/// One set's part of one family, and who carries it.
struct Part<'a> {
    set: &'a RouteSet,
    family: Family,
    destinations: &'a [Prefix],
    choice: Choice,
    /// For [`Facts::NotYet`]: what the kernel has for it.
    installed: Option<Vec<Prefix>>,
}

impl Part<'_> {
    fn has_routes(&self) -> bool {
        matches!(
            self.choice,
            Choice::Gateways(_) | Choice::AsFound(_) | Choice::Blackhole
        )
    }

    fn destinations(&self) -> exclude::SetDestinations<'_> {
        exclude::SetDestinations {
            set: &self.set.name,
            destinations: self.destinations,
            except: &self.set.except,
            in_force: self.has_routes() || self.set.leak_guard,
            installed: self.installed.as_deref(),
        }
    }
}

/// Decides. Fails when two sets that apply to this node have a prefix in common.
pub fn resolve(inputs: &Inputs<'_>) -> Result<Resolution, Vec<exclude::Clash>> {
    let mut resolution = Resolution::default();
    let sets: Vec<&RouteSet> = inputs.applicable().collect();
    let mut builder = Builder::new(inputs, &sets);
    let examined: Vec<Examined> = sets.iter().map(|set| builder.examine(set)).collect();
    let parts: Vec<Part<'_>> = sets
        .iter()
        .zip(&examined)
        .flat_map(|(set, examined)| builder.parts(set, examined))
        .collect();
    let protected = protected::Protected::gather(inputs.kernel, inputs.facts, inputs.config);
    let constraints = exclude::Constraints {
        protected: &protected,
        foreign: &inputs.kernel.foreign,
        table: inputs.ownership.table,
        metric: inputs.ownership.metric,
        most: exclude::MOST_PREFIXES,
    };
    let destinations: Vec<exclude::SetDestinations<'_>> =
        parts.iter().map(Part::destinations).collect();
    let mut selected = exclude::select(&destinations, &constraints)?.into_iter();
    let mut parts = parts.iter().peekable();
    for (set, examined) in sets.iter().zip(&examined) {
        let mut view = builder.view(set, examined);
        while let Some(part) = parts.next_if(|p| p.set.name == set.name) {
            if let Some(selected) = selected.next() {
                builder.add(part, selected, examined, &mut view);
            }
        }
        resolution.sets.push(view);
    }
    let destinations: Vec<Destinations<'_>> = sets
        .iter()
        .map(|set| Destinations {
            prefixes: &set.destinations,
            except: &set.except,
        })
        .collect();
    let found = overridden(
        &destinations,
        protected.ranges(),
        &inputs.kernel.foreign,
        inputs.ownership.table,
    );
    for (view, found) in resolution.sets.iter_mut().zip(found) {
        view.overridden = found;
    }
    resolution.notes = std::mem::take(&mut builder.notes);
    resolution.wanted = builder.finish();
    for set in &inputs.config.sets {
        match inputs.applies(set) {
            Applies::Yes | Applies::No => {}
            Applies::NobodyToAsk => {
                let reason =
                    "without a cluster there are no labels to compare with its nodeSelector";
                resolution
                    .notes
                    .push(format!("set `{}` is skipped: {reason}", set.name));
                resolution.sets.push(SetView::skipped(set, reason));
            }
            Applies::NotYet => {
                let reason =
                    "the API has not told this node's labels yet, to compare with its nodeSelector";
                let mut view = SetView::skipped(set, reason);
                view.undecided = true;
                view.problems.push(Problem::of_set(
                    ProblemKind::Undecided,
                    &set.name,
                    format!("whether set `{}` applies is not known: {reason}", set.name),
                ));
                resolution.sets.push(view);
            }
        }
    }
    Ok(resolution)
}

/// The groups alone, for routes that are there: what a change of health needs, whatever the number of routes.
pub fn regroup(inputs: &Inputs<'_>) -> Wanted {
    let is_there = |id: u32| usize::from(inputs.kernel.nexthops.contains_key(&id));
    groups_only(inputs, is_there).wanted
}

/// The groups of the sets that apply, where `routes` counts any that lead to them; without the routes themselves.
pub fn groups_only(inputs: &Inputs<'_>, routes: impl Fn(u32) -> usize) -> Resolution {
    let mut resolution = Resolution::default();
    let sets: Vec<&RouteSet> = inputs.applicable().collect();
    let mut builder = Builder::new(inputs, &sets);
    for set in &sets {
        let examined = builder.examine(set);
        let mut view = builder.view(set, &examined);
        let has = |family: &Family| {
            set.destinations
                .iter()
                .any(|prefix| prefix.family() == *family)
        };
        for family in Family::BOTH.into_iter().filter(has) {
            let id = nexthop_id::group(&set.name, family);
            let count = routes(id);
            if count > 0 {
                let choice = builder.choose(set, family, &examined);
                builder.group(id, family, &choice);
                builder.note_plain(set, family);
                builder.describe(set, family, &choice, &examined, count, &mut view);
                view.groups.insert(family, id);
            }
        }
        resolution.sets.push(view);
    }
    resolution.notes = std::mem::take(&mut builder.notes);
    resolution.wanted = builder.finish();
    resolution
}

/// For reports: milliseconds, to the microsecond.
pub fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

type Examined = BTreeMap<IpAddr, Result<Box<str>, String>>;

struct Builder<'a> {
    inputs: &'a Inputs<'a>,
    ids: BTreeMap<IpAddr, u32>,
    /// Gateways that are drained in any set.
    drained: BTreeSet<IpAddr>,
    notes: Vec<String>,
    wanted: Wanted,
}

impl<'a> Builder<'a> {
    fn new(inputs: &'a Inputs<'a>, sets: &[&RouteSet]) -> Self {
        let all: BTreeSet<IpAddr> = sets
            .iter()
            .flat_map(|s| s.gateways.iter().copied())
            .collect();
        Self {
            inputs,
            ids: nexthop_id::gateways(&all),
            drained: sets.iter().flat_map(|set| set.drained()).collect(),
            notes: Vec::new(),
            wanted: Wanted::default(),
        }
    }

    fn examine(&self, set: &RouteSet) -> Examined {
        set.gateways
            .iter()
            .map(|g| (*g, protected::next_hop(*g, self.inputs.kernel)))
            .collect()
    }

    fn parts<'s>(&self, set: &'s RouteSet, examined: &Examined) -> Vec<Part<'s>> {
        let (v4, v6) = set.destinations.split_at(
            set.destinations
                .partition_point(|p| p.family() == Family::V4),
        );
        let mut parts = Vec::new();
        for (family, destinations) in [(Family::V4, v4), (Family::V6, v6)]
            .into_iter()
            .filter(|(_, d)| !d.is_empty())
        {
            let choice = self.choose(set, family, examined);
            let installed = matches!(self.inputs.facts, Facts::NotYet { .. })
                .then(|| self.installed(nexthop_id::group(&set.name, family)));
            parts.push(Part {
                set,
                family,
                destinations,
                choice,
                installed,
            });
        }
        parts
    }

    /// What the kernel has through a group.
    fn installed(&self, group: u32) -> Vec<Prefix> {
        let key = |prefix| self.inputs.ownership.key(prefix);
        let own = self.inputs.kernel.own.iter();
        own.filter(|r| r.target == Target::Nexthop(group) && r.key == key(r.key.prefix))
            .map(|r| r.key.prefix)
            .collect()
    }

    fn view(&self, set: &RouteSet, examined: &Examined) -> SetView {
        let mut view = SetView::empty(set);
        view.gateways = set
            .gateways
            .iter()
            .map(|g| self.gateway_status(set, *g, examined))
            .collect();
        for (gateway, why) in examined
            .iter()
            .filter_map(|(g, r)| r.as_ref().err().map(|why| (g, why)))
        {
            view.problems.push(Problem::of_set(
                ProblemKind::GatewayUnusable,
                &set.name,
                format!(
                    "gateway {gateway} of set `{}` is left out: it {why}",
                    set.name
                ),
            ));
        }
        view
    }

    fn add(
        &mut self,
        part: &Part<'_>,
        selected: exclude::Selected,
        examined: &Examined,
        view: &mut SetView,
    ) {
        let (set, family) = (part.set, part.family);
        let id = nexthop_id::group(&set.name, family);
        if !selected.install.is_empty() {
            self.group(id, family, &part.choice);
            self.note_plain(set, family);
            self.describe(
                set,
                family,
                &part.choice,
                examined,
                selected.install.len(),
                view,
            );
            if part.has_routes() {
                view.groups.insert(family, id);
            }
        }
        if selected.shadowed.total > 0 {
            let example = selected
                .shadowed
                .shown
                .first()
                .map(|s| format!(", among them {} ({})", s.destination, s.reason))
                .unwrap_or_default();
            view.problems.push(Problem::of_set(
                ProblemKind::Shadowed,
                &set.name,
                format!(
                    "{} destination(s) of set `{}` are shadowed{example}",
                    selected.shadowed.total, set.name
                ),
            ));
        }
        view.skipped_total += selected.skipped.total + selected.shadowed.total;
        view.skipped.extend(selected.skipped.shown);
        view.skipped.extend(selected.shadowed.shown);
        let ownership = self.inputs.ownership;
        for prefix in selected.install {
            if part.has_routes() {
                self.wanted.routes.push(OwnRoute {
                    key: ownership.key(prefix),
                    target: Target::Nexthop(id),
                });
            }
            if set.leak_guard {
                self.wanted.routes.push(OwnRoute {
                    key: ownership.leak_guard_key(prefix),
                    target: Target::Blackhole,
                });
            }
        }
    }

    fn gateway_status(
        &self,
        set: &RouteSet,
        gateway: IpAddr,
        examined: &Examined,
    ) -> GatewayStatus {
        let mut status = GatewayStatus {
            address: gateway,
            state: GatewayState::Unknown,
            active: false,
            weight: set.share(gateway).weight,
            buckets: None,
            rtt_ms: None,
            reason: None,
        };
        if let Some(Err(why)) = examined.get(&gateway) {
            status.state = GatewayState::Unusable;
            status.reason = Some(why.clone());
        } else if set.health_check.probe == Probe::None {
            status.state = GatewayState::Up;
        } else if let Some(health) = self.health(set, gateway) {
            status.state = match health.state {
                State::Unknown => GatewayState::Unknown,
                State::Up => GatewayState::Up,
                State::Down => GatewayState::Down,
            };
            status.rtt_ms = health.rtt.map(milliseconds);
            status.reason.clone_from(&health.reason);
        }
        self.describe_drain(set, &mut status);
        status
    }

    fn health(&self, set: &RouteSet, gateway: IpAddr) -> Option<&crate::health::Health> {
        self.inputs.health.get(&ProbeKey {
            gateway,
            check: set.health_check.clone(),
        })
    }

    fn is_down(&self, set: &RouteSet, gateway: IpAddr) -> bool {
        self.health(set, gateway)
            .is_some_and(|h| h.state == State::Down)
    }

    /// True when no probe of these gateways has ever been answered: then the probe is the likelier fault.
    fn never_answered(&self, set: &RouteSet, gateways: &[IpAddr]) -> bool {
        gateways
            .iter()
            .all(|g| self.health(set, *g).is_none_or(|h| !h.ever_up))
    }

    fn choose(&self, set: &RouteSet, family: Family, examined: &Examined) -> Choice {
        let usable: Vec<IpAddr> = set
            .gateways
            .iter()
            .copied()
            .filter(|g| Family::of(*g) == family && examined.get(g).is_some_and(Result::is_ok))
            .collect();
        let healthy: Vec<IpAddr> = usable
            .iter()
            .copied()
            .filter(|g| !self.is_down(set, *g))
            .collect();
        let id = nexthop_id::group(&set.name, family);
        if !healthy.is_empty() {
            return Choice::Gateways(self.share(set, id, &healthy));
        }
        let hold = set.when_down == WhenDown::Hold
            || (!usable.is_empty() && self.never_answered(set, &usable));
        match (hold, set.when_down) {
            (true, _) if !usable.is_empty() => Choice::Gateways(self.share(set, id, &usable)),
            (true, _) => match self.inputs.kernel.nexthops.get(&id).map(|n| &n.kind) {
                Some(NexthopKind::Group { members, resilient }) => Choice::AsFound(WantedGroup {
                    members: members.clone(),
                    idle: resilient.map_or(IDLE_TIMER, |r| r.idle),
                }),
                _ => Choice::Nothing,
            },
            (false, WhenDown::Blackhole) => Choice::Blackhole,
            (false, _) => Choice::Withdraw,
        }
    }

    fn share(&self, set: &RouteSet, group: u32, usable: &[IpAddr]) -> Shared {
        let buckets = match self.inputs.kernel.nexthops.get(&group).map(|n| &n.kind) {
            Some(NexthopKind::Group { resilient, .. }) => resilient.map(|r| r.buckets),
            // Where the kernel has no resilient groups, `diff` leaves duplicates out.
            _ => Some(BUCKETS),
        };
        let candidate = |gateway: &IpAddr| {
            let share = set.share(*gateway);
            Some(Candidate {
                gateway: *gateway,
                id: *self.ids.get(gateway)?,
                weight: share.weight,
                drain: share.drain,
                now: self.carries(group, *gateway),
            })
        };
        let candidates: Vec<Candidate> = usable.iter().filter_map(candidate).collect();
        let terms = share::Terms {
            strategy: set.strategy,
            drain_timeout: set.drain_timeout,
            buckets,
        };
        share::share(&candidates, &terms)
    }

    /// What a gateway's objects carry of a group in the kernel.
    fn carries(&self, group: u32, gateway: IpAddr) -> Vec<Carries> {
        let kernel = self.inputs.kernel;
        let Some(NexthopKind::Group { members, .. }) = kernel.nexthops.get(&group).map(|n| &n.kind)
        else {
            return Vec::new();
        };
        let is_it = |m: &&Member| matches!(kernel.nexthops.get(&m.id).map(|n| &n.kind), Some(NexthopKind::Via { gateway: g, .. }) if *g == gateway);
        let carries = |member: &Member| Carries {
            id: member.id,
            leaving: share::is_leaving(*member, members),
            left: kernel.leaving.get(&(group, member.id)).copied(),
        };
        members.iter().filter(is_it).map(carries).collect()
    }

    /// A drained gateway in a report: what it still carries.
    fn describe_drain(&self, set: &RouteSet, status: &mut GatewayStatus) {
        let group = nexthop_id::group(&set.name, Family::of(status.address));
        let now = self.carries(group, status.address);
        let drains = set.share(status.address).drain;
        let leaves = now.iter().all(|object| object.leaving);
        if drains && matches!(status.state, GatewayState::Up | GatewayState::Unknown) {
            status.state = GatewayState::Draining;
        }
        status.buckets = if !now.is_empty() && leaves {
            let busy = |object: &Carries| object.left.map(|left| left.busy);
            now.iter().map(busy).sum()
        } else if drains && now.is_empty() && self.inputs.kernel.nexthops.contains_key(&group) {
            Some(0)
        } else {
            None
        };
    }

    fn group(&mut self, id: u32, family: Family, choice: &Choice) {
        let group = match choice {
            Choice::Gateways(shared) => {
                for (gateway, member) in &shared.members {
                    self.want_object(member.id, *gateway);
                }
                WantedGroup {
                    members: shared.members.iter().map(|(_, member)| *member).collect(),
                    idle: shared.idle,
                }
            }
            Choice::AsFound(group) => {
                self.keep_as_found(group);
                group.clone()
            }
            Choice::Blackhole => {
                let id = nexthop_id::blackhole(family);
                self.wanted
                    .nexthops
                    .insert(id, WantedNexthop::Blackhole(family));
                WantedGroup::equal(vec![id])
            }
            Choice::Withdraw | Choice::Nothing => return,
        };
        self.wanted.groups.insert(id, group);
    }

    /// In a plain group there are no buckets that could stay where they are.
    fn note_plain(&mut self, set: &RouteSet, family: Family) {
        let group = self
            .inputs
            .kernel
            .nexthops
            .get(&nexthop_id::group(&set.name, family));
        let is_plain = matches!(
            group.map(|n| &n.kind),
            Some(NexthopKind::Group {
                resilient: None,
                ..
            })
        );
        let drained = set.drained().filter(|g| Family::of(*g) == family);
        let drained: Vec<String> = drained.map(|g| g.to_string()).collect();
        if is_plain && !drained.is_empty() {
            self.notes.push(format!(
                "set `{}` ({family}): {} is drained at once and its connections break: the set's nexthop group is not resilient, which needs Linux 5.13",
                set.name,
                drained.join(", ")
            ));
        }
    }

    fn keep_as_found(&mut self, group: &WantedGroup) {
        for Member { id, .. } in &group.members {
            let what = match self.inputs.kernel.nexthops.get(id).map(|n| &n.kind) {
                Some(NexthopKind::Via { gateway, dev }) => {
                    WantedNexthop::Via(*gateway, dev.clone())
                }
                Some(NexthopKind::Blackhole) => WantedNexthop::Blackhole(
                    nexthop_id::blackhole_family(*id).unwrap_or(Family::V4),
                ),
                _ => continue,
            };
            self.wanted.nexthops.entry(*id).or_insert(what);
        }
    }

    fn describe(
        &self,
        set: &RouteSet,
        family: Family,
        choice: &Choice,
        examined: &Examined,
        count: usize,
        view: &mut SetView,
    ) {
        view.wanted += if *choice == Choice::Withdraw {
            0
        } else {
            count
        };
        let active = match choice {
            Choice::Gateways(shared) => Some(shared),
            _ => None,
        };
        for gateway in &mut view.gateways {
            gateway.active |= active.is_some_and(|shared| shared.active.contains(&gateway.address));
            if gateway.active && gateway.state == GatewayState::Draining {
                gateway.state = GatewayState::Up;
            }
        }
        let stuck = active.map_or(&[][..], |shared| &shared.stuck);
        if !stuck.is_empty() {
            let stuck: Vec<String> = stuck.iter().map(ToString::to_string).collect();
            view.problems.push(Problem::of_set(
                ProblemKind::NotDrained,
                &set.name,
                format!(
                    "set `{}` ({family}): {} cannot drain, because no other gateway is healthy, so new flows go there too",
                    set.name,
                    stuck.join(", ")
                ),
            ));
        }
        let of_family = |g: &&IpAddr| Family::of(**g) == family;
        let usable: Vec<IpAddr> = set
            .gateways
            .iter()
            .filter(of_family)
            .copied()
            .filter(|g| examined.get(g).is_some_and(Result::is_ok))
            .collect();
        if usable.iter().any(|g| !self.is_down(set, *g)) {
            return;
        }
        let why = if usable.is_empty() {
            "none of its gateways is on-link here".to_owned()
        } else if self.never_answered(set, &usable) {
            "no gateway has answered a probe since the agent started, so the probe is probably blocked or wrong (`healthCheck`), and its routes are held".to_owned()
        } else {
            let reasons = view.gateways.iter().filter(|g| usable.contains(&g.address));
            let reasons = reasons
                .map(|g| format!("{} {}", g.address, g.reason.as_deref().unwrap_or("is down")));
            format!(
                "no gateway is healthy: {}",
                reasons.take(3).collect::<Vec<_>>().join("; ")
            )
        };
        let what = match choice {
            Choice::Gateways(_) if usable.is_empty() || self.never_answered(set, &usable) => "",
            Choice::Gateways(_) => "; its routes are held",
            Choice::AsFound(_) => "; the routes that are there are held",
            Choice::Blackhole => "; its destinations are blackholed",
            Choice::Withdraw => "; its routes are withdrawn",
            Choice::Nothing => "; no route can be installed",
        };
        view.down.insert(
            family,
            format!("set `{}` ({family}): {why}{what}", set.name),
        );
    }

    fn want_object(&mut self, id: u32, gateway: IpAddr) {
        if let Ok(dev) = protected::next_hop(gateway, self.inputs.kernel) {
            let object = WantedNexthop::Via(gateway, dev);
            self.wanted.nexthops.insert(id, object);
        }
    }

    fn finish(mut self) -> Wanted {
        // Every usable gateway has the two objects of one alone, in use or not: a switch is then one line.
        for (gateway, id) in self.ids.clone() {
            self.want_object(id, gateway);
            self.want_object(nexthop_id::duplicate(id, 1), gateway);
            if self.drained.contains(&gateway) {
                self.want_object(nexthop_id::drained(id), gateway);
            }
        }
        self.wanted
            .routes
            .sort_unstable_by(|a, b| (a.key, &a.target).cmp(&(b.key, &b.target)));
        self.wanted
    }
}

/// Gateways that the kernel shows to have been taken out by an earlier agent: their object exists, their
/// set's group exists, and they are not in it although the strategy would have them there.
///
/// Only where the kernel's state was made from this configuration: after an edit, what a group lacks says nothing.
pub fn taken_out_before(inputs: &Inputs<'_>, revision: &str) -> BTreeSet<ProbeKey> {
    let records = inputs.kernel.records(inputs.ownership);
    // While a change is unconfirmed, the record of what was applied before is still there.
    let of_another = records.iter().any(|id| nexthop_id::is_unconfirmed(*id));
    let applied = nexthop_id::applied_revision(&records);
    let made_from_it = records.contains(&nexthop_id::unconfirmed(revision))
        || (applied.as_deref() == Some(revision) && !of_another);
    if made_from_it {
        taken_out(inputs)
    } else {
        BTreeSet::new()
    }
}

/// [`taken_out_before`], where the kernel's state is known to be made from this configuration.
pub fn taken_out(inputs: &Inputs<'_>) -> BTreeSet<ProbeKey> {
    // Selecting the prefixes takes time: only where a group is missing is it asked whether there would be one.
    let if_healthy = LazyCell::new(|| {
        resolve(&Inputs {
            health: &HealthView::new(),
            ..*inputs
        })
        .map(|all| all.wanted.groups)
        .unwrap_or_default()
    });
    let (mut out, mut in_use) = (BTreeSet::new(), BTreeSet::new());
    let sets: Vec<&RouteSet> = inputs.applicable().collect();
    let builder = Builder::new(inputs, &sets);
    for set in &sets {
        for family in Family::BOTH.into_iter().filter(|family| {
            set.destinations
                .iter()
                .any(|prefix| prefix.family() == *family)
        }) {
            let group = nexthop_id::group(&set.name, family);
            let gateways = || set.gateways.iter().filter(|g| Family::of(**g) == family);
            let carries = |g: &IpAddr| builder.carries(group, *g).iter().any(|c| !c.leaving);
            let active = gateways().position(carries);
            let existed = |g: &IpAddr| {
                builder
                    .ids
                    .get(g)
                    .is_some_and(|id| inputs.kernel.nexthops.contains_key(id))
            };
            let none_in_use = match inputs.kernel.nexthops.get(&group) {
                Some(_) => active.is_none(),
                None => set.when_down == WhenDown::Withdraw && if_healthy.contains_key(&group),
            };
            // A drained one is not there because it left.
            let stays = |(_, g): &(usize, &IpAddr)| !set.share(**g).drain;
            for (n, gateway) in gateways().enumerate().filter(stays) {
                let key = ProbeKey {
                    gateway: *gateway,
                    check: set.health_check.clone(),
                };
                let passed_over = match set.strategy {
                    Strategy::Balance => active.is_some(),
                    Strategy::Failover { failback } => {
                        failback != Failback::Never && active.is_some_and(|a| n < a)
                    }
                };
                if !builder.carries(group, *gateway).is_empty() {
                    // A set that holds its routes uses what is down.
                    in_use.extend(Some(key).filter(|_| set.when_down != WhenDown::Hold));
                } else if existed(gateway) && (none_in_use || passed_over) {
                    out.insert(key);
                }
            }
        }
    }
    // One verdict is every set's.
    out.retain(|key| !in_use.contains(key));
    out
}

// --- for reports ---

/// All that is not in force although wanted.
pub fn problems(sets: &[SetView], others: &[Problem]) -> Vec<Problem> {
    let of_set = |set: &SetView| -> Vec<Problem> {
        let down = |text: &String| Problem::of_set(ProblemKind::NoHealthyGateway, &set.name, text);
        let down = set.down.values().map(down);
        down.chain(set.problems.iter().cloned()).collect()
    };
    let of_sets = sets.iter().flat_map(of_set);
    of_sets.chain(others.iter().cloned()).collect()
}

/// A set for a report.
pub fn set_status(set: &SetView, installed: usize) -> SetStatus {
    SetStatus {
        name: set.name.clone(),
        strategy: strategy_word(set.strategy).to_owned(),
        when_down: when_down_word(set.when_down).to_owned(),
        gateways: set.gateways.clone(),
        wanted: set.wanted,
        installed,
        skipped: set.skipped.iter().take(SKIPPED_SHOWN).cloned().collect(),
        overridden: set.overridden.shown.clone(),
        bypassed: set.bypassed.clone(),
    }
}

const fn strategy_word(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Balance => "balance",
        Strategy::Failover { .. } => "failover",
    }
}

const fn when_down_word(when_down: WhenDown) -> &'static str {
    match when_down {
        WhenDown::Hold => "hold",
        WhenDown::Withdraw => "withdraw",
        WhenDown::Blackhole => "blackhole",
    }
}

#[cfg(test)]
mod tests;
