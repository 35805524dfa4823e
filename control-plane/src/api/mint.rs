//! Signed URLs for viewers.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::Channel;
use shoal_ticket::{Profile, SignError, SignRequest, sign_url};

use super::documents::must_find;
use crate::access::audit;
use crate::app::App;
use crate::conf::answer::answers_at;
use crate::rest::input::Body;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::now_ms;
use crate::token::random_hex;

/// Longest life of what is signed: ten years.
pub(super) const MAX_TTL_S: u32 = 315_360_000;
/// Hexadecimal digits of a session id that was left to us.
const RANDOM_SESSION: usize = 16;

/// What to sign.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MintRequest {
    /// Path below the channel's prefix, percent-encoded, without a leading slash; a query may follow.
    pub path: String,
    /// Seconds that the URL lives; by default the channel's `access.ticket.ttl_s`.
    #[serde(default)]
    pub ttl_s: Option<u32>,
    /// Session id that usage is counted under; by default a random one. Shoal's own ticket only.
    #[serde(default)]
    pub session: Option<String>,
    /// Only clients of this network. Shoal's own ticket only.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub network: Option<IpNet>,
    /// What the ticket opens, below the channel's prefix; by default the folder of `path`. Shoal's own ticket only.
    #[serde(default)]
    pub opens: Option<String>,
    /// The viewer's address, for nginx expressions with `$remote_addr`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub client: Option<std::net::IpAddr>,
    /// This profile only, as in `shoal` or `tencent-d`; by default all that the channel accepts.
    #[serde(default)]
    pub profile: Option<String>,
    /// What the URLs begin with, as in `https://cdn.example.com`; by default the public URL of a connected node, or
    /// nothing when none is known.
    #[serde(default)]
    pub base: Option<String>,
}

/// The signed URLs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MintedUrls {
    /// Channel id.
    pub channel: String,
    /// Unix seconds.
    pub expires: u64,
    /// Session id that usage will be counted under.
    pub session: String,
    /// One for each profile.
    pub urls: Vec<MintedUrl>,
}

/// A URL signed by one profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MintedUrl {
    /// Name of the profile.
    pub profile: String,
    /// The URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Why this profile cannot sign it; only when no profile was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes.add(
        Operation::new(Method::POST, "/api/v1/channels/{id}/mint", "mintUrl", "Signs a URL for a viewer.")
            .body::<MintRequest>()
            .gives::<MintedUrls>(200, "One URL for each profile.")
            .fails(&[(404, "There is no such channel."), (409, "The channel asks for no ticket.")]),
        mint,
    )
}

async fn mint(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Body(request): Body<MintRequest>,
) -> Result<Json<MintedUrls>, Problem> {
    mint_urls(&app, &id, request).await.map(Json)
}

/// Signs URLs; also for the console.
pub(crate) async fn mint_urls(app: &App, id: &str, request: MintRequest) -> Result<MintedUrls, Problem> {
    audit::target("channel", id);
    let channel = must_find::<Channel>(app, id).await?.document;
    let Some(policy) = &channel.access.ticket else {
        let detail = format!("channel `{id}` asks for no ticket: its plain URLs work; set access.ticket to protect it");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let ttl = request.ttl_s.unwrap_or(policy.ttl_s);
    if !(1..=MAX_TTL_S).contains(&ttl) {
        return Err(Problem::field("ttl_s", ttl, format!("must be from 1 to {MAX_TTL_S} seconds")));
    }
    let random = random_hex().map_err(|error| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("/dev/urandom: {error}; check that it is there"))
    })?;
    let (nonce, session) = random.split_at_checked(RANDOM_SESSION).unwrap_or((&random, ""));
    let session = match &request.session {
        Some(session) => session.as_str(),
        None => session.get(..RANDOM_SESSION).unwrap_or_default(),
    };
    let base = match &request.base {
        Some(base) => check_base(base)?,
        None => public_url(app, &channel).unwrap_or_default(),
    };
    let (path, query) = match request.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request.path.as_str(), None),
    };
    for (field, value) in [("path", path), ("opens", request.opens.as_deref().unwrap_or_default())] {
        if value.starts_with('/') {
            return Err(Problem::field(field, value, "must be below the channel's prefix, without a leading slash"));
        }
    }
    let path = format!("{}{path}", channel.prefix);
    let opens = match &request.opens {
        Some(opens) => format!("{}{opens}", channel.prefix),
        None => path.get(..=path.rfind('/').unwrap_or(0)).unwrap_or("/").to_owned(),
    };
    let expires = now_ms() / 1000 + u64::from(ttl);
    let to_sign = SignRequest {
        channel: id,
        path: &path,
        query,
        path_prefix: &opens,
        expires,
        session,
        network: request.network,
        client: request.client,
        nonce,
        uid: "0",
    };
    let accepted = std::iter::once(&Profile::Shoal)
        .chain(policy.profiles.iter().filter(|profile| **profile != Profile::Shoal))
        .filter(|profile| request.profile.as_ref().is_none_or(|wanted| profile.name() == wanted));
    let mut urls = Vec::new();
    for profile in accepted {
        let name = profile.name().to_owned();
        match sign_url(policy, profile, &to_sign) {
            Ok(signed) => urls.push(MintedUrl { profile: name, url: Some(format!("{base}{signed}")), error: None }),
            Err(error) if request.profile.is_none() && *profile != Profile::Shoal => {
                urls.push(MintedUrl { profile: name, url: None, error: Some(error.to_string()) });
            }
            Err(error) => return Err(sign_problem(&error)),
        }
    }
    if urls.is_empty() {
        let known: Vec<&str> = std::iter::once("shoal").chain(policy.profiles.iter().map(Profile::name)).collect();
        let message = format!("is no profile that channel `{id}` accepts; these are: {}", known.join(", "));
        return Err(Problem::field("profile", request.profile.unwrap_or_default(), message));
    }
    Ok(MintedUrls { channel: id.to_owned(), expires, session: session.to_owned(), urls })
}

fn sign_problem(error: &SignError) -> Problem {
    match error {
        SignError::Field { field, problem } => {
            // The request's names.
            let field = match *field {
                "expires" => "ttl_s",
                "path_prefix" => "opens",
                "query" => "path",
                other => other,
            };
            Problem::field(field, serde_json::Value::Null, problem.as_str())
        }
        SignError::Policy(error) => Problem::new(StatusCode::CONFLICT, format!("access.ticket.{error}")),
    }
}

fn check_base(base: &str) -> Result<String, Problem> {
    let authority = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://")).unwrap_or_default();
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if authority.is_empty() || authority.contains('/') || !authority.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::field("base", base, "must be http://host[:port] or https://host[:port], without a path"));
    }
    Ok(base.trim_end_matches('/').to_owned())
}

/// The public URL of the first connected node that has one at which the channel answers.
fn public_url(app: &App, channel: &Channel) -> Option<String> {
    let urls = app.nodes().into_values().filter_map(|live| check_base(&live.public_url?).ok());
    urls.into_iter().find(|url| answers_at(channel, url))
}
