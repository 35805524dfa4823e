//! Sessions: a random id in a cookie, its hash in the store, and what keeps other pages from using it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, Uri, header};
use subtle::ConstantTimeEq;

use crate::access::{Actor, Kind, Role, secret};
use crate::app::App;
use crate::store::{SessionRow, StoreError, now_ms};
use crate::token::random_hex;

/// Of a session.
pub(super) const COOKIE: &str = "shoal_session";
/// Of a browser at the log-in, before it has a session.
pub(super) const LOGIN_COOKIE: &str = "shoal_login";
/// A session's last use is written down at most so often.
const USED_EVERY_MS: u64 = 60_000;
/// Longest header with cookies that is looked into.
const MAX_COOKIES: usize = 8 << 10;

/// Somebody at the console.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) actor: Actor,
    /// What each form must send back.
    pub(crate) form_token: Arc<str>,
    /// Hash of its id.
    pub(crate) hash: Arc<str>,
    /// From where.
    pub(crate) address: Option<IpAddr>,
}

impl Session {
    pub(crate) fn may(&self, role: Role) -> bool {
        self.actor.role >= role
    }
}

/// The session that the request's cookie names, if it lives.
pub(super) async fn find(
    app: &App,
    headers: &HeaderMap,
    address: Option<IpAddr>,
) -> Result<Option<Session>, StoreError> {
    let Some(id) = cookie(headers, COOKIE).filter(|id| secret::is_id(id)) else { return Ok(None) };
    let (hash, now) = (secret::hash(id), now_ms());
    let asked = hash.clone();
    let Some(row) = app.db(move |store| store.session(&asked)).await? else { return Ok(None) };
    let idle_ms = u64::from(app.config.access.session_idle_s) * 1_000;
    let Some(actor) = holder(&row, &app.token.hash(), idle_ms, now) else { return Ok(None) };
    if row.used_ms.saturating_add(USED_EVERY_MS.min(idle_ms / 4)) <= now {
        let used = hash.clone();
        // A database that cannot write must not keep anybody from reading; it is counted and logged.
        let _ = app.db(move |store| store.session_used(&used, now)).await;
    }
    Ok(Some(Session { actor, form_token: secret::form_token(id).into(), hash: hash.into(), address }))
}

/// Whose it is; none when it has ended.
fn holder(row: &SessionRow, token_file: &str, idle_ms: u64, now: u64) -> Option<Actor> {
    if now >= row.expires_ms || now >= row.used_ms.saturating_add(idle_ms) {
        return None;
    }
    match row.kind {
        Kind::TokenFile => (row.name == token_file).then(Actor::token_file),
        kind @ (Kind::Token | Kind::User) => Some(Actor { kind, name: row.name.as_str().into(), role: row.role? }),
    }
}

/// Begins a session; the cookie to set.
pub(super) async fn begin(app: &App, actor: &Actor, secure: bool) -> Result<HeaderValue, StoreError> {
    let id = random(app)?;
    let (hash, now) = (secret::hash(&id), now_ms());
    let name = match actor.kind {
        Kind::TokenFile => app.token.hash(),
        Kind::Token | Kind::User => actor.name.as_ref().to_owned(),
    };
    let (kind, expires) = (actor.kind, now + u64::from(app.config.access.session_max_s) * 1_000);
    app.db(move |store| store.begin_session(&hash, kind, &name, now, expires)).await?;
    Ok(set(COOKIE, &id, secure))
}

/// The id of a browser that comes to log in, and the cookie to set when it has none yet.
pub(super) fn visitor(
    app: &App,
    headers: &HeaderMap,
    secure: bool,
) -> Result<(String, Option<HeaderValue>), StoreError> {
    if let Some(id) = cookie(headers, LOGIN_COOKIE).filter(|id| secret::is_id(id)) {
        return Ok((id.to_owned(), None));
    }
    let id = random(app)?;
    let cookie = set(LOGIN_COOKIE, &id, secure);
    Ok((id, Some(cookie)))
}

fn random(app: &App) -> Result<String, StoreError> {
    random_hex().map_err(|error| app.store_error(format!("/dev/urandom: {error}")))
}

