//! A channel's policy at work.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::error::{PolicyError, Refusal};
use crate::form::{Form, Place};
use crate::path::{PathSignature, folder, path_signature};
use crate::policy::{Profile, TicketPolicy};
use crate::query::{cookie, param, strip};
use crate::short::{KeyId, Session, parse_key_id};
use crate::ticket::{Claims, KeyedMac, Known, Request, Verified, keyed_mac, mint_with, verify};

/// Name of the query parameter and of the cookie that carry shoal's ticket. The header is `X-Shoal-Ticket`.
pub const PARAMETER: &str = "ticket";

/// Keys of a policy at most.
pub const MAX_KEYS: usize = 16;
/// Profiles of a policy at most.
pub const MAX_PROFILES: usize = 16;
/// Bytes of a secret at least, where shoal's own ticket alone is accepted.
pub const MIN_SECRET: usize = 16;
/// The same where a third-party profile is: customers bring such keys along.
pub const MIN_SECRET_THIRD_PARTY: usize = 6;
/// Seconds of clock skew at most.
pub const MAX_SKEW_S: u32 = 3600;

/// Checks requests of one channel. Made once for each policy; all that does not depend on the request is prepared.
#[derive(Debug, Clone)]
pub struct Verifier {
    pub(crate) channel: String,
    /// The same in all clones, which have the same keys, and in no other.
    identity: Arc<()>,
    pub(crate) keys: Vec<VerifyKey>,
    pub(crate) forms: Vec<Form>,
    pub(crate) skew: u64,
    rewrite_playlists: bool,
}

#[derive(Clone)]
pub(crate) struct VerifyKey {
    pub(crate) id: KeyId,
    pub(crate) secret: Box<[u8]>,
    pub(crate) mac: KeyedMac,
}

impl std::fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifyKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The ticket that was last found right, of one viewer most often: its MAC is not computed again while the same text comes to
/// the same verifier. Everything else about it is checked each time.
#[derive(Debug, Default)]
pub struct Memory {
    of: Option<Arc<()>>,
    known: Known,
}

/// What a request shows.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'a> {
    /// The path as the client sent it: percent-encoded, with its channel prefix and with a signature in front, if any.
    pub path: &'a str,
    /// The query, without its question mark.
    pub query: Option<&'a str>,
    /// The Cookie field.
    pub cookie: Option<&'a str>,
    /// The X-Shoal-Ticket field.
    pub header: Option<&'a str>,
    /// The viewer's address.
    pub client: IpAddr,
    /// Unix seconds.
    pub now: u64,
}

/// A request that may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass<'a> {
    /// The path without a signature in front.
    pub path: &'a str,
    /// The ticket's session; for a third-party form, one that follows from the signature.
    pub session: Option<Session>,
    /// Unix seconds; the policy's skew is not counted in.
    pub expires: u64,
    /// Name of the profile that let it pass: a label for metrics.
    pub form: &'static str,
    /// Shoal's own ticket, where that decided.
    pub ticket: Option<&'a str>,
    /// Whether the signature is good for this client's address alone.
    pub binds_client: bool,
}

impl Verifier {
    /// Prepares `policy` for the channel `channel_id`.
    ///
    /// # Errors
    /// The first field that is wrong, its value and the remedy.
    pub fn new(channel_id: &str, policy: &TicketPolicy) -> Result<Self, PolicyError> {
        if policy.ttl_s == 0 {
            return Err(PolicyError::new("ttl_s", "0 would expire at once: give 1 or more seconds"));
        }
        if policy.skew_s > MAX_SKEW_S {
            let problem = format!("{} is too much: give up to {MAX_SKEW_S} seconds", policy.skew_s);
            return Err(PolicyError::new("skew_s", problem));
        }
        if policy.profiles.len() > MAX_PROFILES {
            let problem = format!("{} of them: give up to {MAX_PROFILES}", policy.profiles.len());
            return Err(PolicyError::new("profiles", problem));
        }
        let mut forms = Vec::new();
        for (index, profile) in policy.profiles.iter().enumerate() {
            let form = Form::new(profile, policy.ttl_s, &format!("profiles[{index}]"))?;
            if *profile != Profile::Shoal {
                forms.push(form);
            }
        }
        Ok(Self {
            channel: channel_id.to_owned(),
            identity: Arc::default(),
            keys: keys(channel_id, policy, !forms.is_empty())?,
            forms,
            skew: u64::from(policy.skew_s),
            rewrite_playlists: policy.rewrite_playlists,
        })
    }

