//! From the destinations of the sets that apply to a node to the prefixes to install there.
//!
//! Pure. Takes what is protected, the routes of others in our table and our metric; knows no gateways, groups or health.
//!
//! # The promise
//!
//! A destination's *region* is the destination without its set's `except` and without what is protected. For every address:
//!
//! - if it is protected, it is routed as it would be without us (the node's own addresses by the `local` table);
//! - otherwise, of the foreign routes that contain it and the destinations whose region contains it, the longest
//!   prefix wins, each destination counting as the *one prefix* it was written as, however many pieces of it are
//!   installed. Equal lengths: the lower metric wins, and the foreign route where the metrics are equal too; but
//!   `0.0.0.0/0` and `::/0` win against the node's own defaults, which stay as they are.
//!
//! # How it is kept
//!
//! A destination that nothing is taken out of is installed as itself, never merged with others. Any other (always
//! the two defaults) is *split* into the fewest prefixes that make up its region. Pieces are longer than the
//! destination, so they could beat a route that the destination would have lost to: a piece inside a longer foreign
//! route, or inside the region of a longer destination, is left out. A piece *around* one stays: the longer
//! prefix wins in the kernel as it would against the destination, also when it comes later or goes away, so a pod's
//! or a neighbour's route seldom changes ours. A foreign route equal to a split destination wins everywhere in it or
//! nowhere, so then all pieces are left out or none.
//!
//! Foreign routes with a type of service are for marked packets only and are not looked at.

use std::collections::BTreeMap;
use std::fmt;

use crate::net::prefix::{Family, Prefix};
use crate::net::prefix_set::{Nest, Ranges, remains};
use crate::report::status::{SKIPPED_SHOWN, Skipped};
use crate::routing::protected::Protected;
use crate::routing::state::{ForeignRoute, RouteKey};

/// How many prefixes all sets together may come to; a bound for the kernel's memory and ours, far over any
/// provider's lists. What does not fit is skipped with that reason.
pub const MOST_PREFIXES: usize = 250_000;

/// What one set wants on this node; one for each (set, family), or one for both families.
#[derive(Clone, Copy, Debug)]
pub struct SetDestinations<'a> {
    /// The set's name.
    pub set: &'a str,
    /// Its destinations, of one family or both.
    pub destinations: &'a [Prefix],
    /// Taken out of them.
    pub except: &'a [Prefix],
    /// False while nothing of it is in the kernel (withdrawn without a leak guard, or no usable gateway):
    /// then wider destinations of other sets get its addresses, as they would if each were one prefix.
    pub in_force: bool,
    /// While the API has not answered since the start: prefixes that the kernel has for this set, of our metric. A destination that
    /// is not among them but pieces of it are, keeps no more than these: what is missing may be an API server that is not known now.
    pub installed: Option<&'a [Prefix]>,
}

/// What the node has that decides what can be installed.
#[derive(Clone, Copy, Debug)]
pub struct Constraints<'a> {
    /// What is never routed.
    pub protected: &'a Protected,
    /// Routes of others; only those of `table` count.
    pub foreign: &'a [ForeignRoute],
    /// Our table.
    pub table: u32,
    /// Our metric.
    pub metric: u32,
    /// At most this many prefixes in all; [`MOST_PREFIXES`].
    pub most: usize,
}

/// What to install for one set, and what is not as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Sorted, distinct; no two sets that are in force have one in common.
    pub install: Vec<Prefix>,
    /// Destinations of which nothing is installed.
    pub skipped: Notes,
    /// Destinations that a foreign route wins against: installed when whole, not installed when they had to be split or the
    /// foreign route has our metric.
    pub shadowed: Notes,
}

/// Reasons per destination: the first [`SKIPPED_SHOWN`], and the count of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// How many there are.
    pub total: usize,
    /// The first of them, in the order of addresses.
    pub shown: Vec<Skipped>,
}

