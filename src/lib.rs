//! egress-routes: keeps a node's kernel routes equal to a mounted ConfigMap.
pub mod apply;
pub mod config;
pub mod duration;
pub mod facts;
pub mod ip;
pub mod iproute;
pub mod kernel;
pub mod manifests;
pub mod nexthop_id;
pub mod notice;
pub mod plan;
pub mod prefix;
pub mod selector;
pub mod source;
pub mod status;
pub mod watch;