    /// Whether the policy asks for tickets on the URIs of playlists.
    pub fn rewrites_playlists(&self) -> bool {
        self.rewrite_playlists
    }

    /// Checks a request. A valid ticket of shoal's own decides, wherever it is; then the policy's other forms are tried.
    ///
    /// # Errors
    /// What was wrong with what came nearest to passing: of shoal's tickets when there was one, else of other forms.
    pub fn verify<'a>(&self, presented: &Presented<'a>) -> Result<Pass<'a>, Refusal> {
        self.verify_with(presented, &mut Memory::default())
    }

    /// As [`Verifier::verify`], for requests that come one after the other from the same viewer.
    ///
    /// # Errors
    /// The same.
    pub fn verify_with<'a>(&self, presented: &Presented<'a>, memory: &mut Memory) -> Result<Pass<'a>, Refusal> {
        let in_path = path_signature(presented.path)
            .filter(|found| self.forms.iter().any(|form| form.path_shape() == Some(found.shape)));
        match self.verify_ticket(presented, in_path, memory) {
            Ok(pass) => Ok(pass),
            Err(refusal) => self.verify_forms(presented, in_path).map_err(|other| match refusal {
                Refusal::Missing => other,
                own => own,
            }),
        }
    }

    /// Checks a ticket of shoal's own for what has no path: to be known to other viewers of the channel. Gives its session, and
    /// the Unix second after which it is refused.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify_peer(&self, ticket: &str, client: IpAddr, now: u64) -> Result<(Option<Session>, u64), Refusal> {
        let request = Request { path: None, client, now, skew: self.skew };
        let verified = self.verify_text(ticket, &request, &mut Memory::default())?;
        Ok((verified.session, verified.expires.saturating_add(self.skew)))
    }

    /// A ticket for the same paths, session and network as `ticket`, which must still be good for `client`, until `expires`; signed
    /// with the first key.
    ///
    /// # Errors
    /// What is wrong with the old one.
    pub fn renew(&self, ticket: &str, client: IpAddr, now: u64, expires: u64) -> Result<String, Refusal> {
        let mut memory = Memory::default();
        let request = Request { path: None, client, now, skew: self.skew };
        self.verify_text(ticket, &request, &mut memory)?;
        let malformed = Refusal::Malformed { form: Profile::Shoal.name() };
        let (Some(key), Some(claims)) = (self.keys.first(), memory.known.claims(&self.channel, expires)) else {
            return Err(malformed);
        };
        mint_with(key.id.as_str(), &key.mac, &claims).map_err(|_| malformed)
    }

    /// `query` without the parameters that carry a signature in this channel.
    pub fn strip_query<'a>(&self, query: &'a str) -> Cow<'a, str> {
        strip(query, |name| {
            let params = || self.forms.iter().flat_map(|form| form.profile.params()).flatten();
            name == PARAMETER || params().any(|(_, param)| param == name)
        })
    }

    /// The parameter to add to the URIs of a playlist that `pass` let through: `ticket=…`, the viewer's own where
    /// it has one; else a new one for the playlist's folder, that expires when the signature does, for its session,
    /// and for this client alone where the signature was. `None` when the folder's name is too long for a ticket.
    pub fn playlist_ticket(&self, pass: &Pass<'_>, presented: &Presented<'_>) -> Option<String> {
        if let Some(ticket) = pass.ticket {
            return Some(format!("{PARAMETER}={ticket}"));
        }
        let key = self.keys.first()?;
        let ticket = mint_with(
            key.id.as_str(),
            &key.mac,
            &Claims {
                channel: &self.channel,
                path_prefix: folder(pass.path),
                expires: pass.expires,
                session: pass.session.as_ref().map_or("", Session::as_str),
                network: pass.binds_client.then(|| IpNet::from(presented.client.to_canonical())),
            },
        );
        ticket.ok().map(|ticket| format!("{PARAMETER}={ticket}"))
    }

    fn verify_ticket<'a>(
        &self,
        presented: &Presented<'a>,
        in_path: Option<PathSignature<'a>>,
        memory: &mut Memory,
    ) -> Result<Pass<'a>, Refusal> {
        let path = in_path.map_or(presented.path, |found| found.rest);
        let request = Request { path: Some(path), client: presented.client, now: presented.now, skew: self.skew };
        let mut refusal = Refusal::Missing;
        // A cookie may have been renewed since the URL was made, and the other way round: any of them will do.
        let candidates = [
            presented.query.and_then(|query| param(query, PARAMETER)),
            presented.header.map(str::trim_ascii),
            presented.cookie.and_then(|field| cookie(field, PARAMETER)),
        ];
        for ticket in candidates.into_iter().flatten() {
            match self.verify_text(ticket, &request, memory) {
                Ok(verified) => {
                    return Ok(Pass {
                        path,
                        session: verified.session,
                        expires: verified.expires,
                        form: Profile::Shoal.name(),
                        ticket: Some(ticket),
                        binds_client: verified.binds_client,
                    });
                }
                Err(other) => refusal = more_telling(refusal, other),
            }
        }
        Err(refusal)
    }

    fn verify_text(&self, ticket: &str, request: &Request<'_>, memory: &mut Memory) -> Result<Verified, Refusal> {
        let ours = memory.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &self.identity));
        if ours && memory.known.is(ticket) {
            return memory.known.check(request);
        }
        let find_key = |id: &KeyId| self.keys.iter().find(|key| key.id == *id).map(|key| &key.mac);
        if !ours {
            // What is in it was found right by another.
            *memory = Memory { of: Some(Arc::clone(&self.identity)), known: Known::default() };
        }
        verify(ticket, request, find_key, &mut memory.known)
    }

    fn verify_forms<'a>(
        &self,
        presented: &Presented<'a>,
        in_path: Option<PathSignature<'a>>,
    ) -> Result<Pass<'a>, Refusal> {
        let query = presented.query.unwrap_or_default();
        let place = Place { path: presented.path, in_path, query, client: presented.client };
        let mut refusal = Refusal::Missing;
        for form in &self.forms {
            let secrets = self.keys.iter().map(|key| &*key.secret);
            match form.verify(&place, secrets, presented.now, self.skew) {
                None => {}
                Some(Ok(signed)) => {
                    return Ok(Pass {
                        path: signed.path,
                        session: session_of(&signed.digest),
                        expires: signed.expires,
                        form: form.profile.name(),
                        ticket: None,
                        binds_client: form.binds_client(),
                    });
                }
                Some(Err(other)) => refusal = more_telling(refusal, other),
            }
        }
        Err(refusal)
    }
}

