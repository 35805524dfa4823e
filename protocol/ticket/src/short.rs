//! A short text held in place, so that a verified request needs no heap.

use std::fmt::{Debug, Display, Formatter, Result as FmtResult};

/// At most `N` bytes of `A-Z a-z 0-9 . _ -`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShortText<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

/// A viewer's session, as the ticket names it.
pub type Session = ShortText<{ crate::MAX_SESSION }>;

/// A key's name.
pub type KeyId = ShortText<{ crate::MAX_KEY_ID }>;

/// A key's name: at least one byte, and no dot.
pub(crate) fn parse_key_id(text: &[u8]) -> Option<KeyId> {
    KeyId::new(text).filter(|_| !text.is_empty() && !text.contains(&b'.'))
}

impl<const N: usize> ShortText<N> {
    /// `None` when it is longer than `N`, or has other characters than `A-Z a-z 0-9 . _ -`.
    pub fn new(text: &[u8]) -> Option<Self> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let mut bytes = [0; N];
        bytes.get_mut(..text.len()).filter(|_| text.iter().all(allowed))?.copy_from_slice(text);
        Some(Self { bytes, len: u8::try_from(text.len()).ok()? })
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..usize::from(self.len)).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

impl<const N: usize> Display for ShortText<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> Debug for ShortText<N> {
    fn fmt(&self, f: &mut Formatter<'_>) -> FmtResult {
        Debug::fmt(self.as_str(), f)
    }
}
