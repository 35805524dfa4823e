//! What the process tells operators: counters, histograms, logs.

pub mod access_log;
pub mod collect;
pub mod histogram;
pub mod log;
pub mod metrics;
pub mod node;
pub mod stats;
