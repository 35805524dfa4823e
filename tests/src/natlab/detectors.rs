//! Clients of others that tell a NAT's type.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::probe::Family;
use super::server::Told;
use super::{Behaviour, Dependence, Kind, NatLab, Side};
use crate::tool;

/// Time for one run. A classic client waits up to 9.5 s for each answer that does not come (RFC 3489, section 9.3).
const PATIENCE: Duration = Duration::from_secs(50);

/// The types of RFC 3489, section 5, by the names that SDKs report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "RFC 3489 says what they are, and `Kind` in fewer words")]
pub enum Type {
    UdpBlocked,
    OpenInternet,
    SymmetricUdpFirewall,
    FullCone,
    RestrictedCone,
    PortRestrictedCone,
    Symmetric,
}

impl From<Kind> for Type {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Open => Self::OpenInternet,
            Kind::Firewall => Self::SymmetricUdpFirewall,
            Kind::FullCone => Self::FullCone,
            Kind::AddressRestricted => Self::RestrictedCone,
            Kind::PortRestricted => Self::PortRestrictedCone,
            Kind::Symmetric | Kind::Sequential { .. } => Self::Symmetric,
            Kind::Blocked => Self::UdpBlocked,
        }
    }
}

/// What a client found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// One of the classic types.
    Type(Type),
    /// What RFC 5780 asks for; nothing if there was no answer.
    Behaviour(Option<Behaviour>),
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type(found) => f.pad(&format!("{found:?}")),
            Self::Behaviour(None) => f.pad("no answer"),
            Self::Behaviour(Some(Behaviour { transparent, mapping, filtering })) => {
                let name = |dependence: &Dependence| match dependence {
                    Dependence::Independent => "EI",
                    Dependence::Address => "AD",
                    Dependence::AddressAndPort => "APD",
                };
                let who = if *transparent { "no NAT" } else { "NAT" };
                f.pad(&format!("{who}, {} mapping, {} filtering", name(mapping), name(filtering)))
            }
        }
    }
}

/// One such client.
#[derive(Debug, Clone)]
pub enum Detector {
    /// Vovida's, Debian's package stun-client: RFC 3489.
    StunClient(PathBuf),
    /// pystun3 from pip: RFC 3489; Python, and the folder that it is in.
    Pystun3(PathBuf, PathBuf),
    /// coturn's turnutils_natdiscovery: RFC 5780.
    Natdiscovery(PathBuf, Family),
}

impl Detector {
    /// All of them, or a note that `test` was skipped.
    pub fn all(test: &str) -> Option<Vec<Self>> {
        let natdiscovery = tool::need(test, "turnutils_natdiscovery")?;
        Some(vec![
            Self::StunClient(tool::need(test, "stun")?),
            Self::Pystun3(tool::need(test, "python3")?, tool::pip(test, "pystun3==2.0.0")?),
            Self::Natdiscovery(natdiscovery.clone(), Family::V4),
            Self::Natdiscovery(natdiscovery, Family::V6),
        ])
    }

    /// What it has to find, given what `kind` is.
    pub fn expected(&self, kind: Kind) -> Found {
        match self {
            Self::StunClient(_) | Self::Pystun3(..) => Found::Type(kind.into()),
            Self::Natdiscovery(_, Family::V4) => Found::Behaviour(kind.behaviour()),
            Self::Natdiscovery(_, Family::V6) => Found::Behaviour(kind.behaviour_v6()),
        }
    }