fn more_telling(one: Refusal, other: Refusal) -> Refusal {
    if other.rank() > one.rank() { other } else { one }
}

fn keys(channel_id: &str, policy: &TicketPolicy, third_party: bool) -> Result<Vec<VerifyKey>, PolicyError> {
    if policy.keys.is_empty() {
        return Err(PolicyError::new("keys", "none: give at least one key; the first one signs"));
    }
    if policy.keys.len() > MAX_KEYS {
        let problem = format!("{} of them: give up to {MAX_KEYS}, remove old ones", policy.keys.len());
        return Err(PolicyError::new("keys", problem));
    }
    let min_secret = if third_party { MIN_SECRET_THIRD_PARTY } else { MIN_SECRET };
    let mut keys: Vec<VerifyKey> = Vec::with_capacity(policy.keys.len());
    for (index, key) in policy.keys.iter().enumerate() {
        let Some(id) = parse_key_id(key.id.as_bytes()) else {
            let problem = format!("`{}` is no key id: give 1 to 16 of a-z A-Z 0-9 - _", key.id);
            return Err(PolicyError::new(format!("keys[{index}].id"), problem));
        };
        if keys.iter().any(|other| other.id == id) {
            return Err(PolicyError::new(
                format!("keys[{index}].id"),
                format!("`{id}` is taken already: give another"),
            ));
        }
        let length = key.secret.len();
        if length < min_secret {
            let problem = format!("of {length} bytes is too short: give at least {min_secret}, better 32 random ones");
            return Err(PolicyError::new(format!("keys[{index}].secret"), problem));
        }
        let mac = keyed_mac(key.secret.as_bytes(), channel_id)
            .map_err(|error| PolicyError::new(format!("keys[{index}]"), error.to_string()))?;
        keys.push(VerifyKey { id, secret: key.secret.as_bytes().into(), mac });
    }
    Ok(keys)
}

/// A session that follows from a third-party signature, and does not give it away: the first 8 bytes of
/// SHA-256("shoal-session" 0x00 digest), in hex.
fn session_of(digest: &[u8; 16]) -> Option<Session> {
    let hash = Sha256::new().chain_update(b"shoal-session\0").chain_update(digest).finalize();
    let mut text = [0; 16];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(hash) {
        *pair = [byte >> 4, byte & 15].map(|digit| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    Session::new(&text)
}
