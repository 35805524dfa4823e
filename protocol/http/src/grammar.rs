//! Character classes of RFC 9110 and RFC 3986, and the scans over them.

/// A set of bytes.
pub(crate) struct Class([bool; 256]);

impl Class {
    /// ASCII letters, digits and `extra`.
    const fn alphanumeric_and(extra: &[u8]) -> Self {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 128 {
            table[byte] = (byte as u8).is_ascii_alphanumeric();
            byte += 1;
        }
        let mut i = 0;
        while i < extra.len() {
            table[extra[i] as usize] = true;
            i += 1;
        }
        Self(table)
    }

    #[inline]
    pub(crate) const fn has(&self, byte: u8) -> bool {
        self.0[byte as usize]
    }

    /// Number of bytes at the start of `bytes` that belong to the class.
    #[inline]
    pub(crate) fn run(&self, bytes: &[u8]) -> usize {
        bytes.iter().position(|&byte| !self.has(byte)).unwrap_or(bytes.len())
    }
}

/// `tchar` (RFC 9110 section 5.6.2).
pub(crate) static TOKEN: Class = Class::alphanumeric_and(b"!#$%&'*+-.^_`|~");
/// `unreserved` (RFC 3986 section 2.3).
pub(crate) static UNRESERVED: Class = Class::alphanumeric_and(b"-._~");
/// `pchar` without escapes (RFC 3986 section 3.3).
pub(crate) static PATH: Class = Class::alphanumeric_and(b"-._~!$&'()*+,;=:@");
/// `query` without escapes (RFC 3986 section 3.4).
pub(crate) static QUERY: Class = Class::alphanumeric_and(b"-._~!$&'()*+,;=:@/?");
/// `reg-name` (RFC 3986 section 3.2.2), escapes included.
pub(crate) static REG_NAME: Class = Class::alphanumeric_and(b"-._~!$&'()*+,;=%");

const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);

/// High bit set in each byte of `word` below `limit`, exact up to the first such byte.
#[inline]
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * limit as u64) & !word & HIGH
}

/// Length of the run in front of the first byte that `flag` or `stop` marks; the first works on eight bytes at once.
#[inline]
fn run_until(bytes: &[u8], flag: impl Fn(u64) -> u64, stop: impl Fn(u8) -> bool) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let flags = flag(u64::from_le_bytes(*word));
        if flags != 0 {
            return i * 8 + (flags.trailing_zeros() / 8) as usize;
        }
    }
    let done = words.len() * 8;
    bytes.iter().skip(done).position(|&byte| stop(byte)).map_or(bytes.len(), |at| done + at)
}

/// Number of bytes in front of the first control character (TAB and DEL are ones); bytes above 127 are none.
#[inline]
pub(crate) fn run_without_controls(bytes: &[u8]) -> usize {
    run_until(bytes, |word| below(word, 0x20) | below(word ^ (ONES * 0x7f), 1), |byte| byte < 0x20 || byte == 0x7f)
}

/// Number of bytes in front of the first that is not a visible ASCII character.
#[inline]
pub(crate) fn run_of_visible(bytes: &[u8]) -> usize {
    run_until(
        bytes,
        |word| below(word, 0x21) | below(word ^ (ONES * 0x7f), 1) | word & HIGH,
        |byte| !byte.is_ascii_graphic(),
    )
}

/// Without the spaces and tabs at both ends (`OWS`).
#[inline]
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Elements of a comma-separated list (RFC 9110 section 5.6.1) of things that hold no quoted string; empty ones are left
/// out.
pub(crate) fn elements(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|element| !element.is_empty())
}

/// A decimal number of digits only; `None` when malformed or above `u64::MAX`.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |number, &byte| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// A decimal number of digits only, `u64::MAX` when above; `None` when malformed.
pub(crate) fn decimal_saturating(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(decimal(digits).unwrap_or(u64::MAX))
}

/// Value of a hexadecimal digit.
#[inline]
pub(crate) const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Appends `%XX`.
pub(crate) fn push_escape(byte: u8, out: &mut String) {
    const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.extend(['%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_scans_agree_with_byte_scans() {
        // Every byte value at every position of a word and its neighbours, behind bytes that could borrow into it.
        for filler in [b' ', b'!', b'a', 0x7e, 0x80, 0xff] {
            for at in 0..20 {
                for byte in 0..=255u8 {
                    let mut bytes = [filler; 24];
                    bytes[at] = byte;
                    let controls = bytes.iter().position(|b| *b < 0x20 || *b == 0x7f).unwrap_or(24);
                    assert_eq!(run_without_controls(&bytes), controls, "{byte:#x} at {at} in {filler:#x}");
                    let visible = bytes.iter().position(|b| !b.is_ascii_graphic()).unwrap_or(24);
                    assert_eq!(run_of_visible(&bytes), visible, "{byte:#x} at {at} in {filler:#x}");
                }
            }
        }
        assert_eq!(run_without_controls(b""), 0);
        assert_eq!(run_without_controls(b"abc"), 3);
    }

    #[test]
    fn classes_hold_what_the_rfcs_say() {
        for byte in 0..=255u8 {
            let separator = b"\"(),/:;<=>?@[\\]{} ".contains(&byte);
            assert_eq!(TOKEN.has(byte), byte.is_ascii_graphic() && !separator, "{byte:#x}");
        }
        assert!(PATH.has(b'@') && !PATH.has(b'/') && !PATH.has(b'%') && QUERY.has(b'?') && !UNRESERVED.has(b'!'));
    }

    #[test]
    fn numbers() {
        assert_eq!(decimal(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(decimal(b"18446744073709551616"), None);
        assert_eq!(decimal_saturating(b"18446744073709551616"), Some(u64::MAX));
        for bad in ["", "+1", "-1", " 1", "1 ", "0x1", "1_0"] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad:?}");
            assert_eq!(decimal_saturating(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn lists_leave_out_empty_elements() {
        assert!(elements(b" a ,, b\t,").eq([b"a".as_slice(), b"b"]));
        assert_eq!(elements(b" , ").count(), 0);
    }
}
