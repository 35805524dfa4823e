//! The routes of conf on the public API.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use shoal_conf::app::{Nonce, Shown, SignatureUse};
use shoal_conf::{AppRules, Code, Settled, Subject};
use shoal_link::Channel;

use super::answer::{ConfAnswer, Facts, Viewer};
use super::nodes::choose;
use super::renew::life_s;
use super::request::{ConfRequest, Wanted};
use crate::app::App;
use crate::geo::Place;
use crate::pass::Pass;
use crate::rest::client;
use crate::rest::input::{Body, Params};
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::now_ms;
use crate::token::random_hex;

/// Header of a request's signature.
const SIGNATURE: &str = "x-shoal-signature";
/// Hexadecimal digits of a session that was left to us.
const RANDOM_SESSION: usize = 16;
/// What a viewer's own answer may be kept.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, max-age=0");
/// What an answer for all may be kept: one interval.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=16");
/// What is found by its digest never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// Longest digest that is looked for.
const MAX_DIGEST: usize = 64;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PublicParams {
    /// App id.
    app: String,
    /// Channel id.
    channel: String,
}

/// Adds them.
pub(crate) fn add(routes: Routes) -> Routes {
    let refused = (403, "It is refused; `code` says why.");
    let unknown = (404, "There is no such app or channel; `code` says which.");
    let unreadable = (400, "A parameter is wrong; it is named.");
    let signature = "The request's signature, unless it is the parameter `signature`.";
    routes
        .add(
            Operation::new(
                Method::GET,
                "/v1/conf",
                "conf",
                "Whether and how a viewer uses P2P, and what it needs for it.",
            )
            .open()
            .query::<ConfRequest>()
            .header("X-Shoal-Signature", signature)
            .header("If-None-Match", "The ETag of the last answer.")
            .gives::<ConfAnswer>(200, "The answer; its ETag is set.")
            .gives_nothing(304, "Nothing has changed, and what the viewer has is good for long enough.")
            .fails(&[unreadable, refused, unknown]),
            get,
        )
        .add(
            Operation::new(Method::POST, "/v1/conf", "postConf", "The same, asked by JSON.")
                .open()
                .header("X-Shoal-Signature", signature)
                .body::<ConfRequest>()
                .gives::<ConfAnswer>(200, "The answer; its ETag is set.")
                .gives_nothing(304, "Nothing has changed, and what the viewer has is good for long enough.")
                .fails(&[refused, unknown]),
            post,
        )
        .add(
            Operation::new(Method::GET, "/v1/conf/public", "publicConf", "The same for nobody: caches may keep it.")
                .open()
                .query::<PublicParams>()
                .header("If-None-Match", "The ETag of the last answer.")
                .gives::<ConfAnswer>(200, "The answer, without session, pass, ticket and TURN user; its ETag is set.")
                .gives_nothing(304, "Nothing has changed.")
                .fails(&[refused, unknown]),
            public,
        )
        .add(
            Operation::new(Method::GET, "/v1/parameters/{digest}", "parameters", "Parameters by their digest.")
                .open()
                .gives::<Settled>(200, "They never change.")
                .fails(&[(404, "There are none of this digest; ask conf again.")]),
            parameters,
        )
}

/// Who asks, as the connection and the headers say.
pub(crate) struct Asker {
    pub(crate) client: IpAddr,
    /// `http://` or `https://` and the host that was asked.
    base: Option<String>,
    headers: HeaderMap,
}

impl FromRequestParts<Arc<App>> for Asker {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Infallible> {
        let public = &app.config.public;
        let client = client::address(&parts.extensions, &parts.headers, &public.trusted_proxies);
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        let authority = |host: &&str| shoal_link::access::names::host_and_port(host).is_some();
        let base = match public.url.trim_end_matches('/') {
            "" => host.filter(authority).map(|host| format!("{}://{host}", public.scheme())),
            url => Some(url.to_owned()),
        };
        // Only tests ask without a connection.
        let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Ok(Self { client, base, headers: parts.headers.clone() })
    }
}

impl Asker {
    fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The pass that comes as a bearer token.
    fn bearer(&self) -> Option<&str> {
        self.header(header::AUTHORIZATION)?.strip_prefix("Bearer ")
    }

    fn has(&self, tag: &str) -> bool {
        let given = self.headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let tags = given.flat_map(|value| value.split(','));
        tags.map(|given| given.trim().trim_start_matches("W/")).any(|given| given == tag || given == "*")
    }
}

async fn get(
    State(app): State<Arc<App>>,
    asker: Asker,
    Params(request): Params<ConfRequest>,
) -> Result<Response, Problem> {
    serve(&app, &asker, &request).await
}

async fn post(
    State(app): State<Arc<App>>,
    asker: Asker,
    Body(request): Body<ConfRequest>,
) -> Result<Response, Problem> {
    serve(&app, &asker, &request).await
}

