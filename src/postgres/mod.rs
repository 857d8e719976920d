//! postgres

pub mod carrier;
