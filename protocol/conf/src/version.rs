//! Versions of SDKs.

/// Up to four numbers: `2`, `2.10`, `2.10.1`, `2.10.1.7`. What is missing is 0; what stands behind a `-` or `+` (as in
/// `2.1.0-beta`) does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 4]);

impl Version {
    /// Reads one; none when it is of another form.
    pub fn parse(text: &str) -> Option<Self> {
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut version = [0; 4];
        let mut places = version.iter_mut();
        for number in numbers.split('.') {
            // `parse` alone would take a sign.
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            *places.next()? = number.parse().ok()?;
        }
        Some(Self(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number() {
        let parse = |text| Version::parse(text).unwrap();
        assert!(parse("2.10") > parse("2.9.9") && parse("2") == parse("2.0.0") && parse("1.0.0.1") > parse("1"));
        assert_eq!(parse("2.1.0-beta"), parse("2.1"));
        for text in ["", ".", "1.", "a", "+1", "1.-2", "1.2.3.4.5", "4294967296", "v1"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
    }
}
