//! The command line, and the commands that run once and end.

pub mod args;
pub mod changes;
pub mod check;
pub mod completion;
pub mod convert;
pub mod drain;
pub mod edit;
pub mod explain;
pub mod input;
pub mod logs;
pub mod node;
pub mod nodes;
pub mod status;
pub mod sync;
pub mod table;
