//! WebRTC stacks of others, told to use nothing but the relay.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::mailbox::Mailbox;
use super::server::Told;
use super::{NatLab, Side};
use crate::process::Process;
use crate::{chromium, tool};

/// Time for two peers to start, connect and exchange everything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Messages that the one who offers sends, and wants back.
const MESSAGES: u64 = 40;

const PAGE: &str = include_str!("../../peers/webrtc.html");
const AIORTC: &str = include_str!("../../peers/aiortc.py");

/// One stack.
#[derive(Debug, Clone)]
pub enum Stack {
    /// A headless Chromium.
    Chromium(PathBuf),
    /// aiortc on aioice, from pip: Python, and the folder that it is in.
    Aiortc(PathBuf, PathBuf),
}

impl Stack {
    /// Chromium, or a note that `test` was skipped.
    pub fn chromium(test: &str) -> Option<Self> {
        tool::need(test, "chromium").map(Self::Chromium)
    }

    /// aiortc, or a note that `test` was skipped.
    pub fn aiortc(test: &str) -> Option<Self> {
        Some(Self::Aiortc(tool::need(test, "python3")?, tool::pip(test, "aiortc==1.16.0")?))
    }

    fn start(
        &self,
        lab: &NatLab,
        (side, by): (&Side, Transport),
        role: &str,
        mailbox: &Mailbox,
        told: &Told,
    ) -> Process {
        let ice = json!({
            "urls": by.url(told),
            "username": told.user,
            "credential": told.password,
        });
        let place = lab.dir().join(format!("{}-{role}", side.client().name()));
        let mut command: Command;
        match self {
            Self::Chromium(program) => {
                command = side.client().command(program);
                chromium::headless(&mut command, &place);
                if by == Transport::Tls {
                    // It would ask the system's authorities, and the lab's is none of them.
                    command.arg("--ignore-certificate-errors");
                }
                command.arg(format!("{}/?role={role}&ice={}", mailbox.url(), chromium::encode(&ice.to_string())));
            }
            Self::Aiortc(python, folder) => {
                command = side.client().command(python);
                command.env("PYTHONPATH", folder).envs(told.roots.iter().map(|roots| ("SSL_CERT_FILE", roots)));
                command.args(["-c", AIORTC, &mailbox.url(), role, &ice.to_string()]);
            }
        }
        Process::start(&format!("{self}, which is to {role},"), &mut command, &place.with_added_extension("log"))
    }
}

/// How a stack comes to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By datagrams.
    Udp,
    /// By a stream.
    Tcp,
    /// By a stream with TLS.
    Tls,
}

impl Transport {
    fn url(self, told: &Told) -> String {
        match self {
            Self::Udp => format!("turn:{}?transport=udp", told.v4),
            Self::Tcp => format!("turn:{}?transport=tcp", told.v4),
            Self::Tls => format!("turns:{}?transport=tcp", told.v4),
        }
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Chromium(_) => "Chromium",
            Self::Aiortc(..) => "aiortc",
        })
    }
}

/// Lets two peers exchange messages over a DataChannel, through the relay alone. `Err` says what failed: a message that
/// did not come back whole, or a peer that told the other an address that is not the relay's.
pub fn exchange(lab: &NatLab, [offers, answers]: [(&Side, &Stack, Transport); 2], told: &Told) -> Result<(), String> {
    let mailbox = Mailbox::start(lab.hub(), lab.addresses()[2], PAGE);
    let mut peers = [(offers, "offer"), (answers, "answer")]
        .map(|((side, stack, by), role)| stack.start(lab, (side, by), role, &mailbox, told));
    let report = mailbox.take("report", PATIENCE);
    let right = report.as_deref().and_then(|report| serde_json::from_str::<Value>(report).ok());
    if right != Some(json!({"right": MESSAGES})) {
        let logs = peers.each_mut().map(|peer| format!("{:?}, and said:\n{}", peer.poll(), end(&peer.output())));
        return Err(format!("the report is {report:?}; exit status {}", logs.join("exit status ")));
    }
    ["offer", "answer"].into_iter().try_for_each(|name| {
        let description = mailbox.take(name, Duration::ZERO).unwrap_or_default();
        only_relayed(&description, told)
            .then_some(())
            .ok_or(format!("this {name} has more than the relay: {description}"))
    })
}

/// The last lines of a log, which is long: a browser misses the desktop's services.
fn end(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains(":ERROR:dbus/")).collect();
    lines[lines.len().saturating_sub(20)..].join("\n") + "\n"
}

/// Whether all candidates of a description, in JSON, are relay's of the server; and there are some.
fn only_relayed(description: &str, told: &Told) -> bool {
    let Ok(description) = serde_json::from_str::<Value>(description) else { return false };
    let sdp = description["sdp"].as_str().unwrap_or_default();
    let mut candidates = sdp.lines().filter(|line| line.starts_with("a=candidate:")).peekable();
    let server = told.v4.ip().to_string();
    // RFC 8839, section 5.1: foundation, component, transport, priority, address, port, "typ", type.
    candidates.peek().is_some()
        && candidates.all(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            fields.get(4) == Some(&server.as_str()) && fields.get(7) == Some(&"relay")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_candidates_are_seen() {
        let told = Told::new(([20, 0, 0, 1], 3478).into(), ([0; 16], 3478).into(), "secret");
        let line = |rest: &str| format!("a=candidate:1 1 udp 33562367 {rest}\r\n");
        let description = |lines: &[String]| json!({"type": "offer", "sdp": lines.concat()}).to_string();
        let relay = line("20.0.0.1 52311 typ relay raddr 0.0.0.0 rport 0");
        assert!(only_relayed(&description(std::slice::from_ref(&relay)), &told));
        assert!(!only_relayed(&description(&[]), &told));
        for other in ["20.0.0.101 4000 typ srflx raddr 10.0.1.2 rport 4000", "20.0.0.9 4000 typ relay"] {
            assert!(!only_relayed(&description(&[relay.clone(), line(other)]), &told), "{other}");
        }
    }
}
