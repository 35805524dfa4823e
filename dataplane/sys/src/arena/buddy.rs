//! Which pages are free: a buddy allocator over page numbers, in two classes of chunks. It touches no memory of theirs.

/// The most pages it can manage.
pub(super) const MAX_PAGES: u32 = u32::MAX >> 1;

/// No page.
const NONE: u32 = u32::MAX;

/// State of a page at which no free block starts.
const NOT_FREE: u8 = u8::MAX;

/// What a chunk's memory is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Pages of 4 KiB, which sendfile may have.
    Plain,
    /// Huge pages, which it may not.
    Huge,
}

/// Free blocks of 2^order pages, aligned to their size, never longer than a chunk.
#[derive(Debug)]
pub(super) struct Buddy {
    chunk_order: u8,
    /// Per page: the order of the free block that starts there, or `NOT_FREE`.
    state: Vec<u8>,
    /// Per page: its neighbours in the list of free blocks of its class and order.
    links: Vec<Links>,
    /// Per chunk.
    class: Vec<Class>,
    lists: [Lists; 2],
}

#[derive(Debug, Clone, Copy)]
struct Links {
    previous: u32,
    next: u32,
}

#[derive(Debug)]
struct Lists {
    /// First free block by order.
    head: Vec<u32>,
    /// Bit n: there is a free block of order n.
    filled: u32,
}

impl Buddy {
    /// All pages free and plain.
    pub(super) fn new(pages: u32, chunk_order: u8) -> Self {
        let lists = || Lists { head: vec![NONE; chunk_order as usize + 1], filled: 0 };
        let mut buddy = Self {
            chunk_order,
            state: vec![NOT_FREE; pages as usize],
            links: vec![Links { previous: NONE, next: NONE }; pages as usize],
            class: vec![Class::Plain; (pages as usize).div_ceil(1 << chunk_order)],
            lists: [lists(), lists()],
        };
        // From the end, so that the lists start with the lowest pages.
        let mut end = pages;
        while end > 0 {
            let start = (end - 1) >> chunk_order << chunk_order;
            buddy.free(start, end - start);
            end = start;
        }
        buddy
    }

    /// `pages` contiguous pages, of the class wanted where that is possible: else of a wholly free chunk of the other
    /// class, which `convert(chunk, class)` turns, or as the last resort of the other class. Returns the first page.
    pub(super) fn alloc(
        &mut self,
        pages: u32,
        want: Class,
        convert: impl FnOnce(usize, Class) -> bool,
    ) -> Option<(u32, Class)> {
        let order = pages.checked_next_power_of_two()?.trailing_zeros() as u8;
        if pages == 0 || order > self.chunk_order {
            return None;
        }
        let other = if want == Class::Plain { Class::Huge } else { Class::Plain };
        let (first, found, class) = if let Some((first, found)) = self.take(order, want) {
            (first, found, want)
        } else if let Some((first, found)) = self.take(self.chunk_order, other) {
            let chunk = first >> self.chunk_order;
            if convert(chunk as usize, want) {
                self.class[chunk as usize] = want;
                (first, found, want)
            } else {
                (first, found, other)
            }
        } else {
            let (first, found) = self.take(order, other)?;
            (first, found, other)
        };
        self.free(first + pages, (1 << found) - pages);
        Some((first, class))
    }

    /// Takes back pages that were allocated, all at once or in parts. They lie in one chunk.
    pub(super) fn free(&mut self, mut first: u32, mut pages: u32) {
        while pages > 0 {
            let order = (first.trailing_zeros()).min(pages.ilog2()).min(u32::from(self.chunk_order)) as u8;
            self.put(first, order);
            first += 1 << order;
            pages -= 1 << order;
        }
    }

    /// Removes the smallest free block of at least `order`.
    fn take(&mut self, order: u8, class: Class) -> Option<(u32, u8)> {
        let lists = &self.lists[class as usize];
        let fit = lists.filled >> order << order;
        if fit == 0 {
            return None;
        }
        let found = fit.trailing_zeros() as u8;
        let first = lists.head[found as usize];
        self.unlink(first, found, class);
        Some((first, found))
    }

    /// Adds a free block, joined with its free buddies.
    fn put(&mut self, mut first: u32, mut order: u8) {
        debug_assert_eq!(self.state[first as usize], NOT_FREE, "page {first} is freed twice");
        let class = self.class[(first >> self.chunk_order) as usize];
        while order < self.chunk_order {
            let buddy = first ^ (1 << order);
            if self.state.get(buddy as usize) != Some(&order) {
                break;
            }
            self.unlink(buddy, order, class);
            first &= !(1 << order);
            order += 1;
        }
        let lists = &mut self.lists[class as usize];
        let next = std::mem::replace(&mut lists.head[order as usize], first);
        lists.filled |= 1 << order;
        self.links[first as usize] = Links { previous: NONE, next };
        if next != NONE {
            self.links[next as usize].previous = first;
        }
        self.state[first as usize] = order;
    }

    fn unlink(&mut self, first: u32, order: u8, class: Class) {
        let Links { previous, next } = self.links[first as usize];
        let lists = &mut self.lists[class as usize];
        if previous == NONE {
            lists.head[order as usize] = next;
            if next == NONE {
                lists.filled &= !(1 << order);
            }
        } else {
            self.links[previous as usize].next = next;
        }
        if next != NONE {
            self.links[next as usize].previous = previous;
        }
        self.state[first as usize] = NOT_FREE;
    }
}
