//! `shoal-peer`, the reference client, behind NATs.

use std::fmt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use shoal_ticket::{Claims, Key, mint};

use super::server::Told;
use super::{Behaviour, Dependence, Kind, NatLab, Side};
use crate::lab::binary;
use crate::process::Process;

/// The channel that asks for no ticket.
pub const CHANNEL: &str = "films";
/// Another one, which asks for one.
pub const TICKETED: &str = "club";
/// The id of the key of its tickets; the secret is [`Told::secret`].
pub const TICKET_KEY: &str = "k1";

/// Time to find a NAT's type and to register: half of it is waiting for answers that do not come.
const REGISTER: Duration = Duration::from_secs(30);
/// Time to connect from then on, and for a transfer.
const CONNECT: Duration = Duration::from_secs(40);
/// Seconds that one lives that nobody asks for.
const LIFE: &str = "120";

/// How a peer is started.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The channel.
    pub channel: &'static str,
    /// The ticket, if it has one.
    pub ticket: Option<String>,
    /// Whether it knows the relay.
    pub turn: bool,
    /// Whether it finds out the type of its NAT.
    pub discovers: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self { channel: CHANNEL, ticket: None, turn: false, discovers: true }
    }
}

impl Peer {
    /// One that knows the relay.
    pub fn with_relay() -> Self {
        Self { turn: true, ..Self::default() }
    }

    fn command(&self, side: &Side, told: &Told, what: &str, id: &str) -> Command {
        let mut command = side.client().command(binary("shoal-peer"));
        command.args([what, "--node", &told.v4.to_string(), "--channel", self.channel, "--id", id, "--for", LIFE]);
        if let Some(ticket) = &self.ticket {
            command.args(["--ticket", ticket]);
        }
        if self.turn {
            command.args(["--turn", &told.v4.to_string(), "--user", &told.user, "--password", &told.password]);
        }
        if !self.discovers {
            command.arg("--no-discovery");
        }
        command
    }

    /// Registers one, which waits for others; panics if the node does not take it.
    pub fn serve(&self, lab: &NatLab, side: &Side, told: &Told) -> Serving {
        let id = new_id();
        let log = lab.dir().join(format!("serve-{id}.log"));
        let process = Process::start("shoal-peer serve", &mut self.command(side, told, "serve", &id), &log);
        let mut serving = Serving { id, process };
        let deadline = Instant::now() + REGISTER;
        while !lines(&serving.process.output()).iter().any(|line| line["event"] == "registered") {
            let alive = serving.process.poll().is_none() && Instant::now() < deadline;
            assert!(alive, "{} is not registered:\n{}", side.kind(), serving.process.output());
            thread::sleep(Duration::from_millis(20));
        }
        serving
    }

    /// Connects to `to`, and sends it so many bytes; what it says last.
    pub fn connect(&self, lab: &NatLab, side: &Side, told: &Told, to: &str, bytes: u64) -> Value {
        let mut command = self.command(side, told, "connect", &new_id());
        command.args(["--to", to, "--bytes", &bytes.to_string()]);
        let text = lab.say(&mut command, REGISTER + CONNECT);
        lines(&text).pop().unwrap_or_else(|| panic!("{} says nothing that is JSON:\n{text}", side.kind()))
    }
}

/// A peer that waits for others, and ends with its owner.
#[derive(Debug)]
pub struct Serving {
    id: String,
    process: Process,
}

impl Serving {
    /// Its peer id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it says last, once it has received something; panics if it does not end by that.
    pub fn received(mut self) -> Value {
        let ended = self.process.wait(CONNECT);
        let output = self.process.output();
        assert!(ended.is_some(), "it waits on:\n{output}");
        lines(&output).pop().unwrap_or_else(|| panic!("it says nothing that is JSON:\n{output}"))
    }
}

/// What `shoal-peer type` finds in a dialect, `modern` or `classic`.
pub fn nat_type(lab: &NatLab, side: &Side, told: &Told, dialect: &str) -> Value {
    let mut command = side.client().command(binary("shoal-peer"));
    command.args(["type", "--node", &told.v4.to_string(), "--dialect", dialect]);
    let text = lab.say(&mut command, REGISTER);
    lines(&text).pop().unwrap_or_else(|| panic!("{} says nothing that is JSON:\n{text}", side.kind()))
}

/// The two channels, as a snapshot has them. Nobody asks for their bytes.
pub(super) fn channels(secret: &str) -> Value {
    let origins = json!([{"id": "nowhere", "url": "http://127.0.0.1:9/"}]);
    let access = json!({"ticket": {"keys": [{"id": TICKET_KEY, "secret": secret}]}});
    json!([
        {"id": CHANNEL, "prefix": "/films/", "origins": origins},
        {"id": TICKETED, "prefix": "/club/", "origins": origins, "access": access},
    ])
}

/// A ticket for [`TICKETED`], good for an hour; of another `session` it is somebody else's.
pub fn ticket(secret: &str, session: &str) -> String {
    let expires = SystemTime::now() + Duration::from_secs(3600);
    let expires = expires.duration_since(UNIX_EPOCH).expect("it is not 1970").as_secs();
    let key = Key { id: TICKET_KEY.to_owned(), secret: secret.to_owned() };
    let claims = Claims { channel: TICKETED, path_prefix: "/club/", expires, session, network: None };
    mint(&key, &claims).expect("the claims are within their bounds")
}

/// How two peers are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Without a relay.
    Direct,
    /// With one.
    Relay,
}

impl Way {
    /// What docs/punch.md says of two NATs that let UDP through, by what they do.
    pub fn of(one: Kind, other: Kind) -> Self {
        let behaviour = |kind: Kind| -> Behaviour { kind.behaviour().expect("UDP gets through") };
        let known = |kind: Kind| behaviour(kind).mapping == Dependence::Independent || kind.predictable();
        let reaches = |from: Kind, to: Kind| {
            let lets_in = behaviour(to).filtering != Dependence::AddressAndPort || known(from);
            known(to) && lets_in
        };
        if reaches(one, other) || reaches(other, one) { Self::Direct } else { Self::Relay }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
        })
    }
}

/// A peer id that no other peer of this process has.
fn new_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{:08x}{:032x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The lines that are JSON.
fn lines(text: &str) -> Vec<Value> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(Value::is_object).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prediction_helps_whom_it_can() {
        let step = Kind::Sequential { step: 1 };
        for (one, other, way) in [
            (Kind::Symmetric, Kind::Symmetric, Way::Relay),
            (Kind::Symmetric, Kind::Firewall, Way::Relay),
            (Kind::Symmetric, Kind::AddressRestricted, Way::Direct),
            (step, Kind::PortRestricted, Way::Direct),
            (step, step, Way::Direct),
            (step, Kind::Symmetric, Way::Relay),
        ] {
            assert_eq!((Way::of(one, other), Way::of(other, one)), (way, way), "{one} and {other}");
        }
        let kinds = || Kind::ALL.into_iter().filter(|kind| *kind != Kind::Blocked);
        let all = kinds().flat_map(|one| kinds().map(move |other| (one, other)));
        for (one, other) in all.filter(|(one, other)| one.punches(*other)) {
            assert_eq!(Way::of(one, other), Way::Direct, "{one} and {other} need no prediction");
        }
    }

    #[test]
    fn only_lines_of_json_are_read() {
        let text = "warning: x\n{\"event\": \"found\"}\n3\n{\"event\": \"fin\n";
        assert_eq!(lines(text), [json!({"event": "found"})]);
    }
}
