//! Loading, opening and attaching what is pinned: programs that go on while nobody feeds them, and are replaced without a gap.

use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use aya::maps::{Map, MapData, MapInfo, MapType};
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{Program, ProgramInfo, Xdp};
use aya_obj::Object;
use rustix::thread::CapabilitySet;

use crate::error::whole;
use crate::pins::{PinError, Pins};
use crate::sizes::Sizes;
use crate::{AttachError, EMPTY, LoadError, Mode, OBJECT, PROGRAM, Probes, load_programs, netlink, program_mut};

/// An interface with the program on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// How it runs the program; `None`: it does not, because it was taken away, or has another name now.
    pub mode: Option<Mode>,
    /// The kernel's id of the link; `None`: it is not pinned.
    pub link: Option<u32>,
    /// The kernel's id of the program.
    pub program: u32,
    /// Since when there is this link.
    pub since: Option<SystemTime>,
}

impl Probes {
    /// Loads the programs on maps that stay: those that are pinned, or new ones that will be. `seed` and the number of
    /// `channels` that are relayed are for new ones. What is attached stays as it is until [`attach`](Self::attach) replaces the program there.
    ///
    /// # Errors
    /// As [`load`](Self::load), and when the pins are not ours.
    pub fn load_pinned(pins: &Pins, seed: u64, channels: u32) -> Result<Self, LoadError> {
        Self::load_object_pinned(OBJECT, pins, seed, channels)
    }

    /// The same with another object than the embedded one.
    ///
    /// # Errors
    /// As [`load_pinned`](Self::load_pinned).
    pub fn load_object_pinned(object: &[u8], pins: &Pins, seed: u64, channels: u32) -> Result<Self, LoadError> {
        let sizes = Sizes::of_pins(pins, channels)?;
        let maps = maps(object, &sizes)?;
        for map in &maps {
            map.check(pins)?;
        }
        pins.prepare()?;
        pins.remove_old_steering()?;
        let mut loader = sizes.loader();
        for map in &maps {
            loader.map_pin_path(&map.name, pins.map(&map.name));
        }
        let mut ebpf = loader.load(object)?;
        load_programs(&mut ebpf)?;
        for (name, program) in ebpf.programs_mut().filter(|(name, program)| *name != EMPTY && program.fd().is_ok()) {
            pin_program(pins, name, program)?;
        }
        let mut probes = Self::of_maps(|name| ebpf.take_map(name).ok_or(LoadError::Missing(name)), seed)?;
        probes.ebpf = Some(ebpf);
        probes.pins = Some(pins.clone());
        Ok(probes)
    }

    /// Opens the maps that another process has pinned. It takes permission for these files, and no capability. What is attached goes on;
    /// [`attach`](Self::attach) is for who loads.
    ///
    /// # Errors
    /// There are none of this layout, they are not ours, or another user's.
    pub fn open(pins: &Pins) -> Result<Self, LoadError> {
        pins.check()?;
        if !pins.exist() {
            return Err(PinError::Missing(pins.root().to_owned()).into());
        }
        check_maps(pins, |_| true)?;
        let mut probes = Self::of_maps(|name| open_map(&pins.map(name)), 0)?;
        probes.pins = Some(pins.clone());
        // Of a time when nobody listened.
        while probes.next_drop().is_some() {}
        Ok(probes)
    }

    /// The interfaces that the program is on.
    ///
    /// # Errors
    /// As [`Pins::attached`].
    pub fn attached(&self) -> Result<Vec<Attached>, PinError> {
        match &self.pins {
            Some(pins) => pins.attached(),
            None => {
                let now = |at: &Attached| Attached { mode: mode_of(&at.interface, at.program), ..at.clone() };
                Ok(self.attached.iter().map(now).collect())
            }
        }
    }

    /// Whether this process has loaded the programs, and can attach them.
    #[must_use]
    pub fn is_loader(&self) -> bool {
        self.ebpf.is_some()
    }

    /// The program's tag, a sum of its instructions, if the one of this id is ours.
    #[must_use]
    pub fn tag(&self, program: u32) -> Option<u64> {
        let info = match (&self.pins, &self.ebpf) {
            (Some(pins), _) => ProgramInfo::from_pin(pins.program(PROGRAM)).ok()?,
            (None, Some(ebpf)) => <&Xdp>::try_from(ebpf.program(PROGRAM)?).ok()?.info().ok()?,
            (None, None) => return None,
        };
        (info.id() == program).then(|| info.tag())
    }

