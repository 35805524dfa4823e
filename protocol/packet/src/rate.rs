//! The generic cell rate algorithm over one word: the time at which all that was admitted would have passed at the agreed rate.

/// So much of a rate may come at once after a rest.
pub const BURST_NS: u64 = 1_000_000_000;

/// Whether something may pass at `now_ns`, of which one takes `interval_ns`; if so, what the word is from then on.
#[must_use]
#[inline]
pub const fn admit(due_ns: u64, now_ns: u64, interval_ns: u64) -> Option<u64> {
    let due_ns = if due_ns > now_ns { due_ns } else { now_ns };
    if due_ns - now_ns >= BURST_NS { None } else { Some(due_ns + interval_ns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_the_rate_at_once_and_then_the_rate() {
        let mut due = 0;
        let mut admitted = |now_ns, tries: usize| {
            (0..tries).filter(|_| admit(due, now_ns, BURST_NS / 100).map(|next| due = next).is_some()).count()
        };
        assert_eq!(admitted(0, 1000), 100);
        assert_eq!(admitted(0, 1), 0);
        assert_eq!(admitted(BURST_NS / 10, 1000), 10);
        assert_eq!(admitted(5 * BURST_NS, 1000), 100);
    }
}
