//! The control plane: channels, keys, snapshots, ledger, admin API.

#![forbid(unsafe_code)]
