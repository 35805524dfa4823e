//! The operator's command line.

#![forbid(unsafe_code)]

mod arguments;
mod blocks;
mod cache;
mod client;
mod input;
mod peers;
mod people;
mod recon;
mod run;
mod table;
mod tenants;
mod xdp;

use std::process::ExitCode;

use clap::Parser;

use arguments::Arguments;
use client::Failure;

/// Something was refused, or a node did not do it.
const REFUSED: u8 = 1;
/// Wrong arguments, or a file that cannot be read; clap uses the same.
const USAGE: u8 = 2;
/// No answer from the control plane.
const UNREACHABLE: u8 = 3;

fn main() -> ExitCode {
    match run::run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shoalctl: {failure}");
            ExitCode::from(match failure {
                Failure::Refused(_) | Failure::Nodes | Failure::Node(_) => REFUSED,
                Failure::Usage(_) => USAGE,
                Failure::Unreachable(_) => UNREACHABLE,
            })
        }
    }
}
