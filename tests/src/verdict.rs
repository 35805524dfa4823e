//! Is this answer right? Holds a response against the true object.

use std::fmt;

use crate::client::{End, Head, Request, Response, parts};
use crate::origin::Object;
use crate::rng::Rng;

/// What of an object was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// All of it, without Range.
    Whole,
    /// Ranges, as they stand in the header.
    Ranges(Vec<Spec>),
}

/// One range of a Range field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spec {
    /// `first-last`.
    Closed(u64, u64),
    /// `first-`.
    Open(u64),
    /// `-length`.
    Suffix(u64),
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(first, last) => write!(f, "{first}-{last}"),
            Self::Open(first) => write!(f, "{first}-"),
            Self::Suffix(length) => write!(f, "-{length}"),
        }
    }
}

impl Spec {
    /// First and last byte of an object of `total` bytes; `None` when not satisfiable.
    pub fn resolve(self, total: u64) -> Option<(u64, u64)> {
        match self {
            Self::Closed(first, last) if first < total => Some((first, last.min(total - 1))),
            Self::Open(first) if first < total => Some((first, total - 1)),
            Self::Suffix(length) if length > 0 && total > 0 => Some((total.saturating_sub(length), total - 1)),
            _ => None,
        }
    }

    /// A random range of an object of about `size` bytes, often at the edges of blocks of `block` bytes.
    pub fn random(rng: &mut Rng, size: u64, block: u64) -> Self {
        let offset = |rng: &mut Rng| match rng.below(4) {
            0 => (rng.below(size / block + 2) * block + rng.below(3)).saturating_sub(1),
            1 => rng.below(16),
            2 => (size + 4).saturating_sub(rng.below(12)),
            _ => rng.below(size + 1),
        };
        match rng.below(8) {
            0 => Self::Suffix(offset(rng)),
            1 => Self::Open(offset(rng)),
            _ => {
                let first = offset(rng);
                Self::Closed(first, first + rng.below(3 * block) * rng.below(2) + rng.below(2000))
            }
        }
    }
}

impl Asked {
    /// The GET that asks for this.
    pub fn request(&self, target: &str) -> Request {
        match self {
            Self::Whole => Request::get(target),
            Self::Ranges(_) => Request::range(target, &self.to_string()),
        }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => write!(f, "whole"),
            Self::Ranges(specs) => {
                let specs: Vec<String> = specs.iter().map(Spec::to_string).collect();
                write!(f, "bytes={}", specs.join(","))
            }
        }
    }
}

/// An answer that is not wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Complete and right.
    Right,
    /// Broken off; what came is right.
    Short,
    /// An error status with one line that says why.
    Refused(u16),
}

/// Judges the answer to `asked`, when the object may have been seen in any version up to `newest`. `Err` says what is
/// wrong: bytes, lengths, validators, or two versions in one answer.
pub fn judge(object: &Object, newest: u32, asked: &Asked, response: &Response) -> Result<Outcome, String> {
    let versions: Vec<u32> = (object.first_version..=newest).collect();
    let outcome = match response.status() {
        200 => whole(object, versions, response)?,
        206 => match asked {
            Asked::Whole => return Err("206 to a request without Range".to_owned()),
            Asked::Ranges(specs) => partial(object, versions, specs, response)?,
        },
        416 => match asked {
            Asked::Whole => return Err("416 to a request without Range".to_owned()),
            Asked::Ranges(specs) => unsatisfiable(object, &versions, specs, response)?,
        },
        status @ 500..=599 => {
            one_line(response)?;
            Outcome::Refused(status)
        }
        status => return Err(format!("status {status}: {}", response.text())),
    };
    Ok(outcome)
}

/// A refusal says in one line of text what was wrong.
pub fn one_line(response: &Response) -> Result<String, String> {
    let text = response.text();
    let line = text.trim_end_matches('\n').trim_end_matches('\r');
    if line.is_empty() || line.contains('\n') {
        return Err(format!("status {} with the body {text:?}, not one line", response.status()));
    }
    if !response.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")) {
        return Err(format!("status {} with Content-Type {:?}", response.status(), response.header("content-type")));
    }
    Ok(line.to_owned())
}

