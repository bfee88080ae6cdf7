//! egress-routes: keeps a node's kernel routes equal to a mounted ConfigMap.
// Files that unit tests and tests/it share name this crate alike in both.
#[cfg(test)]
extern crate self as egress_routes;

pub mod agent;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod health;
pub mod kernel;
pub mod net;
pub mod report;
pub mod routing;
pub mod serve;
pub mod source;
