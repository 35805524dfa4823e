//! What the programs are measured by: a sender of frames without a network card, and what a driver does with frames when it does nothing
//! else with them.

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, XdpMode};

use crate::maps::{FEED_WORDS, Feed};
use crate::sizes::Sizes;
use crate::{AttachError, LoadError, MapError, OBJECT, Probes, program_mut, xdp_program};

/// What the driver does with all frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// Drops them.
    Drop,
    /// Sends them back.
    Tx,
    /// Hands them to the host.
    Pass,
}

impl Bare {
    const fn program(self) -> &'static str {
        match self {
            Self::Drop => "shoal_drop",
            Self::Tx => "shoal_tx",
            Self::Pass => "shoal_empty",
        }
    }
}

/// Frames that a sender hands to the kernel at once.
const BATCH: u32 = 64;

const FEEDER: &str = "shoal_feed";

/// The programs of a measurement. Dropped, they are gone and detached.
pub struct Bench {
    ebpf: Ebpf,
    feed: Array<MapData, Feed>,
    measured: PerCpuArray<MapData, u64>,
}

impl Bench {
    /// Loads them.
    ///
    /// # Errors
    /// As [`Probes::load`](crate::Probes::load).
    pub fn load() -> Result<Self, LoadError> {
        let mut ebpf = Sizes::new(1)?.loader().load(OBJECT)?;
        for name in [FEEDER, Bare::Drop.program(), Bare::Tx.program(), Bare::Pass.program()] {
            xdp_program(&mut ebpf, name)?.load().map_err(|error| LoadError::program(name, error))?;
        }
        let mut take = |name: &'static str| ebpf.take_map(name).ok_or(LoadError::Missing(name));
        Ok(Self { feed: take("FEED")?.try_into()?, measured: take("MEASURED")?.try_into()?, ebpf })
    }

    /// Has an interface do that with all frames.
    ///
    /// # Errors
    /// There is no such interface, or its driver runs no programs.
    pub fn attach(&mut self, bare: Bare, interface: &str) -> Result<(), AttachError> {
        let program =
            xdp_program(&mut self.ebpf, bare.program()).map_err(|error| AttachError::new(interface, &error))?;
        let attached = program.attach(interface, XdpMode::Driver);
        attached.map(drop).map_err(|error| AttachError::new(interface, &error))
    }

    /// Frames that were dropped or sent back so.
    ///
    /// # Errors
    /// The kernel's.
    pub fn measured(&self) -> Result<u64, MapError> {
        Ok(self.measured.get(&0, 0)?.iter().sum())
    }

    /// Says what is sent from now on; with `random_sources` the second half of its IPv4 source is another one each time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn feed(&mut self, frame: &[u8], random_sources: bool) -> Result<(), MapError> {
        self.feed.set(0, feed(frame, random_sources), 0)
    }

    /// Makes the sender ready for many calls, by having it at an interface where nothing comes, such as one that is down. Else each call waits
    /// until no CPU is at what the kernel had to rewrite to know one program more: some 20 ms.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn stand_by(&mut self, interface: &str) -> Result<(), AttachError> {
        let program = xdp_program(&mut self.ebpf, FEEDER).map_err(|error| AttachError::new(interface, &error))?;
        let attached = program.attach(interface, XdpMode::Skb);
        attached.map(drop).map_err(|error| AttachError::new(interface, &error))
    }

    /// Sends `count` frames out of an interface of this number, as fast as this CPU can. Those are of what was
    /// [said](Self::feed), which `frame` has to be, too.
    ///
    /// # Errors
    /// The kernel's.
    pub fn send(&self, interface: u32, frame: &[u8], count: u32) -> Result<(), LoadError> {
        let program = self.ebpf.program(FEEDER).ok_or(LoadError::Missing(FEEDER))?;
        let program: &aya::programs::Xdp = program.try_into().map_err(|error| LoadError::program(FEEDER, error))?;
        // As in `Probes::run_at`.
        let context = [0, frame.len() as u32, 0, interface, 0, 0].map(u32::to_ne_bytes).concat();
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: count,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        program.test_run(options).map(drop).map_err(|error| LoadError::program(FEEDER, error))
    }
}

impl Probes {
    /// Makes ready for [`run_again`](Self::run_again).
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn prepare_again(&mut self, frame: &[u8]) -> Result<(), LoadError> {
        for name in [AGAIN, RESET] {
            let program = program_mut(&mut self.ebpf, name)?;
            if program.fd().is_err() {
                program.load().map_err(|error| LoadError::program(name, error))?;
            }
        }
        let map = self.ebpf.as_mut().and_then(|ebpf| ebpf.map_mut("FEED")).ok_or(LoadError::Missing("FEED"))?;
        let mut map: Array<_, Feed> = map.try_into().map_err(LoadError::from)?;
        Ok(map.set(0, feed(frame, false), 0)?)
    }

    /// Runs the program so often on the frame that was [prepared](Self::prepare_again), which is made what it was before each time; and as
    /// often only that. Gives the nanoseconds of both.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_again(&self, interface: Option<u32>, frame: &[u8], repeat: u32) -> Result<[u64; 2], LoadError> {
        let run = |name| Ok::<_, LoadError>(self.run_program(name, frame, interface, repeat)?.ns);
        Ok([run(AGAIN)?, run(RESET)?])
    }
}

const AGAIN: &str = "shoal_again";
const RESET: &str = "shoal_reset";

fn feed(frame: &[u8], random_sources: bool) -> Feed {
    let is_ipv6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
    // Behind Ethernet's 14 bytes IPv4's addresses are at 26 and 30, IPv6's at 22 and 38.
    let leads = if is_ipv6 { 3 } else { 1 };
    let (first, rest) = frame.split_at(frame.len().min(2 * leads));
    let (words, behind) = rest.as_chunks::<8>();
    let behind = if words.len() < FEED_WORDS { behind } else { &[] };
    let (mut lead, mut head, mut tail) = ([0; 4], [0; FEED_WORDS], [0; 4]);
    for (place, half) in lead.iter_mut().zip(first.as_chunks::<2>().0) {
        *place = u16::from_ne_bytes(*half);
    }
    for (place, word) in head.iter_mut().zip(words) {
        *place = u64::from_ne_bytes(*word);
    }
    let halves = behind.as_chunks::<2>().0;
    for (place, half) in tail.iter_mut().zip(halves) {
        *place = u16::from_ne_bytes(*half);
    }
    Feed {
        lead,
        head,
        tail,
        leads: leads as u32,
        words: words.len().min(FEED_WORDS) as u32,
        halves: halves.len() as u32,
        random: random_sources.into(),
        length: frame.len() as u32,
        reserved: 0,
    }
}
