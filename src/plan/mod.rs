//! plan
pub mod operation;
