//! Tests of the room `postgres` against real servers: throwaway clusters of every major version whose binaries are
//! found (`PGM_PG_BIN`, a list like `PATH`; without it Debian's PostgreSQL 15).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod admin;
mod by_hand;
mod catalog;
mod chop;
mod cluster;
mod definitions;
mod digest;
mod fence;
mod layered;
mod mutations;
mod psql;
mod publish;
#[path = "../runbook.rs"]
mod runbook;
mod writers;
