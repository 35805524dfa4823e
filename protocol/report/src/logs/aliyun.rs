//! Alibaba Cloud CDN's offline logs (its help, `cdn/user-guide/download-logs`): end of the request in brackets, client, proxy, milliseconds,
//! Referer, method and URL, status, bytes of the request, bytes of the answer, hit or miss, User-Agent, type, and lately more.

use super::line::Fields;
use super::time;
use super::{Entry, Reason, hit, number, status, target};

pub(super) fn entry(line: &str) -> Result<Entry<'_>, Reason> {
    let mut fields = Fields::new(line);
    let mut next = || fields.next().ok_or("it has fewer than 10 fields");
    let (at, client, _proxy, _ms, _referer) = (next()?, next()?, next()?, next()?, next()?);
    let (request, code, _request_bytes, bytes, cache) = (next()?, next()?, next()?, next()?, next()?);
    let time = time::local(at)?;
    let (_method, url) = request.split_once(' ').ok_or("its request is no method and URL")?;
    // A version may follow.
    let url = url.split(' ').next().unwrap_or_default();
    let (host, path, query) = target(url).ok_or("its URL is none")?;
    Ok(Entry {
        time,
        host,
        path,
        query,
        status: status(code)?,
        bytes: number(bytes, "its bytes are no number")?,
        client: client.parse().ok(),
        hit: hit(cache),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample line of the document.
    const SAMPLE: &str = "[9/Jun/2015:01:58:09 +0800] 10.10.10.10 - 1542 \"-\" \"GET http://www.aliyun.com/index.html\" 200 191 2830 \
                          MISS \"Mozilla/5.0 (compatible; AhrefsBot/5.0; +http://example.com/robot/)\" \"text/html\"";

    #[test]
    fn the_sample_of_the_document() {
        let expected = Entry {
            // 2015-06-08T17:58:09Z: the day before, in UTC.
            time: 1_433_786_289,
            host: Some("www.aliyun.com"),
            path: "/index.html",
            query: None,
            status: 200,
            bytes: 2830,
            client: Some("10.10.10.10".parse().unwrap()),
            hit: Some(false),
        };
        assert_eq!(entry(SAMPLE), Ok(expected));
        assert_eq!(entry(&format!("{SAMPLE} https 1.2.3.4")), Ok(expected));
        let with_query = SAMPLE.replace("index.html", "index.html?auth_key=1-2-3");
        assert_eq!(entry(&with_query).map(|entry| entry.query), Ok(Some("auth_key=1-2-3")));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert!(entry("[9/Jun/2015:01:58:09 +0800] 10.10.10.10 -").unwrap_err().contains("fields"));
        assert!(entry(&SAMPLE.replace("Jun", "Juni")).unwrap_err().contains("time"));
        assert!(entry(&SAMPLE.replace("GET http", "GET-http")).unwrap_err().contains("method"));
        assert!(entry(&SAMPLE.replace("http://www", "www")).unwrap_err().contains("URL"));
        assert!(entry(&SAMPLE.replace(" 2830 ", " 28x30 ")).unwrap_err().contains("bytes"));
    }
}
