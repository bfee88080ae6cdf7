//! The integration tests, one binary: they run in parallel, and each makes the network that it needs (see [`lab`]).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say so and stop"
)]
#![allow(
    dead_code,
    reason = "the laboratory offers more than today's tests use"
)]
#![allow(
    clippy::print_stdout,
    clippy::format_collect,
    clippy::cast_precision_loss,
    reason = "a test tells what it measured"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::doc_markdown,
    reason = "nobody imports a test binary"
)]

mod api;
mod corpus;
mod docs;
mod docs_blocks;
mod exclude;
mod flows;
mod gateway;
mod guard;
mod hardening;
mod kernel;
mod lab;
mod layering;
mod manifests;
mod model;
mod monitoring;
mod probe;
mod protect;
mod rollout;
mod schema;
mod source;
mod stub;
mod surroundings;
mod wide;
