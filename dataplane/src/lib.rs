//! The data plane: Range slices from RAM or from the source, one shard per core.

#![forbid(unsafe_code)]
