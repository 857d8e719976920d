//! Entry of the operator and of its movers: parse, set up logs and TLS, call.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use pgmigration::mover;
use pgmigration::operator::{self, args, telemetry};

/// Moves PostgreSQL databases between Kubernetes clusters: frozen for certain, equal for certain, resumable, reversible.
///
/// One image, two ways to run it. The `operator` subcommand is the Deployment that watches PostgresMigration objects and
/// takes the short steps. The `mover` subcommand is the Job that the operator starts for every long step: it carries the bytes.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    logs: args::Logs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Operator(args::Operator),
    Mover(mover::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    telemetry::init(&cli.logs);
    // Fails only when a provider is there already; then there is nothing to do.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Ok(runtime) = tokio::runtime::Runtime::new() else { return ExitCode::FAILURE };
    let code = runtime.block_on(async {
        match cli.command {
            Command::Operator(args) => operator::main(args).await,
            Command::Mover(args) => mover::main(&args).await,
        }
    });
    // At once: who has lost the lease must not wait for a name lookup that hangs.
    runtime.shutdown_background();
    code
}