    /// Whether the program goes on without this process.
    #[must_use]
    pub fn pins(&self) -> Option<&Pins> {
        self.pins.as_ref()
    }

    pub(crate) fn attach_pinned(&mut self, interface: &str, pins: &Pins) -> Result<Mode, AttachError> {
        let fail = |error: &dyn Error| AttachError::new(interface, error);
        let own = pins.link(interface);
        for link in pins.links(interface).map_err(|error| fail(&error))? {
            let program = program_mut(&mut self.ebpf, PROGRAM).map_err(|error| fail(&error))?;
            if replace(program, interface, &link).map_err(|error| fail(&error))? {
                if link != own {
                    fs::rename(&link, &own).map_err(|error| fail(&error))?;
                }
                let now = open_link(&own).ok().and_then(|link| mode_of(interface, link.info().ok()?.program_id()));
                let mode = now.ok_or_else(|| fail(&LinkError::InvalidLink))?;
                if mode == Mode::Native {
                    self.let_out(interface)?;
                }
                return Ok(mode);
            }
            fs::remove_file(&link).map_err(|error| fail(&PinError::io(&link, error)))?;
        }
        let (mode, id) = self.attach_new(interface)?;
        let program = program_mut(&mut self.ebpf, PROGRAM).map_err(|error| fail(&error))?;
        let link = program.take_link(id).map_err(|error| fail(&error))?;
        let link: FdLink = link.try_into().map_err(|error: LinkError| fail(&error))?;
        link.pin(&own).map_err(|error| fail(&error))?;
        Ok(mode)
    }
}

