//! What must not come back, and the journal that remembers it.

use std::collections::HashMap;

use crate::format::checksum;

const MAGIC: u64 = u64::from_le_bytes(*b"shoalJRN");

/// Beyond this many everything written so far is given up instead.
const OBJECTS_MAX: usize = 32 << 10;
const PREFIXES_MAX: usize = 256;
const TAGS_MAX: usize = 1024;

const OBJECT: u8 = 1;
const PREFIX: u8 = 2;
const TAG: u8 = 3;

/// What is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tombstone {
    /// The object whose key has this hash.
    Object(u64),
    /// Every object whose key starts so; all, if it is empty.
    Prefix(Box<[u8]>),
    /// Every object whose key starts so, up to its first NUL, and whose metadata has the tag that stands behind that NUL.
    Tag(Box<[u8]>),
}

/// What lies dead in the log of one volume: each kills what was placed before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tombstones {
    objects: HashMap<u64, u64>,
    prefixes: Vec<(Box<[u8]>, u64)>,
    tags: Vec<(Box<[u8]>, u64)>,
}

impl Tombstones {
    /// Whether the entry at `position` is dead.
    pub fn kills(&self, key_hash: u64, key: &[u8], position: u64) -> bool {
        self.objects.get(&key_hash).is_some_and(|&before| position < before)
            || self.prefixes.iter().any(|(prefix, before)| position < *before && key.starts_with(prefix))
    }

    /// The tags under which the entry at `position` is dead.
    pub fn tags<'a>(&'a self, key: &'a [u8], position: u64) -> impl Iterator<Item = &'a [u8]> {
        let tags = self.tags.iter().filter(move |(_, before)| position < *before);
        tags.filter_map(move |(scope, _)| {
            let end = scope.iter().position(|&byte| byte == 0)? + 1;
            key.starts_with(&scope[..end]).then(|| &scope[end..])
        })
    }

    /// From now on what lies before the position is dead. Returns the record to append to the journal; none when the journal
    /// is to be written anew instead.
    pub fn add(&mut self, tombstone: Tombstone, before: u64) -> Option<Vec<u8>> {
        let mut tombstone = tombstone;
        let full = match &tombstone {
            Tombstone::Object(hash) => self.objects.len() >= OBJECTS_MAX && !self.objects.contains_key(hash),
            Tombstone::Prefix(prefix) => self.prefixes.len() >= PREFIXES_MAX || prefix.is_empty(),
            Tombstone::Tag(_) => self.tags.len() >= TAGS_MAX,
        };
        if full {
            self.objects.clear();
            self.prefixes.clear();
            self.tags.clear();
            tombstone = Tombstone::Prefix(Box::default());
        }
        let mut record = Vec::new();
        write(&mut record, &tombstone, before);
        self.bury(tombstone, before);
        (!full).then_some(record)
    }

    fn bury(&mut self, tombstone: Tombstone, before: u64) {
        match tombstone {
            Tombstone::Object(hash) => {
                let known = self.objects.entry(hash).or_default();
                *known = before.max(*known);
            }
            Tombstone::Prefix(prefix) => raise(&mut self.prefixes, prefix, before),
            Tombstone::Tag(tag) => raise(&mut self.tags, tag, before),
        }
    }

    /// Forgets those that only kill what is overwritten by now.
    pub fn prune(&mut self, first_live: u64) {
        self.objects.retain(|_, before| *before > first_live);
        self.prefixes.retain(|(_, before)| *before > first_live);
        self.tags.retain(|(_, before)| *before > first_live);
    }

    /// The highest position that any of them names.
    pub fn highest(&self) -> u64 {
        let scopes = self.prefixes.iter().chain(&self.tags).map(|(_, before)| before);
        self.objects.values().chain(scopes).copied().max().unwrap_or(0)
    }

    /// A journal of a volume that holds all of them.
    pub fn journal(&self, volume: u64) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&volume.to_le_bytes());
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        for (&hash, &before) in &self.objects {
            write(&mut out, &Tombstone::Object(hash), before);
        }
        for (prefix, before) in &self.prefixes {
            write(&mut out, &Tombstone::Prefix(prefix.clone()), *before);
        }
        for (tag, before) in &self.tags {
            write(&mut out, &Tombstone::Tag(tag.clone()), *before);
        }
        out
    }

    /// Reads a journal: its volume and tombstones. A last record that is cut short was never relied upon; anything else that
    /// does not check out makes the journal, and with it the volume, worthless.
    pub fn read(journal: &[u8]) -> Option<(u64, Tombstones)> {
        let (head, mut rest) = journal.split_at_checked(24)?;
        let word = |at: usize| head.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        if word(0)? != MAGIC || word(16)? != checksum(&head[..16]) {
            return None;
        }
        let mut tombstones = Tombstones::default();
        while let Some((len, more)) = rest.split_first_chunk::<8>() {
            let len = u64::from_le_bytes(*len);
            // A length that is wrong must not pass for a record that was cut short.
            if (len >> 32) as u32 != checksum_of_length(len as u32) {
                return None;
            }
            let Some((record, more)) = more.split_at_checked(len as u32 as usize) else { break };
            let (body, sum) = record.split_last_chunk::<8>()?;
            if u64::from_le_bytes(*sum) != checksum(body) {
                return None;
            }
            let (before, body) = body.split_first_chunk::<8>()?;
            let (kind, what) = body.split_first()?;
            let tombstone = match *kind {
                OBJECT => Tombstone::Object(u64::from_le_bytes(what.try_into().ok()?)),
                PREFIX => Tombstone::Prefix(what.into()),
                TAG => Tombstone::Tag(what.into()),
                _ => return None,
            };
            tombstones.bury(tombstone, u64::from_le_bytes(*before));
            rest = more;
        }
        Some((word(8)?, tombstones))
    }
}

