//! A browser without a screen.

use std::path::Path;
use std::process::Command;

/// What it is started with, wherever it runs: a profile of its own, and nothing that asks the network by itself.
pub fn headless<'a>(command: &'a mut Command, profile: &Path) -> &'a mut Command {
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--no-proxy-server", "--mute-audio"])
        .arg(format!("--user-data-dir={}", profile.display()))
}

/// A value in the query of a URL.
pub fn encode(value: &str) -> String {
    value
        .bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
