//! Gateways and flows: the agent as it runs on a node, real gateways, and packets that show what became of them.
//!
//! Every test has the [`Lab::blueprint`](crate::lab::Lab::blueprint) to itself. Times are printed and not asserted, but for limits that only a
//! fault passes: a machine that builds something else at the same time is slow, not wrong.

mod bad_gateways;
mod balance;
mod drain;
mod failover;
mod host_routing;
mod leak;
mod load;
mod none_healthy;
mod talk;
mod through;
mod traffic;
