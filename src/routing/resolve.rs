//! What this node shall have: configuration, kernel, API facts and health in, wanted state out.
//!
//! Pure. Which prefixes remain of a destination is `exclude`'s, what is protected and which device
//! reaches a gateway `protected`'s. The parts: which sets apply, which gateways carry a set's routes now,
//! what is reported of them, and what an earlier agent had taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::{Config, RouteSet};
use crate::health::HealthView;
use crate::net::nexthop_id;
use crate::net::prefix::{Family, Prefix};
use crate::report::status::{Problem, ProblemKind};
use crate::routing::batch::Ownership;
use crate::routing::diff::{Wanted, WantedGroup, WantedNexthop};
use crate::routing::exclude;
use crate::routing::node_facts::Facts;
use crate::routing::overridden::{Destinations, overridden};
use crate::routing::protected::{self, Protected};
use crate::routing::state::{Kernel, Member, NexthopKind, OwnRoute, Target};

mod applies;
mod choice;
mod describe;
mod taken_out;
mod view;

pub use taken_out::{taken_out, taken_out_before};
pub use view::{SetView, milliseconds, problems, set_status};

use applies::Applies;
use choice::Choice;

/// All that is known when it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// The kernel as read last.
    pub kernel: &'a Kernel,
    /// What the API reports about this node.
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
    /// The sets that apply, in the order of the file, for reports; then those for which that is unknown.
    pub sets: Vec<SetView>,
    /// Worth a word although nothing is wrong on this node.
    pub notes: Vec<String>,
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

    /// How many routes a prefix gets.
    fn routes_each(&self) -> usize {
        usize::from(self.has_routes()) + usize::from(self.set.leak_guard)
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
    let protected = Protected::gather(inputs.kernel, inputs.facts, inputs.config);
    let selected = select(inputs, &protected, &parts)?;
    let routes = parts.iter().zip(&selected);
    let routes = routes.map(|(part, selected)| part.routes_each() * selected.install.len());
    builder.wanted.routes.reserve_exact(routes.sum());
    let mut selected = selected.into_iter();
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
    add_overridden(inputs, &sets, &protected, &mut resolution.sets);
    resolution.notes = std::mem::take(&mut builder.notes);
    resolution.wanted = builder.finish();
    add_skipped(inputs, &mut resolution);
    Ok(resolution)
}

/// What of each part is installed.
fn select(
    inputs: &Inputs<'_>,
    protected: &Protected,
    parts: &[Part<'_>],
) -> Result<Vec<exclude::Selected>, Vec<exclude::Clash>> {
    let constraints = exclude::Constraints {
        protected,
        foreign: &inputs.kernel.foreign,
        table: inputs.ownership.table,
        metric: inputs.ownership.metric,
        most: exclude::MOST_PREFIXES,
    };
    let destinations: Vec<_> = parts.iter().map(Part::destinations).collect();
    exclude::select(&destinations, &constraints)
}

/// Reports of each set which routes of others win inside its destinations.
fn add_overridden(
    inputs: &Inputs<'_>,
    sets: &[&RouteSet],
    protected: &Protected,
    views: &mut [SetView],
) {
    let destinations = sets.iter().map(|set| Destinations {
        prefixes: &set.destinations,
        except: &set.except,
    });
    let destinations: Vec<_> = destinations.collect();
    let (foreign, table) = (&inputs.kernel.foreign, inputs.ownership.table);
    let found = overridden(&destinations, protected.ranges(), foreign, table);
    for (view, found) in views.iter_mut().zip(found) {
        view.overridden = found;
    }
}

/// Reports the sets of which it is not known whether they apply to this node.
fn add_skipped(inputs: &Inputs<'_>, resolution: &mut Resolution) {
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
                    "this node's labels are not known yet, so its nodeSelector cannot be evaluated";
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
            let there = self.inputs.kernel.kind(*id);
            if let Some(what) = there.and_then(|kind| WantedNexthop::as_found(*id, kind)) {
                self.wanted.nexthops.entry(*id).or_insert(what);
            }
        }
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
        self.wanted.routes.sort_unstable();
        self.wanted
    }
}

#[cfg(test)]
mod tests;
