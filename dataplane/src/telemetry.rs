//! What the process tells operators: counters, histograms, logs.

pub mod access_log;
pub mod histogram;
pub mod metrics;
pub mod stats;
