//! Prefix arithmetic: sets of addresses, and the fewest prefixes that make up what is left of one.
//!
//! Pure; knows nothing of routes. Everything is a sorted sweep: n ranges against m ranges cost
//! O((n + m) log(n + m)), never n × m. Ends are inclusive, so that the last address of `0.0.0.0/0`
//! and `::/0` needs no bit beyond the 128.

use std::net::IpAddr;

use crate::net::prefix::{Family, Prefix};

/// First and last address as numbers, both inside.
pub type Span = (u128, u128);

/// A set of addresses of both families: per family sorted, disjoint spans that do not touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    v4: Vec<Span>,
    v6: Vec<Span>,
}

impl Ranges {
    /// All addresses of these prefixes, in any order, overlapping or not.
    pub fn of(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut ranges = Self::default();
        for prefix in prefixes {
            ranges.spans_mut(prefix.family()).push(prefix.range());
        }
        ranges.v4 = merged(ranges.v4);
        ranges.v6 = merged(ranges.v6);
        ranges
    }

    /// The spans of a family, in order.
    pub fn spans(&self, family: Family) -> &[Span] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn spans_mut(&mut self, family: Family) -> &mut Vec<Span> {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// True when no address is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether the address is in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.touches(Prefix::host(address))
    }

    /// Whether every address of the prefix is in it.
    pub fn covers(&self, prefix: Prefix) -> bool {
        let (first, last) = prefix.range();
        self.from(prefix)
            .first()
            .is_some_and(|span| span.0 <= first && span.1 >= last)
    }

    /// Whether any address of the prefix is in it.
    pub fn touches(&self, prefix: Prefix) -> bool {
        let last = prefix.range().1;
        self.from(prefix).first().is_some_and(|span| span.0 <= last)
    }

    /// The spans that share an address with the prefix; they may reach beyond it.
    pub fn within(&self, prefix: Prefix) -> &[Span] {
        let spans = self.from(prefix);
        let last = prefix.range().1;
        &spans[..spans.partition_point(|span| span.0 <= last)]
    }

    /// The spans that do not end before the prefix.
    fn from(&self, prefix: Prefix) -> &[Span] {
        let spans = self.spans(prefix.family());
        let first = prefix.range().0;
        &spans[spans.partition_point(|span| span.1 < first)..]
    }

    /// Addresses in this one and not in the other.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        Self {
            v4: without(&self.v4, &other.v4),
            v6: without(&self.v6, &other.v6),
        }
    }

    /// Addresses in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self {
            v4: shared(&self.v4, &other.v4),
            v6: shared(&self.v6, &other.v6),
        }
    }

    /// The fewest prefixes that make it up, sorted.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        Family::BOTH.into_iter().flat_map(|family| {
            self.spans(family)
                .iter()
                .flat_map(move |span| pieces(family, *span))
        })
    }
}

/// What is left of a prefix without the holes: the fewest prefixes, disjoint, sorted.
pub fn subtract(prefix: Prefix, holes: &Ranges) -> Vec<Prefix> {
    remains(prefix, &[holes]).collect()
}

/// As [`subtract`] with several sets of holes, one prefix at a time: the caller may stop when it has enough.
pub fn remains(prefix: Prefix, holes: &[&Ranges]) -> impl Iterator<Item = Prefix> + use<> {
    let mut inside: Vec<Span> = Vec::new();
    for ranges in holes {
        inside.extend_from_slice(ranges.within(prefix));
    }
    inside.sort_unstable();
    gaps(prefix.range(), inside).flat_map(move |span| pieces(prefix.family(), span))
}

/// The parts of a span that no hole covers; holes are sorted by their first address and may overlap.
fn gaps(within: Span, holes: Vec<Span>) -> impl Iterator<Item = Span> {
    let mut next = Some(within.0);
    holes
        .into_iter()
        .map(Some)
        .chain([None])
        .filter_map(move |hole| {
            let first = next?;
            let Some((from, to)) = hole else {
                next = None;
                return Some((first, within.1));
            };
            if to >= first {
                next = if to < within.1 { Some(to + 1) } else { None };
            }
            (from > first).then(|| (first, from - 1))
        })
}

