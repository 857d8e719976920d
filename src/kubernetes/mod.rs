//! kubernetes

pub mod exec;
