//! `shoal-dataplane`: serves viewers on every core until it is told to stop.

#![forbid(unsafe_code)]

mod app;
mod process;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use shoal_dataplane::config::Config;
use shoal_dataplane::settings::Settings;
use shoal_dataplane::tls::Tls;
use shoal_sys::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// Edge node of shoal: serves Range slices from RAM or from their origin.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Configuration file (TOML); without it, every key has its default.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration against this machine, say what is wrong with it, and exit.
    #[arg(long)]
    check: bool,
    /// Print a configuration file with every key, its default and what it means, and exit.
    #[arg(long)]
    print_sample_config: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shoal-dataplane: {}", whole(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes, but for those that the message before has said already.
fn whole(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.print_sample_config {
        print!("{}", shoal_config::sample::<Config>());
        return Ok(ExitCode::SUCCESS);
    }
    let settings = settings(args)?;
    let loaded = Tls::load(&settings)?;
    if args.check {
        loaded.warnings.iter().for_each(|warning| println!("warning: {warning}"));
        println!(
            "the configuration is valid: {} shards, state in {}",
            settings.shard_count(),
            settings.node.state_dir.display()
        );
        return Ok(ExitCode::SUCCESS);
    }
    app::run(settings, loaded)
}

fn settings(args: &Args) -> anyhow::Result<Settings> {
    let Some(path) = &args.config else { return Ok(Config::default().validate()?) };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {name}"))?;
    let config: Config = shoal_config::load(&text, &name)?;
    config.validate().with_context(|| format!("{name} cannot be used"))
}
