//! Arguments and the one-shot commands.

pub mod args;
pub mod check;
pub mod logs;
pub mod node;
pub mod nodes;
pub mod table;
