//! The words users write and read: the `PostgresMigration` object, its status, its conditions, and the names derived from it.
//!
//! Belongs here: serde, schemars and kube derives, constants, pure name functions.
//! Does not belong here: any client, any judgement, any clock.

pub mod conditions;
pub mod names;
mod spec;
mod status;

pub use spec::*;
pub use status::*;
