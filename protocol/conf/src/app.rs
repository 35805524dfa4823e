//! Apps: in whose name SDKs ask, and who may.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shoal_link::access::{Access, AccessRequest, Denied};
use shoal_link::channel::{AccessPolicy, AddressRule, NameRule};
use shoal_link::tenant::DEFAULT;
use shoal_ticket::Key;

use crate::code::Code;
use crate::glob::Glob;
use crate::signature::{Parameters, Signature};
use crate::wrong::{Wrong, bounded, check_id};

/// Most keys of an app.
pub const MAX_KEYS: usize = 16;
/// Shortest secret of a key: one signature is enough to guess a shorter one without asking anybody.
pub const MIN_SECRET: usize = 16;
/// Longest secret of a key.
pub const MAX_SECRET: usize = 256;
/// Longest replay window.
pub const MAX_WINDOW_S: u32 = 3_600;
/// Most patterns in a list.
const MAX_LIST: usize = 4096;

/// A customer's player or program: SDKs name it, and its rules say who may.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// Unique name: 1 to 64 of `a-z 0-9 - _ .`.
    pub id: String,
    /// Whose it is; channels of other tenants are not told to it.
    #[serde(default = "default_tenant")]
    pub tenant: String,
    /// Off: every request in its name is refused with `app_disabled`.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What requests are signed with. The first one is for new ones, all are accepted; up to 16.
    #[serde(default)]
    pub keys: Vec<Key>,
    /// Who may ask in its name.
    #[serde(default)]
    pub access: AppAccess,
}

/// Who may ask in an app's name. All rules must agree; an empty rule agrees with everybody.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AppAccess {
    /// Whether requests must be signed.
    pub signature: SignatureUse,
    /// Seconds that a signature's time may be away from ours, in both directions; within them each nonce is taken once.
    pub replay_window_s: u32,
    /// On the host of Referer, or of Origin when there is no Referer. `*.example.com` covers sub-domains.
    pub referer: NameRule,
    /// On the Android package or iOS bundle id. `*` in a pattern stands for any characters: `com.example.*`.
    pub packages: NameRule,
    /// On User-Agent; a pattern is a case-insensitive substring.
    pub user_agent: NameRule,
    /// On the client's address.
    pub address: AddressRule,
}

/// Whether requests must be signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Default)]
#[serde(rename_all = "lowercase")]
pub enum SignatureUse {
    /// Signatures are not looked at.
    #[default]
    Off,
    /// One that is there must be right.
    Optional,
    /// There must be one, or a valid pass of the same app and channel.
    Required,
}

impl Default for AppAccess {
    fn default() -> Self {
        Self {
            signature: SignatureUse::Off,
            replay_window_s: 60,
            referer: NameRule::default(),
            packages: NameRule::default(),
            user_agent: NameRule::default(),
            address: AddressRule::default(),
        }
    }
}

impl App {
    /// Every rule that is broken.
    pub fn check(&self) -> Vec<Wrong> {
        let Self { id, tenant, enabled: _, keys, access } = self;
        let mut wrong = Vec::new();
        check_id("id", id, &mut wrong);
        check_id("tenant", tenant, &mut wrong);
        check_keys(keys, access, &mut wrong);
        if !(1..=MAX_WINDOW_S).contains(&access.replay_window_s) {
            let message = format!("must be from 1 to {MAX_WINDOW_S} seconds");
            wrong.push(Wrong::new("access.replay_window_s", access.replay_window_s.to_string(), message));
        }
        let lists = [
            ("access.referer", &access.referer),
            ("access.packages", &access.packages),
            ("access.user_agent", &access.user_agent),
        ];
        for (field, rule) in lists {
            bounded(&format!("{field}.allow"), rule.allow.len(), MAX_LIST, &mut wrong);
            bounded(&format!("{field}.deny"), rule.deny.len(), MAX_LIST, &mut wrong);
        }
        for (name, list) in [("allow", &access.packages.allow), ("deny", &access.packages.deny)] {
            for (at, pattern) in list.iter().enumerate().filter(|(_, pattern)| Glob::new(pattern).is_none()) {
                let message = "must be 1 to 256 bytes: an Android package or iOS bundle id, with * for any characters";
                wrong.push(Wrong::new(format!("access.packages.{name}[{at}]"), pattern.as_str(), message));
            }
        }
        for (name, list) in [("allow", &access.address.allow), ("deny", &access.address.deny)] {
            bounded(&format!("access.address.{name}"), list.len(), MAX_LIST, &mut wrong);
            for (at, net) in list.iter().enumerate().filter(|(_, net)| net.addr() != net.network()) {
                let message = format!("has bits set behind its prefix length; write {}", net.trunc());
                wrong.push(Wrong::new(format!("access.address.{name}[{at}]"), net.to_string(), message));
            }
        }
        if let Err(error) = Access::compile(&access.policy()) {
            wrong.push(Wrong::new(error.field, error.value, error.remedy));
        }
        wrong
    }
}

