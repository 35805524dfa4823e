//! What an error response says.

use super::attribute::{AttributeType, Value, fill};
use super::{Family, TransactionId};

/// Code and reason (RFC 8489 section 14.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorCode<'a> {
    /// 300 to 699.
    pub code: u16,
    /// For people; the registry's phrase when it is ours.
    pub reason: &'a str,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal;)*) => {
        impl ErrorCode<'static> {
            $($(#[$doc])* pub const $name: Self = Self { code: $code, reason: $reason };)*

            /// The code as a label for metrics.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self.code {
                    $($code => stringify!($code),)*
                    _ => "other",
                }
            }
        }
    };
}

codes! {
    /// Ask another server (RFC 8489).
    TRY_ALTERNATE = 300, "Try Alternate";
    /// Malformed, or its attributes contradict one another.
    BAD_REQUEST = 400, "Bad Request";
    /// No credentials, or wrong ones.
    UNAUTHORIZED = 401, "Unauthorized";
    /// Right credentials, but policy does not allow it (RFC 8656).
    FORBIDDEN = 403, "Forbidden";
    /// Nobody of that name is here (docs/punch.md).
    NOT_FOUND = 404, "Not Found";
    /// The two cannot be brought together (docs/punch.md).
    CONFLICT = 409, "Conflict";
    /// An attribute that must be understood and is not.
    UNKNOWN_ATTRIBUTE = 420, "Unknown Attribute";
    /// More often than is allowed (docs/punch.md).
    TOO_MANY_REQUESTS = 429, "Too Many Requests";
    /// No allocation on this five-tuple, or one that is in the way.
    ALLOCATION_MISMATCH = 437, "Allocation Mismatch";
    /// The nonce is no longer good: try again with the new one.
    STALE_NONCE = 438, "Stale Nonce";
    /// No relay address of that family here.
    ADDRESS_FAMILY_NOT_SUPPORTED = 440, "Address Family not Supported";
    /// The allocation is somebody else's.
    WRONG_CREDENTIALS = 441, "Wrong Credentials";
    /// Only UDP is relayed.
    UNSUPPORTED_TRANSPORT = 442, "Unsupported Transport Protocol";
    /// The peer's family is not the relay address's.
    PEER_ADDRESS_FAMILY_MISMATCH = 443, "Peer Address Family Mismatch";
    /// For TCP relays, which are not made here (RFC 6062).
    CONNECTION_ALREADY_EXISTS = 446, "Connection Already Exists";
    /// The user, tenant or address has all it may have.
    ALLOCATION_QUOTA_REACHED = 486, "Allocation Quota Reached";
    /// It is the server's fault: try again.
    SERVER_ERROR = 500, "Server Error";
    /// No port, memory or table entry is left.
    INSUFFICIENT_CAPACITY = 508, "Insufficient Capacity";
}

/// Class and number of a code between 300 and 699 (sections 14.8 and 18.12 put them at the same place).
fn read_code(class: u8, number: u8) -> Option<u16> {
    let class = class & 7;
    ((3..=6).contains(&class) && number < 100).then_some(u16::from(class) * 100 + u16::from(number))
}

const fn code_bytes(code: u16) -> [u8; 2] {
    [(code / 100) as u8 & 7, (code % 100) as u8]
}

impl<'a> Value<'a> for ErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ERROR_CODE;

    fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
        let (&[_, _, class, number], reason) = bytes.split_first_chunk()?;
        Some(Self { code: read_code(class, number)?, reason: std::str::from_utf8(reason).ok()? })
    }

    fn len(&self) -> usize {
        4 + self.reason.len()
    }

    fn write(&self, out: &mut [u8], _: &TransactionId) {
        fill(out, &[&[0, 0], &code_bytes(self.code), self.reason.as_bytes()]);
    }
}

/// Why one of two families was not allocated (RFC 8656 section 18.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressErrorCode<'a> {
    /// The family that is missing.
    pub family: Family,
    /// Why.
    pub error: ErrorCode<'a>,
}

impl<'a> Value<'a> for AddressErrorCode<'a> {
    const TYPE: AttributeType = AttributeType::ADDRESS_ERROR_CODE;

    fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
        let (&[family, _, class, number], reason) = bytes.split_first_chunk()?;
        let error = ErrorCode { code: read_code(class, number)?, reason: std::str::from_utf8(reason).ok()? };
        Some(Self { family: Family::from_number(family)?, error })
    }

    fn len(&self) -> usize {
        self.error.len()
    }

    fn write(&self, out: &mut [u8], _: &TransactionId) {
        fill(out, &[&[self.family.number(), 0], &code_bytes(self.error.code), self.error.reason.as_bytes()]);
    }
}

/// Which attributes were not understood (RFC 8489 section 14.13): their numbers, big-endian, behind one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownAttributes<'a>(pub &'a [u8]);

impl UnknownAttributes<'_> {
    /// The types.
    pub fn types(&self) -> impl Iterator<Item = AttributeType> {
        self.0.as_chunks().0.iter().map(|&bytes| AttributeType(u16::from_be_bytes(bytes)))
    }
}

impl<'a> Value<'a> for UnknownAttributes<'a> {
    const TYPE: AttributeType = AttributeType::UNKNOWN_ATTRIBUTES;

    fn read(bytes: &'a [u8], _: &TransactionId) -> Option<Self> {
        bytes.len().is_multiple_of(2).then_some(Self(bytes))
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn write(&self, out: &mut [u8], _: &TransactionId) {
        fill(out, &[self.0]);
    }
}
