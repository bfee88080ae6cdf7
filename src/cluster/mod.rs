//! The Kubernetes API: facts of this node, annotations, Events, the startup taint, uninstall.

pub mod annotations;
pub mod client;
pub mod events;
pub mod taint;
pub mod uninstall;
