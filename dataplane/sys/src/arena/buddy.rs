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
    /// class, which `convert(chunk, class)` turns, or as the last resort of the other class, unless it has to be `exactly`
    /// this one. Returns the first page.
    pub(super) fn alloc(
        &mut self,
        pages: u32,
        want: Class,
        exactly: bool,
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
            } else if exactly {
                self.put(first, found);
                return None;
            } else {
                (first, found, other)
            }
        } else if exactly {
            return None;
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

#[cfg(test)]
mod tests {
    use super::super::tests::Random;
    use super::*;

    const CHUNK_ORDER: u8 = 6;

    impl Buddy {
        /// Every free block as (first page, pages, class), by way of the lists, checked against the other tables.
        fn free_blocks(&self) -> Vec<(u32, u32, Class)> {
            let mut blocks = Vec::new();
            for class in [Class::Plain, Class::Huge] {
                let lists = &self.lists[class as usize];
                for (order, &head) in lists.head.iter().enumerate() {
                    assert_eq!(lists.filled >> order & 1 == 1, head != NONE);
                    let (mut previous, mut at) = (NONE, head);
                    while at != NONE {
                        assert_eq!(self.links[at as usize].previous, previous);
                        assert_eq!(self.state[at as usize], order as u8);
                        assert_eq!(self.class[(at >> self.chunk_order) as usize], class);
                        blocks.push((at, 1 << order, class));
                        (previous, at) = (at, self.links[at as usize].next);
                    }
                }
            }
            assert_eq!(blocks.len(), self.state.iter().filter(|&&state| state != NOT_FREE).count());
            blocks.sort_by_key(|block| block.0);
            blocks
        }

        fn is_wholly_coalesced(&self) -> bool {
            let pages = self.state.len() as u32;
            let whole = pages >> self.chunk_order;
            let rest = pages & ((1 << self.chunk_order) - 1);
            let blocks = self.free_blocks();
            blocks.iter().map(|block| block.1).sum::<u32>() == pages && blocks.len() as u32 == whole + rest.count_ones()
        }
    }

    #[test]
    fn random_use_never_overlaps_and_coalesces_wholly() {
        for (seed, pages) in [(1, 1 << CHUNK_ORDER), (2, 1000), (3, 64 * 7 + 1), (4, 1)] {
            let mut random = Random(seed);
            let mut buddy = Buddy::new(pages, CHUNK_ORDER);
            assert!(buddy.is_wholly_coalesced());
            let mut held: Vec<(u32, u32)> = Vec::new();
            let mut owner = vec![false; pages as usize];
            for step in 0..20_000 {
                if random.below(100) < if step % 4000 < 2000 { 60 } else { 40 } {
                    let want = if random.below(2) == 0 { Class::Plain } else { Class::Huge };
                    let most = if random.below(4) == 0 { 64 } else { 8 };
                    let n = 1 + random.below(most) as u32;
                    let (convertible, exactly) = (random.below(4) != 0, random.below(4) == 0);
                    if let Some((first, class)) = buddy.alloc(n, want, exactly, |_, _| convertible) {
                        assert_eq!(class, buddy.class[(first >> CHUNK_ORDER) as usize]);
                        assert!(class == want || !exactly);
                        for page in &mut owner[first as usize..(first + n) as usize] {
                            assert!(!std::mem::replace(page, true), "a page was given twice");
                        }
                        held.push((first, n));
                    } else if !exactly {
                        // It may only say no when no aligned run of that order is free.
                        let run = n.next_power_of_two() as usize;
                        let fits = owner.chunks_exact(run).any(|run| run.iter().all(|&taken| !taken));
                        assert!(!fits, "{n} pages were refused though there was room");
                    }
                } else if !held.is_empty() {
                    let (first, n) = held.swap_remove(random.below(held.len() as u64) as usize);
                    // The writer gives its tail back before the rest.
                    let keep = if random.below(3) == 0 { random.below(u64::from(n) + 1) as u32 } else { n };
                    buddy.free(first + keep, n - keep);
                    buddy.free(first, keep);
                    owner[first as usize..(first + n) as usize].fill(false);
                }
                if step % 97 == 0 {
                    let free: u32 = buddy.free_blocks().iter().map(|block| block.1).sum();
                    assert_eq!(free as usize, owner.iter().filter(|&&taken| !taken).count());
                }
            }
            for (first, n) in held {
                buddy.free(first, n);
            }
            assert!(buddy.is_wholly_coalesced());
        }
    }

    #[test]
    fn five_pages_take_five() {
        let mut buddy = Buddy::new(8, CHUNK_ORDER);
        assert_eq!(buddy.alloc(5, Class::Plain, false, |_, _| false), Some((0, Class::Plain)));
        assert_eq!(buddy.free_blocks(), [(5, 1, Class::Plain), (6, 2, Class::Plain)]);
    }

    #[test]
    fn a_chunk_changes_class_only_when_wholly_free() {
        let mut buddy = Buddy::new(64, CHUNK_ORDER);
        let (page, _) = buddy.alloc(1, Class::Plain, false, |_, _| unreachable!()).unwrap();
        let (huge, class) = buddy.alloc(1, Class::Huge, false, |_, _| panic!("half the chunk is in use")).unwrap();
        assert_eq!(class, Class::Plain, "the room is used rather than refused");
        assert_eq!(buddy.alloc(1, Class::Huge, true, |_, _| panic!("half the chunk is in use")), None);
        buddy.free(page, 1);
        buddy.free(huge, 1);
        assert_eq!(buddy.alloc(1, Class::Huge, true, |_, _| false), None);
        assert_eq!(buddy.free_blocks(), [(0, 64, Class::Plain)]);
        assert_eq!(
            buddy.alloc(1, Class::Huge, false, |chunk, to| (chunk, to) == (0, Class::Huge)),
            Some((0, Class::Huge))
        );
        assert_eq!(buddy.alloc(1, Class::Plain, false, |_, _| true), Some((1, Class::Huge)));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut buddy = Buddy::new(256, CHUNK_ORDER);
        for pages in [0, 65, u32::MAX] {
            assert_eq!(buddy.alloc(pages, Class::Plain, false, |_, _| true), None);
        }
    }
}
