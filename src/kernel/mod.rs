//! Running `ip`, reading what it prints, writing batches, noticing changes.

pub mod apply;
mod changes;
pub mod dump;
pub mod ip;
pub mod lookup;
pub mod monitor;
pub mod saved;
mod socket;

#[cfg(test)]
pub mod model;
