//! What must hold for every input; for fuzz targets and the tests that replay their corpus.

use shoal_ticket::Key;

use crate::code::Code;
use crate::glob::Glob;
use crate::signature::{Signature, canonical, sign};
use crate::version::Version;

/// Numbers that look random and are the same in every run.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From 0 to `n` - 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

/// Lines: a signature, a pattern, a text, a version, and then `name=value` each.
///
/// # Panics
/// When a property does not hold.
pub fn conf(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let mut next = || lines.next().unwrap_or_default();
    let (signature, pattern, subject, version) = (next(), next(), next(), next());
    let parameters: Vec<(&str, &str)> = lines.map(|line| line.split_once('=').unwrap_or((line, ""))).collect();

    let key = Key { id: "k1".to_owned(), secret: "a secret for fuzzing".to_owned() };
    let keys = [key];
    if let Some(parsed) = Signature::parse(signature) {
        let verified = parsed.verify(&keys, &parameters, parsed.timestamp, 0);
        assert!(matches!(verified, Ok(()) | Err(Code::SignatureKey | Code::SignatureWrong)), "no time is over");
    }
    let signed = sign(&keys[0], 1_700_000_000, "0123456789", &parameters);
    assert_eq!(signed.is_some(), canonical("k1", 0, "", &parameters).is_some(), "what can be written can be signed");
    if let Some(signed) = signed {
        let parsed = Signature::parse(&signed);
        assert!(parsed.is_some_and(|parsed| parsed.verify(&keys, &parameters, 1_700_000_000, 0).is_ok()));
        let mut more = parameters.clone();
        more.push(("more", ""));
        assert!(parsed.is_some_and(|parsed| parsed.verify(&keys, &more, 1_700_000_000, 0).is_err()));
    }
    if let Some(glob) = Glob::new(pattern) {
        assert_eq!(glob.exact().is_some(), !pattern.contains('*'));
        assert!(glob.matches(&pattern.replace('*', "")), "each star may stand for nothing");
        assert!(glob.matches(&pattern.replace('*', subject)), "and for anything");
        assert_eq!(glob.exact().map(|exact| exact == subject), glob.exact().map(|_| glob.matches(subject)));
    }
    if let Some(parsed) = Version::parse(version) {
        assert_eq!(Version::parse(&format!("{version}-beta")), Some(parsed), "what stands behind does not count");
        assert!(Version::parse("0").is_some_and(|least| least <= parsed));
    }
}
