//! Writing messages.

use thiserror::Error;

use super::attribute::{AttributeType, Value, fill, padded};
use super::integrity::{crc, hmac_sha1, hmac_sha256};
use super::{BEFORE_ID, Class, HEADER, Integrity, Method, TransactionId, type_bits};

/// The caller's buffer is shorter than the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("no room for the message")]
pub struct BufferFull;

/// Writes one message into a buffer of the caller. What does not fit is noticed once, by [`finish`](Self::finish).
///
/// Integrity and FINGERPRINT are added last, in this order.
#[derive(Debug)]
pub struct Builder<'b> {
    out: &'b mut [u8],
    len: usize,
    id: TransactionId,
    full: bool,
}

impl<'b> Builder<'b> {
    /// Begins a message.
    #[must_use]
    pub fn new(out: &'b mut [u8], method: Method, class: Class, id: TransactionId) -> Self {
        let mut builder = Self { out, len: HEADER, id, full: false };
        match builder.out.get_mut(..HEADER) {
            Some(header) => fill(header, &[&type_bits(method, class).to_be_bytes(), &[0, 0], id.as_bytes()]),
            None => builder.full = true,
        }
        builder
    }

    /// Appends an attribute.
    pub fn add<'a>(&mut self, value: &impl Value<'a>) -> &mut Self {
        let id = self.id;
        write_attribute(self, value, |value, out| value.write(out, &id))
    }

    /// Appends the HMAC of `key` over what there is so far.
    pub fn integrity(&mut self, integrity: Integrity, key: &[u8]) -> &mut Self {
        let covered = self.out.get(..self.len).unwrap_or_default();
        match integrity {
            Integrity::Sha1 => {
                let mac = hmac_sha1(covered, key, super::integrity::SHA1);
                self.raw(integrity.attribute(), mac.len(), |out| fill(out, &[&mac]))
            }
            Integrity::Sha256 => {
                let mac = hmac_sha256(covered, key, super::integrity::SHA256);
                self.raw(integrity.attribute(), mac.len(), |out| fill(out, &[&mac]))
            }
        }
    }

    /// Appends FINGERPRINT.
    pub fn fingerprint(&mut self) -> &mut Self {
        let crc = crc(self.out.get(..self.len).unwrap_or_default());
        self.raw(AttributeType::FINGERPRINT, 4, |out| fill(out, &[&crc.to_be_bytes()]))
    }

    /// Bytes so far.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a message has its header from the beginning")]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Writes the header's length; the message is the buffer's first bytes, as many as are returned.
    ///
    /// # Errors
    /// It did not fit.
    pub fn finish(&mut self) -> Result<usize, BufferFull> {
        let length = u16::try_from(self.len - HEADER).ok().filter(|_| !self.full).ok_or(BufferFull)?;
        let place = self.out.get_mut(2..BEFORE_ID).ok_or(BufferFull)?;
        fill(place, &[&length.to_be_bytes()]);
        Ok(self.len)
    }

    fn raw(&mut self, kind: AttributeType, length: usize, write: impl FnOnce(&mut [u8])) -> &mut Self {
        let end = self.len + 4 + padded(length);
        let fits = u16::try_from(length).ok().filter(|_| !self.full && end - HEADER <= usize::from(u16::MAX));
        match (fits, self.out.get_mut(self.len..end)) {
            (Some(length16), Some(place)) => {
                place.fill(0);
                fill(place, &[&kind.0.to_be_bytes(), &length16.to_be_bytes()]);
                if let Some(value) = place.get_mut(4..4 + length) {
                    write(value);
                }
                self.len = end;
            }
            _ => self.full = true,
        }
        self
    }
}

/// Apart from `add` because a value is written by reference while the builder is borrowed.
fn write_attribute<'a, 's, 'b, V: Value<'a>>(
    builder: &'s mut Builder<'b>,
    value: &V,
    write: impl FnOnce(&V, &mut [u8]),
) -> &'s mut Builder<'b> {
    builder.raw(V::TYPE, value.len(), |out| write(value, out))
}
