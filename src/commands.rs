//! The commands, each as a function that can be called without a process.
pub mod check;
pub mod node;
pub mod nodes;
mod table;
