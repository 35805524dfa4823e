//! `cargo xtask bench http`: the data plane beside nginx, on the same core, in one run.

mod certificate;
mod disk;
mod http;
mod load;
mod machine;
mod nginx;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

pub(crate) use certificate::Certificate;
pub(crate) use http::{CASES, Edge};
pub(crate) use load::Load;
pub(crate) use machine::versions;
pub(crate) use table::record;

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure.
    name: Name,
    /// Fewer and shorter runs: ends within 50 s of the build, and says less.
    #[arg(long)]
    quick: bool,
    /// Write the table into perf/RESULTS.md.
    #[arg(long)]
    record: bool,
    /// Write the figures into this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// Slices hot in RAM, and slices on disk, with ticket check, ledger and metrics on, against nginx.
    Http,
}

/// Succeeds when everything could be measured, whether or not a target was met.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    match options.name {
        Name::Http => http::run(options.quick, options.record, options.json.as_deref()),
    }
}
