//! One URI: whether it leads to us, and with a parameter added.

use crate::Change;

impl Change<'_> {
    /// Appends `uri` with the query to `out`; `false`, and nothing appended, when it does not lead to us.
    pub(crate) fn add(&self, uri: &[u8], out: &mut Vec<u8>) -> bool {
        if !matches!(self.target(uri), Target::Relative | Target::Ours) {
            return false;
        }
        let fragment_at = uri.iter().position(|byte| *byte == b'#').unwrap_or(uri.len());
        let (uri, fragment) = uri.split_at(fragment_at);
        let query_at = uri.iter().position(|byte| *byte == b'?').unwrap_or(uri.len());
        let (path, query) = uri.split_at(query_at);
        out.extend_from_slice(path);
        out.push(b'?');
        let start = out.len();
        let old = query.strip_prefix(b"?").unwrap_or_default();
        for (index, pair) in old.split(|byte| *byte == b'&').filter(|pair| !self.is_same(pair)).enumerate() {
            if index > 0 {
                out.push(b'&');
            }
            out.extend_from_slice(pair);
        }
        if out.len() > start {
            out.push(b'&');
        }
        out.extend_from_slice(self.query);
        out.extend_from_slice(fragment);
        true
    }

    /// Where `uri` leads, as the most liberal of players would read it: when in doubt, elsewhere.
    pub(crate) fn target(&self, uri: &[u8]) -> Target {
        // Browsers drop tabs and line ends inside a URI: what is left may lead elsewhere. HLS variables (RFC 8216bis
        // section 4.3) in front may stand for any host.
        if uri.is_empty() || uri.starts_with(b"#") || uri.starts_with(b"{$") || uri.iter().any(u8::is_ascii_control) {
            return Target::Elsewhere;
        }
        if let [b'/' | b'\\', b'/' | b'\\', ..] = uri {
            return self.authority(b"", uri);
        }
        let end = uri.iter().position(|byte| matches!(byte, b':' | b'/' | b'\\' | b'?' | b'#')).unwrap_or(uri.len());
        match uri.split_at(end) {
            (scheme, [b':', rest @ ..]) if is_scheme(scheme) => self.authority(scheme, rest),
            _ => Target::Relative,
        }
    }

    /// `rest` is what follows the scheme and its colon.
    fn authority(&self, scheme: &[u8], rest: &[u8]) -> Target {
        let Some(rest) = rest.strip_prefix(b"//") else { return Target::Elsewhere };
        let default_port: &[u8] = match scheme.to_ascii_lowercase().as_slice() {
            b"http" => b":80",
            b"https" => b":443",
            b"" => b"",
            _ => return Target::Elsewhere,
        };
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'\\' | b'?' | b'#')).unwrap_or(rest.len());
        let short =
            |authority: &'_ [u8]| authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase();
        let theirs = short(rest.get(..end).unwrap_or_default());
        let ours = self.authorities.iter().any(|ours| short(ours.as_bytes()) == theirs);
        if ours && !theirs.is_empty() { Target::Ours } else { Target::Elsewhere }
    }

    fn is_same(&self, pair: &[u8]) -> bool {
        pair.strip_prefix(self.name).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
    }
}

/// Where a URI leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// To wherever the document, or its base, leads.
    Relative,
    /// To one of our authorities.
    Ours,
    /// To another host, to something that is no host, or nowhere.
    Elsewhere,
}

/// RFC 3986 section 3.1.
fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(uri: &str) -> Option<String> {
        let authorities = ["Edge.example:8080", "cdn.example", "[::1]:80"];
        let change = Change { name: b"ticket", query: b"ticket=T", authorities: &authorities };
        let mut out = Vec::new();
        change.add(uri.as_bytes(), &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn query_goes_where_it_belongs() {
        for (uri, right) in [
            ("a.ts", "a.ts?ticket=T"),
            ("/a.ts", "/a.ts?ticket=T"),
            ("../a b.ts", "../a b.ts?ticket=T"),
            ("?x=1", "?x=1&ticket=T"),
            ("a.ts?", "a.ts?ticket=T"),
            ("a.ts?x=1", "a.ts?x=1&ticket=T"),
            ("a.ts?x=1&", "a.ts?x=1&&ticket=T"),
            ("a.ts#f", "a.ts?ticket=T#f"),
            ("a.ts?x#f?y", "a.ts?x&ticket=T#f?y"),
            ("a.ts#f?ticket=old", "a.ts?ticket=T#f?ticket=old"),
            ("a.ts?ticket=old", "a.ts?ticket=T"),
            ("a.ts?ticket", "a.ts?ticket=T"),
            ("a.ts?x&ticket=old&y#f", "a.ts?x&y&ticket=T#f"),
            ("a.ts?ticket=1&ticket=2", "a.ts?ticket=T"),
            ("a.ts?tickets=1&xticket=2", "a.ts?tickets=1&xticket=2&ticket=T"),
            ("a?b=c:d", "a?b=c:d&ticket=T"),
            ("a/b:c", "a/b:c?ticket=T"),
            ("1:2.ts", "1:2.ts?ticket=T"),
            ("seg-{$id}.ts", "seg-{$id}.ts?ticket=T"),
        ] {
            assert_eq!(added(uri).as_deref(), Some(right), "{uri}");
            assert_eq!(added(right).as_deref(), Some(right), "again: {uri}");
        }
    }

    #[test]
    fn our_authorities_get_it() {
        for uri in [
            "http://edge.example:8080/a",
            "HTTPS://EDGE.example:8080/a",
            "//edge.example:8080/a",
            "http://cdn.example/a",
            "http://cdn.example:80/a",
            "https://cdn.example:443/a",
            "https://cdn.example",
            "http://cdn.example?x",
            "http://[::1]/a",
        ] {
            assert!(added(uri).is_some_and(|uri| uri.contains("ticket=T")), "{uri}");
        }
    }

    #[test]
    fn others_do_not() {
        for uri in [
            "",
            "#fragment",
            "http://other.example/a",
            "//other.example/a",
            "\\\\other.example/a",
            "/\\other.example/a",
            "\\/cdn.example/a",
            "///cdn.example/a",
            "http:///cdn.example/a",
            "http:/a",
            "http:a",
            "http:\\\\cdn.example/a",
            "http://cdn.example@other.example/a",
            "http://user@cdn.example/a",
            "http://cdn.example.other.example/",
            "http://cdn.example:8080/",
            "https://cdn.example:80/",
            "http://edge.example/",
            "ftp://cdn.example/a",
            "data:text/plain,x",
            "skd://cdn.example/a",
            "blob:http://cdn.example/a",
            "javascript:x",
            "/\t/other.example/a",
            "ht\ntp://other.example/a",
            "{$base}/a.ts",
            "//",
        ] {
            assert_eq!(added(uri), None, "{uri}");
        }
    }
}