    /// Runs it on a side; panics if it says what we do not know.
    pub fn run(&self, lab: &NatLab, side: &Side, told: &Told) -> Found {
        let client = |family| side.client_ip(family).to_string();
        let (server, port) = (told.v4.ip().to_string(), told.v4.port().to_string());
        match self {
            Self::StunClient(stun) => {
                let server = told.v4.to_string();
                let text = lab.say(side.client().command(stun).args([&server, "-i", &client(Family::V4)]), PATIENCE);
                Found::Type(vovida(&text).unwrap_or_else(|| panic!("stun-client says:\n{text}")))
            }
            Self::Pystun3(python, folder) => {
                let mut command = side.client().command(python);
                command.env("PYTHONPATH", folder).args(["-m", "stun.cli", "-H", &server, "-P", &port]);
                let text = lab.say(command.args(["-i", &client(Family::V4)]), PATIENCE);
                Found::Type(pystun3(&text).unwrap_or_else(|| panic!("pystun3 says:\n{text}")))
            }
            Self::Natdiscovery(program, family) => {
                let server = if *family == Family::V4 { told.v4 } else { told.v6 };
                let (ip, port) = (server.ip().to_string(), server.port().to_string());
                let mut command = side.client().command(program);
                command.args(["-m", "-f", "-L", &client(*family), "-p", &port, &ip]);
                Found::Behaviour(natdiscovery(&lab.say(&mut command, PATIENCE)))
            }
        }
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StunClient(_) => "stun-client",
            Self::Pystun3(..) => "pystun3",
            Self::Natdiscovery(_, Family::V4) => "natdiscovery",
            Self::Natdiscovery(_, Family::V6) => "natdiscovery, IPv6",
        })
    }
}

fn vovida(text: &str) -> Option<Type> {
    let (_, said) = text.split_once("Primary: ")?;
    [
        ("Blocked", Type::UdpBlocked),
        ("Open", Type::OpenInternet),
        ("Firewall", Type::SymmetricUdpFirewall),
        ("Independent Mapping, Independent Filter", Type::FullCone),
        ("Independent Mapping, Address Dependent Filter", Type::RestrictedCone),
        ("Independent Mapping, Port Dependent Filter", Type::PortRestrictedCone),
        ("Dependent Mapping", Type::Symmetric),
    ]
    .into_iter()
    .find_map(|(name, found)| said.starts_with(name).then_some(found))
}

fn pystun3(text: &str) -> Option<Type> {
    let (_, said) = text.split_once("NAT Type: ")?;
    Some(match said.lines().next()? {
        "Blocked" => Type::UdpBlocked,
        "Open Internet" => Type::OpenInternet,
        "Symmetric UDP Firewall" => Type::SymmetricUdpFirewall,
        "Full Cone" => Type::FullCone,
        "Restric NAT" => Type::RestrictedCone,
        "Restric Port NAT" => Type::PortRestrictedCone,
        "Symmetric NAT" => Type::Symmetric,
        _ => return None,
    })
}

/// It says of every answer what it may mean; the last word counts.
fn natdiscovery(text: &str) -> Option<Behaviour> {
    let last = |what: &str| {
        let mut lines = text.lines().rev().filter(|line| line.starts_with("NAT with ") && line.contains(what));
        lines.next().map(|line| match line {
            _ if line.contains("Address and Port Dependent") => Dependence::AddressAndPort,
            _ if line.contains("Address Dependent") => Dependence::Address,
            _ => Dependence::Independent,
        })
    };
    let transparent = text.lines().any(|line| line.starts_with("No NAT!"));
    Some(Behaviour { transparent, mapping: last("Mapping")?, filtering: last("Filtering")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_is_understood() {
        let vovida_says = |text| vovida(&format!("STUN client version 0.97\nPrimary: {text}\t\nReturn value is 0x1c"));
        assert_eq!(vovida_says("Dependent Mapping, random port, no hairpin"), Some(Type::Symmetric));
        assert_eq!(
            vovida_says("Independent Mapping, Port Dependent Filter, preserves ports, no hairpin"),
            Some(Type::PortRestrictedCone)
        );
        assert_eq!(vovida_says("Some stun error detetecting NAT type"), None);
        assert_eq!(pystun3("NAT Type: Restric NAT\nExternal IP: None\n"), Some(Type::RestrictedCone));
        assert_eq!(pystun3("NAT Type: Meet an error, when do Test1 on Changed IP and Port\n"), None);
    }

    #[test]
    fn the_last_word_of_natdiscovery_counts() {
        let text = "No NAT! (Endpoint Independent Mapping)\n\
                    NAT with Endpoint Independent Mapping!\n\
                    -= Filtering Behavior Discovery =-\n\
                    NAT with Address and Port Dependent Filtering!\n";
        let found = natdiscovery(text);
        assert_eq!(found, Kind::Firewall.behaviour());
        assert_eq!(Found::Behaviour(found).to_string(), "no NAT, EI mapping, APD filtering");
        assert_eq!(natdiscovery("-= Mapping Behavior Discovery =-\nSTUN receive timeout..\n"), None);
    }
}
