//! The XDP programs, and what loads and feeds them.
//!
//! `programs/` is compiled for eBPF by `cargo xtask ebpf` into `objects/`, from where it is embedded: to build shoal takes no
//! eBPF tool chain. `maps/` has the types that programs and loader share. What a packet goes through is told in
//! `programs/src/main.rs`.

#![deny(unsafe_code)]

pub mod bench;
mod error;
mod feed;
mod gate;
mod life;
mod mapped;
mod netlink;
mod pins;
mod relay;
mod sizes;
mod steer;
mod xsk;

use std::io;
use std::net::IpAddr;
use std::time::SystemTime;

use aya::maps::xdp::DevMapHash;
use aya::maps::{Array, LpmTrie, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{TestRun, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
pub use shoal_probe_maps as maps;

pub use error::{AttachError, LoadError, MapError};
use feed::OwnAddresses;
pub use feed::{Limits, ip};
use gate::Gate;
pub use life::{Attached, may_load};
pub use pins::{PinError, Pins};
pub use relay::{BindError, Channel, Left, Owner, Relay};
use sizes::Sizes;
pub use steer::{SteerError, Steered, Steering};
pub use xsk::FrameEndpoints;
use xsk::Xsks;

/// The programs.
static OBJECT: &[u8] = include_bytes_aligned!("../objects/shoal.o");

/// The name of the program for packets, and of one that does nothing.
const PROGRAM: &str = "shoal";
const EMPTY: &str = "shoal_empty";

/// Loaded programs and their maps. Dropped, all of it is gone, and what was attached is detached, but for what is pinned.
pub struct Probes {
    /// `None`: another process has loaded the programs, and pinned all.
    ebpf: Option<Ebpf>,
    pins: Option<Pins>,
    /// What is not pinned.
    attached: Vec<Attached>,
    config: Array<MapData, maps::Config>,
    ports: Array<MapData, u32>,
    own_addresses: Array<MapData, maps::Own>,
    block_v4: LpmTrie<MapData, [u8; 4], u32>,
    block_v6: LpmTrie<MapData, [u8; 16], u32>,
    gate_v4: Array<MapData, u64>,
    gate_v6: Array<MapData, u64>,
    known: Array<MapData, u64>,
    relay_paths: MapData,
    relay_owners: MapData,
    relay_usage: MapData,
    relay_taken: MapData,
    /// `None`: this process may not look at such a map; who attaches may.
    out: Option<DevMapHash<MapData>>,
    verdicts: PerCpuArray<MapData, u64>,
    drops: RingBuf<MapData>,
    /// As they are in the maps.
    now: maps::Config,
    gate: Gate,
    own: OwnAddresses,
    cpus: steer::Cpus,
    xsks: Xsks,
    /// Of the counts of what was relayed.
    cpus_counted: usize,
}

/// How an interface runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By its driver, before the kernel has made a packet of the frame.
    Native,
    /// By the kernel's stack, afterwards: works everywhere, and saves less.
    Generic,
    /// By the network card itself.
    Offloaded,
}

impl Mode {
    /// A label for metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        }
    }
}

/// What a program made of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The kernel's `xdp_action`.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// For one time, on average.
    pub ns: u64,
}

/// `xdp_action` of the kernel (linux/bpf.h).
pub mod action {
    /// The frame is gone.
    pub const DROP: u32 = 1;
    /// To the host.
    pub const PASS: u32 = 2;
    /// Out of the interface that it came in by.
    pub const TX: u32 = 3;
    /// Elsewhere: by another interface, to another CPU, or to an AF_XDP socket.
    pub const REDIRECT: u32 = 4;
}

impl Probes {
    /// Loads the programs into the kernel; they see nothing before they are attached. `seed` is of the places of rates, and should be
    /// random, so that nobody can tell who shares theirs.
    ///
    /// # Errors
    /// Without the privileges, and when the kernel does not know or does not accept something.
    pub fn load(seed: u64) -> Result<Self, LoadError> {
        Self::load_object(OBJECT, seed)
    }

