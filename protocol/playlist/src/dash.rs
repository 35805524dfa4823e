//! DASH manifests (ISO/IEC 23009-1).

use crate::uri::Target;
use crate::xml::{Markup, Scanner, Tag, end_name, escape, unescape};
use crate::{Addition, Change, PlaylistError, check_output};

/// Attributes that hold the URI, or a template, of something to fetch.
const ATTRIBUTES: &[(&[u8], &[&[u8]])] = &[
    (b"SegmentTemplate", &[b"media", b"initialization", b"index", b"bitstreamSwitching"]),
    (b"SegmentURL", &[b"media", b"index"]),
    (b"Initialization", &[b"sourceURL"]),
    (b"RepresentationIndex", &[b"sourceURL"]),
    (b"BitstreamSwitching", &[b"sourceURL"]),
];

/// Appends `body` to `out`, with the query added to every URI that leads to us: in the attributes of segment
/// templates, lists and bases, in `Location` and `PatchLocation`, and in each `BaseURL` that is a file.
///
/// A `BaseURL` that is a folder has no use for a query, and stays. Where any `BaseURL` leads to another host, relative
/// URIs may end there, and stay as well. What stands in comments, CDATA sections and processing instructions, and every
/// other byte, stays too.
///
/// # Errors
/// When `body` is no MPD or larger than the limits; `out` is as before then.
pub fn add_query_dash(body: &[u8], addition: &Addition<'_>, out: &mut Vec<u8>) -> Result<(), PlaylistError> {
    let change = Change::new(body, addition)?;
    let root = Scanner::new(body).find_map(|markup| match markup {
        Markup::Start(tag) => Some(tag.name),
        _ => None,
    });
    if root != Some(b"MPD") {
        return Err(PlaylistError::NotPlaylist { expected: "a DASH manifest", begin: "an MPD element" });
    }
    let relative_is_ours = !leads_elsewhere(body, &change);
    let start = out.len();
    out.reserve(body.len() + body.len() / 2);
    let mut writer = Writer { change, relative_is_ours, out };
    let mut element: &[u8] = b"";
    let mut scanner = Scanner::new(body).peekable();
    while let Some(markup) = scanner.next() {
        match markup {
            Markup::Start(tag) => {
                element = if tag.is_empty() { b"" } else { tag.name };
                writer.tag(&tag);
            }
            // Text that goes on after a comment or CDATA section is not known whole.
            Markup::Text(text) if matches!(scanner.peek(), Some(Markup::End(end)) if end_name(end) == element) => {
                writer.text(element, text);
            }
            Markup::End(bytes) | Markup::Text(bytes) | Markup::Other(bytes) => {
                element = b"";
                writer.out.extend_from_slice(bytes);
            }
        }
        if let Err(error) = check_output(writer.out.len() - start) {
            out.truncate(start);
            return Err(error);
        }
    }
    Ok(())
}

/// Whether any `BaseURL` leads to another host, or may: one with markup inside, even a comment, is not read.
fn leads_elsewhere(body: &[u8], change: &Change<'_>) -> bool {
    let mut in_base_url = false;
    Scanner::new(body).any(|markup| match markup {
        Markup::Start(_) | Markup::Other(_) if in_base_url => true,
        Markup::Start(tag) => {
            in_base_url = tag.name == b"BaseURL" && !tag.is_empty();
            false
        }
        Markup::End(_) => {
            in_base_url = false;
            false
        }
        Markup::Text(text) => {
            let text = text.trim_ascii();
            let elsewhere = |uri: Vec<u8>| change.target(&uri) == Target::Elsewhere;
            in_base_url && !text.is_empty() && unescape(text).is_none_or(elsewhere)
        }
        Markup::Other(_) => false,
    })
}

