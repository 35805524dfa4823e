//! Developer tasks: `cargo xtask <task>`.

#![forbid(unsafe_code)]

mod bench;
mod conformance;
mod demo_media;
mod ebpf;
mod flamegraph;
mod http;
mod node;
mod process;
mod signals;
mod suite;
mod tidy;
mod tools;
mod up;
mod workspace;

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
    /// Start a node on this machine, with a demo, and print its URLs.
    Up(up::Options),
    /// Everything that must hold: format, lints, tidy, every test.
    Test,
    /// Check what people forget: dependency direction, licences, file sizes, banned calls, unused files.
    Tidy {
        /// Say what the rules are, and what for.
        #[arg(long)]
        explain: bool,
    },
    /// Measure the data plane beside its peers.
    Bench(bench::Options),
    /// Run the conformance suites whose sources lie in a folder.
    Conformance(conformance::Options),
    /// Compile the eBPF programs into the object that is committed, with a stamp of their sources.
    Ebpf(ebpf::Options),
    /// Draw where the data plane's time goes: perf and inferno.
    Flamegraph(flamegraph::Options),
    /// Make the sample video anew with ffmpeg.
    DemoMedia,
}

fn main() -> ExitCode {
    // One line, whatever RUST_BACKTRACE says: these are messages for people.
    run(Cli::parse().task).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Up(options) => up::run(&options),
        Task::Test => suite::run(),
        Task::Tidy { explain } => tidy::run(explain),
        Task::Bench(options) => bench::run(&options),
        Task::Conformance(options) => conformance::run(&options),
        Task::Ebpf(options) => ebpf::run(&options),
        Task::Flamegraph(options) => flamegraph::run(&options),
        Task::DemoMedia => demo_media::run(),
    }
}