impl Notes {
    fn add(&mut self, destination: Prefix, reason: impl FnOnce() -> String) {
        self.total += 1;
        if self.shown.len() < SKIPPED_SHOWN {
            self.shown.push(Skipped {
                destination: destination.to_string(),
                reason: reason(),
            });
        }
    }
}

/// The same prefix in two sets that both apply to the node: no order between them would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// The prefix.
    pub prefix: Prefix,
    /// The names of the two sets, in the order of the input.
    pub sets: [String; 2],
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = &self.sets;
        write!(
            f,
            "{} is a destination of both `{first}` and `{second}`, which both apply to this node; keep it in one",
            self.prefix
        )
    }
}

/// What to install for each set, in the order of the sets; or the prefixes that two of them have in common.
pub fn select(
    sets: &[SetDestinations<'_>],
    constraints: &Constraints<'_>,
) -> Result<Vec<Selected>, Vec<Clash>> {
    let mut selection = Selection::new(sets, constraints)?;
    selection.select_whole();
    selection.select_split();
    for selected in &mut selection.selected {
        selected.install.sort_unstable();
    }
    Ok(selection.selected)
}

/// A destination and the set that it is of.
#[derive(Clone, Copy)]
struct Item {
    prefix: Prefix,
    set: usize,
}

struct Selection<'a> {
    sets: &'a [SetDestinations<'a>],
    constraints: &'a Constraints<'a>,
    /// All destinations, sorted, distinct; indices are those of `nest`.
    items: Vec<Item>,
    nest: Nest,
    /// Destinations that their own set takes out and another set has.
    taken_out: Vec<Item>,
    /// By set.
    excepts: Vec<Ranges>,
    /// Sorted by prefix and metric.
    foreign: Vec<&'a ForeignRoute>,
    foreign_nest: Nest,
    /// By item: pieces that the kernel has while the API has not answered.
    installed: BTreeMap<usize, Vec<Prefix>>,
    selected: Vec<Selected>,
    /// Prefixes that may still be installed.
    room: usize,
    /// Indices of items that have to be split.
    split: Vec<usize>,
}

