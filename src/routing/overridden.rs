//! Routes of others inside a destination: they still win, and a report names them.
//!
//! Pure. That they win is `exclude`'s promise; what a route of the same prefix does is `exclude`'s to report.

use crate::net::prefix::Prefix;
use crate::net::prefix_set::{Nest, Ranges};
use crate::report::status::{SKIPPED_SHOWN, Taken};
use crate::routing::state::ForeignRoute;

/// One set's destinations.
#[derive(Clone, Copy, Debug)]
pub struct Destinations<'a> {
    /// Sorted.
    pub prefixes: &'a [Prefix],
    /// What is taken out of them.
    pub except: &'a [Prefix],
}

/// What others take of one set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overridden {
    /// How many routes of others there are inside the set's destinations.
    pub total: usize,
    /// The first of them, with the destination that each is in.
    pub shown: Vec<Taken>,
}

/// For each set, the routes of others in this table that are inside one of its destinations and more specific;
/// what is protected or taken out by `except` is not the set's to have.
pub fn overridden(
    sets: &[Destinations<'_>],
    protected: &Ranges,
    foreign: &[ForeignRoute],
    table: u32,
) -> Vec<Overridden> {
    let mut found = vec![Overridden::default(); sets.len()];
    let mut routes: Vec<&ForeignRoute> = foreign
        .iter()
        .filter(|route| {
            route.key.table == table && route.key.tos == 0 && route.key.prefix.len() > 0
        })
        .filter(|route| !protected.covers(route.key.prefix))
        .collect();
    if routes.is_empty() {
        return found;
    }
    routes.sort_by_key(|route| (route.key.prefix, route.key.metric));
    routes.dedup_by_key(|route| route.key.prefix);
    let mut items: Vec<(Prefix, usize)> = Vec::new();
    for (n, set) in sets.iter().enumerate() {
        items.extend(set.prefixes.iter().map(|prefix| (*prefix, n)));
    }
    items.sort_unstable();
    items.dedup_by_key(|item| item.0);
    let nest = Nest::of(items.iter().map(|item| item.0));
    let excepts: Vec<Ranges> = sets
        .iter()
        .map(|set| Ranges::of(set.except.iter().copied()))
        .collect();
    for route in routes {
        let prefix = route.key.prefix;
        // One that is a destination too is `shadowed` or beaten; what lies around it is not its to take.
        let Some((destination, set)) = nest.covering(prefix).next().and_then(|at| items.get(at))
        else {
            continue;
        };
        if destination.len() < prefix.len() && !excepts[*set].covers(prefix) {
            let of_set = &mut found[*set];
            of_set.total += 1;
            if of_set.shown.len() < SKIPPED_SHOWN {
                of_set.shown.push(Taken {
                    destination: destination.to_string(),
                    by: format!("the route {route}"),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn route(prefix: &str, metric: u32, table: u32) -> ForeignRoute {
        let mut route = ForeignRoute::via(p(prefix), metric, "192.0.2.1", "eth0");
        route.key.table = table;
        route
    }

    #[test]
    fn a_more_specific_route_is_named_with_the_destination_that_it_is_in() {
        let wide = [p("20.0.0.0/8")];
        let narrow = [p("20.1.0.0/16"), p("20.9.9.0/24")];
        let sets = [
            Destinations {
                prefixes: &wide,
                except: &[p("20.5.0.0/16")],
            },
            Destinations {
                prefixes: &narrow,
                except: &[],
            },
        ];
        let foreign = [
            route("0.0.0.0/0", 0, 254),
            route("20.1.2.0/24", 0, 254),
            route("20.1.2.0/24", 50, 254),
            route("20.2.0.0/16", 0, 254),
            route("20.2.2.0/24", 0, 100),
            route("20.5.5.0/24", 0, 254),
            route("20.7.7.0/24", 0, 254),
            route("20.9.9.0/24", 0, 254),
            route("30.0.0.0/24", 0, 254),
        ];
        let found = overridden(&sets, &Ranges::of([p("20.7.0.0/16")]), &foreign, 254);
        let words: Vec<String> = found
            .iter()
            .map(|set| {
                let shown: Vec<String> = set
                    .shown
                    .iter()
                    .map(|t| format!("{} by {}", t.destination, t.by))
                    .collect();
                format!("{}: {}", set.total, shown.join(", "))
            })
            .collect();
        assert_eq!(
            words,
            [
                "1: 20.0.0.0/8 by the route 20.2.0.0/16 via 192.0.2.1 dev eth0 proto static metric 0",
                "1: 20.1.0.0/16 by the route 20.1.2.0/24 via 192.0.2.1 dev eth0 proto static metric 0"
            ]
        );
    }
}
