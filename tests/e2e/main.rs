//! Tests in real clusters: two of them, an S3 server between them, and the operator's image in both.
//!
//! What they need to know stands in the environment; `tests/cluster/env` prints it for the clusters of `tests/cluster/up`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::match_bool,
    clippy::format_push_string,
    reason = "a test fails by panicking, its helpers too"
)]

mod carriers;
mod crash;
mod cuts;
mod install;
mod interruptions;
mod leadership;
mod migration;
mod mover;
mod objects;
mod questions;
mod refusals;
mod rollback;
mod rules;
#[path = "../runbook.rs"]
mod runbook;
mod schema;
mod servers;
mod storm;
mod support;
mod unequal;
mod writers;
