//! What players say with their requests (CMCD, CTA-5004): found, read and summed, beside the request's way and not on it.
//!
//! A request without CMCD pays for a search in its query, if it has one, and for four looks into the table of known headers, which the
//! head's parser has filled. Only one that has it pays for reading it, after its answer is sent.

use shoal_http::headers::Known;
use shoal_http::request::RequestHead;
use shoal_report::Cmcd;

use super::admission::Admitted;
use super::context::Context;
use crate::playback::Said;
use crate::telemetry::metrics::Counter;

/// The headers that may carry it.
const HEADERS: [Known; 4] = [Known::CmcdObject, Known::CmcdRequest, Known::CmcdSession, Known::CmcdStatus];

/// Adds what the request said to what the shard knows of its viewer. `bytes`: of the body that it was sent.
pub(super) fn note(ctx: &Context, head: &RequestHead<'_>, admitted: &Admitted, bytes: u64) {
    if !admitted.channel.cmcd {
        return;
    }
    let Some(cmcd) = find(head) else { return };
    let session = admitted.session.as_ref().map_or("", |session| session.as_str());
    let now_ms = ctx.clock.now_ms();
    ctx.stats.add(Counter::PlaybackRequests, 1);
    ctx.playback.borrow_mut().add(&admitted.channel, session, &said(&cmcd), bytes, now_ms);
}

/// What a request says; none when it says nothing, or nothing that can be read. The query goes first, as players use one way only.
fn find(head: &RequestHead<'_>) -> Option<Cmcd> {
    let query = head.query.filter(|query| query.contains(shoal_report::cmcd::PARAMETER)).and_then(Cmcd::from_query);
    let read = query.or_else(|| {
        let values = HEADERS.iter().flat_map(|name| head.headers.known_str(*name));
        Cmcd::from_headers(values)
    });
    read?.ok().filter(|cmcd| !cmcd.is_empty())
}

fn said(cmcd: &Cmcd) -> Said<'_> {
    // Version 2 may give one number for each type of object: what a viewer gets is their sum, and the shortest of buffers counts.
    let numbers = |key| cmcd.integers(key).into_iter().filter_map(|(number, _)| u64::try_from(number).ok());
    let sum = |key| numbers(key).reduce(u64::saturating_add);
    Said {
        sid: cmcd.text("sid"),
        cid: cmcd.text("cid"),
        sf: cmcd.text("sf"),
        st: cmcd.text("st"),
        bitrate_kbps: sum("br").map(|kbps| kbps.min(MAX_NUMBER)),
        buffer_ms: numbers("bl").min().map(|ms| ms.min(MAX_NUMBER)),
        throughput_kbps: sum("mtp").map(|kbps| kbps.min(MAX_NUMBER)),
        starved: cmcd.is("bs"),
        startup: cmcd.is("su"),
    }
}

/// Largest number taken from a viewer: sums of many stay far from overflowing.
const MAX_NUMBER: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use shoal_http::headers::Limits;
    use shoal_http::request::parse_request;

    use super::*;

    fn with(target: &str, lines: &str, check: impl FnOnce(Option<Said<'_>>)) {
        let bytes = format!("GET {target} HTTP/1.1\r\nHost: edge\r\n{lines}\r\n");
        let (head, _) = parse_request(bytes.as_bytes(), &Limits::default()).unwrap().unwrap();
        let found = find(&head);
        check(found.as_ref().map(said));
    }

    #[test]
    fn the_query_and_the_headers_say_the_same() {
        let expected = Said {
            sid: Some("6e2fb550-c457-11e9-bb97-0800200c9a66"),
            cid: Some("faec5fc2-ac30-11ea-bb37-0242ac130002"),
            sf: Some("h"),
            st: Some("l"),
            bitrate_kbps: Some(3200),
            buffer_ms: Some(21300),
            throughput_kbps: Some(25400),
            starved: true,
            startup: true,
        };
        let query = "CMCD=bl%3D21300%2Cbr%3D3200%2Cbs%2Ccid%3D%22faec5fc2-ac30-11ea-bb37-0242ac130002%22%2Cmtp%3D25400%2Csf%3Dh%2C\
                     sid%3D%226e2fb550-c457-11e9-bb97-0800200c9a66%22%2Cst%3Dl%2Csu";
        with(&format!("/a.m4s?x=1&{query}&y=2"), "", |said| assert_eq!(said, Some(expected)));
        let lines = "CMCD-Request: mtp=25400,bl=21300,su\r\nCMCD-Object: br=3200,d=4004,ot=v,tb=6000\r\nCMCD-Status: bs\r\n\
                     CMCD-Session: sid=\"6e2fb550-c457-11e9-bb97-0800200c9a66\",sf=h,st=l,cid=\"faec5fc2-ac30-11ea-bb37-0242ac130002\"\r\n";
        with("/a.m4s", lines, |said| assert_eq!(said, Some(expected)));
    }

    #[test]
    fn what_is_none_or_cannot_be_read_says_nothing() {
        for (target, lines) in [
            ("/a.m4s", ""),
            ("/a.m4s?v=1", "User-Agent: CMCD\r\n"),
            ("/CMCD=br%3D1", ""),
            ("/a.m4s?xCMCD=br%3D1", ""),
            ("/a.m4s?CMCD=", ""),
            ("/a.m4s?CMCD=%zz", ""),
            ("/a.m4s", "CMCD-Object: =\r\n"),
        ] {
            with(target, lines, |said| assert_eq!(said, None, "{target} {lines}"));
        }
    }

    #[test]
    fn numbers_of_version_2_are_summed_and_none_is_believed_to_be_huge() {
        with(
            "/a?CMCD=v%3D2%2Cbr%3D(3000%3Bv%20128%3Ba)%2Cbl%3D(900%3Bv%20400%3Ba)%2Cmtp%3D999999999999999",
            "",
            |said| {
                let said = said.unwrap();
                assert_eq!((said.bitrate_kbps, said.buffer_ms), (Some(3128), Some(400)));
                assert_eq!(said.throughput_kbps, Some(MAX_NUMBER));
            },
        );
        with("/a?CMCD=br%3D-5%2Csid%3Ds", "", |said| assert_eq!(said.unwrap().bitrate_kbps, None));
    }
}
