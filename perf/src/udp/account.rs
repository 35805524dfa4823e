//! What was sent by a lane, what of it came, and what did not.

/// Numbers behind the highest that came within which a duplicate is told from one that is late.
pub const WINDOW: u64 = 1024;

/// Datagrams of one lane in one run, numbered from 0.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// The next number to send, so how many were sent.
    pub sent: u64,
    /// How many came, each once.
    pub received: u64,
    /// One more than the highest number that came.
    next: u64,
    /// Below that nothing is waited for any more: it came, was passed by a later one, or was given up.
    settled: u64,
    /// Which of the last [`WINDOW`] came, by number modulo.
    seen: [u64; (WINDOW / 64) as usize],
}

/// What a datagram is to its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next one, or a later one.
    New,
    /// After one that was sent later.
    Reordered,
    /// It had come before.
    Duplicate,
    /// Later than can be told from a duplicate, so counted as neither.
    Late,
    /// It was not sent yet.
    Unsent,
}

impl Account {
    /// Sent, and neither come nor passed by a later one nor given up.
    pub fn in_flight(&self) -> u64 {
        self.sent - self.settled
    }

    /// Counts one that came.
    pub fn arrive(&mut self, number: u64) -> Arrival {
        if number >= self.sent {
            return Arrival::Unsent;
        }
        if number >= self.next {
            if number - self.next >= WINDOW {
                self.seen = Default::default();
            } else {
                (self.next..number).for_each(|passed| self.mark(passed, false));
            }
            self.mark(number, true);
            self.next = number + 1;
            self.settled = self.settled.max(self.next);
            self.received += 1;
            return Arrival::New;
        }
        if self.next - number > WINDOW {
            return Arrival::Late;
        }
        if self.seen[(number / 64 % (WINDOW / 64)) as usize] & 1 << (number % 64) != 0 {
            return Arrival::Duplicate;
        }
        self.mark(number, true);
        self.received += 1;
        Arrival::Reordered
    }

    /// Stops waiting for what is in flight. How many that are.
    pub fn give_up(&mut self) -> u64 {
        let given_up = self.in_flight();
        self.settled = self.sent;
        given_up
    }

    fn mark(&mut self, number: u64, seen: bool) {
        let word = &mut self.seen[(number / 64 % (WINDOW / 64)) as usize];
        let bit = 1 << (number % 64);
        *word = if seen { *word | bit } else { *word & !bit };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_order_and_duplicates_are_told_apart() {
        let mut account = Account { sent: 10, ..Account::default() };
        let arrivals = [0, 1, 4, 2, 4, 1, 9, 10].map(|number| account.arrive(number));
        use Arrival::*;
        assert_eq!(arrivals, [New, New, New, Reordered, Duplicate, Duplicate, New, Unsent]);
        assert_eq!((account.received, account.in_flight()), (5, 0));
    }

    #[test]
    fn what_is_in_flight_is_passed_or_given_up() {
        let mut account = Account { sent: 10, ..Account::default() };
        assert_eq!(account.in_flight(), 10);
        account.arrive(6);
        assert_eq!(account.in_flight(), 3);
        assert_eq!(account.give_up(), 3);
        assert_eq!(account.in_flight(), 0);
        // Late, but it came, and is not waited for once more.
        assert_eq!(account.arrive(8), Arrival::New);
        assert_eq!((account.in_flight(), account.received), (0, 2));
    }

    #[test]
    fn the_window_moves_on_and_forgets() {
        let mut account = Account { sent: 10 * WINDOW, ..Account::default() };
        assert_eq!(account.arrive(5), Arrival::New);
        assert_eq!(account.arrive(5 + WINDOW), Arrival::New);
        // The same place in the window as 5, and not the same number.
        assert_eq!(account.arrive(6), Arrival::Reordered);
        assert_eq!(account.arrive(5), Arrival::Late);
        assert_eq!(account.arrive(5 * WINDOW + 3), Arrival::New);
        assert_eq!(account.arrive(4 * WINDOW + 5), Arrival::Reordered);
        assert_eq!(account.arrive(4 * WINDOW + 5), Arrival::Duplicate);
        let mut whole = Account { sent: 3 * WINDOW, ..Account::default() };
        assert!((0..3 * WINDOW).all(|number| whole.arrive(number) == Arrival::New));
        assert!((2 * WINDOW..3 * WINDOW).all(|number| whole.arrive(number) == Arrival::Duplicate));
    }
}
