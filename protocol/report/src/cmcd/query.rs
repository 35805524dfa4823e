//! CMCD on requests: as a query parameter or as headers.

use super::{Cmcd, CmcdError, MAX_TEXT};

/// The query's parameter.
pub const PARAMETER: &str = "CMCD";
/// The request headers, in lower case; each has some of the keys, and which ones is of no matter to a reader.
pub const HEADERS: [&str; 4] = ["cmcd-object", "cmcd-request", "cmcd-session", "cmcd-status"];

impl Cmcd {
    /// What a query (without its `?`) has in the parameter `CMCD`; none where it has no such parameter.
    pub fn from_query(query: &str) -> Option<Result<Self, CmcdError>> {
        let find = |pair: &'_ str| pair.strip_prefix(PARAMETER)?.strip_prefix('=').map(str::len);
        let pair = query.split('&').find(|pair| find(pair).is_some())?;
        let encoded = pair.get(PARAMETER.len() + 1..).unwrap_or_default();
        Some(decode(encoded).and_then(|text| text.parse()))
    }

    /// What the values of the four headers have together; none where there is none of them.
    pub fn from_headers<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Result<Self, CmcdError>> {
        let mut found = None;
        for value in values {
            let cmcd = found.get_or_insert_with(Self::default);
            if let Err(error) = cmcd.read(value) {
                return Some(Err(error));
            }
        }
        found.map(Ok)
    }
}

fn decode(encoded: &str) -> Result<String, CmcdError> {
    // Each character takes at most three.
    if encoded.len() > 3 * MAX_TEXT {
        return Err(CmcdError::Long);
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(match byte {
            b'%' => match (digit(), digit()) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(CmcdError::Encoding),
            },
            _ => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| CmcdError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_found_and_decoded() {
        let query = "a=1&CMCD=bl%3D21300%2Cbs%2Csid%3D%226e2fb550%22&xCMCD=br%3D1";
        let cmcd = Cmcd::from_query(query).unwrap().unwrap();
        assert_eq!(
            (cmcd.integers("bl"), cmcd.is("bs"), cmcd.text("sid")),
            (vec![(21300, None)], true, Some("6e2fb550"))
        );
        assert_eq!(cmcd.version(), 1);
        for query in ["", "CMCD", "cmcd=br%3D1", "xCMCD=br%3D1"] {
            assert!(Cmcd::from_query(query).is_none(), "{query}");
        }
        assert!(Cmcd::from_query("CMCD=").unwrap().unwrap().is_empty());
        for bad in ["CMCD=%", "CMCD=%4", "CMCD=%zz", "CMCD=%ff"] {
            assert_eq!(Cmcd::from_query(bad), Some(Err(CmcdError::Encoding)), "{bad}");
        }
        assert_eq!(Cmcd::from_query(&format!("CMCD={}", "a".repeat(30_000))), Some(Err(CmcdError::Long)));
    }

    #[test]
    fn four_headers_are_one_dictionary() {
        let values = ["br=3200,d=4004,ot=v,tb=6000", "bl=21300,dl=18500,mtp=48100", "sid=\"6e2fb550\"", "bs"];
        let cmcd = Cmcd::from_headers(values).unwrap().unwrap();
        assert_eq!((cmcd.iter().count(), cmcd.is("bs")), (9, true));
        assert!(Cmcd::from_headers([]).is_none());
        assert_eq!(Cmcd::from_headers(["bs", "="]), Some(Err(CmcdError::Key(0))));
    }
}
