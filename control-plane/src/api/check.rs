//! Why would this URL, or this question to conf, be accepted or refused? Nothing is counted, and no nonce used up.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_conf::app::Shown;
use shoal_conf::{Code, Explanation, Subject};
use shoal_link::Channel;
use shoal_link::access::{Access, AccessRequest};
use shoal_ticket::{Presented, Refusal, Tried, Verifier};

use crate::app::App;
use crate::conf::request::{ConfRequest, Wanted, split_url};
use crate::rest::input::Body;
use crate::rest::openapi::{Operation, Routes};
use crate::rest::problem::Problem;
use crate::store::now_ms;

/// Longest URL, and the most bytes of all headers.
const MAX_TEXT: usize = 16 << 10;

/// A viewer's request to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// The URL, as the viewer sends it: `https://host/path?query`.
    pub url: String,
    /// Its headers: `Referer`, `Origin`, `User-Agent`, `Cookie`, `X-Shoal-Ticket`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The viewer's address; by default 0.0.0.0, which no list names.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub client: Option<IpAddr>,
    /// When: Unix seconds; by default now.
    #[serde(default)]
    pub at: Option<u64>,
}

/// Whether it would be accepted, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckReport {
    /// Whether a node would serve it.
    pub accepted: bool,
    /// The reason label under which a node counts the refusal.
    pub reason: Option<String>,
    /// Channel that answers to the URL.
    pub channel: Option<String>,
    /// Its tenant.
    pub tenant: Option<String>,
    /// When: Unix seconds.
    pub at: u64,
    /// Seconds of clock skew that the channel tolerates.
    pub skew_s: Option<u32>,
    /// Rules, one after the other.
    pub steps: Vec<CheckStep>,
    /// Every profile of signed URLs that the channel accepts; one that is right is enough.
    pub profiles: Vec<ProfileVerdict>,
}

/// A rule, and what becomes of the request by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckStep {
    /// The rule.
    pub rule: String,
    /// Whether the request keeps to it.
    pub ok: bool,
    /// What was found.
    pub says: String,
}

/// What the request shows of a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProfileVerdict {
    /// Name of the profile.
    pub profile: String,
    /// Whether it lets the request pass.
    pub ok: bool,
    /// `missing`, `malformed`, `key`, `signature`, `expired`, `path` or `network`, when it does not.
    pub reason: Option<String>,
    /// The same in words.
    pub says: Option<String>,
    /// What is hashed, with `{key}` for the key. Neither a key nor the right signature is told.
    pub hashed: Option<String>,
    /// The signature that came; of shoal's own ticket what it says.
    pub given: Option<String>,
    /// Id of the key that it was made with, when it is one of the channel's.
    pub key: Option<String>,
    /// Unix seconds.
    pub expires: Option<u64>,
    /// Seconds that are left; negative when it has expired.
    pub left_s: Option<i64>,
}

/// A question to conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// What is asked.
    pub request: ConfRequest,
    /// Its headers: `Referer`, `Origin`, `User-Agent`, `X-Shoal-Signature`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The viewer's address.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub client: Option<IpAddr>,
    /// ISO 3166-2, or the country; by default where the address is.
    #[serde(default)]
    pub region: Option<String>,
    /// Viewers of the channel; by default those that there are.
    #[serde(default)]
    pub viewers: Option<u64>,
    /// When: Unix seconds; by default now.
    #[serde(default)]
    pub at: Option<u64>,
}

/// What conf would answer, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExplainReport {
    /// Whether it would be answered.
    pub accepted: bool,
    /// The code of the refusal.
    pub code: Option<String>,
    /// Channel that is asked for.
    pub channel: Option<String>,
    /// The app's rules, one after the other. Whether a nonce was used before is not looked at.
    pub steps: Vec<CheckStep>,
    /// What was decided about P2P, and by which rules; also when the app refuses.
    pub decision: Option<Explanation>,
}

pub(super) fn add(routes: Routes) -> Routes {
    routes
        .add(
            Operation::new(Method::POST, "/api/v1/check", "checkUrl", "Why would this URL be accepted or refused?")
                .reads()
                .body::<CheckRequest>()
                .gives::<CheckReport>(200, "Rule by rule, and profile by profile."),
            check,
        )
        .add(
            Operation::new(
                Method::POST,
                "/api/v1/conf/explain",
                "explainConf",
                "What would conf answer, and which rule decides?",
            )
            .reads()
            .body::<ExplainRequest>()
            .gives::<ExplainReport>(200, "Rule by rule."),
            explain,
        )
}

