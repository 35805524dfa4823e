//! Developer tasks: `cargo xtask <task>`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What developers and operators of shoal run.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Check what people forget: dependency direction, licences, file sizes, banned calls, unused files.
    Tidy,
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().task {
        Task::Tidy => anyhow::bail!("not there yet"),
    }
}
