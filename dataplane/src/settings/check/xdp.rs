//! Section `xdp`.

use std::path::{Path, PathBuf};

use shoal_probes::Limits;

use super::Problems;
use crate::config::{self, XdpSockets};
use crate::settings::{ConfigError, UdpSettings, XdpSettings};

/// An interface's name must fit IFNAMSIZ with its closing NUL.
const MAX_INTERFACE_NAME: usize = 15;

/// Channels that may be relayed: their counters are memory of the kernel, for each CPU.
const MAX_CHANNELS: u32 = 1 << 20;

pub(super) fn settings(raw: &config::Xdp, udp: &UdpSettings, problems: &mut Problems) -> XdpSettings {
    let key = "xdp.interfaces";
    let pins = checked_place(raw, problems);
    if !raw.interfaces.is_empty() && udp.addresses.is_empty() {
        problems.add(key, raw.interfaces.join(", "), "is for what comes by UDP; give `udp.addresses`, or none here");
    }
    if raw.channels > MAX_CHANNELS {
        problems.add("xdp.channels", raw.channels, format_args!("is too many; {MAX_CHANNELS} at most"));
    }
    if raw.steer_cpus && !udp.steer {
        let remedy = "sends packets to CPUs of shards that would not get them; set udp.steer = true, or leave this out";
        problems.add("xdp.steer_cpus", true, remedy);
    }
    let mode = match raw.sockets {
        XdpSockets::Off => None,
        XdpSockets::Copy => Some("copy"),
        XdpSockets::ZeroCopy => Some("zero-copy"),
    };
    if let Some(mode) = mode.filter(|_| raw.interfaces.is_empty()) {
        problems.add("xdp.sockets", mode, "is for what comes by xdp.interfaces; name some, or write \"off\"");
    }
    if let Some(mode) = mode.filter(|_| raw.steer_cpus) {
        let remedy = "gets no packet that is sent on to another CPU; write \"off\", or leave xdp.steer_cpus out";
        problems.add("xdp.sockets", mode, remedy);
    }
    if raw.attack_packets > 0 && raw.packets_per_new_address == 0 {
        let remedy = "would leave an attack without consequence; give at least 1, or 0 as xdp.attack_packets";
        problems.add("xdp.packets_per_new_address", 0, remedy);
    }
    if raw.keep && pins.is_none() {
        problems.add("xdp.keep", true, "takes a folder to keep it in; give `xdp.pins`");
    }
    XdpSettings {
        interfaces: raw.interfaces.clone(),
        pins,
        keep: raw.keep,
        // The second address comes and goes with the partner, and only user space knows.
        answer: raw.answer && udp.partner.is_none(),
        channels: raw.channels,
        steer_cpus: raw.steer_cpus,
        sockets: raw.sockets,
        limits: Limits {
            source: raw.packets_per_address,
            network: raw.packets_per_network,
            new_source: raw.packets_per_new_address,
            attack: raw.attack_packets,
            bindings: udp.bindings_per_address,
            sample_every: raw.sample_every,
            drop_fragments: raw.drop_fragments,
        },
    }
}

/// Where programs go and are pinned, which is all that a loader needs to know.
///
/// # Errors
/// Names that no interface has, or a folder that is none.
pub fn place(raw: &config::Xdp) -> Result<Option<PathBuf>, ConfigError> {
    let mut problems = Problems(Vec::new());
    let pins = checked_place(raw, &mut problems);
    if problems.0.is_empty() { Ok(pins) } else { Err(ConfigError { problems: problems.0 }) }
}

fn checked_place(raw: &config::Xdp, problems: &mut Problems) -> Option<PathBuf> {
    let key = "xdp.interfaces";
    for (nth, name) in raw.interfaces.iter().enumerate() {
        if name.is_empty() || name.len() > MAX_INTERFACE_NAME || name.contains(['/', ' ', '\0']) {
            problems.add(key, format_args!("{name:?}"), "is no name of an interface; `ip link` shows them");
        } else if raw.interfaces[..nth].contains(name) {
            problems.add(key, format_args!("{name:?}"), "is in the list twice");
        }
    }
    if raw.pins.is_empty() {
        return None;
    }
    let pins = Path::new(&raw.pins);
    let is_plain = pins.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if !(pins.is_absolute() && pins.file_name().is_some() && is_plain) || raw.pins.contains('\0') {
        let problem = "must be the absolute path of a folder in a bpf file system, such as /sys/fs/bpf/shoal, or empty";
        problems.add("xdp.pins", format_args!("{:?}", raw.pins), problem);
    }
    Some(pins.to_owned())
}
