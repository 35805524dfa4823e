//! What processes and their own metrics say of themselves.

use std::fs;
use std::net::SocketAddr;

use anyhow::Context;

use crate::http;

/// Resident bytes of these processes, huge pages (which the kernel counts apart) included; what they share counts once for
/// each.
pub(super) fn resident(processes: &[u32]) -> anyhow::Result<f64> {
    let mut sum = 0;
    for process in processes {
        let file = format!("/proc/{process}/status");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        sum += of_status(&text).with_context(|| format!("{file} has no VmRSS"))?;
    }
    Ok(sum as f64)
}

/// Bytes in use according to the text of /proc/PID/status (proc_pid_status(5)).
fn of_status(text: &str) -> Option<u64> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((field("VmRSS")? + field("HugetlbPages").unwrap_or(0)) << 10)
}

/// Bytes that new processes could have.
pub(super) fn available() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("/proc/meminfo has no MemAvailable")? << 10)
}

/// The sum of a metric's series at a data plane's admin address.
pub(super) fn metric(admin: SocketAddr, name: &str) -> anyhow::Result<f64> {
    let answer = http::request(admin, "GET", "/metrics", &[], &[])?;
    Ok(sum(&String::from_utf8_lossy(&answer.body), name))
}

fn sum(exposition: &str, name: &str) -> f64 {
    let values = exposition.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_added_to_what_is_resident() {
        let status = "Name:\tx\nVmRSS:\t    1000 kB\nRssShmem:\t 400 kB\nHugetlbPages:\t    2048 kB\n";
        assert_eq!(of_status(status), Some(3048 << 10));
        assert_eq!(of_status("VmRSS:\t 1 kB\n"), Some(1 << 10));
        assert_eq!(of_status("Name:\tx\n"), None);
    }

    #[test]
    fn a_metric_is_summed_over_its_series_and_no_others() {
        let text = "# TYPE a gauge\na{shard=\"0\"} 1\na{shard=\"1\"} 2.5\na_total 9\nab 7\n";
        assert_eq!(sum(text, "a"), 3.5);
        assert_eq!(sum(text, "a_total"), 9.0);
    }
}
