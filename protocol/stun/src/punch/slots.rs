//! Things in slots: each has an id that stays its own, also when another has come into its slot.

/// Where a thing is, and which of those that were there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) slot: u32,
    generation: u32,
}

impl Id {
    /// Both numbers in one.
    pub(super) fn bits(self) -> u64 {
        u64::from(self.slot) << 32 | u64::from(self.generation)
    }
}

#[derive(Debug)]
struct Slot<T> {
    /// One more with each thing that was here.
    generation: u32,
    thing: Option<T>,
}

#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    limit: usize,
}

impl<T> Slots<T> {
    /// Bytes of a slot.
    #[cfg(test)]
    pub(super) const PLACE: usize = size_of::<Slot<T>>() + size_of::<u32>();

    pub(super) fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), limit: limit.min(u32::MAX as usize) }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// What is in a slot.
    pub(super) fn at(&self, slot: u32) -> Option<(Id, &T)> {
        let place = self.slots.get(slot as usize)?;
        Some((Id { slot, generation: place.generation }, place.thing.as_ref()?))
    }

    pub(super) fn get(&self, id: Id) -> Option<&T> {
        self.at(id.slot).filter(|(at, _)| *at == id).map(|(_, thing)| thing)
    }

    pub(super) fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let place = self.slots.get_mut(id.slot as usize).filter(|place| place.generation == id.generation)?;
        place.thing.as_mut()
    }

    /// Puts a thing into a free slot, if there is one.
    pub(super) fn insert(&mut self, thing: T) -> Option<Id> {
        if self.is_full() {
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, thing: None });
            (self.slots.len() - 1) as u32
        });
        let place = self.slots.get_mut(slot as usize)?;
        place.thing = Some(thing);
        Some(Id { slot, generation: place.generation })
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<T> {
        let place = self.slots.get_mut(id.slot as usize).filter(|place| place.generation == id.generation)?;
        let thing = place.thing.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(thing)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        (0..self.slots.len() as u32).filter_map(|slot| self.at(slot).map(|(id, _)| id))
    }
}
