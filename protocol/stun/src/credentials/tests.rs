use std::net::SocketAddr;

use super::*;
use crate::message::{
    Builder, Class, Integrity, Message, Method, Nonce, PasswordAlgorithmValue, PasswordAlgorithms, Realm,
    TransactionId, UserHash, Username,
};

const NOW: u64 = 1_800_000_000;
const OFFER: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

fn client() -> SocketAddr {
    "198.51.100.7:4000".parse().unwrap()
}

fn key(epoch: u8) -> NonceKey {
    NonceKey { epoch, secret: [epoch; 32] }
}

fn nonces() -> Nonces {
    Nonces::new(vec![key(2), key(1)], 600, true)
}

fn tenant(name: &str, id: u32, secrets: &[&str]) -> Tenant {
    let secrets = secrets.iter().map(|secret| Secret::new(secret.as_bytes())).collect();
    Tenant { name: name.into(), id: TenantId(id), secrets, peers: PeerRules::default() }
}

fn tenants() -> Tenants {
    Tenants::new(vec![tenant("", 0, &["north"]), tenant("acme", 7, &["new", "old"])]).unwrap()
}

fn text(nonce: &[u8]) -> &str {
    std::str::from_utf8(nonce).unwrap()
}

/// What a client says of itself.
#[derive(Clone)]
struct Say {
    username: String,
    secret: &'static str,
    nonce: String,
    realm: &'static str,
    integrity: Integrity,
    algorithms: Option<&'static [u8]>,
    algorithm: Option<PasswordAlgorithm>,
}