impl Pins {
    /// The interfaces that have links of this layout.
    ///
    /// # Errors
    /// What is there is not ours.
    pub fn attached(&self) -> Result<Vec<Attached>, PinError> {
        let mut all = Vec::new();
        for interface in self.interfaces()? {
            let path = self.link(&interface);
            let link = match open_link(&path) {
                Ok(link) => link,
                // Detached meanwhile, or of another layout.
                Err(PinError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let info = link.info().map_err(|error| PinError::foreign(&path, whole(&error)))?;
            all.push(Attached {
                mode: mode_of(&interface, info.program_id()),
                link: Some(info.id()),
                program: info.program_id(),
                since: fs::metadata(&path).and_then(|found| found.modified()).ok(),
                interface,
            });
        }
        Ok(all)
    }
}

/// A map of an object, as it must be.
struct Wanted {
    name: String,
    map: aya_obj::Map,
    entries: u32,
}

impl Wanted {
    /// Whether what is pinned under its name is one, if there is anything.
    fn check(&self, pins: &Pins) -> Result<(), PinError> {
        let path = pins.map(&self.name);
        let found = match MapInfo::from_pin(&path) {
            Ok(found) => found,
            Err(error) => {
                return match refused(&path, &error) {
                    PinError::Io { error, .. } if error.kind() == ErrorKind::NotFound => Ok(()),
                    error => Err(error),
                };
            }
        };
        let kind = found.map_type().map_err(|error| PinError::foreign(&path, whole(&error)))?;
        let same = |what, found: u32, wanted: u32| match found == wanted {
            true => Ok(()),
            false => Err(PinError::foreign(&path, format!("{what} is {found} and must be {wanted}"))),
        };
        same("its type", kind as u32, self.map.map_type())?;
        same("its key's size", found.key_size(), self.map.key_size())?;
        // By aya, according to what the kernel knows.
        let chosen = matches!(kind, MapType::CpuMap | MapType::DevMap | MapType::DevMapHash);
        if !chosen {
            same("its value's size", found.value_size(), self.map.value_size())?;
        }
        if self.entries != 0 {
            same("the number of its entries", found.max_entries(), self.entries)?;
        }
        Ok(())
    }
}

/// All maps of an object, but for those that are constants and variables of one program.
fn maps(object: &[u8], sizes: &Sizes) -> Result<Vec<Wanted>, LoadError> {
    let object = Object::parse(object).map_err(|error| LoadError::Other(whole(&error)))?;
    let named = object.maps.into_iter().filter(|(name, _)| !name.starts_with('.'));
    let sized = sizes.all();
    let wanted = |(name, map): (String, aya_obj::Map)| {
        let entries = sized.iter().find(|(sized, _)| *sized == name).map_or(map.max_entries(), |(_, entries)| *entries);
        Wanted { name, map, entries }
    };
    let mut all: Vec<Wanted> = named.map(wanted).collect();
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Whether those of the embedded object's maps that are `wanted` by name are what is pinned, as far as there is something.
pub(crate) fn check_maps(pins: &Pins, wanted: impl Fn(&str) -> bool) -> Result<(), LoadError> {
    let maps = maps(OBJECT, &Sizes::of_pins(pins, 1)?)?;
    Ok(maps.iter().filter(|map| wanted(&map.name)).try_for_each(|map| map.check(pins))?)
}

/// Pins a program that is loaded, in the place of one that is there by renaming, so that there is always one.
pub(crate) fn pin_program(pins: &Pins, name: &str, program: &mut Program) -> Result<(), PinError> {
    // A name without a dot, which bpf file systems refuse.
    let (path, new) = (pins.program(name), pins.program(&format!("{name}-new")));
    drop(fs::remove_file(&new));
    program.pin(&new).map_err(|error| PinError::foreign(&new, whole(&error)))?;
    fs::rename(&new, &path).map_err(|error| PinError::io(&path, error))
}

pub(crate) fn open_map(path: &Path) -> Result<Map, LoadError> {
    let map = MapData::from_pin(path).map_err(|error| refused(path, &error)).map_err(|error| match error {
        PinError::Io { error, .. } if error.kind() == ErrorKind::NotFound => PinError::foreign(path, "it is not there"),
        error => error,
    })?;
    Ok(Map::from_map_data(map)?)
}

fn open_link(path: &Path) -> Result<FdLink, PinError> {
    PinnedLink::from_pin(path).map(FdLink::from).map_err(|error| refused(path, &error))
}

/// Why the kernel does not open a pin.
pub(crate) fn refused(path: &Path, error: &(dyn Error + 'static)) -> PinError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied)
        {
            return PinError::io(path, error.kind().into());
        }
        cause = error.source();
    }
    PinError::foreign(path, whole(error))
}

/// Replaces the program of a link, if that is on the interface; false: it is not, any more.
fn replace(program: &mut Xdp, interface: &str, path: &Path) -> Result<bool, PinError> {
    let link = open_link(path)?;
    let foreign = |error: &dyn Error| PinError::foreign(path, whole(error));
    let before = link.info().map_err(|error| foreign(&error))?.program_id();
    if mode_of(interface, before).is_none() {
        return Ok(false);
    }
    let link = XdpLink::try_from(link).map_err(|error| foreign(&error))?;
    let id = program.attach_to_link(link).map_err(|error| foreign(&error))?;
    // Its pin keeps it; a descriptor that is kept would hold it there when that is gone.
    program.take_link(id).map(drop).map_err(|error| foreign(&error))?;
    Ok(true)
}

/// Whether this process has the capabilities to load programs and to attach them.
#[must_use]
pub fn may_load() -> bool {
    let needed = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON;
    let has = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    has.contains(needed) || has.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN)
}

/// How an interface runs a program, if it does.
fn mode_of(interface: &str, program: u32) -> Option<Mode> {
    // An interface that is gone runs nothing.
    let programs = netlink::programs(interface).ok()?;
    programs.into_iter().find(|(_, id)| *id == program).map(|(mode, _)| mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::LAYOUT_SUM;

    #[test]
    fn a_change_of_maps_is_a_new_layout() {
        let maps = maps(OBJECT, &Sizes::new(1).unwrap()).unwrap();
        let of = |Wanted { name, map, .. }: &Wanted| {
            let sizes = (map.key_size(), map.value_size(), map.max_entries(), map.map_flags());
            format!("{name} {} {sizes:?}\n", map.map_type())
        };
        let all: String = maps.iter().map(of).collect();
        // FNV-1a: any sum will do.
        let sum = all.bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        assert_eq!(
            sum, LAYOUT_SUM,
            "maps are others: raise LAYOUT if there was a release with them, and LAYOUT_SUM\n{all}"
        );
    }
}
