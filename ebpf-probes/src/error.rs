//! What can go wrong, in one line each.

use std::error::Error;
use std::fmt::Display;
use std::io;

use aya::EbpfError;
use aya::programs::ProgramError;
use rustix::io::Errno;
use thiserror::Error;

/// The kernel's word on a map.
pub type MapError = aya::maps::MapError;

/// Why the programs were not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The process lacks capabilities.
    #[error(
        "the kernel lets this process load no eBPF ({0}); that takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root"
    )]
    Privilege(io::Error),
    /// The verifier does not accept a program.
    #[error("the kernel's verifier refuses the program {program}: {says}")]
    Verifier {
        /// Which.
        program: &'static str,
        /// Its last word.
        says: String,
    },
    /// The object lacks a part: it is of another version.
    #[error("the embedded object has no {0}; cargo xtask ebpf makes it anew")]
    Missing(&'static str),
    /// The programs are pinned, and only who loads them can do more with them.
    #[error("another process has loaded the programs: `shoal-xdp` attaches them")]
    Elsewhere,
    /// What is pinned, or is to be, is no use.
    #[error(transparent)]
    Pins(#[from] crate::PinError),
    /// Anything else.
    #[error("cannot load the eBPF programs: {0}")]
    Other(String),
}

/// Why a program was not attached.
#[derive(Debug, Error)]
#[error("cannot attach XDP to {interface}: {why}")]
pub struct AttachError {
    interface: String,
    why: String,
}

impl AttachError {
    pub(crate) fn new(interface: &str, why: &dyn Error) -> Self {
        Self { interface: interface.to_owned(), why: whole(why) }
    }
}

impl LoadError {
    pub(crate) fn program(program: &'static str, error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, .. } if is_privilege(&io_error) => Self::Privilege(io_error),
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                // The last lines only say how long it took.
                let counts = ["processed", "stack depth", "verification time"];
                let says =
                    log.lines().rfind(|line| !line.is_empty() && !counts.iter().any(|count| line.starts_with(count)));
                Self::Verifier { program, says: says.map_or_else(|| io_error.to_string(), str::to_owned) }
            }
            other => Self::Other(whole(&other)),
        }
    }
}

impl From<EbpfError> for LoadError {
    fn from(error: EbpfError) -> Self {
        match error {
            EbpfError::MapError(error) => error.into(),
            other => Self::Other(whole(&other)),
        }
    }
}

impl From<MapError> for LoadError {
    fn from(error: MapError) -> Self {
        match error {
            MapError::CreateError { io_error, .. } if is_privilege(&io_error) => Self::Privilege(io_error),
            other => Self::Other(whole(&other)),
        }
    }
}

/// EPERM alone: EACCES, of the same kind to Rust, is what the verifier says to a program that it does not accept.
fn is_privilege(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::PERM.raw_os_error())
}

/// An error with its causes.
pub(crate) fn whole(error: &(dyn Error + '_)) -> String {
    let mut all = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        add(&mut all, error);
        cause = error.source();
    }
    all
}

fn add(all: &mut String, error: &dyn Display) {
    let said = error.to_string();
    if !all.contains(&said) {
        all.push_str(": ");
        all.push_str(&said);
    }
}