/// The values of headers, by their names in any case.
struct Headers<'a>(&'a BTreeMap<String, String>);

impl Headers<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.get(name).map(str::as_bytes)
    }
}

async fn check(State(app): State<Arc<App>>, Body(request): Body<CheckRequest>) -> Result<Json<CheckReport>, Problem> {
    let CheckRequest { url, headers, client, at } = &request;
    let (authority, path) = split_url(url).filter(|_| url.len() <= MAX_TEXT).ok_or_else(|| {
        Problem::field("url", url.as_str(), "must be http://host/path or https://host/path, percent-encoded")
    })?;
    check_headers(headers)?;
    let at = at.unwrap_or_else(|| now_ms() / 1_000);
    let query = url.split_once('?').map(|(_, query)| query.split('#').next().unwrap_or_default());
    let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let headers = Headers(headers);
    let mut report = CheckReport {
        accepted: false,
        reason: None,
        channel: None,
        tenant: None,
        at,
        skew_s: None,
        steps: Vec::new(),
        profiles: Vec::new(),
    };
    let directory = app.conf.directory();
    let Some((channel, rest)) = directory.at(authority, path) else {
        report.step("channel", Err("no channel answers to this host and path".to_owned()), "no_channel");
        return Ok(Json(report));
    };
    report.channel = Some(channel.id.clone());
    report.tenant = Some(channel.tenant.clone());
    let found = format!("`{}` by its prefix {}; what follows is `{rest}`", channel.id, channel.prefix);
    report.step("channel", Ok(found), "");
    let enabled = if channel.enabled { Ok("is switched on".to_owned()) } else { Err("is switched off".to_owned()) };
    report.step("enabled", enabled, "channel_disabled");
    report.lists(channel, &headers, client)?;
    report.ticket(
        channel,
        &Presented {
            path,
            query,
            cookie: headers.get("cookie"),
            header: headers.get("x-shoal-ticket"),
            client,
            now: at,
        },
    );
    report.accepted = report.reason.is_none();
    Ok(Json(report))
}

impl CheckReport {
    /// The first that fails is the reason.
    fn step(&mut self, rule: &str, outcome: Result<String, String>, reason: &str) {
        let ok = outcome.is_ok();
        if !ok && self.reason.is_none() {
            self.reason = Some(reason.to_owned());
        }
        self.steps.push(CheckStep { rule: rule.to_owned(), ok, says: outcome.unwrap_or_else(|says| says) });
    }

    /// Address, Referer and User-Agent, each on its own.
    fn lists(&mut self, channel: &Channel, headers: &Headers<'_>, client: IpAddr) -> Result<(), Problem> {
        let whole = AccessRequest {
            referer: headers.bytes("referer"),
            origin: headers.bytes("origin"),
            user_agent: headers.bytes("user-agent"),
            client,
        };
        let all = &channel.access;
        let only = |rule: &str| {
            let mut policy = shoal_link::channel::AccessPolicy::default();
            match rule {
                "address" => policy.address = all.address.clone(),
                "referer" => policy.referer = all.referer.clone(),
                _ => policy.user_agent = all.user_agent.clone(),
            }
            policy
        };
        for rule in ["address", "referer", "user_agent"] {
            // A stored channel was checked.
            let access =
                Access::compile(&only(rule)).map_err(|error| Problem::field(error.field, error.value, error.remedy))?;
            match access.check(&whole) {
                Ok(()) => self.step(rule, Ok("the list allows it, or there is none".to_owned()), ""),
                Err(denied) => self.step(rule, Err(denied.to_string()), denied.reason()),
            }
        }
        Ok(())
    }

    fn ticket(&mut self, channel: &Channel, presented: &Presented<'_>) {
        let Some(policy) = &channel.access.ticket else {
            return self.step("ticket", Ok("the channel asks for none".to_owned()), "");
        };
        self.skew_s = Some(policy.skew_s);
        let verifier = match Verifier::new(&channel.id, policy) {
            Ok(verifier) => verifier,
            Err(error) => return self.step("ticket", Err(error.to_string()), "policy"),
        };
        self.profiles = verifier.explain(presented).into_iter().map(|tried| verdict(tried, presented.now)).collect();
        match verifier.verify(presented) {
            Ok(pass) => self.step("ticket", Ok(format!("the {} signature is right", pass.form)), ""),
            Err(refusal) => self.step("ticket", Err(refusal.to_string()), refusal.reason()),
        }
    }
}

