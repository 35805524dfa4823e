//! When each slot of a table is due: a binary heap that knows where each slot's entry is, so that it holds one for each and
//! never more, however often they are refreshed or ended.

const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    /// Time and slot, each not after its children.
    heap: Vec<(u64, u32)>,
    /// Of each slot, where in the heap it is.
    places: Vec<u32>,
}

impl Deadlines {
    /// The earliest.
    pub(crate) fn first(&self) -> Option<(u64, u32)> {
        self.heap.first().copied()
    }

    /// Sets or moves a slot's deadline.
    pub(crate) fn set(&mut self, slot: u32, at: u64) {
        let index = slot as usize;
        if self.places.len() <= index {
            self.places.resize(index + 1, NOWHERE);
        }
        match self.places.get(index).copied() {
            Some(place) if place != NOWHERE => {
                if let Some(entry) = self.heap.get_mut(place as usize) {
                    entry.0 = at;
                }
                self.settle(place as usize);
            }
            _ => {
                self.heap.push((at, slot));
                let last = self.heap.len() - 1;
                self.note(last);
                self.settle(last);
            }
        }
    }

    /// Forgets a slot's deadline.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(place) = self.places.get_mut(slot as usize) else { return };
        let at = std::mem::replace(place, NOWHERE);
        if at == NOWHERE {
            return;
        }
        let at = at as usize;
        self.heap.swap_remove(at);
        if at < self.heap.len() {
            self.note(at);
            self.settle(at);
        }
    }

    /// Entries in the heap, and slots that were ever in it.
    #[cfg(test)]
    pub(super) fn room(&self) -> [usize; 2] {
        [self.heap.len(), self.places.len()]
    }

    /// Moves the entry at `at` up or down to where it belongs.
    fn settle(&mut self, mut at: usize) {
        while at > 0 && self.time(at) < self.time((at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let least = if self.time(right) < self.time(left) { right } else { left };
            if self.time(least) >= self.time(at) {
                return;
            }
            self.swap(at, least);
            at = least;
        }
    }

    fn time(&self, at: usize) -> u64 {
        self.heap.get(at).map_or(u64::MAX, |entry| entry.0)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.note(a);
        self.note(b);
    }

    fn note(&mut self, at: usize) {
        if let Some((_, slot)) = self.heap.get(at)
            && let Some(place) = self.places.get_mut(*slot as usize)
        {
            *place = at as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn it_is_the_least_of_what_was_set_last() {
        let mut deadlines = Deadlines::default();
        let mut model: BTreeMap<u32, u64> = BTreeMap::new();
        for step in 0..20_000 {
            let bits = shoal_packet::hash_words(step, &[5]);
            let slot = (bits % 97) as u32;
            if bits >> 60 < 6 {
                deadlines.remove(slot);
                model.remove(&slot);
            } else {
                let at = bits >> 20 & 0xff;
                deadlines.set(slot, at);
                model.insert(slot, at);
            }
            assert_eq!(deadlines.heap.len(), model.len());
            let first = deadlines.first();
            assert_eq!(first.map(|(at, _)| at), model.values().copied().min());
            assert!(first.is_none_or(|(at, slot)| model[&slot] == at));
        }
        deadlines.remove(5_000);
    }
}
