//! Maps that are as large as this machine and its configuration want them.

use aya::EbpfLoader;
use aya::maps::MapInfo;
use aya::util::nr_cpus;

use crate::LoadError;
use crate::maps::steer::CPUS;
use crate::pins::Pins;

/// The sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Channels that can be relayed.
    channels: u32,
    /// CPUs that the machine may have.
    cpus: u32,
}

impl Sizes {
    /// For so many channels.
    pub(crate) fn new(channels: u32) -> Result<Self, LoadError> {
        let cpus = nr_cpus().map_err(|(file, error)| LoadError::Other(format!("{file}: {error}")))?;
        // A map has room for something.
        Ok(Self { channels: channels.max(1), cpus: cpus as u32 })
    }

    /// For as many channels as there is room for in what is pinned, or else so many.
    pub(crate) fn of_pins(pins: &Pins, channels: u32) -> Result<Self, LoadError> {
        let pinned = MapInfo::from_pin(pins.map("RELAY_TAKEN"));
        Self::new(pinned.map_or(channels, |map| map.max_entries()))
    }

    /// Entries of maps that have others than the object says.
    pub(crate) fn all(&self) -> [(&'static str, u32); 5] {
        let Self { channels, cpus } = *self;
        [
            ("RELAY", channels.saturating_mul(2)),
            ("RELAY_USAGE", channels.saturating_mul(cpus)),
            ("RELAY_TAKEN", channels),
            ("RELAY_OWNER", channels),
            // A kernel that was built for fewer would refuse more.
            ("STEER_CPUS", cpus.clamp(1, CPUS)),
        ]
    }

    /// A loader that makes them so.
    pub(crate) fn loader<'a>(&self) -> EbpfLoader<'a> {
        let mut loader = EbpfLoader::new();
        for (name, entries) in self.all() {
            loader.map_max_entries(name, entries);
        }
        loader
    }

    /// CPUs that the machine may have.
    pub(crate) const fn cpus(&self) -> usize {
        self.cpus as usize
    }
}
