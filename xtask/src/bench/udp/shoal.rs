//! Our column: the data plane with one shard, on a snapshot in its state folder, without a control plane.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use serde_json::{Value, json};

use super::super::{SERVER_CPU, machine};
use super::servers::REALM;

/// Bytes of RAM for a node that serves no slices.
const RAM: u64 = 64 << 20;

/// Binding requests answered for one address in a second. The limit is on, and costs what it costs, but stops nobody.
const BINDINGS: u32 = 1_000_000_000;

/// Allocations at once: more than a run makes.
const ALLOCATIONS: usize = 16_384;

/// Relay ports, beside those that the system gives to sockets without one.
const PORTS: &str = "10000-32767";

/// The data plane at `address`, which relays from there.
pub(super) fn command(
    command: &mut Command,
    program: &Path,
    address: SocketAddr,
    secret: &str,
    dir: &Path,
) -> anyhow::Result<()> {
    let state = dir.join("state");
    write_snapshot(&state, &snapshot(secret))?;
    let config = dir.join("shoal.toml");
    fs::write(&config, toml(address, &state)).with_context(|| format!("cannot write {}", config.display()))?;
    command.arg(program).arg("--config").arg(config);
    Ok(())
}

fn toml(address: SocketAddr, state: &Path) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "# Written by cargo xtask at every start; what it does not name has its default.\n\
         [node]\nname = \"bench\"\nstate_dir = {}\n\n\
         [shards]\ncpus = [{SERVER_CPU}]\n\n\
         [http]\nlisten = [\"{ip}:0\"]\n\n\
         [cache]\nram_bytes = {RAM}\n\n\
         [udp]\naddresses = [\"{ip}\"]\nport = {port}\nalternate_port = 0\nbindings_per_address = {BINDINGS}\n\n\
         [turn]\nrelay_addresses = [\"{ip}\"]\nports = \"{PORTS}\"\nrealm = \"{REALM}\"\n\
         allocations = {ALLOCATIONS}\nallocations_per_address = 0\n\n\
         [admin]\nlisten = \"{ip}:0\"\n\n\
         [link]\ncontrol = []\n",
        json!(state.to_string_lossy()),
    )
}

/// Peers are on loopback, as everything here is.
fn snapshot(secret: &str) -> Value {
    let relay = json!({"secrets": [{"id": "bench", "secret": secret}], "allow": ["127.0.0.0/8"]});
    json!({"version": 1, "channels": [], "tenants": [{"id": "default", "relay": relay}]})
}

/// As the data plane keeps it: one line, with the first half of its checksum in front.
fn write_snapshot(state: &Path, snapshot: &Value) -> anyhow::Result<()> {
    fs::create_dir_all(state)?;
    let (json, bare, file) = (snapshot.to_string(), state.join("snapshot.json"), state.join("snapshot"));
    fs::write(&bare, &json).with_context(|| format!("cannot write {}", bare.display()))?;
    let said = machine::said(Command::new("sha256sum").arg(&bare));
    let sum = said.get(..32).with_context(|| format!("sha256sum said {said}"))?;
    fs::write(&file, format!("{sum} {json}\n")).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_the_first_half_of_its_checksum_in_front() {
        let state = std::env::temp_dir().join(format!("xtask-snapshot-{}", std::process::id()));
        write_snapshot(&state, &json!({"a": 1})).unwrap();
        let written = fs::read_to_string(state.join("snapshot")).unwrap();
        // SHA-256 of {"a":1} begins so.
        assert_eq!(written, "015abd7f5cc57a2dd94b7590f04ad808 {\"a\":1}\n");
        fs::remove_dir_all(&state).unwrap();
    }

    #[test]
    fn a_configuration_quotes_its_paths_and_relays_from_where_it_listens() {
        let text = toml("127.0.0.9:3999".parse().unwrap(), Path::new("a \"b\""));
        for line in [
            "state_dir = \"a \\\"b\\\"\"",
            "addresses = [\"127.0.0.9\"]",
            "port = 3999",
            "relay_addresses = [\"127.0.0.9\"]",
            "control = []",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
    }
}
