//! Steering: flows to their owners' sockets, and their packets to the owners' CPUs before that.
//!
//! The two need nothing of each other. The sockets' program is loaded by itself, so that it also runs where there is no XDP; the
//! kernel keeps it, with its maps, for as long as the sockets that it was attached to are open, whatever becomes of who loaded it.

use std::error::Error;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use aya::Ebpf;
use aya::maps::xdp::CpuMap;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, ReusePortSockArray};
use aya::programs::SkReuseport;
use shoal_packet::flow::{Owners, RelayPorts};
use thiserror::Error;

use crate::error::whole;
use crate::maps::steer::{Count, EndpointKey, SHARDS, SOCKETS, Steer};
use crate::sizes::Sizes;
use crate::{LoadError, MapError, OBJECT, Probes, address};

/// The name of the program for sockets.
const PROGRAM: &str = "shoal_steer";

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
    ebpf: Ebpf,
    places: HashMap<MapData, EndpointKey, u32>,
    sockets: ReusePortSockArray<MapData>,
    counts: PerCpuArray<MapData, u64>,
    owners: Owners,
    /// The first place in `sockets` that is free.
    free: u32,
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
        program_mut(&mut ebpf)?.load().map_err(|error| LoadError::program(PROGRAM, error))?;
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(LoadError::Missing(name));
        let mut steer: Array<MapData, Steer> = take("STEER")?.try_into()?;
        let Owners { seed, shards } = owners;
        steer.set(0, Steer { seed, shards, ..Steer::default() }, 0)?;
        Ok(Self {
            places: take("STEER_PLACE")?.try_into()?,
            sockets: take("STEER_SOCKETS")?.try_into()?,
            counts: take("STEER_COUNT")?.try_into()?,
            ebpf,
            owners,
            free: 0,
        })
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
        let program = program_mut(&mut self.ebpf).map_err(|error| kernel(&error))?;
        program.attach(first).map_err(|error| kernel(&error))
    }

    /// What has become of datagrams so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn steered(&self) -> Result<Steered, MapError> {
        Ok(Steered { owner: sum(&self.counts, Count::Owner)?, kernel: sum(&self.counts, Count::Kernel)? })
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

    /// Packets sent on to another CPU so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn redirected(&self) -> Result<u64, MapError> {
        sum(&self.cpus.counts, Count::Cpu)
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

fn program_mut(ebpf: &mut Ebpf) -> Result<&mut SkReuseport, LoadError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(LoadError::Missing(PROGRAM))?;
    program.try_into().map_err(|error| LoadError::program(PROGRAM, error))
}