/// The same for tests that need it to be so.
pub fn assert_one_line(response: &Response) -> String {
    one_line(response).unwrap_or_else(|what| panic!("{what}"))
}

fn whole(object: &Object, versions: Vec<u32>, response: &Response) -> Result<Outcome, String> {
    let body = &response.body;
    let length = response.head.content_length()?;
    let right = keep(versions, |version| {
        let size = object.size_of(version);
        // An origin that lies about the length is found out only at the end; then the answer must break off.
        (response.end != End::Complete || length.is_none_or(|length| object.may_claim(version, length)))
            && body.len() as u64 <= size
            && (response.end != End::Complete || object.may_claim(version, body.len() as u64))
            && object.is_right(version, 0, body)
    });
    if right.is_empty() {
        return Err(format!("{} bytes as 200 that are no version's ({})", body.len(), about(object, 0, body)));
    }
    validators(object, &right, &response.head)?;
    Ok(ending(response))
}

fn partial(object: &Object, versions: Vec<u32>, specs: &[Spec], response: &Response) -> Result<Outcome, String> {
    if let Some((first, last, total)) = response.head.content_range() {
        let right = keep(versions, |version| {
            let size = total.unwrap_or_else(|| object.size_of(version));
            object.may_claim(version, size)
                && span(specs, size) == Some((first, last))
                && response.body.len() as u64 <= last + 1 - first
                && first + response.body.len() as u64 <= object.size_of(version)
                && object.is_right(version, first, &response.body)
        });
        if right.is_empty() {
            let what = about(object, first, &response.body);
            return Err(format!("{first}-{last}/{total:?} that is no version's ({what})"));
        }
        let wanted = last + 1 - first;
        if response.head.content_length()?.is_some_and(|length| length != wanted) {
            return Err("Content-Length and Content-Range disagree".to_owned());
        }
        if response.end == End::Complete && response.body.len() as u64 != wanted {
            return Err(format!("{} bytes of {wanted} as a complete body", response.body.len()));
        }
        validators(object, &right, &response.head)?;
        return Ok(ending(response));
    }
    let kind = response.header("content-type").unwrap_or_default();
    if !kind.starts_with("multipart/byteranges") {
        return Err(format!("206 with neither Content-Range nor multipart, but {kind}"));
    }
    if response.end != End::Complete {
        return Ok(Outcome::Short);
    }
    let parts = parts(kind, &response.body)?;
    let right = keep(versions, |version| {
        let size = parts.iter().find_map(|part| part.total).unwrap_or_else(|| object.size_of(version));
        let wanted: Vec<_> = specs.iter().filter_map(|spec| spec.resolve(size)).collect();
        let whole = object.size_of(version);
        // Ranges may be coalesced and reordered (RFC 9110 section 15.3.7.2), but none is lost and none is added.
        let covered = |first, last| parts.iter().any(|part| part.first <= first && last <= part.last);
        object.may_claim(version, size)
            && wanted.iter().all(|(first, last)| covered(*first, *last))
            && parts.iter().all(|part| {
                part.total.is_none_or(|total| total == size)
                    && part.last < whole
                    && wanted.iter().any(|(first, last)| *first <= part.last && part.first <= *last)
                    && object.is_right(version, part.first, &part.body)
            })
    });
    if right.is_empty() {
        return Err(format!("{} parts that are no version's", parts.len()));
    }
    validators(object, &right, &response.head)?;
    Ok(Outcome::Right)
}

/// From the first to the last byte that is asked for: what ranges that overlap, or nearly touch, are coalesced to.
fn span(specs: &[Spec], size: u64) -> Option<(u64, u64)> {
    let wanted = || specs.iter().filter_map(|spec| spec.resolve(size));
    Some((wanted().map(|(first, _)| first).min()?, wanted().map(|(_, last)| last).max()?))
}

fn unsatisfiable(object: &Object, versions: &[u32], specs: &[Spec], response: &Response) -> Result<Outcome, String> {
    one_line(response)?;
    let value = response.header("content-range").unwrap_or_default();
    let total = value.strip_prefix("bytes */").and_then(|total| total.parse().ok());
    let agrees = |version: &u32| {
        total.is_some_and(|size| {
            object.may_claim(*version, size) && specs.iter().all(|spec| spec.resolve(size).is_none())
        })
    };
    if versions.iter().any(agrees) {
        Ok(Outcome::Right)
    } else {
        Err(format!("416 with Content-Range `{value}`, though a version has {} bytes", object.size_of(versions[0])))
    }
}

