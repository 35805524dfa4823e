//! How the program comes: loaded by this process, or pinned by one that may.

use std::fs::File;

use shoal_probes::{LoadError, PinError, Pins, Probes, may_load};

use crate::settings::XdpSettings;

/// The program and its maps, and what keeps others from its pins: `held`, if this process has them already.
pub(super) fn begin(own: &XdpSettings, seed: u64, held: Option<File>) -> Result<(Probes, Option<File>), LoadError> {
    let Some(pins) = own.pins.as_ref().map(Pins::new) else { return Ok((Probes::load_for(seed, own.channels)?, None)) };
    if !may_load() {
        return open(&pins, held);
    }
    if let Err(error @ PinError::NoFileSystem(_)) = pins.check() {
        tracing::warn!(%error, "XDP ends with this process, for it cannot be pinned");
        return Ok((Probes::load_for(seed, own.channels)?, None));
    }
    pins.prepare()?;
    let held = hold(&pins, held)?;
    match Probes::load_pinned(&pins, seed, own.channels) {
        Ok(probes) => Ok((probes, Some(held))),
        Err(LoadError::Privilege(_)) => open(&pins, Some(held)),
        Err(error) => Err(error),
    }
}

fn open(pins: &Pins, held: Option<File>) -> Result<(Probes, Option<File>), LoadError> {
    pins.check()?;
    let held = hold(pins, held)?;
    Ok((Probes::open(pins)?, Some(held)))
}

fn hold(pins: &Pins, held: Option<File>) -> Result<File, PinError> {
    held.map_or_else(|| pins.hold(), Ok)
}

/// Puts the program on these interfaces and takes it off all others, as far as this process may.
pub(super) fn attach(probes: &mut Probes, interfaces: &[String]) {
    let unfiltered = "what comes by this interface goes to user space unfiltered";
    if probes.is_loader() {
        for interface in interfaces {
            match probes.attach(interface) {
                Ok(mode) => tracing::info!(interface, mode = mode.name(), "XDP attached"),
                Err(error) => tracing::warn!(%error, "{unfiltered}"),
            }
        }
    } else {
        let attached = probes.attached().unwrap_or_default();
        for interface in interfaces {
            match attached.iter().find(|at| at.interface == *interface).and_then(|at| at.mode) {
                Some(mode) => tracing::info!(interface, mode = mode.name(), "XDP is attached"),
                None => tracing::warn!(interface, "XDP is not attached, `shoal-xdp attach` does it; {unfiltered}"),
            }
        }
    }
    let Some(pins) = probes.pins() else { return };
    match pins.detach_others(interfaces) {
        Ok(others) => others.iter().for_each(|interface| tracing::info!(interface, "XDP detached")),
        Err(error) => tracing::warn!(%error, "XDP stays on interfaces that are not configured"),
    }
    if let Err(error) = pins.remove_others() {
        tracing::warn!(%error, "pins of another layout stay");
    }
}

/// Removes what an earlier run has left, where XDP is not configured any more.
pub(super) fn leave(own: &XdpSettings) {
    let Some(pins) = own.pins.as_ref().map(Pins::new).filter(Pins::exist) else { return };
    // Of another node, perhaps: only what nobody holds.
    match pins.hold().and_then(|_held| pins.remove()) {
        Ok(()) => tracing::info!("XDP detached, for it is not configured any more"),
        Err(error) => tracing::debug!(%error, "there are pins that this process does not remove"),
    }
}