struct Writer<'a> {
    change: Change<'a>,
    relative_is_ours: bool,
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn tag(&mut self, tag: &Tag<'_>) {
        let Some((_, names)) = ATTRIBUTES.iter().find(|(element, _)| *element == tag.name) else {
            self.out.extend_from_slice(tag.bytes);
            return;
        };
        let mut attributes = tag.attributes();
        for attribute in &mut attributes {
            self.out.extend_from_slice(attribute.before);
            if names.contains(&attribute.name) {
                self.uri(attribute.value, Some(attribute.quote), self.relative_is_ours);
            } else {
                self.out.extend_from_slice(attribute.value);
            }
        }
        self.out.extend_from_slice(attributes.rest);
    }

    fn text(&mut self, element: &[u8], text: &[u8]) {
        let relative_is_ours = match element {
            b"BaseURL" if !is_folder(text.trim_ascii()) => self.relative_is_ours,
            // These are relative to the manifest itself.
            b"Location" | b"PatchLocation" => true,
            _ => {
                self.out.extend_from_slice(text);
                return;
            }
        };
        let (before, after) = text.split_at(text.len() - text.trim_ascii_start().len());
        let (uri, after) = after.split_at(after.trim_ascii_end().len());
        self.out.extend_from_slice(before);
        self.uri(uri, None, relative_is_ours);
        self.out.extend_from_slice(after);
    }

    fn uri(&mut self, escaped: &[u8], quote: Option<u8>, relative_is_ours: bool) {
        let plain = unescape(escaped).filter(|plain| relative_is_ours || self.change.target(plain) == Target::Ours);
        let mut added = Vec::new();
        match plain {
            Some(plain) if self.change.add(&plain, &mut added) => escape(&added, quote, self.out),
            _ => self.out.extend_from_slice(escaped),
        }
    }
}

