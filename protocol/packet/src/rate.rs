//! The generic cell rate algorithm over one word: the time at which all that was admitted would have passed at the agreed rate.

/// So much of a rate may come at once after a rest.
pub const BURST_NS: u64 = 1_000_000_000;

/// The same for those who are not known, in an attack: all of them together should not keep the node busy for long at a time.
pub const NEW_BURST_NS: u64 = BURST_NS / 8;

/// Whether something may pass at `now_ns`, of which one takes `interval_ns`, and so many as take `burst_ns` at once; if so, what the
/// word is from then on.
#[must_use]
#[inline]
pub const fn admit(due_ns: u64, now_ns: u64, interval_ns: u64, burst_ns: u64) -> Option<u64> {
    let due_ns = if due_ns > now_ns { due_ns } else { now_ns };
    if due_ns - now_ns >= burst_ns { None } else { Some(due_ns + interval_ns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `tries` at each of these times pass, at a hundred in a second.
    fn admitted<const N: usize>(burst_ns: u64, times: [(u64, usize); N]) -> [usize; N] {
        let mut due = 0;
        times.map(|(now_ns, tries)| {
            let mut admit = || admit(due, now_ns, BURST_NS / 100, burst_ns).map(|next| due = next).is_some();
            (0..tries).filter(|_| admit()).count()
        })
    }

    #[test]
    fn a_second_of_the_rate_at_once_and_then_the_rate() {
        let times = [(0, 1000), (0, 1), (BURST_NS / 10, 1000), (5 * BURST_NS, 1000)];
        assert_eq!(admitted(BURST_NS, times), [100, 0, 10, 100]);
    }

    #[test]
    fn a_smaller_burst_is_the_same_rate() {
        let times = core::array::from_fn::<_, 100, _>(|nth| (nth as u64 * BURST_NS / 100, 10));
        let passed = admitted(NEW_BURST_NS, times);
        // 13 are an eighth of a second's.
        assert_eq!((passed[0], passed.iter().sum::<usize>()), (10, 13 + 99));
        // Slower than one in a burst, and still one.
        assert_eq!(admitted(BURST_NS / 200, [(0, 10), (BURST_NS, 10)]), [1, 1]);
    }
}