/// The fewest prefixes that make up one span: at each step the largest that is aligned and fits.
fn pieces(family: Family, (first, last): Span) -> impl Iterator<Item = Prefix> {
    let bits = family.bits();
    let mut next = Some(first);
    std::iter::from_fn(move || {
        let from = next.filter(|from| *from <= last)?;
        let aligned = if from == 0 {
            u32::from(bits)
        } else {
            from.trailing_zeros()
        };
        // All 2^128 addresses are one more than a u128 can count.
        let fitting = (last - from).checked_add(1).map_or(128, u128::ilog2);
        let host_bits = u8::try_from(aligned.min(fitting)).unwrap_or(bits).min(bits);
        next = 1_u128
            .checked_shl(host_bits.into())
            .and_then(|size| from.checked_add(size));
        Some(Prefix::masked(family.address(from), bits - host_bits))
    })
}

/// Sorted, with what overlaps or touches made one.
fn merged(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    spans.dedup_by(|next, kept| {
        let joins = kept.1.checked_add(1).is_none_or(|after| next.0 <= after);
        if joins {
            kept.1 = kept.1.max(next.1);
        }
        joins
    });
    spans
}

fn without(spans: &[Span], holes: &[Span]) -> Vec<Span> {
    let mut holes = holes;
    let mut left = Vec::with_capacity(spans.len());
    for span in spans {
        holes = &holes[holes.partition_point(|hole| hole.1 < span.0)..];
        let inside = holes.partition_point(|hole| hole.0 <= span.1);
        left.extend(gaps(*span, holes[..inside].to_vec()));
    }
    left
}

fn shared(ours: &[Span], theirs: &[Span]) -> Vec<Span> {
    let (mut i, mut j) = (0, 0);
    let mut both = Vec::new();
    while let (Some(a), Some(b)) = (ours.get(i), theirs.get(j)) {
        let (first, last) = (a.0.max(b.0), a.1.min(b.1));
        if first <= last {
            both.push((first, last));
        }
        if a.1 < b.1 { i += 1 } else { j += 1 }
    }
    both
}

/// Prefixes by nesting: answers which of them cover a given one without looking at the others.
#[derive(Clone, Debug, Default)]
pub struct Nest {
    prefixes: Vec<Prefix>,
    /// Index of the next wider prefix that covers this one; `usize::MAX` where there is none.
    parents: Vec<usize>,
}

impl Nest {
    /// Of these prefixes; indices that it answers with are those of the sorted, distinct list.
    pub fn of(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let mut prefixes: Vec<Prefix> = prefixes.into_iter().collect();
        prefixes.sort();
        prefixes.dedup();
        let mut open: Vec<usize> = Vec::new();
        let mut parents = Vec::with_capacity(prefixes.len());
        for (index, prefix) in prefixes.iter().enumerate() {
            while open
                .pop_if(|last| !prefixes[*last].covers(*prefix))
                .is_some()
            {}
            parents.push(open.last().copied().unwrap_or(usize::MAX));
            open.push(index);
        }
        Self { prefixes, parents }
    }

    /// Indices of all that cover the prefix (equal included), longest first.
    pub fn covering(&self, prefix: Prefix) -> impl Iterator<Item = usize> + '_ {
        // In this order a prefix comes after all that cover it, so they are the one before it and its parents.
        let mut at = self
            .prefixes
            .partition_point(|p| *p <= prefix)
            .wrapping_sub(1);
        std::iter::from_fn(move || {
            let here = at;
            self.prefixes.get(here)?;
            at = self.parents[here];
            Some(here)
        })
        .skip_while(move |index| !self.prefixes[*index].covers(prefix))
    }

    /// The prefix at an index.
    pub fn get(&self, index: usize) -> Option<Prefix> {
        self.prefixes.get(index).copied()
    }
}

#[cfg(test)]
mod tests;
