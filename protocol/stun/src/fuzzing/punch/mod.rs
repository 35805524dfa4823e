//! The node's side of punching beside a model of it.

pub mod model;
mod operations;
pub mod world;

pub use operations::operations;
