//! What the agent answers on the node: HTTP, metrics, the status socket.

pub mod http;
pub mod listen;
pub mod page;
pub mod socket;
