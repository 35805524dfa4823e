//! Steering: flows to their owners' sockets, and their packets to the owners' CPUs before that.
//!
//! The two need nothing of each other. The sockets' program is loaded by itself, so that it also runs where there is no XDP; the
//! kernel keeps it, with its maps, for as long as the sockets that it was attached to are open, whatever becomes of who loaded it.
//!
//! Who may not load it attaches one that is pinned beside XDP's, and on the same maps. These are one process's at a time, which begins
//! anew with them: seed, shards and places are its own, and of one before it there are only sockets that have not been closed yet.

use std::error::Error;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::xdp::CpuMap;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, ReusePortSockArray};
use aya::programs::{ProgramInfo, SkReuseport, SkReuseportAttachType};
use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_SK_REUSEPORT;
use shoal_packet::flow::{Owners, RelayPorts};
use thiserror::Error;

use crate::error::whole;
use crate::life::{check_maps, open_map, pin_program, refused};
use crate::maps::steer::{Count, EndpointKey, SHARDS, SOCKETS, Steer};
use crate::sizes::Sizes;
use crate::{LoadError, MapError, OBJECT, PinError, Pins, Probes, address};

/// The name of the program for sockets.
const PROGRAM: &str = "shoal_steer";

/// Its maps.
const MAPS: [&str; 4] = ["STEER", "STEER_PLACE", "STEER_SOCKETS", "STEER_COUNT"];

/// Packets that may wait for a CPU; what is beyond it is dropped.
const CPU_QUEUE: u32 = 4096;

/// Maps of the XDP program, which need not be large where it is not loaded.
const UNUSED: &[&str] = &[
    "PORTS",
    "GATE_V4",
    "GATE_V6",
    "SOURCE_DUE",
    "NETWORK_DUE",
    "NEW_SOURCE_DUE",
    "BINDING_DUE",
    "KNOWN_UNTIL",
    "BLOCK_V4",
    "BLOCK_V6",
    "RELAY",
    "RELAY_USAGE",
    "RELAY_TAKEN",
    "RELAY_OWNER",
    "NEXT_HOPS",
    "XSK_PLACE",
    "XSK_ENDPOINT",
];

/// A ring has at least a page, of the largest that there are.
const RING_BYTES: u32 = 64 << 10;

/// The program that chooses sockets, with all that it needs. Dropped, it goes on for the sockets that it was attached to.
pub struct Steering {
    program: Program,
    places: HashMap<MapData, EndpointKey, u32>,
    sockets: ReusePortSockArray<MapData>,
    counts: PerCpuArray<MapData, u64>,
    owners: Owners,
    /// The first place in `sockets` that is free.
    free: u32,
    /// What was steered for processes before this one.
    before: Steered,
}

enum Program {
    Loaded(Box<Ebpf>),
    Pinned(Box<SkReuseport>),
}

impl Program {
    fn get(&self) -> Result<&SkReuseport, LoadError> {
        match self {
            Self::Loaded(ebpf) => {
                let program = ebpf.program(PROGRAM).ok_or(LoadError::Missing(PROGRAM))?;
                program.try_into().map_err(|error| LoadError::program(PROGRAM, error))
            }
            Self::Pinned(program) => Ok(program),
        }
    }
}

/// What became of datagrams. A train that the kernel has joined is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steered {
    /// Given to the owner's socket.
    pub owner: u64,
    /// The owner had no socket, or the program did not know the address: the kernel chose.
    pub kernel: u64,
}

/// Why flows to an address are not steered.
#[derive(Debug, Error)]
pub enum SteerError {
    /// There are more of them than the map has places for.
    #[error(
        "cannot steer what comes to {at}: there is room for {SOCKETS} sockets; serve fewer addresses, or with fewer shards"
    )]
    Room {
        /// The address.
        at: SocketAddr,
    },
    /// Not one socket for each shard.
    #[error("cannot steer what comes to {at}: {sockets} sockets are not one for each of {shards} shards")]
    Shards {
        /// The address.
        at: SocketAddr,
        /// So many were given.
        sockets: usize,
        /// So many it should be.
        shards: u32,
    },
    /// The kernel's.
    #[error("cannot steer what comes to {at}: {why}")]
    Kernel {
        /// The address.
        at: SocketAddr,
        /// What it said.
        why: String,
    },
}

impl Steering {
    /// Loads the program into the kernel.
    ///
    /// # Errors
    /// Without the privileges, and when the kernel does not know or does not accept something.
    pub fn load(owners: Owners) -> Result<Self, LoadError> {
        Self::load_object(OBJECT, owners)
    }

