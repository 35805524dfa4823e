//! Configuration files: strict loading, helpful errors, generated samples.

#![forbid(unsafe_code)]