/// An entity tag must be of a version whose bytes came, or it would let a client put two versions together.
fn validators(object: &Object, right: &[u32], head: &Head) -> Result<(), String> {
    for (name, of) in [("etag", Object::etag_of as fn(&Object, u32) -> _), ("last-modified", Object::last_modified_of)]
    {
        if let Some(value) = head.get(name)
            && !right.iter().any(|version| of(object, *version).as_deref() == Some(value))
        {
            return Err(format!("{name} {value} with the bytes of versions {right:?}"));
        }
    }
    Ok(())
}

fn keep(versions: Vec<u32>, right: impl Fn(u32) -> bool) -> Vec<u32> {
    versions.into_iter().filter(|version| right(*version)).collect()
}

fn ending(response: &Response) -> Outcome {
    if response.end == End::Complete { Outcome::Right } else { Outcome::Short }
}

fn about(object: &Object, offset: u64, body: &[u8]) -> String {
    let shown = &body[..body.len().min(16)];
    format!("{} of {}+ bytes, from {offset}: {shown:02x?}…", object.path, object.size)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::content::Content;

    fn response(head: &str, body: Vec<u8>, end: End) -> Response {
        Response {
            head: Head::parse(head.as_bytes()).unwrap(),
            body,
            end,
            head_after: Duration::ZERO,
            first_byte_after: None,
            done_after: Duration::ZERO,
        }
    }

    const PARTIAL: &str = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 8-31/64\r\n\r\n";

    #[test]
    fn two_versions_in_one_body_are_found() {
        let object = Object::new("/a", 64);
        let asked = Asked::Ranges(vec![Spec::Closed(8, 31)]);
        let mut body = Content::new("/a", 0).bytes(8, 24);
        assert_eq!(judge(&object, 1, &asked, &response(PARTIAL, body.clone(), End::Complete)), Ok(Outcome::Right));
        body[12..].copy_from_slice(&Content::new("/a", 1).bytes(20, 12));
        assert!(judge(&object, 1, &asked, &response(PARTIAL, body, End::Complete)).is_err());
    }

    #[test]
    fn ranges_may_be_coalesced_but_not_narrowed() {
        let object = Object::new("/a", 64);
        let answer = || response(PARTIAL, Content::new("/a", 0).bytes(8, 24), End::Complete);
        let verdict = |specs: &[Spec]| judge(&object, 0, &Asked::Ranges(specs.to_vec()), &answer());
        assert_eq!(verdict(&[Spec::Closed(20, 31), Spec::Closed(8, 25)]), Ok(Outcome::Right));
        assert!(verdict(&[Spec::Closed(8, 40), Spec::Closed(8, 31)]).is_err());
    }

    #[test]
    fn a_short_body_is_no_complete_one() {
        let object = Object::new("/a", 64);
        let asked = Asked::Ranges(vec![Spec::Closed(8, 31)]);
        let body = Content::new("/a", 0).bytes(8, 10);
        assert_eq!(judge(&object, 0, &asked, &response(PARTIAL, body.clone(), End::Short(None))), Ok(Outcome::Short));
        assert!(judge(&object, 0, &asked, &response(PARTIAL, body, End::Complete)).is_err());
    }

    #[test]
    fn a_foreign_entity_tag_is_found() {
        let object = Object::new("/a", 4);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nETag: \"v1\"\r\n\r\n";
        let answer = |version| response(head, Content::new("/a", version).bytes(0, 4), End::Complete);
        assert_eq!(judge(&object, 1, &Asked::Whole, &answer(1)), Ok(Outcome::Right));
        assert!(judge(&object, 1, &Asked::Whole, &answer(0)).is_err());
    }

    #[test]
    fn ranges_resolve_as_rfc_9110_has_it() {
        assert_eq!(Spec::Closed(0, 99).resolve(10), Some((0, 9)));
        assert_eq!(Spec::Open(10).resolve(10), None);
        assert_eq!(Spec::Suffix(99).resolve(10), Some((0, 9)));
        assert_eq!(Spec::Suffix(0).resolve(10), None);
    }
}