impl<'a> Selection<'a> {
    fn new(
        sets: &'a [SetDestinations<'a>],
        constraints: &'a Constraints<'a>,
    ) -> Result<Self, Vec<Clash>> {
        let excepts: Vec<Ranges> = sets
            .iter()
            .map(|c| Ranges::of(c.except.iter().copied()))
            .collect();
        let (items, taken_out) = items_of(sets, &excepts)?;
        let mut foreign: Vec<&ForeignRoute> = constraints
            .foreign
            .iter()
            .filter(|r| r.key.table == constraints.table && r.key.tos == 0)
            .collect();
        foreign.sort_unstable_by_key(|r| (r.key.prefix, r.key.metric));
        let nest = Nest::of(items.iter().map(|i| i.prefix));
        let mut selection = Self {
            sets,
            constraints,
            taken_out,
            excepts,
            foreign_nest: Nest::of(foreign.iter().map(|r| r.key.prefix)),
            foreign,
            installed: BTreeMap::new(),
            items,
            nest,
            selected: vec![Selected::default(); sets.len()],
            room: constraints.most,
            split: Vec::new(),
        };
        selection.gather_installed();
        Ok(selection)
    }

    /// Gives each installed prefix to the innermost destination of its set; one that is installed whole is not limited.
    fn gather_installed(&mut self) {
        let mut whole = Vec::new();
        for (set, installed) in self
            .sets
            .iter()
            .enumerate()
            .filter_map(|(index, c)| Some((index, c.installed?)))
        {
            for prefix in installed {
                let Some(index) = self
                    .nest
                    .covering(*prefix)
                    .find(|index| self.items[*index].set == set)
                else {
                    continue;
                };
                if self.items[index].prefix == *prefix {
                    whole.push(index);
                } else {
                    self.installed.entry(index).or_default().push(*prefix);
                }
            }
        }
        for index in whole {
            self.installed.remove(&index);
        }
    }

    /// Skips what is protected or taken out altogether, installs what nothing is taken out of, and leaves the rest to be split.
    fn select_whole(&mut self) {
        for index in 0..self.items.len() {
            let Item { prefix, set } = self.items[index];
            let (protected, except) = (self.constraints.protected, &self.excepts[set]);
            let selected = &mut self.selected[set];
            if protected.ranges().covers(prefix) {
                selected
                    .skipped
                    .add(prefix, || protected.forbids(prefix).unwrap_or_default());
            } else if except.covers(prefix) {
                selected.skipped.add(prefix, taken_out);
            } else if prefix.is_everything()
                || protected.holes().touches(prefix)
                || except.touches(prefix)
                || self.installed.contains_key(&index)
            {
                self.split.push(index);
            } else {
                self.install_whole(prefix, set);
            }
        }
        for Item { prefix, set } in std::mem::take(&mut self.taken_out) {
            self.selected[set].skipped.add(prefix, taken_out);
        }
    }

    fn install_whole(&mut self, prefix: Prefix, set: usize) {
        let key = RouteKey {
            prefix,
            metric: self.constraints.metric,
            table: self.constraints.table,
            tos: 0,
        };
        let same_prefix = same_prefix(&self.foreign, prefix);
        let selected = &mut self.selected[set];
        if let Some(taken) = same_prefix.iter().find(|r| r.key == key) {
            selected.shadowed.add(prefix, || {
                format!(
                    "the node has the route {taken} with the agent's metric, which is left as it is"
                )
            });
            return;
        }
        if self.room == 0 {
            selected
                .skipped
                .add(prefix, || too_many(self.constraints.most));
            return;
        }
        self.room -= 1;
        selected.install.push(prefix);
        if let Some(winner) = same_prefix
            .first()
            .filter(|r| r.key.metric < self.constraints.metric)
        {
            selected.shadowed.add(prefix, || {
                format!("shadowed by the route {winner}, whose metric is lower")
            });
        }
    }

    /// Splits the rest, longer destinations before the wider ones that cover them, so that these are the first to find no room.
    fn select_split(&mut self) {
        let mut split = std::mem::take(&mut self.split);
        split.sort_by_key(|index| std::cmp::Reverse(self.items[*index].prefix.len()));
        for index in split {
            let Item { prefix, set } = self.items[index];
            if !prefix.is_everything()
                && let Some(winner) = same_prefix(&self.foreign, prefix)
                    .first()
                    .filter(|r| r.key.metric <= self.constraints.metric)
            {
                self.selected[set].shadowed.add(prefix, || {
                    format!("shadowed by the route {winner}, whose metric is not higher")
                });
                continue;
            }
            self.install_pieces(index);
        }
    }

    fn install_pieces(&mut self, index: usize) {
        let Item { prefix, set } = self.items[index];
        let installed = Ranges::of(self.installed.get(&index).into_iter().flatten().copied());
        let holes = [self.constraints.protected.holes(), &self.excepts[set]];
        let (mut install, mut left, mut foreign) = (Vec::new(), 0_usize, 0_usize);
        for piece in remains(prefix, &holes).flat_map(never_everything) {
            for piece in limit_to(&installed, piece) {
                left += 1;
                if self.beaten_by_foreign(piece, prefix) {
                    foreign += 1;
                } else if !self.belongs_further_in(piece, index) {
                    install.push(piece);
                }
            }
            if install.len() > self.room {
                self.selected[set]
                    .skipped
                    .add(prefix, || too_many(self.constraints.most));
                return;
            }
        }
        let selected = &mut self.selected[set];
        if left == 0 {
            selected.skipped.add(prefix, || {
                "nothing is left of it without `except` and what is protected".to_owned()
            });
        } else if foreign == left {
            selected.shadowed.add(prefix, || {
                "shadowed by more specific routes of the node in all that is left of it".to_owned()
            });
        }
        self.room -= install.len();
        selected.install.append(&mut install);
    }

    /// Whether a foreign route that is longer than the destination covers the piece.
    fn beaten_by_foreign(&self, piece: Prefix, destination: Prefix) -> bool {
        let longest = self
            .foreign_nest
            .covering(piece)
            .next()
            .and_then(|index| self.foreign_nest.get(index));
        longest.is_some_and(|route| route.len() > destination.len())
    }

    /// Whether the whole piece is in the region of a destination inside this one.
    fn belongs_further_in(&self, piece: Prefix, destination: usize) -> bool {
        let inner = self
            .nest
            .covering(piece)
            .take_while(|index| *index != destination)
            .map(|index| self.items[index].set);
        inner
            .into_iter()
            .any(|set| self.sets[set].in_force && !self.excepts[set].touches(piece))
    }
}