fn check_keys(keys: &[Key], access: &AppAccess, wrong: &mut Vec<Wrong>) {
    bounded("keys", keys.len(), MAX_KEYS, wrong);
    if keys.is_empty() && access.signature == SignatureUse::Required {
        let message = "asks for signatures, and there is no key; give `keys` one, or write off";
        wrong.push(Wrong::new("access.signature", "required", message));
    }
    let mut seen = HashSet::new();
    for (at, Key { id, secret }) in keys.iter().enumerate() {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        if !(1..=16).contains(&id.len()) || !id.bytes().all(allowed) {
            let message = "must be 1 to 16 of a-z, A-Z, 0-9, '-', '_'";
            wrong.push(Wrong::new(format!("keys[{at}].id"), id.as_str(), message));
        } else if !seen.insert(id) {
            let message = "is the id of an earlier key too; ids are unique in an app";
            wrong.push(Wrong::new(format!("keys[{at}].id"), id.as_str(), message));
        }
        if !(MIN_SECRET..=MAX_SECRET).contains(&secret.len()) {
            let message = format!("must be {MIN_SECRET} to {MAX_SECRET} bytes, better 32 random ones");
            wrong.push(Wrong::new(format!("keys[{at}].secret"), "", message));
        }
    }
}

impl AppAccess {
    /// What both planes match in the same way.
    fn policy(&self) -> AccessPolicy {
        AccessPolicy {
            ticket: None,
            referer: self.referer.clone(),
            user_agent: self.user_agent.clone(),
            address: self.address.clone(),
        }
    }
}

/// An app, prepared.
#[derive(Debug)]
pub struct AppRules {
    /// Id.
    pub id: Arc<str>,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// Whether it is switched on.
    pub enabled: bool,
    /// Whether requests must be signed.
    pub signature: SignatureUse,
    window_s: u64,
    keys: Vec<Key>,
    access: Access,
    packages: Packages,
}

#[derive(Debug)]
struct Packages {
    allow: Vec<Glob>,
    deny: Vec<Glob>,
    allow_missing: bool,
}

/// What a request shows of itself.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// The Referer field.
    pub referer: Option<&'a [u8]>,
    /// The Origin field.
    pub origin: Option<&'a [u8]>,
    /// The User-Agent field.
    pub user_agent: Option<&'a [u8]>,
    /// The client's address.
    pub client: IpAddr,
    /// Android package or iOS bundle id.
    pub package: Option<&'a str>,
    /// The signature, as it came.
    pub signature: Option<&'a str>,
    /// Whether a valid pass of the same app and channel stands in for a missing one.
    pub has_pass: bool,
    /// Unix seconds.
    pub now: u64,
}

/// One rule of an app, and what a request did with it; for explanations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The rule: `enabled`, `address`, `referer`, `user_agent`, `package`, `signature`.
    pub rule: &'static str,
    /// Why the request breaks it, if it does.
    pub refused: Option<Code>,
}

/// A nonce that has to be taken before the request may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce<'a> {
    /// Itself.
    pub nonce: &'a str,
    /// The last Unix second at which its signature would be accepted.
    pub until: u64,
}

impl AppRules {
    /// Prepares an app; none when it was never checked.
    pub fn new(app: &App) -> Option<Self> {
        let AppAccess { signature, replay_window_s, packages, .. } = &app.access;
        let globs = |list: &[String]| list.iter().map(|pattern| Glob::new(pattern)).collect::<Option<Vec<_>>>();
        Some(Self {
            id: app.id.as_str().into(),
            tenant: app.tenant.as_str().into(),
            enabled: app.enabled,
            signature: *signature,
            window_s: u64::from(*replay_window_s),
            keys: app.keys.clone(),
            access: Access::compile(&app.access.policy()).ok()?,
            packages: Packages {
                allow: globs(&packages.allow)?,
                deny: globs(&packages.deny)?,
                allow_missing: packages.allow_missing,
            },
        })
    }