/// Whether a base is a folder: its path ends in a slash or a dot segment, or it has none.
fn is_folder(uri: &[u8]) -> bool {
    let path = uri.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let after_authority = path.windows(2).position(|pair| pair == b"//").and_then(|at| path.get(at + 2..));
    let last = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    matches!(last, b"" | b"." | b"..") || after_authority.is_some_and(|rest| !rest.contains(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_BODY;

    fn rewrite(body: &str) -> Result<String, PlaylistError> {
        let addition = Addition { query: "ticket=T", authorities: &["edge"] };
        let mut out = b"kept".to_vec();
        let result = add_query_dash(body.as_bytes(), &addition, &mut out);
        let text = String::from_utf8(out).unwrap();
        let added = text.strip_prefix("kept").unwrap().to_owned();
        if result.is_err() {
            assert_eq!(added, "");
        }
        result.map(|()| added)
    }

    #[test]
    fn every_uri_of_a_manifest() {
        let body = r#"<?xml version="1.0"?>
<!DOCTYPE MPD [ <!ENTITY x "<MPD>"> ]>
<!-- <SegmentTemplate media="a.m4s"/> -->
<mpd:MPD xmlns:mpd="urn:mpeg:dash:schema:mpd:2011" profiles='a>b'>
  <Location>
    http://edge/live.mpd?x=1&amp;y=2
  </Location><PatchLocation ttl="60">patch.mpp</PatchLocation>
  <BaseURL>media/</BaseURL><BaseURL/>
  <Period><AdaptationSet>
    <SegmentTemplate timescale="1" media = "$RepresentationID$-$Number%05d$.m4s?a=1&amp;ticket=old#x"
      initialization='init.mp4' index="x.sidx" bitstreamSwitching="b.mp4" duration="4" presentationTimeOffset='media="no"'/>
    <Representation><BaseURL> v/1.mp4 </BaseURL>
      <SegmentBase><Initialization range="0-1" sourceURL="i1.mp4"></Initialization>
        <RepresentationIndex sourceURL="ri.mp4"/></SegmentBase>
      <SegmentList><SegmentURL media="s1.m4s" index="i1.m4s" mediaRange="0-1"/><SegmentURL mediaRange="2-3"/></SegmentList>
      <SegmentURL media="a&#x3f;b=1"/><SegmentURL media="&unknown;"/><SegmentURL media="a'?b&quot;&amp;c&lt;"/>
      <Other media="o.m4s">text.mp4</Other><Location>a<!-- c -->b.mpd</Location>
    </Representation></AdaptationSet></Period>
</mpd:MPD> trailing <
"#;
        let right = body
            .replace("x=1&amp;y=2", "x=1&amp;y=2&amp;ticket=T")
            .replace("patch.mpp", "patch.mpp?ticket=T")
            .replace("a=1&amp;ticket=old#x", "a=1&amp;ticket=T#x")
            .replace("init.mp4", "init.mp4?ticket=T")
            .replace("x.sidx", "x.sidx?ticket=T")
            .replace("\"b.mp4", "\"b.mp4?ticket=T")
            .replace("v/1.mp4", "v/1.mp4?ticket=T")
            .replace("i1.mp4", "i1.mp4?ticket=T")
            .replace("ri.mp4", "ri.mp4?ticket=T")
            .replace("s1.m4s", "s1.m4s?ticket=T")
            .replace("i1.m4s", "i1.m4s?ticket=T")
            .replace("a&#x3f;b=1", "a?b=1&amp;ticket=T")
            .replace("a'?b&quot;&amp;c&lt;", "a'?b&quot;&amp;c&lt;&amp;ticket=T");
        assert_eq!(rewrite(body).unwrap(), right);
        assert_eq!(rewrite(&right).unwrap(), right);
    }

    #[test]
    fn folders_stay_and_files_do_not() {
        for (base, right) in [
            ("a/", "a/"),
            ("a/?x", "a/?x"),
            ("..", ".."),
            ("a/.", "a/."),
            ("http://edge", "http://edge"),
            ("http://edge/", "http://edge/"),
            ("http://edge/a.mp4", "http://edge/a.mp4?ticket=T"),
            ("a.mp4?x=y/", "a.mp4?x=y/&amp;ticket=T"),
        ] {
            let text = rewrite(&format!("<MPD><BaseURL>{base}</BaseURL></MPD>")).unwrap();
            assert_eq!(text, format!("<MPD><BaseURL>{right}</BaseURL></MPD>"));
        }
    }

    #[test]
    fn nothing_relative_gets_a_ticket_where_a_base_is_elsewhere() {
        for base in [
            "http://cdn.example/",
            "&h;",
            "<![CDATA[http://edge/]]>",
            "//cdn.example/a.mp4",
            "&#x2f;/cdn/",
            "htt<!-- -->p://cdn/",
            "a<x/>",
        ] {
            let body = format!(
                "<MPD><Location>l.mpd</Location><SegmentURL media=\"a\"/><SegmentURL media='http://edge/b'/>\
                 <R><BaseURL>{base}</BaseURL><BaseURL>c.mp4</BaseURL></R></MPD>"
            );
            let right = body.replace("l.mpd", "l.mpd?ticket=T").replace("edge/b", "edge/b?ticket=T");
            assert_eq!(rewrite(&body).unwrap(), right, "{base}");
        }
    }

    #[test]
    fn broken_documents_are_copied() {
        for body in [
            "<MPD",
            "<MPD><SegmentURL media=\"a",
            "<MPD><SegmentURL media=a/>",
            "<MPD><SegmentURL media/>",
            "<MPD><SegmentURL =\"a\"/>",
            "<MPD><!-- <SegmentURL media=\"a\"/>",
            "<MPD><![CDATA[ <SegmentURL media=\"a\"/>",
            "<MPD><?x <SegmentURL media=\"a\"/>",
            "<MPD><BaseURL>a.mp4",
            "<MPD><BaseURL>a.mp4</Other>",
            "<MPD></",
            "<MPD><",
        ] {
            match rewrite(body) {
                Ok(text) => assert_eq!(text, body),
                Err(error) => assert_eq!((body, matches!(error, PlaylistError::NotPlaylist { .. })), ("<MPD", true)),
            }
        }
    }

    #[test]
    fn what_is_no_manifest() {
        for body in ["", "#EXTM3U", "<html><MPD/></html>", "<!-- <MPD> -->", "MPD"] {
            assert!(matches!(rewrite(body), Err(PlaylistError::NotPlaylist { .. })), "{body}");
        }
        assert_eq!(rewrite("<MPD/>").unwrap(), "<MPD/>");
    }

    #[test]
    fn what_is_too_large() {
        let body = format!("<MPD>{}", "<SegmentURL media='a'/>".repeat((MAX_BODY - 5) / 23));
        let long = format!("ticket={}", "T".repeat(200));
        let addition = Addition { query: &long, authorities: &[] };
        let mut out = Vec::new();
        let result = add_query_dash(body.as_bytes(), &addition, &mut out);
        assert!(matches!(result, Err(PlaylistError::TooLarge { .. })));
        assert!(out.is_empty());
        let body = " ".repeat(MAX_BODY + 1);
        assert!(matches!(rewrite(&body), Err(PlaylistError::TooLarge { with: "", .. })));
    }
}
