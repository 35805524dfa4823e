//! The XDP program: by itself, frames in, verdict and frames out (BPF_PROG_TEST_RUN); and a lab for nodes that have it in front.

use std::collections::BTreeMap;
use std::{env, fs, thread};

use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use shoal_probes::maps::{VERDICTS, Verdict};
use shoal_probes::{Limits, LoadError, Probes, Run, action};

use crate::natlab::{self, Dependence, NatLab, Plan, Side, Told, Type, nat_type};
use crate::tool;

/// A lab whose sides' frames arrive as from a wire, with what keeps its programs; `None`: it was noted that `test` was skipped.
pub fn lab<P: Copy + Into<Plan>>(test: &str, plans: &[P]) -> Option<(NatLab, Probes)> {
    lab_with(test, plans, |_, _, side| side.write_checksums().expect("the client's interface can be told so"))
}

/// The same, with each side, by its number, prepared in another way.
pub fn lab_with<P: Copy + Into<Plan>>(
    test: &str,
    plans: &[P],
    prepare: impl Fn(&NatLab, usize, &Side),
) -> Option<(NatLab, Probes)> {
    tool::need(test, "ethtool")?;
    if !natlab::possible(test) {
        return None;
    }
    let mut probes = match Probes::load(1) {
        Ok(probes) => probes,
        Err(error) => {
            tool::skip(test, &error.to_string());
            return None;
        }
    };
    let lab = NatLab::start(plans);
    for (nth, side) in lab.sides().iter().enumerate() {
        prepare(&lab, nth, side);
        // Or the veth would not take what the program at its other end sends back.
        side.nat().within(|| probes.attach_empty(side.outer())).expect("a veth runs programs");
    }
    Some((lab, probes))
}

/// All sides, at once and by both dialects, find out of which type their NAT is; it has to be right.
pub fn assert_types(lab: &NatLab, told: &Told) {
    let found: Vec<_> = thread::scope(|scope| {
        let run =
            |side| scope.spawn(move || (side, ["modern", "classic"].map(|dialect| nat_type(lab, side, told, dialect))));
        let runs: Vec<_> = lab.sides().iter().map(run).collect();
        runs.into_iter().map(|run| run.join().expect("it found a type")).collect()
    });
    for (side, found) in found {
        for found in found {
            println!("{:21} {found}", side.kind());
            assert_eq!(found["type"], format!("{:?}", Type::from(side.kind())), "{found}");
            let mapping = side.kind().behaviour().map(|behaviour| match behaviour.mapping {
                Dependence::Independent => "endpoint-independent",
                Dependence::Address => "address-dependent",
                Dependence::AddressAndPort => "address-and-port-dependent",
            });
            assert_eq!(found["mapping"].as_str(), mapping, "{found}");
        }
    }
}

/// Loaded programs, and what their counters were.
pub struct Xdp {
    /// The programs.
    pub probes: Probes,
    before: [u64; VERDICTS],
    /// The interface that frames come in by; none: the loopback device.
    interface: Option<u32>,
}

impl Xdp {
    /// Programs that have been told nothing; without privileges a note that `test` was skipped.
    pub fn new(test: &str) -> Option<Self> {
        // Some things are counted by each CPU for itself.
        let mut cpus = CpuSet::new();
        cpus.set(sched_getcpu());
        sched_setaffinity(None, &cpus).expect("a thread may stay where it is");
        // The suite compiles the programs anew, and has those tested.
        let object =
            env::var_os("SHOAL_EBPF_OBJECT").map(|path| fs::read(&path).expect("SHOAL_EBPF_OBJECT can be read"));
        let loaded = match &object {
            Some(object) => Probes::load_object(object, 7),
            None => Probes::load(7),
        };
        match loaded {
            Ok(probes) => Some(Self { probes, before: [0; VERDICTS], interface: None }),
            Err(error @ LoadError::Privilege(_)) => {
                tool::skip(test, &error.to_string());
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Has frames come in by this interface from now on.
    pub fn comes_by(&mut self, interface: u32) {
        self.interface = Some(interface);
    }

    /// Puts limits in force.
    pub fn limit(&mut self, limits: Limits) {
        self.probes.set_limits(&limits).expect("the kernel agrees");
    }

    /// Runs a frame once. It must be counted once, by one verdict, and the action must be that verdict's.
    pub fn run(&mut self, frame: &[u8]) -> (Verdict, Run) {
        let run = self.go(frame, 1);
        let after = self.probes.verdicts().expect("the kernel agrees");
        let counted: Vec<Verdict> = Verdict::ALL
            .into_iter()
            .filter(|verdict| after[*verdict as usize] != self.before[*verdict as usize])
            .collect();
        let all = after.iter().sum::<u64>() - self.before.iter().sum::<u64>();
        assert_eq!((counted.len(), all), (1, 1), "{counted:?} {frame:02x?}");
        self.before = after;
        let verdict = counted[0];
        let expected = match verdict {
            Verdict::Answered | Verdict::Relayed => action::TX,
            Verdict::Redirected => action::REDIRECT,
            verdict if verdict.is_drop() => action::DROP,
            _ => action::PASS,
        };
        assert_eq!(run.action, expected, "{verdict:?}");
        if matches!(expected, action::PASS | action::DROP) {
            assert_eq!(run.frame, frame, "{verdict:?} changes nothing");
        }
        (verdict, run)
    }

    /// The verdict alone.
    pub fn verdict(&mut self, frame: &[u8]) -> Verdict {
        self.run(frame).0
    }

    /// How often each verdict came of the same frame.
    pub fn repeat(&mut self, frame: &[u8], times: u32) -> BTreeMap<&'static str, u64> {
        self.go(frame, times);
        let after = self.probes.verdicts().expect("the kernel agrees");
        let counts = Verdict::ALL
            .into_iter()
            .map(|verdict| (verdict.name(), after[verdict as usize] - self.before[verdict as usize]));
        let counts = counts.filter(|(_, count)| *count > 0).collect();
        self.before = after;
        counts
    }

    fn go(&self, frame: &[u8], times: u32) -> Run {
        let run = match self.interface {
            Some(interface) => self.probes.run_at(interface, frame, times),
            None => self.probes.run(frame, times),
        };
        run.expect("the kernel agrees")
    }
}