/// A cookie for the console alone, which no script and no other site's page can use.
fn set(name: &str, value: &str, secure: bool) -> HeaderValue {
    let secure = if secure { "; Secure" } else { "" };
    let text = format!("{name}={value}; Path=/console; HttpOnly; SameSite=Strict{secure}");
    // Hexadecimal digits and fixed words.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Takes a cookie away.
pub(super) fn forget(name: &str) -> HeaderValue {
    let text = format!("{name}=; Path=/console; HttpOnly; SameSite=Strict; Max-Age=0");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// A cookie's value (RFC 6265 section 5.4).
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter(|value| value.len() <= MAX_COOKIES)
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// Whether a form comes from a page of ours, as far as the browser says (Fetch Metadata; RFC 6454 section 7). One that says
/// nothing has the form's token alone to show.
pub(super) fn is_ours(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if text("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return false;
    }
    let Some(origin) = text("origin") else { return true };
    // HTTP/2 has it in the URI.
    let Some(host) = text("host").or(uri.authority().map(|authority| authority.as_str())) else { return false };
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Whether the browser speaks HTTPS, maybe to a proxy before us.
pub(super) fn is_https(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Where one of them is made up, the cookie is only the safer.
    text("x-forwarded-proto").eq_ignore_ascii_case("https") || text("origin").starts_with("https://")
}

/// Whether a form has the token of this id, compared in a time that tells nothing.
pub(super) fn has_token(given: &str, expected: &str) -> bool {
    given.as_bytes().ct_eq(expected.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn only_our_own_pages_send_forms() {
        let uri = Uri::from_static("/console/logout");
        let ours = |list: &[(&'static str, &'static str)]| is_ours(&headers(list), &uri);
        assert!(ours(&[("host", "a.test:9091"), ("origin", "http://a.test:9091"), ("sec-fetch-site", "same-origin")]));
        assert!(ours(&[("host", "a.test"), ("origin", "https://A.test")]));
        assert!(ours(&[("host", "a.test")]), "a browser that says nothing");
        for list in [
            &[("host", "a.test"), ("origin", "http://b.test")][..],
            &[("host", "a.test"), ("origin", "http://a.test:81")],
            &[("host", "a.test"), ("origin", "null")],
            &[("host", "a.test"), ("origin", "http://a.test.evil.test")],
            &[("host", "a.test"), ("origin", "ftp://a.test")],
            &[("origin", "http://a.test")],
            &[("host", "a.test"), ("sec-fetch-site", "same-site")],
            &[("host", "a.test"), ("sec-fetch-site", "cross-site"), ("origin", "http://a.test")],
            &[("host", "a.test"), ("sec-fetch-site", "none")],
        ] {
            assert!(!ours(list), "{list:?}");
        }
        let http2 = Uri::from_static("http://a.test/console/logout");
        assert!(is_ours(&headers(&[("origin", "http://a.test")]), &http2));
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let headers = headers(&[("cookie", "a=1; xshoal_session=2; shoal_session=3"), ("cookie", "b=4;c=5")]);
        let found = ["a", "shoal_session", "b", "c", "session"].map(|name| cookie(&headers, name));
        assert_eq!(found, [Some("1"), Some("3"), Some("4"), Some("5"), None]);
    }

    #[test]
    fn cookies_are_for_the_console_alone() {
        let cookie = set(COOKIE, "ab", true);
        assert_eq!(cookie, "shoal_session=ab; Path=/console; HttpOnly; SameSite=Strict; Secure");
        assert_eq!(set(COOKIE, "ab", false), "shoal_session=ab; Path=/console; HttpOnly; SameSite=Strict");
        assert!(is_https(&headers(&[("origin", "https://a.test")])) && !is_https(&headers(&[("host", "a.test")])));
    }

    #[test]
    fn sessions_end_when_idle_when_old_and_with_their_owner() {
        let row = |kind, name: &str, role| SessionRow {
            kind,
            name: name.to_owned(),
            role,
            created_ms: 0,
            used_ms: 1_000,
            expires_ms: 5_000,
        };
        let alice = row(Kind::User, "alice", Some(Role::Viewer));
        let at = |now| holder(&alice, "hash", 3_000, now).map(|actor| actor.role);
        assert_eq!((at(1_000), at(3_999), at(4_000)), (Some(Role::Viewer), Some(Role::Viewer), None));
        assert_eq!(holder(&SessionRow { used_ms: 4_999, ..alice.clone() }, "hash", 3_000, 5_000), None);
        assert_eq!(holder(&row(Kind::User, "gone", None), "hash", 3_000, 1_000), None);
        assert_eq!(
            holder(&row(Kind::TokenFile, "hash", Some(Role::Admin)), "hash", 3_000, 1_000),
            Some(Actor::token_file())
        );
        assert_eq!(
            holder(&row(Kind::TokenFile, "old", Some(Role::Admin)), "hash", 3_000, 1_000),
            None,
            "another token now"
        );
    }
}
