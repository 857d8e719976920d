//! Judgement: what comes next, when a step may be tried again, what must be undone, and the words that users read.
//!
//! Pure: no client, no clock (`now` is passed in), no async. The order of the runbook is the table in [`itinerary`].

pub mod advice;
pub mod checks;
pub mod completion;
pub mod decide;
pub mod failure;
pub mod going_back;
pub mod itinerary;
pub mod operation;
pub mod record;
pub mod summary;
pub mod template;

#[cfg(test)]
mod simulation;

pub use decide::{Next, Rest, View, next};
pub use failure::{Class, Failure};
