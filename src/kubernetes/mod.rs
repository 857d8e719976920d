//! Everything that is done to Kubernetes: clients, rights, pods, workloads, Jobs, configuration objects, events, exec.
//!
//! Belongs here: the only code that holds `kube` clients and requests, and what is peculiar to Kubernetes objects.
//! Does not belong here: SQL, S3, and the judgement whether something may be done (that is `plan`).
//!
//! Every function takes the client whose rights are to be used, and ends within [`errors::DEADLINE`] per request.

pub mod access;
pub mod clients;
pub mod config;
pub mod errors;
pub mod events;
pub mod exec;
pub mod inspect;
pub mod jobs;
pub mod kubeconfig;
pub mod labels;
pub mod pods;
pub mod portforward;
pub mod psql;
pub mod secrets;
pub mod workloads;

pub use errors::{Error, Kind};
