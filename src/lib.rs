//! egress-routes: keeps a node's kernel routes equal to a mounted ConfigMap.
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