    /// The same with another object than the embedded one: one that was just compiled.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_object(object: &[u8], owners: Owners) -> Result<Self, LoadError> {
        let mut loader = Sizes::new(1)?.loader();
        for name in UNUSED {
            loader.map_max_entries(name, 1);
        }
        loader.map_max_entries("DROPS", RING_BYTES);
        let mut ebpf = loader.load(object)?;
        load_program(&mut ebpf)?;
        let maps = MAPS.map(|name| ebpf.take_map(name).ok_or(LoadError::Missing(name)));
        Self::of_maps(Program::Loaded(Box::new(ebpf)), maps, owners)
    }

    /// Opens what another process [has pinned](Probes::pin_steering), for this process alone, and forgets what was steered with it before:
    /// who calls this [holds](Pins::hold) the pins. It takes permission for these files, and no capability. `None`: there is no such program.
    ///
    /// # Errors
    /// What is there is not ours, or another user's.
    pub fn open(pins: &Pins, owners: Owners) -> Result<Option<Self>, LoadError> {
        pins.check()?;
        let path = pins.program(PROGRAM);
        let info = match ProgramInfo::from_pin(&path).map_err(|error| refused(&path, &error)) {
            Err(PinError::Io { error, .. }) if error.kind() == ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        if info.program_type() != BPF_PROG_TYPE_SK_REUSEPORT {
            return Err(PinError::foreign(&path, "it is no program for sockets").into());
        }
        check_maps(pins, |name| MAPS.contains(&name))?;
        let program = SkReuseport::from_pin(&path, SkReuseportAttachType::Select);
        let program = program.map_err(|error| refused(&path, &error))?;
        let maps = MAPS.map(|name| open_map(&pins.map(name)));
        Self::of_maps(Program::Pinned(Box::new(program)), maps, owners).map(Some)
    }

    /// With maps that are new, or were another process's.
    fn of_maps(program: Program, maps: [Result<Map, LoadError>; 4], owners: Owners) -> Result<Self, LoadError> {
        let [steer, places, sockets, counts] = maps;
        let mut steer: Array<MapData, Steer> = steer?.try_into()?;
        let mut places: HashMap<MapData, EndpointKey, u32> = places?.try_into()?;
        let keys: Vec<EndpointKey> = places.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| places.remove(key))?;
        let Owners { seed, shards } = owners;
        steer.set(0, Steer { seed, shards, ..Steer::default() }, 0)?;
        let (sockets, counts) = (sockets?.try_into()?, counts?.try_into()?);
        let mut steering = Self { program, places, sockets, counts, owners, free: 0, before: Steered::default() };
        steering.before = steering.steered()?;
        Ok(steering)
    }

    /// Has each flow to `at` come to its owner's socket. `sockets` are all that share the address, bound, by the number of their shard.
    /// What has come before is where the kernel has put it. A socket that is closed is forgotten; what it would get goes where the kernel
    /// likes.
    ///
    /// # Errors
    /// Then nothing has changed for these sockets.
    pub fn add(&mut self, at: SocketAddr, sockets: &[impl AsFd]) -> Result<(), SteerError> {
        let shards = self.owners.shards;
        let first = sockets.first().filter(|_| sockets.len() == shards as usize);
        let first = first.ok_or(SteerError::Shards { at, sockets: sockets.len(), shards })?;
        let place = self.free;
        let end = place.checked_add(shards).filter(|end| *end <= SOCKETS).ok_or(SteerError::Room { at })?;
        let kernel = |error: &dyn Error| SteerError::Kernel { at, why: whole(error) };
        for (place, socket) in (place..end).zip(sockets) {
            self.sockets.set(place, &socket.as_fd(), 0).map_err(|error| kernel(&error))?;
        }
        self.free = end;
        self.places
            .insert(EndpointKey { address: address(at.ip()), port: at.port().into() }, place, 0)
            .map_err(|error| kernel(&error))?;
        let program = self.program.get().map_err(|error| kernel(&error))?;
        program.attach(first).map_err(|error| kernel(&error))
    }

    /// What has become of datagrams since this process has it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn steered(&self) -> Result<Steered, MapError> {
        let count = |what, before| Ok::<_, MapError>(sum(&self.counts, what)?.saturating_sub(before));
        let Steered { owner, kernel } = self.before;
        Ok(Steered { owner: count(Count::Owner, owner)?, kernel: count(Count::Kernel, kernel)? })
    }
}