    /// Whether a request may pass, and the nonce that it uses up.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn admit<'a>(&self, shown: &Shown<'a>, parameters: &Parameters<'_>) -> Result<Option<Nonce<'a>>, Code> {
        if !self.enabled {
            return Err(Code::AppDisabled);
        }
        self.check_access(shown)?;
        self.packages.check(shown.package)?;
        self.check_signature(shown, parameters)
    }

    /// Every rule, and what the request does with it.
    pub fn explain(&self, shown: &Shown<'_>, parameters: &Parameters<'_>) -> Vec<Verdict> {
        let verdict = |rule, refused: Option<Code>| Verdict { rule, refused };
        let enabled = if self.enabled { None } else { Some(Code::AppDisabled) };
        // The access lists stop at the first that is broken; which one that is, its code says.
        let access = self.check_access(shown).err();
        let rule = match access {
            None | Some(Code::Address) => "address",
            Some(Code::Referer | Code::RefererMissing) => "referer",
            Some(_) => "user_agent",
        };
        let mut verdicts = vec![verdict("enabled", enabled)];
        for name in ["address", "referer", "user_agent"] {
            verdicts.push(verdict(name, access.filter(|_| name == rule)));
            if access.is_some() && name == rule {
                break;
            }
        }
        verdicts.push(verdict("package", self.packages.check(shown.package).err()));
        verdicts.push(verdict("signature", self.check_signature(shown, parameters).err()));
        verdicts
    }

    fn check_access(&self, shown: &Shown<'_>) -> Result<(), Code> {
        let Shown { referer, origin, user_agent, client, .. } = *shown;
        self.access.check(&AccessRequest { referer, origin, user_agent, client }).map_err(|denied| match denied {
            Denied::Address(_) => Code::Address,
            Denied::Referer(_) => Code::Referer,
            Denied::RefererMissing => Code::RefererMissing,
            Denied::UserAgent => Code::UserAgent,
            Denied::UserAgentMissing => Code::UserAgentMissing,
        })
    }

    fn check_signature<'a>(&self, shown: &Shown<'a>, parameters: &Parameters<'_>) -> Result<Option<Nonce<'a>>, Code> {
        if self.signature == SignatureUse::Off {
            return Ok(None);
        }
        let Some(text) = shown.signature else {
            let asked = self.signature == SignatureUse::Required && !shown.has_pass;
            return if asked { Err(Code::SignatureMissing) } else { Ok(None) };
        };
        let signature = Signature::parse(text).ok_or(Code::SignatureMalformed)?;
        signature.verify(&self.keys, parameters, shown.now, self.window_s)?;
        Ok(Some(Nonce { nonce: signature.nonce, until: signature.timestamp.saturating_add(self.window_s) }))
    }
}

impl Packages {
    fn check(&self, package: Option<&str>) -> Result<(), Code> {
        if self.allow.is_empty() && self.deny.is_empty() {
            return Ok(());
        }
        let Some(package) = package.filter(|package| !package.is_empty()) else {
            return if self.allow.is_empty() || self.allow_missing { Ok(()) } else { Err(Code::PackageMissing) };
        };
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(package));
        if any(&self.deny) || !(self.allow.is_empty() || any(&self.allow)) {
            return Err(Code::Package);
        }
        Ok(())
    }
}

