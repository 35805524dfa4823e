//! What shards have seen of peers, on its way to the control plane.

use crossbeam::queue::ArrayQueue;
use shoal_link::observation::Observation;

/// Observations that wait. They only help to choose peers, so what finds no room is dropped, and comes again when the control plane
/// is connected anew.
const QUEUE: usize = 65_536;

/// Observations told by one message.
const TOLD_AT_ONCE: usize = 1_024;

/// The queue.
#[derive(Debug)]
pub struct Observed {
    queue: ArrayQueue<Observation>,
}

impl Default for Observed {
    fn default() -> Self {
        Self { queue: ArrayQueue::new(QUEUE) }
    }
}

impl Observed {
    /// Adds them; says how many found no room.
    pub fn push(&self, seen: Vec<Observation>) -> u64 {
        seen.into_iter().map(|one| u64::from(self.queue.push(one).is_err())).sum()
    }

    /// What the next message tells; empty when there is nothing to tell.
    pub fn take(&self) -> Vec<Observation> {
        std::iter::from_fn(|| self.queue.pop()).take(TOLD_AT_ONCE).collect()
    }

    /// Forgets all of it, before all of it is told once more.
    pub fn clear(&self) {
        while self.queue.pop().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use shoal_link::observation::Behaviour;

    use super::*;

    #[test]
    fn what_finds_no_room_is_counted() {
        let one = Observation {
            tenant: "t".to_owned(),
            channel: "c".to_owned(),
            peer: "00".repeat(20),
            address: "192.0.2.1:4000".parse().unwrap(),
            mapping: Behaviour::Unknown,
            filtering: Behaviour::Unknown,
            predictable: false,
            registered: true,
        };
        let observed = Observed::default();
        assert_eq!(observed.push(vec![one; QUEUE + 3]), 3);
        assert_eq!(observed.take().len(), TOLD_AT_ONCE);
        observed.clear();
        assert!(observed.take().is_empty());
    }
}
