//! What is reported of a node: its status, and the metrics. Values only.

pub mod drained;
pub mod metrics;
pub mod status;
