//! What is reported of a node: its status, and the metrics; and the limit on how often. Values only.

pub mod drained;
pub mod metrics;
pub mod status;
pub mod token_bucket;