async fn serve(app: &App, asker: &Asker, request: &ConfRequest) -> Result<Response, Problem> {
    let now = now_ms() / 1_000;
    let wanted = request.check().map_err(Problem::parameter)?;
    let directory = app.conf.directory();
    let compiled = app.conf.compiled();
    let Some(rules) = compiled.app(&request.app) else { return Err(refuse(app, Code::AppUnknown, None, "", now)) };
    let found = match wanted {
        Wanted::Channel(id, asset) => directory.channel(id).map(|channel| (channel, asset)),
        Wanted::Url(host, path) => {
            directory.at(host, path).map(|(channel, rest)| (channel, Some(rest).filter(|rest| !rest.is_empty())))
        }
    };
    // Another tenant's channel is none of the app's business, not even that it is there.
    let Some((channel, asset)) = found.filter(|(channel, _)| *channel.tenant == *rules.tenant) else {
        return Err(refuse(app, Code::ChannelUnknown, Some(rules), "", now));
    };
    let pass = request.pass.as_deref().or_else(|| asker.bearer());
    // One that is not good is as none: what it stood in for is asked for again.
    let pass = pass.and_then(|pass| app.conf.passes().verify(pass, now).ok()).filter(|pass| of(pass, rules, channel));
    let refused = |code| refuse(app, code, Some(rules), &channel.id, now);
    let nonce = admit(app, asker, request, rules, pass.is_some(), now).map_err(refused)?;
    if let Some(Nonce { nonce, until }) = nonce
        && !app.tracker.is_first(&format!("{}:{nonce}", rules.id), until.saturating_sub(now)).await
    {
        return Err(refused(Code::SignatureReplayed));
    }
    if !channel.enabled {
        return Err(refuse(app, Code::ChannelDisabled, Some(rules), &channel.id, now));
    }
    let session = match (&request.session, &pass) {
        (Some(session), _) => session.clone(),
        (None, Some(pass)) => pass.session.to_string(),
        (None, None) => random_session()?,
    };
    let place = app.places.place(asker.client);
    let platform = request.platform.as_ref().map(|platform| platform.to_ascii_lowercase());
    let decision = compiled.engine.decide(&Subject {
        tenant: &channel.tenant,
        app: &request.app,
        channel: &channel.id,
        asset,
        platform: platform.as_deref(),
        sdk: request.sdk.as_deref(),
        country: &place.country,
        region: &place.region,
        address: Some(asker.client),
        viewer: Some(request.viewer.as_deref().filter(|viewer| !viewer.is_empty()).unwrap_or(&session)),
        viewers: Some(app.tracker.viewers(&channel.tenant, &channel.id)),
        now: Some(now),
    });
    let nodes = app.conf.nodes();
    let facts = Facts {
        app: &request.app,
        channel,
        tenant: directory.tenant(&channel.tenant),
        asset,
        decision,
        nodes: choose(&nodes, &place, spread(&session)),
        base: asker.base.as_deref(),
    };
    let shared = ConfAnswer::shared(&facts);
    let tag = shared.tag();
    let life = life_s(&app.config.conf, channel);
    // What the viewer has ends with its pass: while more than half of that is left, there is nothing to renew.
    let lasts = pass.is_some_and(|pass| {
        pass.relay_only == shared.parameters.relay_only
            && *pass.session == *session
            && pass.expires.saturating_sub(now) > life / 2
    });
    if lasts && asker.has(&tag) {
        return Ok(unchanged(&tag, PRIVATE));
    }
    remember(app, &shared).await;
    let viewer = Viewer { session: &session, expires: now + life, keys: &app.conf.passes() };
    let answer = shared.personal(&facts, &viewer).map_err(|error| {
        let field = if asset.is_some() { "asset" } else { "channel" };
        Problem::parameter(crate::field::FieldError::new(field, asset.unwrap_or_default(), error.to_string()))
    })?;
    Ok(with_tag(&tag, PRIVATE, Json(answer).into_response()))
}

