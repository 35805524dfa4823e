//! Values in doubly linked queues: one slab, as many queues as wanted.

use std::num::NonZeroU32;

/// No entry.
const NONE: u32 = u32::MAX;

/// A value's place in a [`Slab`]. Once the value is removed it finds nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    index: u32,
    /// Tells the values apart that have had the same place.
    generation: NonZeroU32,
}

#[derive(Debug)]
struct Node<T> {
    /// `None`: vacant, and `next` leads to the next vacant one.
    value: Option<T>,
    generation: NonZeroU32,
    newer: u32,
    older: u32,
}

#[derive(Debug)]
pub(crate) struct Slab<T> {
    nodes: Vec<Node<T>>,
    vacant: u32,
}

/// A queue through a [`Slab`]. Its entries must be used with that slab only.
#[derive(Debug)]
pub(crate) struct Queue {
    newest: u32,
    oldest: u32,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { nodes: Vec::new(), vacant: NONE }
    }

    /// Adds a value that is in no queue yet.
    pub(crate) fn insert(&mut self, value: T) -> Slot {
        let index = if self.vacant == NONE {
            self.nodes.push(Node { value: None, generation: NonZeroU32::MIN, newer: NONE, older: NONE });
            (self.nodes.len() - 1) as u32
        } else {
            self.vacant
        };
        let node = &mut self.nodes[index as usize];
        self.vacant = if index == self.vacant { node.newer } else { self.vacant };
        node.value = Some(value);
        Slot { index, generation: node.generation }
    }

    /// Removes a value that is in no queue any more.
    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        let node = self.nodes.get_mut(slot.index as usize).filter(|node| node.generation == slot.generation)?;
        let value = node.value.take()?;
        node.generation = node.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        node.newer = self.vacant;
        self.vacant = slot.index;
        Some(value)
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        self.nodes.get(slot.index as usize).filter(|node| node.generation == slot.generation)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.nodes.get_mut(slot.index as usize).filter(|node| node.generation == slot.generation)?.value.as_mut()
    }
}

impl Queue {
    pub(crate) const fn new() -> Self {
        Self { newest: NONE, oldest: NONE }
    }

    pub(crate) fn oldest<T>(&self, slab: &Slab<T>) -> Option<Slot> {
        let node = slab.nodes.get(self.oldest as usize)?;
        Some(Slot { index: self.oldest, generation: node.generation })
    }

    pub(crate) fn push<T>(&mut self, slab: &mut Slab<T>, slot: Slot) {
        let node = &mut slab.nodes[slot.index as usize];
        node.newer = NONE;
        node.older = self.newest;
        match slab.nodes.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = slot.index,
            None => self.oldest = slot.index,
        }
        self.newest = slot.index;
    }

    pub(crate) fn unlink<T>(&mut self, slab: &mut Slab<T>, slot: Slot) {
        let node = &slab.nodes[slot.index as usize];
        let (newer, older) = (node.newer, node.older);
        match slab.nodes.get_mut(newer as usize) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match slab.nodes.get_mut(older as usize) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
    }
}
