//! What the server's process and core used.

use std::fs;
use std::io;

use crate::busy::CoreTicks;

/// Where to look for it; what is not known is not told.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watched {
    /// The server's process.
    pub pid: Option<u32>,
    /// The core it runs on, alone.
    pub cpu: Option<usize>,
    /// Whether it keeps that core busy also while it has nothing to do, looking for work.
    pub spins: bool,
}

/// One look.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    cpu_ns: Option<u64>,
    ticks: Option<CoreTicks>,
    spins: bool,
}

/// What was used between two looks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Time of all threads of the process, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// How busy the core was, 0 to 1.
    pub busy: Option<f64>,
    /// See [`Watched::spins`].
    pub spins: bool,
}

impl Watched {
    /// Looks now.
    ///
    /// # Errors
    /// `/proc` cannot be read, such as when the process has ended.
    pub fn look(self) -> io::Result<Look> {
        let cpu_ns = self.pid.map(|pid| threads(pid, cpu_of_thread)).transpose()?;
        Ok(Look { cpu_ns, ticks: self.cpu.map(CoreTicks::read).transpose()?, spins: self.spins })
    }

    /// Resident bytes of the process (proc_pid_status(5)), huge pages included.
    ///
    /// # Errors
    /// As [`Watched::look`].
    pub fn resident(self) -> io::Result<Option<u64>> {
        let Some(pid) = self.pid else { return Ok(None) };
        let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        };
        Ok(kib("VmRSS").map(|resident| (resident + kib("HugetlbPages").unwrap_or(0)) << 10))
    }
}

impl Look {
    /// What was used from then to `later`.
    pub fn until(self, later: Look) -> Used {
        Used {
            cpu_ns: self.cpu_ns.zip(later.cpu_ns).map(|(start, end)| end.saturating_sub(start)),
            busy: self.ticks.zip(later.ticks).map(|(start, end)| start.busy_until(end)),
            spins: self.spins,
        }
    }
}

/// The sum of a figure of all threads of a process.
fn threads(pid: u32, figure: impl Fn(&str) -> Option<u64>) -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has just ended is none.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        sum += figure(&text).ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(sum)
}

/// Nanoseconds on a processor, the first field (Documentation/scheduler/sched-stats.rst).
fn cpu_of_thread(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_has_memory() {
        let this = Watched { pid: Some(std::process::id()), ..Watched::default() };
        let before = this.look().unwrap();
        let start = Instant::now();
        let used = loop {
            black_box((0..100_000).sum::<u64>());
            let used = before.until(this.look().unwrap());
            if used.cpu_ns.unwrap() > 1_000_000 {
                break used;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{used:?}");
        };
        assert_eq!(used.busy, None);
        assert!(this.resident().unwrap().unwrap() > 100 << 10);
    }

    #[test]
    fn what_is_not_named_is_not_told_and_what_is_gone_is_an_error() {
        let nobody = Watched::default();
        let look = nobody.look().unwrap();
        let used = look.until(nobody.look().unwrap());
        assert_eq!((used.cpu_ns, used.busy), (None, None));
        assert_eq!(nobody.resident().unwrap(), None);
        assert!(Watched { pid: Some(u32::MAX), ..Watched::default() }.look().is_err());
    }
}