async fn public(
    State(app): State<Arc<App>>,
    asker: Asker,
    Params(PublicParams { app: id, channel }): Params<PublicParams>,
) -> Result<Response, Problem> {
    let now = now_ms() / 1_000;
    let directory = app.conf.directory();
    let compiled = app.conf.compiled();
    let Some(rules) = compiled.app(&id) else { return Err(refuse(&app, Code::AppUnknown, None, "", now)) };
    let Some(channel) = directory.channel(&channel).filter(|channel| *channel.tenant == *rules.tenant) else {
        return Err(refuse(&app, Code::ChannelUnknown, Some(rules), "", now));
    };
    // A cache hands it to everybody, so what depends on who asks is not looked at; an app that lets only some ask has none.
    let refused = match () {
        () if !rules.enabled => Some(Code::AppDisabled),
        () if rules.signature == SignatureUse::Required => Some(Code::SignatureMissing),
        () if !channel.enabled => Some(Code::ChannelDisabled),
        () => None,
    };
    if let Some(code) = refused {
        return Err(refuse(&app, code, Some(rules), &channel.id, now));
    }
    let nobody = Subject {
        tenant: &channel.tenant,
        app: &id,
        channel: &channel.id,
        asset: None,
        platform: None,
        sdk: None,
        country: "",
        region: "",
        address: None,
        viewer: None,
        viewers: Some(app.tracker.viewers(&channel.tenant, &channel.id)),
        now: Some(now),
    };
    let nodes = app.conf.nodes();
    let facts = Facts {
        app: &id,
        channel,
        tenant: directory.tenant(&channel.tenant),
        asset: None,
        decision: compiled.engine.decide(&nobody),
        nodes: choose(&nodes, &Place::default(), 0),
        base: asker.base.as_deref(),
    };
    let answer = ConfAnswer::shared(&facts);
    let tag = answer.tag();
    if asker.has(&tag) {
        return Ok(unchanged(&tag, PUBLIC));
    }
    remember(&app, &answer).await;
    Ok(with_tag(&tag, PUBLIC, Json(answer).into_response()))
}

async fn parameters(State(app): State<Arc<App>>, Path(digest): Path<String>) -> Result<Response, Problem> {
    let missing = || {
        let detail = "there are no parameters of this digest; ask conf again, and take the digest of its answer";
        Problem::new(StatusCode::NOT_FOUND, detail)
    };
    if digest.len() > MAX_DIGEST {
        return Err(missing());
    }
    let tag = format!("\"{digest}\"");
    let found = app.db(move |store| store.parameters(&digest)).await?;
    let document = found.ok_or_else(missing)?;
    let response = ([(header::CONTENT_TYPE, "application/json")], document).into_response();
    Ok(with_tag(&tag, FOREVER, response))
}

/// Whether a request may pass, as far as this instance knows; its nonce is used up here then.
fn admit<'a>(
    app: &App,
    asker: &'a Asker,
    request: &'a ConfRequest,
    rules: &AppRules,
    has_pass: bool,
    now: u64,
) -> Result<Option<Nonce<'a>>, Code> {
    let bytes = |name: header::HeaderName| asker.headers.get(name).map(HeaderValue::as_bytes);
    let shown = Shown {
        referer: bytes(header::REFERER),
        origin: bytes(header::ORIGIN),
        user_agent: bytes(header::USER_AGENT),
        client: asker.client,
        package: request.package.as_deref(),
        signature: asker.header(SIGNATURE).or(request.signature.as_deref()),
        has_pass,
        now,
    };
    let nonce = rules.admit(&shown, &request.signed())?;
    if let Some(nonce) = nonce {
        app.conf.take_nonce(&rules.id, nonce.nonce, nonce.until, now)?;
    }
    Ok(nonce)
}

/// Whether a pass is of this app and channel.
fn of(pass: &Pass, rules: &AppRules, channel: &Channel) -> bool {
    pass.tenant == rules.tenant && pass.app == rules.id && *pass.channel == *channel.id
}

/// Counts a refusal, and words it.
fn refuse(app: &App, code: Code, rules: Option<&Arc<AppRules>>, channel: &str, now: u64) -> Problem {
    let (tenant, id) = rules.map_or(("", ""), |rules| (&rules.tenant, &rules.id));
    app.metrics.conf_refused(code);
    app.conf.refusals.count(tenant, id, channel, code, now);
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::FORBIDDEN);
    Problem::new(status, code.help()).code(code.as_str())
}

/// Puts parameters where every instance finds them by their digest. If that fails, what was told still holds.
async fn remember(app: &App, answer: &ConfAnswer) {
    let digest = answer.parameters_digest.clone();
    if app.conf.knows_parameters(&digest) {
        return;
    }
    let Ok(document) = serde_json::to_string(&answer.parameters) else { return };
    let key = digest.clone();
    if app.db(move |store| store.remember_parameters(&key, &document)).await.is_ok() {
        app.conf.learn_parameters(&digest);
    }
}

fn random_session() -> Result<String, Problem> {
    let digits = random_hex().map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("/dev/urandom: {error}; check that it is there"))
    })?;
    Ok(digits.chars().take(RANDOM_SESSION).collect())
}

/// A number that differs from viewer to viewer.
fn spread(session: &str) -> u64 {
    session.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte))
}

fn with_tag(tag: &str, cache: HeaderValue, mut response: Response) -> Response {
    // A tag is visible ASCII in quotes.
    if let Ok(tag) = tag.parse() {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, cache);
    response
}

fn unchanged(tag: &str, cache: HeaderValue) -> Response {
    with_tag(tag, cache, StatusCode::NOT_MODIFIED.into_response())
}
