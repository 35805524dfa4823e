//! Servers at the hub, and what clients are told of them.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use shoal_stun::credentials::time_limited_password;

use super::{NatLab, Side, peers};
use crate::lab::binary;
use crate::process::Process;
use crate::snapshot;
use crate::tls::{Authority, NOW};

/// Bytes of RAM for a node that serves no slices.
const RAM: u64 = 64 << 20;

/// The port that STUN and TURN have by default (RFC 8489, section 8.1; RFC 8656, section 4).
const PORT: u16 = 3478;

/// Where two partners talk.
const LINK_PORT: u16 = 3477;

/// Time for a server to answer; far more than it needs.
const START: Duration = Duration::from_secs(20);

/// What a client is told: where the server is, and who it may be there.
#[derive(Debug, Clone)]
pub struct Told {
    /// STUN and TURN over UDP and TCP.
    pub v4: SocketAddr,
    /// The same by IPv6.
    pub v6: SocketAddr,
    /// The long-term credential's name, good for an hour.
    pub user: String,
    /// Its password.
    pub password: String,
    /// What user and password were made of, for clients that make their own.
    pub secret: String,
    /// The file of who issued the server's certificate, if it speaks TLS.
    pub roots: Option<PathBuf>,
}

impl Told {
    /// With a time-limited name, as who shares the server's secret hands them out.
    pub fn new(v4: SocketAddr, v6: SocketAddr, secret: &str) -> Self {
        let expiry = SystemTime::now() + Duration::from_secs(3600);
        let expiry = expiry.duration_since(UNIX_EPOCH).expect("it is not 1970").as_secs();
        let user = format!("{expiry}:viewer");
        let password = time_limited_password(secret.as_bytes(), &user);
        let password = String::from_utf8_lossy(&password).into_owned();
        Self { v4, v6, user, password, secret: secret.to_owned(), roots: None }
    }
}

/// A STUN and TURN server with two addresses of each family, which ends with its owner.
#[derive(Debug)]
pub struct Server {
    told: Told,
    process: Process,
    /// Its files last as long as the server.
    _authority: Option<Authority>,
}