fn default_tenant() -> String {
    DEFAULT.to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::signature::sign;

    const NOW: u64 = 1_700_000_000;
    const PARAMETERS: &Parameters<'_> = &[("app", "player"), ("channel", "room1")];

    fn app(access: Value) -> App {
        let keys = json!([{"id": "k1", "secret": "a secret of the app player"}]);
        serde_json::from_value(json!({"id": "player", "keys": keys, "access": access})).unwrap()
    }

    fn shown() -> Shown<'static> {
        Shown {
            referer: Some(b"https://www.example.com/"),
            origin: None,
            user_agent: Some(b"Mozilla/5.0"),
            client: "192.0.2.1".parse().unwrap(),
            package: Some("com.example.player"),
            signature: None,
            has_pass: false,
            now: NOW,
        }
    }

    fn admit(access: Value, shown: &Shown<'_>) -> Result<bool, Code> {
        let app = app(access);
        assert_eq!(app.check(), []);
        AppRules::new(&app).unwrap().admit(shown, PARAMETERS).map(|nonce| nonce.is_some())
    }

    #[test]
    fn each_rule_has_its_code() {
        let rule = |name: &str, list: Value| json!({name: list});
        let none = Shown { referer: None, user_agent: None, package: None, ..shown() };
        for (access, given, code) in [
            (json!({}), shown(), None),
            (json!({}), none, None),
            (rule("address", json!({"deny": ["192.0.2.0/24"]})), shown(), Some(Code::Address)),
            (rule("referer", json!({"allow": ["*.example.com"]})), shown(), None),
            (rule("referer", json!({"allow": ["example.org"]})), shown(), Some(Code::Referer)),
            (rule("referer", json!({"allow": ["example.org"]})), none, Some(Code::RefererMissing)),
            (rule("user_agent", json!({"deny": ["mozilla"]})), shown(), Some(Code::UserAgent)),
            (rule("user_agent", json!({"allow": ["mozilla"]})), none, Some(Code::UserAgentMissing)),
            (rule("packages", json!({"allow": ["com.example.*"]})), shown(), None),
            (rule("packages", json!({"allow": ["com.example"]})), shown(), Some(Code::Package)),
            (rule("packages", json!({"allow": ["com.example.*"]})), none, Some(Code::PackageMissing)),
            (rule("packages", json!({"allow": ["x"], "allow_missing": true})), none, None),
            (rule("packages", json!({"deny": ["*player"]})), shown(), Some(Code::Package)),
            (rule("signature", json!("optional")), shown(), None),
            (rule("signature", json!("required")), shown(), Some(Code::SignatureMissing)),
            (rule("signature", json!("required")), Shown { has_pass: true, ..shown() }, None),
            (
                rule("signature", json!("optional")),
                Shown { signature: Some("x"), ..shown() },
                Some(Code::SignatureMalformed),
            ),
            (rule("signature", json!("off")), Shown { signature: Some("x"), ..shown() }, None),
        ] {
            assert_eq!(admit(access.clone(), &given).err(), code, "{access} {given:?}");
            let verdicts = AppRules::new(&app(access.clone())).unwrap().explain(&given, PARAMETERS);
            assert_eq!(verdicts.iter().find_map(|verdict| verdict.refused), code, "{access}");
        }
    }

    #[test]
    fn a_right_signature_passes_with_its_nonce() {
        let required = json!({"signature": "required", "replay_window_s": 30});
        let text = sign(&app(json!({})).keys[0], NOW - 10, "0123456789", PARAMETERS).unwrap();
        let rules = AppRules::new(&app(required.clone())).unwrap();
        let given = Shown { signature: Some(&text), ..shown() };
        let nonce = rules.admit(&given, PARAMETERS).unwrap();
        assert_eq!(nonce, Some(Nonce { nonce: "0123456789", until: NOW + 20 }));
        assert_eq!(admit(required, &Shown { now: NOW + 21, ..given }), Err(Code::SignatureTime));
        assert_eq!(rules.admit(&given, &PARAMETERS[..1]), Err(Code::SignatureWrong));
        // A pass does not make a wrong signature right.
        let wrong = Shown { has_pass: true, ..given };
        assert_eq!(rules.admit(&wrong, &PARAMETERS[..1]), Err(Code::SignatureWrong));
        let off = App { enabled: false, ..app(json!({})) };
        assert_eq!(AppRules::new(&off).unwrap().admit(&shown(), PARAMETERS), Err(Code::AppDisabled));
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is() {
        let wrong = |app: App| -> Vec<String> { app.check().into_iter().map(|wrong| wrong.field).collect() };
        let access = |access: Value| wrong(app(access));
        assert_eq!(access(json!({"replay_window_s": 0})), ["access.replay_window_s"]);
        assert_eq!(access(json!({"packages": {"allow": [""]}})), ["access.packages.allow[0]"]);
        assert_eq!(access(json!({"referer": {"deny": ["http://a"]}})), ["access.referer.deny[0]"]);
        assert_eq!(access(json!({"address": {"deny": ["10.0.0.1/8"]}})), ["access.address.deny[0]"]);
        assert_eq!(wrong(App { id: "A".to_owned(), tenant: "..".to_owned(), ..app(json!({})) }), ["id", "tenant"]);
        let unsigned = App { keys: Vec::new(), ..app(json!({"signature": "required"})) };
        assert_eq!(wrong(unsigned), ["access.signature"]);
        let mut short = app(json!({}));
        short.keys[0].secret = "tiny-secret".to_owned();
        short.keys.push(Key { id: "k1".to_owned(), secret: "a secret of the app player".to_owned() });
        let found = short.check();
        assert!(!format!("{found:?}").contains("tiny-secret"));
        assert_eq!(wrong(short), ["keys[0].secret", "keys[1].id"]);
    }
}
