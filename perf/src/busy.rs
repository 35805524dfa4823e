//! How busy cores are, interrupts included (`/proc/stat`).

use std::fs;
use std::io;

/// Ticks of one core since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreTicks {
    /// All of them.
    pub total: u64,
    /// Spent idle or waiting for a disk.
    pub idle: u64,
}

impl CoreTicks {
    /// Reads the ticks of core `cpu`.
    pub fn read(cpu: usize) -> io::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        Self::parse(&text, cpu)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no core {cpu} in /proc/stat")))
    }

    /// The same from the text of `/proc/stat`; `None` when it has no such core.
    pub fn parse(text: &str, cpu: usize) -> Option<Self> {
        let name = format!("cpu{cpu}");
        let mut fields = text.lines().map(str::split_ascii_whitespace).find_map(|mut fields| {
            let found = fields.next() == Some(name.as_str());
            found.then_some(fields)
        })?;
        // user nice system idle iowait irq softirq steal; guest times are in user and nice already (proc_stat(5)).
        let mut ticks = [0u64; 8];
        for tick in &mut ticks {
            *tick = fields.next()?.parse().ok()?;
        }
        let [_, _, _, idle, iowait, ..] = ticks;
        Some(Self { total: ticks.iter().sum(), idle: idle + iowait })
    }

    /// Busy fraction, 0 to 1, from `self` to the later reading `end`.
    pub fn busy_until(self, end: Self) -> f64 {
        let total = end.total.saturating_sub(self.total);
        if total == 0 {
            return 0.0;
        }
        let idle = end.idle.saturating_sub(self.idle);
        1.0 - (idle as f64 / total as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 10 0 20 50 10 0 10 0 0 0\ncpu1 0 0 0 100 0 0 0 0 0 0\n";

    #[test]
    fn interrupts_count_as_busy_and_waiting_as_idle() {
        let ticks = CoreTicks::parse(STAT, 0).unwrap();
        assert_eq!(ticks, CoreTicks { total: 100, idle: 60 });
        let zero = CoreTicks { total: 0, idle: 0 };
        assert!((zero.busy_until(ticks) - 0.4).abs() < 1e-9);
        assert_eq!(ticks.busy_until(ticks), 0.0);
    }

    #[test]
    fn a_core_that_is_not_there_is_none() {
        assert_eq!(CoreTicks::parse(STAT, 2), None);
    }
}
