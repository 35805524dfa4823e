//! Values under numbers, in pieces that never move: growing copies nothing.

/// Values of one piece.
const PIECE: usize = 1 << 12;

/// No value.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Slab<T> {
    pieces: Vec<Vec<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { pieces: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Values that are there.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        let values: usize = self.pieces.iter().map(|piece| piece.capacity() * size_of::<T>()).sum();
        values + self.pieces.capacity() * size_of::<Vec<T>>() + self.free.capacity() * size_of::<u32>()
    }

    /// Numbers that were ever in use.
    pub(super) fn used(&self) -> u32 {
        self.pieces.last().map_or(0, |last| ((self.pieces.len() - 1) * PIECE + last.len()) as u32)
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(at) = self.free.pop() {
            self[at] = value;
            return at;
        }
        let at = self.used();
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => last.push(value),
            _ => {
                // A first piece that is as large as the others would be too much for a shard with three peers.
                let mut piece = Vec::with_capacity(if self.pieces.is_empty() { 16 } else { PIECE });
                piece.push(value);
                self.pieces.push(piece);
            }
        }
        at
    }

    /// Its number may be given to another one; what it holds stays until then.
    pub(super) fn remove(&mut self, at: u32) {
        self.len -= 1;
        self.free.push(at);
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        &self.pieces[at as usize / PIECE][at as usize % PIECE]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        &mut self.pieces[at as usize / PIECE][at as usize % PIECE]
    }
}
