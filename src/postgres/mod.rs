//! PostgreSQL: how to ask it, what to ask it, and the few things done to it.
//!
//! Here: sessions and their two carriers, catalog questions, the fence of the source, publishing on the target, digests
//! of data and structure, tool command lines, versions. Not here: when any of it happens (`plan`, `steps`), how bytes
//! reach a pod (`kubernetes`), and bulk data (`mover`).

pub mod admin;
pub mod carrier;
pub mod catalog;
pub mod completion;
pub mod connection;
pub mod digest;
pub mod fence;
pub mod layered;
pub mod names;
pub mod network;
pub mod publish;
pub mod staging;
pub mod swap;
pub mod tools;
pub mod versions;