impl Say {
    fn new(username: &str, secret: &'static str) -> Self {
        Self {
            username: username.into(),
            secret,
            nonce: text(&nonces().issue(client(), NOW)).into(),
            realm: "example.org",
            integrity: Integrity::Sha1,
            algorithms: None,
            algorithm: None,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = [0; 600];
        let mut message = Builder::new(&mut out, Method::ALLOCATE, Class::Request, TransactionId::new([1; 12]));
        message.add(&Username(&self.username)).add(&Realm(self.realm)).add(&Nonce(&self.nonce));
        if let Some(algorithms) = self.algorithms {
            message.add(&PasswordAlgorithms(algorithms));
        }
        if let Some(algorithm) = self.algorithm {
            message.add(&PasswordAlgorithmValue { number: algorithm.number(), parameters: &[] });
        }
        let password = time_limited_password(self.secret.as_bytes(), &self.username);
        let algorithm = self.algorithm.unwrap_or(PasswordAlgorithm::Md5);
        let key = Key::long_term(algorithm, &self.username, self.realm, text(&password));
        let length = message.integrity(self.integrity, key.as_bytes()).finish().unwrap();
        out[..length].to_vec()
    }

    fn result(&self, unix: u64) -> Result<TenantId, Refusal> {
        let bytes = self.bytes();
        let request = Message::parse(&bytes).unwrap();
        let authenticator = Authenticator::new("example.org", nonces(), true);
        let tenants = tenants();
        let done = authenticator.authenticate(&request, client(), unix, &tenants, None)?;
        assert_eq!(done.username, self.username);
        let sha256 = self.algorithm.is_some();
        assert_eq!(done.integrity, if sha256 { Integrity::Sha256 } else { Integrity::Sha1 });
        Ok(tenants.get(done.name.tenant).unwrap().id)
    }
}

#[test]
fn passwords_are_those_of_coturns_rest_api() {
    // Computed by `openssl dgst -sha1 -hmac north -binary | base64`.
    assert_eq!(text(&time_limited_password(b"north", "1433895918:user")), "/gk4t5tUc08OpM3NjrVjHSFVNmY=");
}

#[test]
fn names_are_read() {
    let name = |text| TimedName::parse(text).map(|name| (name.expires, name.tenant, name.user));
    assert_eq!(name("17:u"), Some((17, "", "u")));
    assert_eq!(name("17"), Some((17, "", "")));
    assert_eq!(name("17:t:u:v"), Some((17, "t", "u:v")));
    assert_eq!(name("17::u"), Some((17, "", "u")));
    for bad in ["", ":u", "+17:u", "u:17", "99999999999999999999:u", &format!("17:{}", "u".repeat(190))] {
        assert_eq!(name(bad), None, "{bad}");
    }
}

#[test]
fn who_knows_a_secret_is_let_in() {
    assert_eq!(Say::new("1800000000:u", "north").result(NOW), Ok(TenantId(0)), "in its last second");
    assert_eq!(Say::new("1800000900:acme:u", "new").result(NOW), Ok(TenantId(7)));
    assert_eq!(Say::new("1800000900:acme:u", "old").result(NOW), Ok(TenantId(7)), "while it is rotated");
    assert_eq!(Say::new("1800000900:acme:u", "north").result(NOW), Err(Refusal::Integrity), "another tenant's");
    assert_eq!(Say::new("1800000900:other:u", "north").result(NOW), Err(Refusal::UnknownName));
    assert_eq!(Say::new("1799999999:u", "north").result(NOW), Err(Refusal::Expired));
    assert_eq!(Say::new("u", "north").result(NOW), Err(Refusal::UnknownName));
    assert_eq!(Say { realm: "example.com", ..Say::new("1800000000:u", "north") }.result(NOW), Err(Refusal::Realm));
}

#[test]
fn both_hmacs_and_both_algorithms() {
    for integrity in [Integrity::Sha1, Integrity::Sha256] {
        for algorithm in [None, Some(PasswordAlgorithm::Md5), Some(PasswordAlgorithm::Sha256)] {
            let algorithms = algorithm.map(|_| &OFFER[..]);
            let say = Say { integrity, algorithm, algorithms, ..Say::new("1800000000:u", "north") };
            assert_eq!(say.result(NOW), Ok(TenantId(0)), "{integrity:?} {algorithm:?}");
        }
    }
}

#[test]
fn an_offer_that_was_tampered_with_is_noticed() {
    let say = Say::new("1800000000:u", "north");
    let md5_only: &[u8] = &[0, 1, 0, 0];
    for (algorithms, algorithm) in [
        (Some(md5_only), Some(PasswordAlgorithm::Md5)),
        (Some(&OFFER[..]), None),
        (None, Some(PasswordAlgorithm::Sha256)),
    ] {
        assert_eq!(Say { algorithms, algorithm, ..say.clone() }.result(NOW), Err(Refusal::BidDown));
    }
    // The bit in the nonce says that there was an offer; whoever clears it has made another nonce.
    let nonce = say.nonce.replacen("gAAA", "AAAA", 1);
    assert_ne!(nonce, say.nonce);
    assert_eq!(Say { nonce, ..say }.result(NOW), Err(Refusal::StaleNonce));
}

#[test]
fn nonces_are_known_again_and_grow_stale() {
    let issued = nonces().issue(client(), NOW);
    assert!(text(&issued).starts_with("obMatJos2gAAA"));
    assert!(nonces().check(text(&issued), client(), NOW));
    assert!(nonces().check(text(&issued), client(), NOW + 600));
    assert!(!nonces().check(text(&issued), client(), NOW + 601));
    assert!(!nonces().check(text(&issued), "198.51.100.7:4001".parse().unwrap(), NOW), "another port");
    assert!(!nonces().check(text(&issued), "198.51.100.8:4000".parse().unwrap(), NOW), "another address");
    assert!(nonces().check(text(&issued), "[::ffff:198.51.100.7]:4000".parse().unwrap(), NOW), "the same, mapped");

    // A process that knows the key as an older one honours it; one that lost it does not.
    assert!(Nonces::new(vec![key(3), key(2)], 600, true).check(text(&issued), client(), NOW));
    assert!(!Nonces::new(vec![key(3)], 600, true).check(text(&issued), client(), NOW));
    assert!(!Nonces::new(vec![NonceKey { epoch: 2, secret: [9; 32] }], 600, true).check(text(&issued), client(), NOW));
    assert!(!Nonces::new(vec![key(2)], 600, false).check(text(&issued), client(), NOW), "another offer");

    for at in 0..issued.len() {
        let mut changed = issued;
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        assert!(!nonces().check(text(&changed), client(), NOW), "character {at}");
    }
    for bad in ["", "obMatJos2", "obMatJos2gAAA", "obMatJos2gAAAÄ", &format!("{}A", text(&issued))] {
        assert!(!nonces().check(bad, client(), NOW), "{bad}");
    }
}

#[test]
fn what_is_known_goes_on_past_its_time() {
    let say = Say::new("1800000000:u", "north");
    let bytes = Say { nonce: text(&nonces().issue(client(), NOW + 5_000)).into(), ..say.clone() }.bytes();
    let request = Message::parse(&bytes).unwrap();
    let authenticator = Authenticator::new("example.org", nonces(), true);
    let check = |known: Option<&Credential>| {
        authenticator.authenticate(&request, client(), NOW + 5_000, &tenants(), known).map(|done| done.key)
    };
    let password = time_limited_password(b"north", &say.username);
    let key = Key::long_term(PasswordAlgorithm::Md5, &say.username, "example.org", text(&password));
    let known = Credential { username: say.username.into(), key: key.clone() };
    assert_eq!(check(None), Err(Refusal::Expired));
    assert_eq!(check(Some(&known)), Ok(key));
    let wrong = Key::long_term(PasswordAlgorithm::Md5, "", "", "");
    assert_eq!(check(Some(&Credential { key: wrong, ..known.clone() })), Err(Refusal::Integrity));
    assert_eq!(check(Some(&Credential { username: "another".into(), ..known })), Err(Refusal::Expired));
}

#[test]
fn incomplete_requests() {
    let authenticator = Authenticator::new("example.org", nonces(), true);
    let issued = nonces().issue(client(), NOW);
    let check = |parts: &dyn Fn(&mut Builder<'_>)| {
        let mut out = [0; 1000];
        let mut message = Builder::new(&mut out, Method::REFRESH, Class::Request, TransactionId::new([2; 12]));
        parts(&mut message);
        let length = message.finish().unwrap();
        let request = Message::parse(&out[..length]).unwrap();
        authenticator.authenticate(&request, client(), NOW, &tenants(), None).map(|_| ()).unwrap_err()
    };
    assert_eq!(check(&|_| ()), Refusal::NoCredentials);
    let (username, realm, nonce) = (Username("1800000000:u"), Realm("example.org"), Nonce(text(&issued)));
    let mac = Integrity::Sha1;
    assert_eq!(
        check(&|m| {
            m.integrity(mac, b"k");
        }),
        Refusal::Malformed
    );
    assert_eq!(
        check(&|m| {
            m.add(&realm).add(&nonce).integrity(mac, b"k");
        }),
        Refusal::Malformed
    );
    assert_eq!(
        check(&|m| {
            m.add(&username).add(&nonce).integrity(mac, b"k");
        }),
        Refusal::Malformed
    );
    assert_eq!(
        check(&|m| {
            m.add(&username).add(&realm).integrity(mac, b"k");
        }),
        Refusal::Malformed
    );
    // RFC 5389 allowed names of up to 763 bytes, which must still be readable (RFC 8489 section 14.3).
    for (length, refusal) in [(763, Refusal::UnknownName), (764, Refusal::Malformed)] {
        let name = "1".repeat(length);
        assert_eq!(
            check(&|m| {
                m.add(&Username(&name)).add(&realm).add(&nonce).integrity(mac, b"k");
            }),
            refusal
        );
    }
    let hash = UserHash(&[0; 32]);
    assert_eq!(
        check(&|m| {
            m.add(&hash).add(&realm).add(&nonce).integrity(mac, b"k");
        }),
        Refusal::UnknownName
    );
    // What stands behind the integrity counts for nothing.
    assert_eq!(
        check(&|m| {
            m.integrity(mac, b"k").add(&username).add(&realm).add(&nonce);
        }),
        Refusal::Malformed
    );
}

#[test]
fn refusals_say_how_to_try_again() {
    let authenticator = Authenticator::new(&"ä".repeat(100), nonces(), true);
    assert!(authenticator.realm().len() <= MAX_REALM);
    for refusal in Refusal::ALL {
        let mut out = [0; 400];
        let mut response = Builder::new(&mut out, Method::ALLOCATE, Class::Error, TransactionId::new([3; 12]));
        authenticator.refuse(&mut response, refusal, client(), NOW);
        let length = response.finish().unwrap();
        assert!(length <= 20 + 4 + 4 + 16 + REFUSAL_ATTRIBUTES, "{length}");
        let response = Message::parse(&out[..length]).unwrap();
        assert_eq!(response.read(), Ok(Some(refusal.error())));
        let wants_nonce = refusal.error().code != 400;
        assert_eq!(response.read::<Realm<'_>>().unwrap().is_some(), wants_nonce);
        let nonce = response.read::<Nonce<'_>>().unwrap();
        assert_eq!(nonce.is_some_and(|nonce| nonces().check(nonce.0, client(), NOW)), wants_nonce, "{refusal:?}");
    }
}

#[test]
fn tenants_are_checked() {
    let new = |tenants| Tenants::new(tenants).map(|_| ());
    assert!(matches!(new(vec![tenant("a", 1, &[])]), Err(TenantsError::Secrets(name)) if name == "a"));
    assert!(matches!(new(vec![tenant("a", 1, &["x", ""])]), Err(TenantsError::Secrets(_))));
    assert!(matches!(new(vec![tenant("a", 1, &["x"; 5])]), Err(TenantsError::Secrets(_))));
    assert!(matches!(new(vec![tenant("a:b", 1, &["x"])]), Err(TenantsError::Name(_))));
    assert!(matches!(new(vec![tenant("a", 1, &["x"]), tenant("a", 2, &["y"])]), Err(TenantsError::Twice(_))));
    assert!(!format!("{:?}", tenants()).contains("north"), "secrets are not printed");
}