fn verdict(tried: Tried, now: u64) -> ProfileVerdict {
    let Tried { form, hashed, given, expires, key, refused } = tried;
    ProfileVerdict {
        profile: form.to_owned(),
        ok: refused.is_none(),
        reason: refused.as_ref().map(|refusal: &Refusal| refusal.reason().to_owned()),
        says: refused.map(|refusal| refusal.to_string()),
        hashed,
        given,
        key,
        left_s: expires.map(|expires| i64::try_from(expires).unwrap_or(i64::MAX).saturating_sub_unsigned(now)),
        expires,
    }
}

async fn explain(
    State(app): State<Arc<App>>,
    Body(asked): Body<ExplainRequest>,
) -> Result<Json<ExplainReport>, Problem> {
    let ExplainRequest { request, headers, client, region, viewers, at } = &asked;
    let wanted = request.check().map_err(|error| {
        let field = format!("request.{}", error.field);
        Problem::field(field, error.value, error.message)
    })?;
    check_headers(headers)?;
    let at = at.unwrap_or_else(|| now_ms() / 1_000);
    let (directory, compiled) = (app.conf.directory(), app.conf.compiled());
    let mut report = ExplainReport { accepted: false, code: None, channel: None, steps: Vec::new(), decision: None };
    let Some(rules) = compiled.app(&request.app) else {
        report.step("app", Some(Code::AppUnknown));
        return Ok(Json(report));
    };
    report.step("app", None);
    let found = match wanted {
        Wanted::Channel(id, asset) => directory.channel(id).map(|channel| (channel, asset)),
        Wanted::Url(host, path) => {
            directory.at(host, path).map(|(channel, rest)| (channel, Some(rest).filter(|rest| !rest.is_empty())))
        }
    };
    let Some((channel, asset)) = found.filter(|(channel, _)| *channel.tenant == *rules.tenant) else {
        report.step("channel", Some(Code::ChannelUnknown));
        return Ok(Json(report));
    };
    report.channel = Some(channel.id.clone());
    let headers = Headers(headers);
    let pass = request.pass.as_deref().and_then(|pass| app.passes().verify(pass, at).ok());
    let shown = Shown {
        referer: headers.bytes("referer"),
        origin: headers.bytes("origin"),
        user_agent: headers.bytes("user-agent"),
        client: client.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        package: request.package.as_deref(),
        signature: headers.get("x-shoal-signature").or(request.signature.as_deref()),
        has_pass: pass.is_some_and(|pass| pass.app == rules.id && *pass.channel == *channel.id),
        now: at,
    };
    for verdict in rules.explain(&shown, &request.signed()) {
        report.step(verdict.rule, verdict.refused);
    }
    report.step("channel", if channel.enabled { None } else { Some(Code::ChannelDisabled) });
    let place = client.map(|client| app.places.place(client)).unwrap_or_default();
    let region = region.as_deref().unwrap_or(&place.region);
    let platform = request.platform.as_ref().map(|platform| platform.to_ascii_lowercase());
    report.decision = Some(compiled.engine.explain(&Subject {
        tenant: &channel.tenant,
        app: &request.app,
        channel: &channel.id,
        asset,
        platform: platform.as_deref(),
        sdk: request.sdk.as_deref(),
        country: region.split('-').next().unwrap_or_default(),
        region,
        address: *client,
        viewer: request.viewer.as_deref().or(request.session.as_deref()),
        viewers: viewers.or_else(|| Some(app.tracker.viewers(&channel.tenant, &channel.id))),
        now: Some(at),
    }));
    report.accepted = report.code.is_none();
    Ok(Json(report))
}

impl ExplainReport {
    fn step(&mut self, rule: &str, refused: Option<Code>) {
        if self.code.is_none() {
            self.code = refused.map(|code| code.as_str().to_owned());
        }
        let says = refused.map_or("The request keeps to it.", Code::help);
        self.steps.push(CheckStep { rule: rule.to_owned(), ok: refused.is_none(), says: says.to_owned() });
    }
}

fn check_headers(headers: &BTreeMap<String, String>) -> Result<(), Problem> {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let line = headers.values().all(|value| !value.bytes().any(|byte| byte.is_ascii_control()));
    if bytes > MAX_TEXT || !line {
        let message = format!("must be one line each, of {MAX_TEXT} bytes in all");
        return Err(Problem::field("headers", serde_json::Value::Null, message));
    }
    Ok(())
}
