//! Paths: what a prefix covers, and signatures that stand in front.

/// A signature at the front of a path, told by its shape alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathSignature<'a> {
    /// Which of the two shapes.
    pub shape: PathShape,
    /// 32 hex digits.
    pub digest: &'a str,
    /// 12 decimal or 8 hex digits, by the shape.
    pub time: &'a str,
    /// Both with their slashes: what stands before `rest`.
    pub signature: &'a str,
    /// The path that is signed; begins with a slash.
    pub rest: &'a str,
}

/// Where digest and time stand in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathShape {
    /// `/YYYYMMDDHHMM/32hex/rest`: tencent-b, aliyun-b.
    Dated,
    /// `/32hex/8hex/rest`: tencent-c, aliyun-c.
    Hex,
}

/// Bytes of `/YYYYMMDDHHMM/32hex`.
const DATED_BYTES: usize = 1 + 12 + 1 + 32;
/// Bytes of `/32hex/8hex`.
const HEX_BYTES: usize = 1 + 32 + 1 + 8;

/// The signature at the front of `path`, if it looks like one. Whether it is right, and whether the channel of `rest`
/// takes such signatures at all, is for [`crate::Verifier::verify`] to say, which wants the whole path.
pub fn path_signature(path: &str) -> Option<PathSignature<'_>> {
    let fields = |length: usize| {
        let (signature, rest) = path.split_at_checked(length)?;
        let (first, second) = signature.strip_prefix('/')?.split_once('/')?;
        rest.starts_with('/').then_some((signature, first, second, rest))
    };
    if let Some((signature, time, digest, rest)) = fields(DATED_BYTES)
        && time.len() == 12
        && time.bytes().all(|byte| byte.is_ascii_digit())
        && is_hex(digest)
    {
        return Some(PathSignature { shape: PathShape::Dated, digest, time, signature, rest });
    }
    if let Some((signature, digest, time, rest)) = fields(HEX_BYTES)
        && digest.len() == 32
        && is_hex(digest)
        && is_hex(time)
    {
        return Some(PathSignature { shape: PathShape::Hex, digest, time, signature, rest });
    }
    None
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `prefix` stands for `path`: itself or something below it.
pub(crate) fn covers(prefix: &[u8], path: &[u8]) -> bool {
    let Some(below) = path.strip_prefix(prefix) else { return false };
    (prefix.ends_with(b"/") || below.is_empty() || below.starts_with(b"/")) && !climbs(below)
}

/// Whether a path holds a `..` segment, in any of the spellings that an origin might take for one: a ticket for `/a/`
/// must not open `/a/../b`.
pub(crate) fn climbs(path: &[u8]) -> bool {
    // How many dots the segment has so far; `None` once it has anything else.
    let mut dots = Some(0);
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', rest.get(1..).unwrap_or_default()),
            },
            _ => (*first, after),
        };
        rest = after;
        match byte {
            b'/' | b'\\' if dots == Some(2) => return true,
            b'/' | b'\\' => dots = Some(0),
            b'.' => dots = dots.map(|count: u8| count.saturating_add(1)),
            _ => dots = None,
        }
    }
    dots == Some(2)
}

/// The value of a hex digit of either case.
pub(crate) fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The folder that `path` is in, with its slash.
pub(crate) fn folder(path: &str) -> &str {
    path.rfind('/').and_then(|slash| path.get(..=slash)).unwrap_or("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_covers_itself_and_what_is_below() {
        for (prefix, path, right) in [
            ("/a", "/a", true),
            ("/a", "/a/", true),
            ("/a", "/a/b", true),
            ("/a", "/ab", false),
            ("/a", "/", false),
            ("/a/", "/a/", true),
            ("/a/", "/a/b/c", true),
            ("/a/", "/a", false),
            ("/a/", "/A/b", false),
            ("/", "/anything", true),
            ("/a/b.mp4", "/a/b.mp4", true),
            ("/a/b.mp4", "/a/b.mp4v", false),
            ("/a/", "/a/../b", false),
            ("/a/", "/a/..", false),
            ("/a/", "/a/c/%2e%2E/b", false),
            ("/a/", "/a/..%2fb", false),
            ("/a/", "/a/..\\b", false),
            ("/a/", "/a/..%5Cb", false),
            ("/a/", "/a/.%2e/b", false),
            ("/a", "/a/../b", false),
            ("/a/", "/a/...", true),
            ("/a/", "/a/b..", true),
            ("/a/", "/a/..b", true),
            ("/a/", "/a/./b", true),
            ("/a/", "/a/%2", true),
            ("/a/", "/a/%zz", true),
        ] {
            assert_eq!(covers(prefix.as_bytes(), path.as_bytes()), right, "{prefix} {path}");
        }
    }

    #[test]
    fn path_signatures_are_told_by_shape() {
        let digest = "9044548ef1527deadafa49a890a377f0";
        let path = format!("/201508150800/{digest}/4/x.mp3");
        let found = path_signature(&path).unwrap();
        assert_eq!((found.shape, found.digest, found.time), (PathShape::Dated, digest, "201508150800"));
        assert_eq!((found.signature.len(), found.rest), (46, "/4/x.mp3"));
        let path = format!("/{digest}/5C271099/x");
        let found = path_signature(&path).unwrap();
        assert_eq!((found.shape, found.digest, found.time, found.rest), (PathShape::Hex, digest, "5C271099", "/x"));
        for other in [
            format!("/20150815080/{digest}/x"),
            format!("/2015081508000/{digest}/x"),
            format!("/20150815080x/{digest}/x"),
            format!("/201508150800/{digest}"),
            format!("/201508150800/{digest}0/x"),
            format!("/201508150800/{}g/x", &digest[1..]),
            format!("/{digest}/5C27109/x"),
            format!("/{digest}/5C2710999/x"),
            format!("/{digest}/5C27109g/x"),
            format!("{digest}/5C271099/x"),
            "/x".to_owned(),
            String::new(),
            "/é".repeat(30),
        ] {
            assert_eq!(path_signature(&other), None, "{other}");
        }
    }

    #[test]
    fn folders_keep_their_slash() {
        assert_eq!((folder("/a/b.m3u8"), folder("/b"), folder("/a/"), folder("x")), ("/a/", "/", "/a/", "/"));
    }
}
