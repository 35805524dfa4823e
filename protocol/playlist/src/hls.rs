//! HLS playlists (RFC 8216): URI lines, and `URI="…"` attributes of tags.

use crate::{Addition, Change, PlaylistError, check_output};

const BEGIN: &str = "#EXTM3U";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Appends `body` to `out`, with the query added to every URI line and every `URI` attribute of an `#EXT-X-` tag that
/// leads to us. Line ends and all else stay as they are.
///
/// # Errors
/// When `body` is no HLS playlist or larger than the limits; `out` is as before then.
pub fn add_query_hls(body: &[u8], addition: &Addition<'_>, out: &mut Vec<u8>) -> Result<(), PlaylistError> {
    let change = Change::new(body, addition)?;
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    match text.strip_prefix(BEGIN.as_bytes()) {
        Some([] | [b'\r' | b'\n' | b' ' | b'\t', ..]) => {}
        _ => return Err(PlaylistError::NotPlaylist { expected: "an HLS playlist", begin: BEGIN }),
    }
    let start = out.len();
    out.reserve(body.len() + body.len() / 2);
    out.extend_from_slice(body.strip_suffix(text).unwrap_or_default());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        add_to_line(line, &change, out);
        if let Err(error) = check_output(out.len() - start) {
            out.truncate(start);
            return Err(error);
        }
    }
    Ok(())
}

fn add_to_line(line: &[u8], change: &Change<'_>, out: &mut Vec<u8>) {
    if line.starts_with(b"#EXT-X-") {
        add_to_tag(line, change, out);
        return;
    }
    let uri = line.trim_ascii();
    if uri.starts_with(b"#") {
        out.extend_from_slice(line);
        return;
    }
    let (before, after) = line.split_at(line.len() - line.trim_ascii_start().len());
    out.extend_from_slice(before);
    match after.strip_prefix(uri) {
        Some(end) if change.add(uri, out) => out.extend_from_slice(end),
        _ => out.extend_from_slice(after),
    }
}

/// A tag with an attribute list (RFC 8216 section 4.2): `#NAME:KEY=VALUE,KEY="VALUE",…`.
fn add_to_tag(line: &[u8], change: &Change<'_>, out: &mut Vec<u8>) {
    let mut rest = line;
    let colon = line.iter().position(|byte| *byte == b':').unwrap_or(0);
    copy(&mut rest, colon + 1, out);
    while let Some(end) = rest.iter().position(|byte| matches!(byte, b'=' | b',')) {
        let (name, value) = rest.split_at(end);
        let is_uri = name.trim_ascii() == b"URI" && value.starts_with(b"=");
        copy(&mut rest, end + 1, out);
        if !rest.starts_with(b"\"") {
            continue;
        }
        copy(&mut rest, 1, out);
        // After a quote that is never closed nothing can be told.
        let Some(length) = rest.iter().position(|byte| *byte == b'"') else { break };
        let (uri, after) = rest.split_at(length);
        if is_uri && change.add(uri, out) {
            rest = after;
        } else {
            copy(&mut rest, length, out);
        }
        copy(&mut rest, 1, out);
    }
    out.extend_from_slice(rest);
}

