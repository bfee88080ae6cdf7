//! Addresses, prefixes, sets of them, and nexthop ids. Pure.

pub mod nexthop_id;
pub mod prefix;
pub mod prefix_set;
pub mod reserved;
