//! What a measurement was made on.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::workspace;

/// How long to look at the cores.
const LOOK: Duration = Duration::from_millis(500);

/// One line: date, cores, kernel, versions, those of `peers` too.
pub(super) fn describe(peers: &[String]) -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let sysctl = |name: &str| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default().trim().to_owned();
    let gso = fs::read_to_string("/sys/class/net/lo/gso_max_size").unwrap_or_default();
    format!(
        "{}; {cores} cores ({}); Linux {}, TCP {}{}; {}; {}; {}",
        today(),
        model.trim_start_matches([' ', '\t', ':']),
        kernel.trim(),
        sysctl("net/ipv4/tcp_congestion_control"),
        if gso.is_empty() { String::new() } else { format!(", lo gso_max_size {}", gso.trim()) },
        said(Command::new("rustc").arg("--version")),
        if peers.is_empty() { "no peer".to_owned() } else { peers.join(", ") },
        format_args!("shoal {}", commit()),
    )
}

/// One line: date, and versions of what suites run on.
pub(crate) fn versions() -> String {
    format!("{}; Node.js {}; shoal {}", today(), said(Command::new("node").arg("--version")), commit())
}

fn commit() -> String {
    said(Command::new("git").current_dir(workspace::root()).args(["describe", "--always", "--dirty"]))
}

/// How much of all cores is in use right now, by whomever: 0 to 1.
pub(super) fn busy() -> f64 {
    let ticks = || fs::read_to_string("/proc/stat").ok().and_then(|text| ticks(&text));
    let start = ticks();
    thread::sleep(LOOK);
    start.zip(ticks()).map_or(0.0, |((total, idle), (total_later, idle_later))| {
        let total = total_later.saturating_sub(total).max(1) as f64;
        1.0 - (idle_later.saturating_sub(idle) as f64 / total).min(1.0)
    })
}

/// All ticks, and the idle ones (proc_stat(5)).
fn ticks(stat: &str) -> Option<(u64, u64)> {
    let all = stat.lines().next()?.strip_prefix("cpu ")?;
    // Guest times, the last two, are in the first two already.
    let ticks: Vec<u64> = all.split_ascii_whitespace().take(8).map_while(|tick| tick.parse().ok()).collect();
    Some((ticks.iter().sum(), ticks.get(3)? + ticks.get(4)?))
}

/// The first line a program prints, wherever it prints it.
pub(super) fn said(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return "unknown".to_owned() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
}

/// Today in UTC, as 2026-02-28.
fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// Year, month and day of the Gregorian calendar, from days since 1970.
fn civil(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_summed_without_guests() {
        assert_eq!(ticks("cpu  10 0 20 50 10 0 10 0 7 7\ncpu0 1\n"), Some((100, 60)));
        assert_eq!(ticks("intr 1"), None);
    }

    #[test]
    fn days_become_dates() {
        for (days, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (20_779, (2026, 11, 22))] {
            assert_eq!(civil(days), date);
        }
    }
}
