//! What eBPF and user space share: the owner hash.

#![forbid(unsafe_code)]
