//! The XDP programs, and what loads and feeds them.
//!
//! `programs/` is compiled for eBPF by `cargo xtask ebpf` into `objects/`, from where it is embedded: to build shoal takes no
//! eBPF tool chain. `maps/` has the types that programs and loader share. What a packet goes through is told in
//! `programs/src/main.rs`.

#![forbid(unsafe_code)]

mod error;
mod feed;
mod gate;
mod xsk;

use std::net::{IpAddr, SocketAddr};

use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, RingBuf};
use aya::programs::{TestRun, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
pub use shoal_probe_maps as maps;

pub use error::{AttachError, LoadError, MapError};
pub use feed::{Limits, ip};
use gate::Gate;
pub use xsk::FrameEndpoints;
use xsk::Xsks;

/// The programs.
static OBJECT: &[u8] = include_bytes_aligned!("../objects/shoal.o");

/// The name of the program for packets, and of one that does nothing.
const PROGRAM: &str = "shoal";
const EMPTY: &str = "shoal_empty";

/// Loaded programs and their maps. Dropped, all of it is gone, and what was attached is detached.
pub struct Probes {
    ebpf: Ebpf,
    config: Array<MapData, maps::Config>,
    ports: Array<MapData, u8>,
    endpoints: HashMap<MapData, maps::EndpointKey, maps::Endpoint>,
    block_v4: LpmTrie<MapData, [u8; 4], u32>,
    block_v6: LpmTrie<MapData, [u8; 16], u32>,
    gate_v4: Array<MapData, u64>,
    gate_v6: Array<MapData, u64>,
    known: Array<MapData, u64>,
    verdicts: PerCpuArray<MapData, u64>,
    drops: RingBuf<MapData>,
    /// As they are in the maps.
    now: maps::Config,
    gate: Gate,
    xsks: Xsks,
}

/// How an interface runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By its driver, before the kernel has made a packet of the frame.
    Native,
    /// By the kernel's stack, afterwards: works everywhere, and saves less.
    Generic,
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
    /// To somebody else, such as an AF_XDP socket.
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
        let mut ebpf = EbpfLoader::new().load(object)?;
        for name in [PROGRAM, EMPTY] {
            program_mut(&mut ebpf, name)?.load().map_err(|error| LoadError::program(name, error))?;
        }
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(LoadError::Missing(name));
        let mut probes = Self {
            config: take("CONFIG")?.try_into()?,
            ports: take("PORTS")?.try_into()?,
            endpoints: take("ENDPOINT")?.try_into()?,
            block_v4: take("BLOCK_V4")?.try_into()?,
            block_v6: take("BLOCK_V6")?.try_into()?,
            gate_v4: take("GATE_V4")?.try_into()?,
            gate_v6: take("GATE_V6")?.try_into()?,
            known: take("KNOWN_UNTIL")?.try_into()?,
            verdicts: take("VERDICT")?.try_into()?,
            drops: take("DROPS")?.try_into()?,
            xsks: Xsks::new(&mut take)?,
            ebpf,
            now: maps::Config { seed, ..maps::Config::default() },
            gate: Gate::new(seed),
        };
        probes.config.set(0, probes.now, 0)?;
        Ok(probes)
    }

    /// Attaches the program to an interface, native if its driver can. Replaces nothing: one that is there already is an error.
    ///
    /// # Errors
    /// There is no such interface, or another program on it.
    pub fn attach(&mut self, interface: &str) -> Result<Mode, AttachError> {
        let program = program_mut(&mut self.ebpf, PROGRAM).map_err(|error| AttachError::new(interface, &error))?;
        let native = match program.attach(interface, XdpMode::Driver) {
            Ok(_) => return Ok(Mode::Native),
            Err(error) => error,
        };
        match program.attach(interface, XdpMode::Skb) {
            Ok(_) => Ok(Mode::Generic),
            // Why the better way did not go says more.
            Err(_) => Err(AttachError::new(interface, &native)),
        }
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
        self.run_program(PROGRAM, frame, repeat)
    }

    /// The same with a program that does nothing: what the way there costs.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_empty(&self, frame: &[u8], repeat: u32) -> Result<Run, LoadError> {
        self.run_program(EMPTY, frame, repeat)
    }

    fn run_program(&self, name: &'static str, frame: &[u8], repeat: u32) -> Result<Run, LoadError> {
        let program = self.ebpf.program(name).ok_or(LoadError::Missing(name))?;
        let program: &Xdp = program.try_into().map_err(|error| LoadError::program(name, error))?;
        let mut out = vec![0; frame.len() + 256];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..TestRunOptions::new() };
        let result = program.test_run(options).map_err(|error| LoadError::program(name, error))?;
        out.truncate(result.data_size_out as usize);
        // The kernel says how long one took, in whole nanoseconds.
        Ok(Run { action: result.return_value, frame: out, ns: result.duration.as_nanos() as u64 })
    }
}

fn program_mut<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut Xdp, LoadError> {
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
            maps::Address([word(0), word(1), word(2), word(3)])
        }
    }
}

/// The key of an endpoint.
#[must_use]
pub fn endpoint(at: SocketAddr) -> maps::EndpointKey {
    maps::EndpointKey { address: address(at.ip()), port: at.port().into() }
}