fn raise(scopes: &mut Vec<(Box<[u8]>, u64)>, scope: Box<[u8]>, before: u64) {
    match scopes.iter_mut().find(|(known, _)| *known == scope) {
        Some((_, known)) => *known = before.max(*known),
        None => scopes.push((scope, before)),
    }
}

fn checksum_of_length(len: u32) -> u32 {
    checksum(&len.to_le_bytes()) as u32
}

fn write(out: &mut Vec<u8>, tombstone: &Tombstone, before: u64) {
    let (kind, hash);
    let what = match tombstone {
        Tombstone::Object(object) => {
            (kind, hash) = (OBJECT, object.to_le_bytes());
            &hash[..]
        }
        Tombstone::Prefix(prefix) => {
            kind = PREFIX;
            &**prefix
        }
        Tombstone::Tag(tag) => {
            kind = TAG;
            &**tag
        }
    };
    let start = out.len() + 8;
    let len = what.len() as u32 + 17;
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&checksum_of_length(len).to_le_bytes());
    out.extend_from_slice(&before.to_le_bytes());
    out.push(kind);
    out.extend_from_slice(what);
    let sum = checksum(&out[start..]);
    out.extend_from_slice(&sum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Tombstone {
        Tombstone::Prefix(text.as_bytes().into())
    }

    #[test]
    fn they_kill_what_came_before_them() {
        let mut tombstones = Tombstones::default();
        tombstones.add(Tombstone::Object(7), 100);
        tombstones.add(prefix("a\0x"), 200);
        let killed = |position| {
            [(7, "b\0y"), (8, "a\0xy"), (8, "a\0y")].map(|(hash, key)| tombstones.kills(hash, key.as_bytes(), position))
        };
        assert_eq!(killed(99), [true, true, false]);
        assert_eq!(killed(100), [false, true, false]);
        assert_eq!(killed(200), [false, false, false]);
        tombstones.add(Tombstone::Tag(b"a\0news".as_slice().into()), 150);
        let tags =
            |key: &str, position| tombstones.tags(key.as_bytes(), position).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!((tags("a\0x", 149), tags("a\0x", 150)), (vec![b"news".to_vec()], vec![]));
        assert_eq!(tags("ab\0x", 0), [b""; 0]);
        tombstones.prune(100);
        assert_eq!((tombstones.objects.len(), tombstones.prefixes.len()), (0, 1));
        assert_eq!(tombstones.highest(), 200);
    }

    #[test]
    fn too_many_give_everything_up() {
        let mut tombstones = Tombstones::default();
        for n in 0..OBJECTS_MAX as u64 {
            assert!(tombstones.add(Tombstone::Object(n), n).is_some());
        }
        assert!(tombstones.add(Tombstone::Object(3), 99_999).is_some());
        assert_eq!(tombstones.add(Tombstone::Object(1 << 40), 1 << 20), None);
        assert!(tombstones.kills(5, b"any", (1 << 20) - 1) && !tombstones.kills(5, b"any", 1 << 20));
    }

    #[test]
    fn a_journal_comes_back_cut_short_or_not_at_all() {
        let mut tombstones = Tombstones::default();
        let mut journal = tombstones.journal(42);
        let mut ends = vec![(journal.len(), tombstones.clone())];
        for (n, tombstone) in
            [Tombstone::Object(1), prefix("a\0"), Tombstone::Tag(b"b\0t".as_slice().into())].into_iter().enumerate()
        {
            journal.extend(tombstones.add(tombstone, 10 * (n as u64 + 1)).unwrap());
            ends.push((journal.len(), tombstones.clone()));
        }
        assert_eq!(Tombstones::read(&tombstones.journal(42)), Some((42, tombstones)));
        for cut in 0..=journal.len() {
            let expected = ends.iter().rev().find(|(end, _)| *end <= cut).map(|(_, then)| (42, then.clone()));
            assert_eq!(Tombstones::read(&journal[..cut]), expected, "cut at {cut}");
        }
        for bit in 0..journal.len() * 8 {
            journal[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Tombstones::read(&journal), None, "bit {bit}");
            journal[bit / 8] ^= 1 << (bit % 8);
        }
    }
}
