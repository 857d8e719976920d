//! The archive room against a real S3 server (versitygw, TLS), and behind a proxy that breaks what no real server breaks on
//! demand. The server's binary is named by `PGM_VERSITYGW`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking, its helpers too")]

mod faults;
mod proxy;
mod requests;
mod server;
mod transfer;
