//! The longest prefix of whole segments, by hashing: the cost follows the depth of the prefixes, not their number.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;

/// Values by host and path prefix.
#[derive(Debug)]
pub(super) struct Router<V, S = RandomState> {
    by_host: HashMap<Box<str>, Prefixes<V, S>, S>,
    any_host: Prefixes<V, S>,
}

#[derive(Debug)]
struct Prefixes<V, S> {
    values: HashMap<Box<str>, V, S>,
    /// Slashes in the deepest prefix.
    depth: usize,
}

impl<V, S: Default> Default for Router<V, S> {
    fn default() -> Self {
        Self { by_host: HashMap::default(), any_host: Prefixes::default() }
    }
}

impl<V, S: Default> Default for Prefixes<V, S> {
    fn default() -> Self {
        Self { values: HashMap::default(), depth: 0 }
    }
}

impl<V, S: BuildHasher + Default> Router<V, S> {
    /// Adds a value for a host in lower case without port, or for any. `prefix` begins and ends with a slash.
    ///
    /// # Errors
    /// The value that is there already.
    pub(super) fn insert(&mut self, host: Option<&str>, prefix: &str, value: V) -> Result<(), &V> {
        let prefixes = match host {
            Some(host) => self.by_host.entry(host.into()).or_default(),
            None => &mut self.any_host,
        };
        match prefixes.values.entry(prefix.into()) {
            Entry::Occupied(taken) => Err(taken.into_mut()),
            Entry::Vacant(vacant) => {
                vacant.insert(value);
                prefixes.depth = prefixes.depth.max(slashes(prefix).count());
                Ok(())
            }
        }
    }

    /// The value with the longest prefix of `path`, and what follows the prefix. `host` is as [`bare_host`](shoal_link::access::names::bare_host) gives it.
    pub(super) fn find<'p>(&self, host: Option<&str>, path: &'p str) -> Option<(&V, &'p str)> {
        if !path.starts_with('/') {
            return None;
        }
        let of_host = if self.by_host.is_empty() { None } else { host.and_then(|host| self.by_host.get(host)) };
        of_host.and_then(|prefixes| prefixes.find(path)).or_else(|| self.any_host.find(path))
    }
}

impl<V, S: BuildHasher> Prefixes<V, S> {
    fn find<'p>(&self, path: &'p str) -> Option<(&V, &'p str)> {
        let mut end = slashes(path).take(self.depth).last()? + 1;
        loop {
            let (prefix, rest) = path.split_at_checked(end)?;
            if let Some(value) = self.values.get(prefix) {
                return Some((value, rest));
            }
            // The slash before the one that ends this prefix.
            end = prefix.strip_suffix('/')?.rfind('/')? + 1;
        }
    }
}

fn slashes(path: &str) -> impl Iterator<Item = usize> {
    path.bytes().enumerate().filter_map(|(at, byte)| (byte == b'/').then_some(at))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::hash::DefaultHasher;

    use super::*;

    thread_local! {
        /// Keys hashed on this thread.
        static HASHED: Cell<usize> = const { Cell::new(0) };
    }

    #[derive(Default, Clone)]
    struct Counting;

    impl BuildHasher for Counting {
        type Hasher = DefaultHasher;

        fn build_hasher(&self) -> DefaultHasher {
            HASHED.set(HASHED.get() + 1);
            DefaultHasher::new()
        }
    }

    #[test]
    fn the_longest_prefix_of_whole_segments_wins() {
        let mut router: Router<&str> = Router::default();
        for prefix in ["/", "/a/", "/a/b/c/", "/ab/"] {
            router.insert(None, prefix, prefix).unwrap();
        }
        for (path, prefix, rest) in [
            ("/", "/", ""),
            ("/x", "/", "x"),
            ("/a", "/", "a"),
            ("/a/", "/a/", ""),
            ("/a/b", "/a/", "b"),
            ("/a/b/c", "/a/", "b/c"),
            ("/a/b/c/", "/a/b/c/", ""),
            ("/a/b/c/d/e/f", "/a/b/c/", "d/e/f"),
            ("/a/b/d/c/", "/a/", "b/d/c/"),
            ("/ab/c", "/ab/", "c"),
            ("/abc/d", "/", "abc/d"),
            ("//a/", "/", "/a/"),
            ("/é/a", "/", "é/a"),
        ] {
            assert_eq!(router.find(None, path), Some((&prefix, rest)), "{path}");
        }
        assert_eq!(router.find(None, ""), None);
        assert_eq!(router.find(None, "a/b"), None);
        assert_eq!(router.find(None, "*"), None);
    }

    #[test]
    fn without_a_root_there_may_be_no_answer() {
        let mut router: Router<u8> = Router::default();
        assert_eq!(router.find(None, "/"), None);
        router.insert(None, "/a/b/", 1).unwrap();
        assert_eq!(router.find(None, "/a/"), None);
        assert_eq!(router.find(None, "/b/a/b/"), None);
        assert_eq!(router.insert(None, "/a/b/", 2), Err(&1));
    }

    #[test]
    fn a_channel_of_the_host_comes_before_a_longer_one_of_any() {
        let mut router: Router<u8> = Router::default();
        router.insert(None, "/a/b/", 1).unwrap();
        router.insert(Some("one.example"), "/a/", 2).unwrap();
        assert_eq!(router.find(Some("one.example"), "/a/b/c"), Some((&2, "b/c")));
        assert_eq!(router.find(Some("two.example"), "/a/b/c"), Some((&1, "c")));
        assert_eq!(router.find(Some("one.example"), "/b/"), None);
        assert_eq!(router.find(None, "/a/b/c"), Some((&1, "c")));
    }

    #[test]
    fn the_cost_does_not_grow_with_the_number_of_channels() {
        let hashed = |channels: usize| {
            let mut router: Router<usize, Counting> = Router::default();
            for channel in 0..channels {
                router.insert(None, &format!("/room/{channel}/"), channel).unwrap();
                router.insert(Some(&format!("host{channel}.example")), "/live/", channel).unwrap();
            }
            HASHED.set(0);
            for channel in 0..channels {
                let path = format!("/room/{channel}/a/b/c/d.ts");
                assert_eq!(router.find(Some("host3.example"), &path), Some((&channel, "a/b/c/d.ts")));
            }
            HASHED.get() / channels
        };
        assert_eq!(hashed(10), hashed(10_000));
        assert!(hashed(10_000) <= 5, "{}", hashed(10_000));
    }
}