/// Routes of just this prefix, the lowest metric first.
fn same_prefix<'f, 'a>(foreign: &'f [&'a ForeignRoute], prefix: Prefix) -> &'f [&'a ForeignRoute] {
    let from = foreign.partition_point(|r| r.key.prefix < prefix);
    let len = foreign[from..].partition_point(|r| r.key.prefix == prefix);
    &foreign[from..from + len]
}

/// All destinations in order, each once; or the clashes. What a set's own `except` takes out altogether does not clash with
/// another set's, and is listed apart.
fn items_of(
    sets: &[SetDestinations<'_>],
    excepts: &[Ranges],
) -> Result<(Vec<Item>, Vec<Item>), Vec<Clash>> {
    let of = |(set, c): (usize, &SetDestinations<'_>)| {
        c.destinations
            .iter()
            .map(|prefix| Item {
                prefix: *prefix,
                set,
            })
            .collect::<Vec<_>>()
    };
    let mut items: Vec<Item> = sets.iter().enumerate().flat_map(of).collect();
    items.sort_unstable_by_key(|item| (item.prefix, item.set));
    items.dedup_by_key(|item| (item.prefix, item.set));
    let clash = |pair: &[Item]| {
        let sets = [
            sets[pair[0].set].set.to_owned(),
            sets[pair[1].set].set.to_owned(),
        ];
        Clash {
            prefix: pair[0].prefix,
            sets,
        }
    };
    let (mut distinct, mut taken_out, mut clashes) =
        (Vec::with_capacity(items.len()), Vec::new(), Vec::new());
    for same in items.chunk_by(|one, next| one.prefix == next.prefix) {
        if let [alone] = same {
            distinct.push(*alone);
            continue;
        }
        let (out, wanted): (Vec<Item>, Vec<Item>) = same
            .iter()
            .partition(|item| excepts[item.set].covers(item.prefix));
        clashes.extend(wanted.windows(2).map(clash));
        distinct.extend(wanted.first());
        taken_out.extend(out);
    }
    if clashes.is_empty() {
        Ok((distinct, taken_out))
    } else {
        Err(clashes)
    }
}

fn taken_out() -> String {
    "taken out by the set's `except`".to_owned()
}

/// A default is never installed, even if nothing at all were protected: its halves are.
fn never_everything(piece: Prefix) -> impl Iterator<Item = Prefix> {
    let halves = |family: Family| {
        [
            Prefix::masked(family.address(0), 1),
            Prefix::masked(family.address(u128::MAX), 1),
        ]
    };
    let both = if piece.is_everything() {
        halves(piece.family())
    } else {
        [piece, piece]
    };
    both.into_iter()
        .take(if piece.is_everything() { 2 } else { 1 })
}

/// The piece, or what of it is installed already where something is.
fn limit_to(installed: &Ranges, piece: Prefix) -> Vec<Prefix> {
    if installed.is_empty() || installed.covers(piece) {
        return vec![piece];
    }
    Ranges::of([piece])
        .intersect(installed)
        .prefixes()
        .collect()
}

fn too_many(most: usize) -> String {
    format!("with it there would be more than {most} routes on this node")
}

#[cfg(test)]
mod tests;
