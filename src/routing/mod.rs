//! What a node shall have, what it has, and the difference. Pure.

pub mod adopt;
pub mod batch;
pub mod diff;
pub mod exclude;
pub mod leftovers;
pub mod lookup;
pub mod node_facts;
pub mod node_selector;
pub mod origins;
pub mod overridden;
pub mod protected;
pub mod resolve;
pub mod rule;
pub mod share;
pub mod state;
