//! One request and its repetitions (RFC 8489 section 6.2.1).

use shoal_stun::message::TransactionId;

/// Milliseconds to the first repetition; doubled with each.
pub(crate) const RTO_MS: u64 = 500;
/// How often a request is sent at most: the RFC's 7 would take 40 seconds, for which nobody waits.
pub(crate) const REQUESTS: u32 = 5;
/// How long to wait after the last one, in terms of [`RTO_MS`].
const LAST: u64 = 8;

/// An open request.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    id: TransactionId,
    sent: u32,
    due: u64,
}

/// What to do about it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send it, for the first time or again.
    Send,
    /// Nothing yet.
    Wait,
    /// No answer will come any more.
    GiveUp,
}

impl Exchange {
    /// Nothing is sent yet, and due at once.
    pub(crate) const fn new(id: TransactionId, now: u64) -> Self {
        Self { id, sent: 0, due: now }
    }

    pub(crate) const fn id(&self) -> &TransactionId {
        &self.id
    }

    /// When [`poll`](Self::poll) says something else than now.
    pub(crate) const fn due(&self) -> u64 {
        self.due
    }

    /// Counts the sending that it asks for.
    pub(crate) fn poll(&mut self, now: u64) -> Next {
        if now < self.due {
            return Next::Wait;
        }
        if self.sent >= REQUESTS {
            return Next::GiveUp;
        }
        self.due = now + if self.sent + 1 < REQUESTS { RTO_MS << self.sent } else { RTO_MS * LAST };
        self.sent += 1;
        Next::Send
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_repeated_ever_more_slowly_and_given_up() {
        let mut exchange = Exchange::new(TransactionId::new([0; 12]), 100);
        let mut sent = Vec::new();
        let mut now = 0;
        loop {
            match exchange.poll(now) {
                Next::Send => sent.push(now),
                Next::Wait => now = exchange.due(),
                Next::GiveUp => break,
            }
        }
        assert_eq!(sent, [100, 600, 1_600, 3_600, 7_600]);
        assert_eq!(now, 11_600);
    }
}
