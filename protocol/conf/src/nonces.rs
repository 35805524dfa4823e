//! Signatures that were used already.

use std::collections::{BTreeMap, HashMap, HashSet};

use sha2::{Digest, Sha256};

use crate::code::Code;

/// A nonce as it is remembered: of 64 characters and more of other apps none has the same.
type Print = [u8; 16];

/// The nonces of all apps within their replay windows. Exact: what was taken is refused until its time is outside the window, and
/// what does not fit is refused, not forgotten.
#[derive(Debug)]
pub struct Nonces {
    /// Most nonces of one app.
    limit: usize,
    apps: HashMap<Box<str>, Used>,
}

#[derive(Debug, Default)]
struct Used {
    known: HashSet<Print>,
    /// By the second until which they are remembered.
    until: BTreeMap<u64, Vec<Print>>,
}

impl Nonces {
    /// Nothing used; at most `limit` for each app.
    pub fn new(limit: usize) -> Self {
        Self { limit, apps: HashMap::new() }
    }

    /// Takes a nonce whose signature was right. `until` is the last second at which the signature would be accepted.
    ///
    /// # Errors
    /// `SignatureReplayed`, or `SignatureBusy` at the limit.
    pub fn take(&mut self, app: &str, nonce: &str, until: u64, now: u64) -> Result<(), Code> {
        if !self.apps.contains_key(app) {
            self.apps.insert(app.into(), Used::default());
        }
        let Some(used) = self.apps.get_mut(app) else { return Err(Code::SignatureBusy) };
        used.forget_before(now);
        let mut print = Print::default();
        let hash = Sha256::digest(nonce.as_bytes());
        print.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
        if used.known.contains(&print) {
            return Err(Code::SignatureReplayed);
        }
        if used.known.len() >= self.limit {
            return Err(Code::SignatureBusy);
        }
        used.known.insert(print);
        used.until.entry(until).or_default().push(print);
        Ok(())
    }

    /// Forgets the apps for which `keep` is false, as they are no longer there.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.apps.retain(|app, _| keep(app));
    }
}

impl Used {
    fn forget_before(&mut self, now: u64) {
        while let Some(first) = self.until.first_entry().filter(|first| *first.key() < now) {
            for print in first.remove() {
                self.known.remove(&print);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_taken_once_until_its_window_is_over() {
        let mut nonces = Nonces::new(10);
        assert_eq!(nonces.take("a", "n", 110, 100), Ok(()));
        assert_eq!(nonces.take("a", "n", 110, 110), Err(Code::SignatureReplayed));
        assert_eq!(nonces.take("b", "n", 110, 110), Ok(()));
        assert_eq!(nonces.take("a", "n", 171, 111), Ok(()));
    }

    #[test]
    fn at_the_limit_nothing_is_accepted_and_nothing_forgotten() {
        let mut nonces = Nonces::new(2);
        for nonce in ["1", "2"] {
            assert_eq!(nonces.take("a", nonce, 110, 100), Ok(()));
        }
        assert_eq!(nonces.take("a", "3", 110, 100), Err(Code::SignatureBusy));
        assert_eq!(nonces.take("b", "3", 110, 100), Ok(()));
        assert_eq!(nonces.take("a", "1", 110, 100), Err(Code::SignatureReplayed));
        assert_eq!(nonces.take("a", "3", 120, 111), Ok(()));
        nonces.retain(|app| app == "b");
        assert_eq!(nonces.take("a", "3", 120, 111), Ok(()));
    }

    #[test]
    fn random_use_agrees_with_a_list_of_all() {
        let mut random = crate::fuzzing::Random::new(11);
        let mut nonces = Nonces::new(16);
        let mut all: Vec<(u64, u64)> = Vec::new();
        let mut now = 1_000;
        for _ in 0..20_000 {
            now += random.below(3);
            let (nonce, until) = (random.below(40), now + random.below(20));
            all.retain(|(_, until)| *until >= now);
            let expected = match all.iter().any(|(known, _)| *known == nonce) {
                true => Err(Code::SignatureReplayed),
                false if all.len() >= 16 => Err(Code::SignatureBusy),
                false => Ok(()),
            };
            assert_eq!(nonces.take("a", &nonce.to_string(), until, now), expected);
            if expected.is_ok() {
                all.push((nonce, until));
            }
        }
    }
}