    /// The same with another object than the embedded one: one that was just compiled.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_object(object: &[u8], seed: u64) -> Result<Self, LoadError> {
        Self::load_parts(object, seed, maps::CHANNELS)
    }

    /// The same with room for so many channels that are relayed.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_for(seed: u64, channels: u32) -> Result<Self, LoadError> {
        Self::load_parts(OBJECT, seed, channels)
    }

    fn load_parts(object: &[u8], seed: u64, channels: u32) -> Result<Self, LoadError> {
        let mut ebpf = Sizes::new(channels)?.loader().load(object)?;
        load_programs(&mut ebpf)?;
        let mut probes = Self::of_maps(|name| ebpf.take_map(name).ok_or(LoadError::Missing(name)), seed)?;
        probes.ebpf = Some(ebpf);
        Ok(probes)
    }

    /// With these maps, new or used before, and without programs.
    fn of_maps(mut take: impl FnMut(&'static str) -> Result<Map, LoadError>, seed: u64) -> Result<Self, LoadError> {
        let cpus = steer::Cpus::take(&mut take)?;
        let data = |map: Map| match map {
            Map::Array(data) | Map::HashMap(data) => Ok(data),
            _ => Err(LoadError::Missing("array or hash map where one should be")),
        };
        let relay_taken = data(take("RELAY_TAKEN")?)?;
        let channels = relay_taken.info()?.max_entries();
        let mut probes = Self {
            config: take("CONFIG")?.try_into()?,
            ports: take("PORTS")?.try_into()?,
            own_addresses: take("OWN")?.try_into()?,
            block_v4: take("BLOCK_V4")?.try_into()?,
            block_v6: take("BLOCK_V6")?.try_into()?,
            gate_v4: take("GATE_V4")?.try_into()?,
            gate_v6: take("GATE_V6")?.try_into()?,
            known: take("KNOWN_UNTIL")?.try_into()?,
            relay_paths: data(take("RELAY")?)?,
            relay_owners: data(take("RELAY_OWNER")?)?,
            relay_usage: data(take("RELAY_USAGE")?)?,
            relay_taken,
            // What its values are like is found by a trial that takes capabilities.
            out: take("OUT")?.try_into().ok(),
            verdicts: take("VERDICT")?.try_into()?,
            drops: take("DROPS")?.try_into()?,
            ebpf: None,
            pins: None,
            attached: Vec::new(),
            now: maps::Config { seed, channels, ..maps::Config::default() },
            gate: Gate::new(seed),
            own: OwnAddresses::default(),
            cpus,
            xsks: Xsks::new(&mut take)?,
            cpus_counted: Sizes::new(channels)?.cpus(),
        };
        probes.resume()?;
        Ok(probes)
    }

    /// Attaches the program to an interface, native if its driver can. Replaces nothing but what is pinned there: another one is an error.
    ///
    /// # Errors
    /// There is no such interface, or another program on it.
    pub fn attach(&mut self, interface: &str) -> Result<Mode, AttachError> {
        if let Some(pins) = self.pins.clone() {
            return self.attach_pinned(interface, &pins);
        }
        let (mode, _) = self.attach_new(interface)?;
        let program = program_mut(&mut self.ebpf, PROGRAM).map_err(|error| AttachError::new(interface, &error))?;
        let program = program.info().map_err(|error| AttachError::new(interface, &error))?.id();
        let (interface, since) = (interface.to_owned(), Some(SystemTime::now()));
        self.attached.push(Attached { interface, mode: Some(mode), link: None, program, since });
        Ok(mode)
    }

    fn attach_new(&mut self, interface: &str) -> Result<(Mode, XdpLinkId), AttachError> {
        let program = program_mut(&mut self.ebpf, PROGRAM).map_err(|error| AttachError::new(interface, &error))?;
        let native = match program.attach(interface, XdpMode::Driver) {
            Ok(link) => {
                self.let_out(interface)?;
                return Ok((Mode::Native, link));
            }
            Err(error) => error,
        };
        match program.attach(interface, XdpMode::Skb) {
            Ok(link) => Ok((Mode::Generic, link)),
            // Why the better way did not go says more.
            Err(_) => Err(AttachError::new(interface, &native)),
        }
    }

    /// Lets packets that are relayed leave by an interface, also those that came in by others. One without a native program may drop such
    /// frames without a word; [`attach`](Self::attach) lets them out by those that have this one.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn let_out(&mut self, interface: &str) -> Result<(), AttachError> {
        let index = index(interface).map_err(|error| AttachError::new(interface, &error))?;
        let out = self.out.as_mut().ok_or_else(|| AttachError::new(interface, &LoadError::Elsewhere))?;
        out.insert(index, index, None, 0).map_err(|error| AttachError::new(interface, &error))
    }

    /// Attaches the program that does nothing. A veth takes what its other end's program sends back only if it has a program, too.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_empty(&mut self, interface: &str) -> Result<(), AttachError> {
        let program = program_mut(&mut self.ebpf, EMPTY).map_err(|error| AttachError::new(interface, &error))?;
        let attached = program.attach(interface, XdpMode::Driver);
        attached.map(drop).map_err(|error| AttachError::new(interface, &error))
    }

    /// Packets so far, by the number of their [`Verdict`](maps::Verdict), on all CPUs.
    ///
    /// # Errors
    /// The kernel's.
    pub fn verdicts(&self) -> Result<[u64; maps::VERDICTS], MapError> {
        let mut counts = [0; maps::VERDICTS];
        for (verdict, count) in (0..).zip(&mut counts) {
            *count = self.verdicts.get(&verdict, 0)?.iter().sum();
        }
        Ok(counts)
    }

    /// Takes a sampled drop, if there is one.
    pub fn next_drop(&mut self) -> Option<maps::Drop> {
        feed::parse_drop(&self.drops.next()?)
    }

    /// Runs the program on a frame, `repeat` times on the same one, and counts it as any other (BPF_PROG_TEST_RUN).
    ///
    /// # Errors
    /// The kernel's: a frame shorter than an Ethernet header, or longer than a page takes.
    pub fn run(&self, frame: &[u8], repeat: u32) -> Result<Run, LoadError> {
        self.run_program(PROGRAM, frame, None, repeat)
    }

    /// The same as if the frame had come in by an interface of this number, which has to run a program.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_at(&self, interface: u32, frame: &[u8], repeat: u32) -> Result<Run, LoadError> {
        self.run_program(PROGRAM, frame, Some(interface), repeat)
    }

    /// The same with a program that does nothing: what the way there costs.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_empty(&self, frame: &[u8], repeat: u32) -> Result<Run, LoadError> {
        self.run_program(EMPTY, frame, None, repeat)
    }

    fn run_program(
        &self,
        name: &'static str,
        frame: &[u8],
        interface: Option<u32>,
        repeat: u32,
    ) -> Result<Run, LoadError> {
        let program = self.ebpf.as_ref().and_then(|ebpf| ebpf.program(name)).ok_or(LoadError::Missing(name))?;
        let program: &Xdp = program.try_into().map_err(|error| LoadError::program(name, error))?;
        let mut out = vec![0; frame.len() + 256];
        // The kernel's `struct xdp_md`: where data begins and ends, metadata, interface, its queue, and where to.
        let context = interface.map(|interface| {
            let words = [0, frame.len() as u32, 0, interface, 0, 0];
            words.map(u32::to_ne_bytes).concat()
        });
        let (data_in, data_out, ctx_in) = (Some(frame), Some(&mut out[..]), context.as_deref());
        let options = TestRunOptions { data_in, data_out, ctx_in, repeat, ..TestRunOptions::new() };
        let result = program.test_run(options).map_err(|error| LoadError::program(name, error))?;
        out.truncate(result.data_size_out as usize);
        // The kernel says how long one took, in whole nanoseconds.
        Ok(Run { action: result.return_value, frame: out, ns: result.duration.as_nanos() as u64 })
    }
}

/// Has the kernel verify and take all programs of the object.
fn load_programs(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    for name in [PROGRAM, EMPTY] {
        xdp_program(ebpf, name)?.load().map_err(|error| LoadError::program(name, error))?;
    }
    Ok(())
}

fn program_mut<'e>(ebpf: &'e mut Option<Ebpf>, name: &'static str) -> Result<&'e mut Xdp, LoadError> {
    xdp_program(ebpf.as_mut().ok_or(LoadError::Elsewhere)?, name)
}

fn xdp_program<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Xdp, LoadError> {
    let program = ebpf.program_mut(name).ok_or(LoadError::Missing(name))?;
    program.try_into().map_err(|error| LoadError::program(name, error))
}

/// An address as the maps have it.
#[must_use]
pub fn address(ip: IpAddr) -> maps::Address {
    match ip {
        IpAddr::V4(v4) => maps::Address::v4(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let words = v6.octets();
            let word = |nth: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| words[nth * 4 + byte]));
            maps::Address::from_words([word(0), word(1), word(2), word(3)])
        }
    }
}

/// The number of an interface.
///
/// # Errors
/// There is none of this name.
pub fn index(interface: &str) -> io::Result<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(name_to_index(&socket, interface)?)
}
