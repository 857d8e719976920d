//! Arguments of the process, apart from what is done with them.

use std::net::SocketAddr;
use std::str::FromStr;

use clap::{Args, ValueEnum, value_parser};

use super::telemetry::Filter;

/// Logs go to standard error, one line per event.
#[derive(Args, Clone, Debug)]
pub struct Logs {
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
    /// What is logged: a level (error, warn, info, debug, trace), or levels by module such as "info,pgmigration=debug".
    /// Libraries that see raw bytes never log below info, whatever is asked for.
    #[arg(long, env = "LOG_FILTER", default_value = "info", global = true, value_parser = Filter::from_str)]
    pub log_filter: Filter,
}

/// Form of a log line.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// The one value of a setting that nobody should find by accident.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Objects may end this process.
    Enabled,
}

/// Watch PostgresMigration objects and carry them out. Needs a cluster: a pod's service account, or a kubeconfig.
///
/// Several may run at once: a Lease in --namespace picks the one that works. SIGTERM lets running steps come to their end and
/// gives the lease back. Losing the lease ends the process.
#[derive(Args, Clone, Debug)]
pub struct Operator {
    /// Image of the mover Jobs: the one that this process runs from.
    #[arg(long, env = "OPERATOR_IMAGE", value_name = "IMAGE")]
    pub image: String,
    /// Namespace that this process runs in.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: String,
    /// Name of this process among its replicas: the name of its pod.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: String,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// How many objects may be worked on at the same time.
    #[arg(long, env = "CONCURRENCY", value_name = "COUNT", default_value_t = 8, value_parser = value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// For tests: objects may end this process. See [`crate::crash`].
    #[arg(long, env = crate::crash::OPERATOR_ENV, hide = true, value_enum)]
    pub crash: Option<Crash>,
}
