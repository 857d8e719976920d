//! A Kubernetes operator that moves a PostgreSQL database from one place to another:
//! frozen for certain, equal for certain, resumable, reversible.
//!
//! The modules are rooms of one house. A room uses only the rooms below it, in this order:
//! `operator`, `mover`, `steps`, `plan`, `kubernetes`, `postgres`, `archive`, `api`.
//! Beside them stand `generate`, what the repository holds that is made from something else, and `crash`, where a test may
//! end the process.
//! `ARCHITECTURE.md` draws it and follows one migration through it.

pub mod api;
pub mod archive;
pub mod crash;
pub mod generate;
pub mod kubernetes;
pub mod mover;
pub mod operator;
pub mod plan;
pub mod postgres;
pub mod steps;
