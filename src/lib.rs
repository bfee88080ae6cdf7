//! egress-routes: keeps a node's kernel routes equal to a mounted ConfigMap.
pub mod duration;
pub mod facts;
pub mod kernel;
pub mod prefix;
pub mod status;
