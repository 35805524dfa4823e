//! The expression of nginx's `secure_link_md5`.

use std::net::IpAddr;

use crate::path::hex_digit;
use crate::query::param;

/// A parsed expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expression {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Secret,
    Expires,
    Uri,
    RemoteAddr,
    Argument(String),
}

/// What the variables stand for in one request.
pub(crate) struct Variables<'a> {
    pub(crate) secret: &'a [u8],
    pub(crate) expires: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    /// Must be there when [`Expression::binds_client`].
    pub(crate) client: Option<IpAddr>,
}

impl Expression {
    /// Parses `text`. `expires_param` is the query parameter that `$secure_link_expires` stands for.
    pub(crate) fn parse(text: &str, expires_param: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('$') {
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.to_owned()));
            }
            let (name, after) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or_else(|| format!("`{text}`: close the brace of `${{`"))?,
                None => {
                    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
                    after.split_at(after.find(|character| !is_name(character)).unwrap_or(after.len()))
                }
            };
            parts.push(match name {
                "secret" => Part::Secret,
                "secure_link_expires" => Part::Expires,
                "uri" => Part::Uri,
                "remote_addr" => Part::RemoteAddr,
                _ => match name.strip_prefix("arg_").filter(|name| !name.is_empty()) {
                    Some(name) if name == expires_param => Part::Expires,
                    Some(name) => Part::Argument(name.to_owned()),
                    None => {
                        return Err(format!(
                            "`${name}` is not known: use $secret, $secure_link_expires, $uri, $remote_addr or $arg_NAME"
                        ));
                    }
                },
            });
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.to_owned()));
        }
        if !parts.contains(&Part::Secret) {
            return Err(format!("`{text}` has no $secret: anybody could sign; put $secret where the key belongs"));
        }
        if !parts.contains(&Part::Expires) {
            return Err(format!("`{text}` has no $secure_link_expires: a viewer could extend the URL; add it"));
        }
        Ok(Self { parts })
    }

    /// Whether signatures are good for one client address only.
    pub(crate) fn binds_client(&self) -> bool {
        self.parts.contains(&Part::RemoteAddr)
    }

    /// The expression with its variables put in, piece by piece.
    pub(crate) fn feed(&self, variables: &Variables<'_>, sink: &mut impl FnMut(&[u8])) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => sink(text.as_bytes()),
                Part::Secret => sink(variables.secret),
                Part::Expires => sink(variables.expires.as_bytes()),
                Part::Uri => feed_decoded(variables.path, sink),
                Part::RemoteAddr => {
                    if let Some(client) = variables.client {
                        sink(client.to_canonical().to_string().as_bytes());
                    }
                }
                Part::Argument(name) => sink(param(variables.query, name).unwrap_or_default().as_bytes()),
            }
        }
    }
}

/// nginx's `$uri` is the path with its percent-encoding undone.
fn feed_decoded(path: &str, sink: &mut impl FnMut(&[u8])) {
    let mut rest = path.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        let (plain, escape) = rest.split_at(at);
        sink(plain);
        rest = match escape {
            [_, high, low, after @ ..] => match (hex_digit(*high), hex_digit(*low)) {
                (Some(high), Some(low)) => {
                    sink(&[high << 4 | low]);
                    after
                }
                _ => {
                    sink(b"%");
                    escape.get(1..).unwrap_or_default()
                }
            },
            _ => {
                sink(escape);
                &[]
            }
        };
    }
    sink(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(text: &str, path: &str) -> String {
        let variables = Variables {
            secret: b"K",
            expires: "7",
            path,
            query: "a=1&e=7",
            client: Some("::ffff:192.0.2.1".parse().unwrap()),
        };
        let mut text_of = Vec::new();
        Expression::parse(text, "e").unwrap().feed(&variables, &mut |piece| text_of.extend_from_slice(piece));
        String::from_utf8(text_of).unwrap()
    }

    #[test]
    fn variables_are_put_in() {
        assert_eq!(hashed("$secure_link_expires$uri$remote_addr $secret", "/x"), "7/x192.0.2.1 K");
        assert_eq!(hashed("${secret}x$arg_e-$arg_a-$arg_none/", "/x"), "Kx7-1-/");
        assert_eq!(hashed("$secret$arg_e$uri", "/%41%2f%zz%4%"), "K7/A/%zz%4%");
    }

    #[test]
    fn bad_expressions_say_why() {
        for (text, word) in [
            ("$uri$secure_link_expires", "no $secret"),
            ("$uri$secret", "no $secure_link_expires"),
            ("$secret$arg_e$host", "`$host` is not known"),
            ("$secret$arg_e$", "`$` is not known"),
            ("$secret$arg_e$arg_", "`$arg_` is not known"),
            ("$secret${arg_e", "close the brace"),
        ] {
            let error = Expression::parse(text, "e").unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