impl Server {
    /// coturn, with both dialects of NAT behaviour discovery, and one relay address of each family.
    pub fn coturn(lab: &NatLab, turnserver: &Path) -> Self {
        let (v4, v6) = (lab.addresses(), lab.addresses_v6());
        let told = Told::new((v4[0], PORT).into(), (v6[0], PORT).into(), "a secret of sixteen or more");
        let mut command = lab.hub().command(turnserver);
        command.args(["-n", "-m", "1", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout", "--simple-log"]);
        command.arg("--pidfile").arg(lab.dir().join("turnserver.pid"));
        for address in [v4[0], v4[1], v6[0], v6[1]] {
            command.arg("-L").arg(address.to_string());
        }
        for address in [v4[0], v6[0]] {
            command.arg("-E").arg(address.to_string());
        }
        command.args(["-p", &PORT.to_string(), "-r", "lab"]);
        command.args(["--use-auth-secret", &format!("--static-auth-secret={}", told.secret)]);
        let process = Process::start("turnserver", &mut command, &lab.dir().join("turnserver.log"));
        let mut server = Self { told, process, _authority: None };
        server.await_answers(lab);
        server
    }

    /// Our own data plane, on its last good snapshot, without a control plane.
    pub fn shoal(lab: &NatLab) -> Self {
        let (v4, v6) = (lab.addresses(), lab.addresses_v6());
        Self::node(lab, "shoal", &[v4[0], v4[1], v6[0], v6[1]], "", &json!([]), &[])
    }

    /// The same with XDP in front, at all interfaces by which the sides come; metrics are at [`ADMIN`](Self::ADMIN).
    pub fn shoal_with_xdp(lab: &NatLab) -> Self {
        let ports: Vec<&str> = lab.sides().iter().map(Side::port).collect();
        Self::shoal_at(lab, &ports, &[])
    }

    /// The same with frames for user space (AF_XDP), as `xdp.sockets` says, and nothing relayed on the way there, started by `wrapper`.
    pub fn shoal_by_frames(lab: &NatLab, sockets: &str, wrapper: &[&str]) -> Self {
        Self::shoal_framed(lab, &format!("sockets = \"{sockets}\"\nchannels = 0\n"), wrapper)
    }

    /// The same with bound channels relayed by XDP.
    pub fn shoal_by_frames_and_relaying(lab: &NatLab) -> Self {
        Self::shoal_framed(lab, "sockets = \"copy\"\n", &[])
    }

    fn shoal_framed(lab: &NatLab, more: &str, wrapper: &[&str]) -> Self {
        let ports: Vec<&str> = lab.sides().iter().map(Side::port).collect();
        let xdp = format!("interfaces = {}\npins = \"\"\n{more}", json!(ports));
        Self::shoal_so(lab, &xdp, &json!([]), wrapper)
    }

    /// The same at these interfaces, started by `wrapper`, the words of a command that runs another.
    pub fn shoal_at(lab: &NatLab, interfaces: &[&str], wrapper: &[&str]) -> Self {
        // Labs run side by side, and nothing is to outlive one.
        Self::shoal_so(lab, &format!("interfaces = {}\npins = \"\"\n", json!(interfaces)), &json!([]), wrapper)
    }

    /// The same with these lines as its section `xdp`, and this list of blocks.
    pub fn shoal_so(lab: &NatLab, xdp: &str, blocks: &Value, wrapper: &[&str]) -> Self {
        Self::shoal_with(lab, &format!("[xdp]\n{xdp}"), blocks, wrapper)
    }

    /// The same with lines of configuration that end the section `udp`, and begin others.
    pub fn shoal_with(lab: &NatLab, more: &str, blocks: &Value, wrapper: &[&str]) -> Self {
        let (v4, v6) = (lab.addresses(), lab.addresses_v6());
        let more = format!("{more}[admin]\nlisten = \"{}\"\n", Self::ADMIN);
        Self::node(lab, "shoal", &[v4[0], v4[1], v6[0], v6[1]], &more, blocks, wrapper)
    }

    /// Where a node alone at its hub has its metrics.
    pub const ADMIN: &str = "127.0.0.1:9090";

    /// Two of it with one address of each family, each other's partners: the one that clients ask, and the other.
    pub fn shoal_partners(lab: &NatLab) -> [Self; 2] {
        let (v4, v6) = (lab.addresses(), lab.addresses_v6());
        let key = lab.dir().join("partner.key");
        fs::write(&key, format!("1 {}\n", "5e".repeat(32))).expect("the lab's own folder is writable");
        [(0, 1), (1, 0)].map(|(own, other)| {
            let link = format!(
                "partner = \"{}:{LINK_PORT}\"\npartner_listen = \"{}:{LINK_PORT}\"\npartner_key_file = \"{}\"\n",
                v4[other],
                v4[own],
                key.display()
            );
            Self::node(lab, &format!("partner-{own}"), &[v4[own], v6[own]], &link, &json!([]), &[])
        })
    }

    /// A data plane with these UDP addresses, which relays from the first of each family.
    fn node(lab: &NatLab, name: &str, addresses: &[IpAddr], more: &str, blocks: &Value, wrapper: &[&str]) -> Self {
        let first = |v4| addresses.iter().find(|ip| ip.is_ipv4() == v4).copied().expect("it has both families");
        let (v4, v6) = (first(true), first(false));
        let mut told = Told::new((v4, PORT).into(), (v6, PORT).into(), "a secret of sixteen or more");
        let authority = Authority::new();
        let pair = authority.issue("turn", &[&v4.to_string(), &v6.to_string()], NOW);
        told.roots = Some(authority.roots());
        let (state, config) = (lab.dir().join(name), lab.dir().join(format!("{name}.toml")));
        let admin = if more.contains("[admin]") { "" } else { "[admin]\nlisten = \"127.0.0.1:0\"\n" };
        let list = |addresses: &[IpAddr]| json!(addresses).to_string();
        let text = format!(
            "[node]\nname = \"natlab\"\nstate_dir = \"{}\"\n\
             [shards]\ncount = 2\ncpus = [0, 1]\n[cache]\nram_bytes = {RAM}\n[http]\nlisten = [\"127.0.0.1:0\"]\n\
             [link]\ncontrol = []\n[tls]\ncertificates = [{}]\n\
             [turn]\nrelay_addresses = {}\nrealm = \"lab\"\n\
             [udp]\naddresses = {}\nport = {PORT}\nalternate_port = {}\n{more}{admin}",
            state.display(),
            pair.toml(),
            list(&[v4, v6]),
            list(addresses),
            PORT + 1,
        );
        let secrets = json!([{"id": "one", "secret": told.secret}]);
        let tenants = json!([{"id": "default", "relay": {"secrets": secrets}}]);
        let channels = peers::channels(&told.secret);
        snapshot::write(&state, &json!({"version": 1, "channels": channels, "tenants": tenants, "blocks": blocks}));
        fs::write(&config, text).expect("the lab's own folder is writable");
        let program = binary("shoal-dataplane");
        let mut command = match wrapper {
            [] => lab.hub().command(program),
            [first, more @ ..] => {
                let mut command = lab.hub().command(first);
                command.args(more).arg(program);
                command
            }
        };
        command.arg("--config").arg(config);
        let process = Process::start("shoal-dataplane", &mut command, &lab.dir().join(format!("{name}.log")));
        let mut server = Self { told, process, _authority: Some(authority) };
        server.await_answers(lab);
        server
    }

    /// What clients are told of it.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits until it answers Binding requests on each family.
    fn await_answers(&mut self, lab: &NatLab) {
        // RFC 8489, section 5: type, no attributes, magic cookie, transaction id.
        let request = *b"\x00\x01\x00\x00\x21\x12\xa4\x42it is ready?";
        let deadline = Instant::now() + START;
        for (own, server) in [(lab.addresses()[3], self.told.v4), (lab.addresses_v6()[3], self.told.v6)] {
            let socket = lab.hub().udp((own, 0).into());
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("the time is not zero");
            let mut answer = [0; 512];
            loop {
                // Both fail until there is somebody.
                drop(socket.send_to(&request, server));
                match socket.recv(&mut answer) {
                    Ok(length) if length >= 20 && answer[..2] == [1, 1] && answer[8..20] == request[8..] => break,
                    _ => assert!(self.process.poll().is_none(), "the server ended:\n{}", self.process.output()),
                }
                assert!(Instant::now() < deadline, "{server} does not answer:\n{}", self.process.output());
            }
        }
    }
}