fn copy(rest: &mut &[u8], count: usize, out: &mut Vec<u8>) {
    let (done, left) = rest.split_at_checked(count).unwrap_or((rest, &[]));
    out.extend_from_slice(done);
    *rest = left;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_BODY;

    fn rewrite(body: &str) -> Result<String, PlaylistError> {
        let addition = Addition { query: "ticket=T", authorities: &["edge:80"] };
        let mut out = b"kept".to_vec();
        let result = add_query_hls(body.as_bytes(), &addition, &mut out);
        let text = String::from_utf8(out).unwrap();
        let added = text.strip_prefix("kept").unwrap().to_owned();
        if result.is_err() {
            assert_eq!(added, "");
        }
        result.map(|()| added)
    }

    #[test]
    fn every_uri_of_a_master_playlist() {
        let body = "\u{feff}#EXTM3U\r\n\
            #EXT-X-VERSION:7\r\n\
            #EXT-X-SESSION-KEY:METHOD=SAMPLE-AES,URI=\"skd://key\",KEYFORMAT=\"com.apple\"\r\n\
            #EXT-X-SESSION-DATA:DATA-ID=\"x\",URI=\"data.json\"\r\n\
            #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"a,URI=b\",NAME=\"URI=\",URI=\"a/en.m3u8?x=1\",DEFAULT=YES\r\n\
            #EXT-X-I-FRAME-STREAM-INF:URI=\"http://edge/i.m3u8\",BANDWIDTH=1\r\n\
            #EXT-X-STREAM-INF:BANDWIDTH=1,CODECS=\"avc1,mp4a\"\r\n\
            v/1.m3u8\r\n\
            \r\n\
            # a comment URI=\"x\"\r\n\
            #EXT-X-STREAM-INF:BANDWIDTH=2\r\n\
            https://cdn.example/2.m3u8";
        let right = body
            .replace("data.json", "data.json?ticket=T")
            .replace("en.m3u8?x=1", "en.m3u8?x=1&ticket=T")
            .replace("i.m3u8", "i.m3u8?ticket=T")
            .replace("v/1.m3u8", "v/1.m3u8?ticket=T");
        assert_eq!(rewrite(body).unwrap(), right);
        assert_eq!(rewrite(&right).unwrap(), right);
    }

    #[test]
    fn every_uri_of_a_media_playlist() {
        let body = "#EXTM3U\n\
            #EXT-X-KEY:METHOD=AES-128,URI=\"key?ticket=old#f\",IV=0x1\n\
            #EXT-X-KEY:METHOD=AES-128,URI=\"data:text/plain;base64,AA\"\n\
            #EXT-X-MAP:URI=\"init.mp4\",BYTERANGE=\"10@0\"\n\
            #EXTINF:4.0,URI=\"title\"\n\
            #EXT-X-BYTERANGE:10@0\n  seg 1.ts\t\n\
            #EXT-X-DATERANGE:ID=\"x\",X-ASSET-URI=\"ad.m3u8\"\n\
            #EXT-X-PART:DURATION=0.2, URI=\"p1.mp4\"\n\
            #EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p2.mp4\"\n\
            #EXT-X-RENDITION-REPORT:URI=\"../b.m3u8\",LAST-MSN=1\n\
            #EXT-X-MAP:URI=\"unclosed\n\
            #EXT-X-ENDLIST\n";
        let right = body
            .replace("key?ticket=old#f", "key?ticket=T#f")
            .replace("init.mp4", "init.mp4?ticket=T")
            .replace("seg 1.ts", "seg 1.ts?ticket=T")
            .replace("p1.mp4", "p1.mp4?ticket=T")
            .replace("p2.mp4", "p2.mp4?ticket=T")
            .replace("b.m3u8", "b.m3u8?ticket=T");
        assert_eq!(rewrite(body).unwrap(), right);
        assert_eq!(rewrite(&right).unwrap(), right);
    }

    #[test]
    fn what_is_no_playlist() {
        for body in ["", "#EXTM3", "#EXTM3U8\n", "\n#EXTM3U\n", "<html>"] {
            assert!(matches!(rewrite(body), Err(PlaylistError::NotPlaylist { .. })), "{body}");
        }
        assert_eq!(rewrite("#EXTM3U").unwrap(), "#EXTM3U");
    }

    #[test]
    fn what_is_too_large() {
        let with_lines = |line: &str, bytes: usize| format!("#EXTM3U\n{}", line.repeat((bytes - 8) / line.len()));
        assert!(matches!(rewrite(&with_lines("a\n", MAX_BODY + 2)), Err(PlaylistError::TooLarge { with: "", .. })));
        let addition = Addition { query: &format!("ticket={}", "T".repeat(100)), authorities: &[] };
        let mut out = b"kept".to_vec();
        let result = add_query_hls(with_lines("a\n", MAX_BODY).as_bytes(), &addition, &mut out);
        assert!(matches!(result, Err(PlaylistError::TooLarge { with: " with tickets added", .. })));
        assert_eq!(out, b"kept");
    }

    #[test]
    fn unsafe_queries_are_refused() {
        for query in ["", "ticket", "=x", "a=b&c=d", "a=\"", "a=b=c", "a=$", "a=é", "a=b c"] {
            let addition = Addition { query, authorities: &[] };
            let result = add_query_hls(b"#EXTM3U\n", &addition, &mut Vec::new());
            assert_eq!(result, Err(PlaylistError::Query { query: query.to_owned() }));
        }
    }
}
