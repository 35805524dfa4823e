//! A node's last good snapshot, written where it looks for it: such a node needs no control plane.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Writes it into the folder that is to be the node's `node.state_dir`.
pub fn write(state_dir: &Path, snapshot: &Value) {
    fs::create_dir_all(state_dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", state_dir.display()));
    let json = snapshot.to_string();
    // A line with the first half of its checksum in front.
    let sum: String = Sha256::digest(&json).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let path = state_dir.join("snapshot");
    fs::write(&path, format!("{sum} {json}\n")).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