/// What the XDP program knows of CPUs.
pub(crate) struct Cpus {
    steer: Array<MapData, Steer>,
    of_shard: Array<MapData, u32>,
    /// `None`: this process may not look at such a map.
    cpus: Option<CpuMap<MapData>>,
    counts: PerCpuArray<MapData, u64>,
}

impl Cpus {
    pub(crate) fn take(take: &mut impl FnMut(&'static str) -> Result<Map, LoadError>) -> Result<Self, LoadError> {
        Ok(Self {
            steer: take("STEER")?.try_into()?,
            of_shard: take("SHARD_CPU")?.try_into()?,
            // As with interfaces that packets leave by.
            cpus: take("STEER_CPUS")?.try_into().ok(),
            counts: take("STEER_COUNT")?.try_into()?,
        })
    }
}

impl Probes {
    /// Has packets that go to user space go on at the CPU of their owner, if they are on another. `cpus` are the shards', `relays` how
    /// relay ports are divided among them.
    ///
    /// # Errors
    /// The kernel's: there is no such CPU. Then packets stay where they come in.
    pub fn steer_cpus(&mut self, owners: Owners, cpus: &[u32], relays: RelayPorts) -> Result<(), MapError> {
        let map = self.cpus.cpus.as_mut();
        let map = map.ok_or_else(|| MapError::IoError(std::io::Error::other("it takes capabilities to name CPUs")))?;
        for (shard, cpu) in (0..SHARDS).zip(cpus) {
            self.cpus.of_shard.set(shard, cpu, 0)?;
            // Each has a thread of the kernel.
            map.set(*cpu, CPU_QUEUE, None, 0).map_err(map_error)?;
        }
        let Owners { seed, shards } = owners;
        let RelayPorts { first, each } = relays;
        let steer = Steer { seed, shards, relay_first: first, relay_each: each, cpus: 1 };
        self.cpus.steer.set(0, steer, 0)
    }

    /// Has packets stay on the CPUs that they come in by, whatever a process before this one wanted.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep_cpus(&mut self) -> Result<(), MapError> {
        let steer = self.cpus.steer.get(&0, 0)?;
        self.cpus.steer.set(0, Steer { cpus: 0, ..steer }, 0)
    }

    /// Loads the program for sockets, on the maps that are pinned, and pins it, for a process that may load none to
    /// [open](Steering::open). One that was opened before goes on.
    ///
    /// # Errors
    /// These programs are another process's or not pinned, and as [`load_pinned`](Self::load_pinned).
    pub fn pin_steering(&mut self) -> Result<(), LoadError> {
        let (Some(ebpf), Some(pins)) = (&mut self.ebpf, &self.pins) else { return Err(LoadError::Elsewhere) };
        load_program(ebpf)?;
        Ok(pin_program(pins, PROGRAM, ebpf.program_mut(PROGRAM).ok_or(LoadError::Missing(PROGRAM))?)?)
    }

    /// Packets sent on to another CPU so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn redirected(&self) -> Result<u64, MapError> {
        sum(&self.cpus.counts, Count::Cpu)
    }
}

impl Pins {
    /// Removes the program for sockets, if it is there. For sockets that have it, it goes on.
    ///
    /// # Errors
    /// No permission.
    pub fn remove_steering(&self) -> Result<(), PinError> {
        let path = self.program(PROGRAM);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(PinError::io(&path, error)),
            _ => Ok(()),
        }
    }

    /// Removes it if one of its maps is gone: one that is made anew is not the program's.
    pub(crate) fn remove_old_steering(&self) -> Result<(), PinError> {
        if MAPS.iter().all(|name| self.map(name).exists()) { Ok(()) } else { self.remove_steering() }
    }
}

fn map_error(error: aya::maps::xdp::XdpMapError) -> MapError {
    match error {
        aya::maps::xdp::XdpMapError::MapError(error) => error,
        other => MapError::IoError(std::io::Error::other(other)),
    }
}

fn sum(counts: &PerCpuArray<MapData, u64>, what: Count) -> Result<u64, MapError> {
    Ok(counts.get(&(what as u32), 0)?.iter().sum())
}

fn load_program(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(LoadError::Missing(PROGRAM))?;
    let program: &mut SkReuseport = program.try_into().map_err(|error| LoadError::program(PROGRAM, error))?;
    program.load().map_err(|error| LoadError::program(PROGRAM, error))
}
