//! Labs and end-to-end tests with the real binaries.
//!
//! [`lab`] starts the real processes in a folder of their own, [`origin`] is a source that misbehaves on request, and
//! [`client`] counts what arrives. [`content`] ties them together: every byte of every object is a function of its
//! path, version and offset, so that any answer can be checked without keeping a copy.

#![forbid(unsafe_code)]

pub mod admin;
pub mod bpffs;
pub mod chromium;
pub mod churn;
pub mod client;
pub mod content;
pub mod lab;
pub mod load;
pub mod metrics;
pub mod natlab;
pub mod net;
pub mod origin;
pub mod process;
pub mod resources;
pub mod rng;
pub mod snapshot;
pub mod tls;
pub mod tool;
pub mod verdict;
pub mod viewers;
pub mod volume;
pub mod xdp;
pub mod zoo;
