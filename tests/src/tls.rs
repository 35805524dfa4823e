//! TLS around the plain clients and origins of this harness: certificates, and relays that put it on or take it off.

use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use rustls::{StreamOwned, SupportedProtocolVersion};

use crate::client::PATIENCE;
use crate::net;
use crate::origin::reset;

/// Valid since yesterday, for three months.
pub const NOW: (i64, i64) = (-1, 90);

/// Bytes a relay reads at once.
const STEP: usize = 32 << 10;

/// Somebody who issues certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The chain.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, with its files in a folder of its own.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, format!("authority {nth}"));
        let key = KeyPair::generate().expect("the kernel gives random numbers");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("the parameters are fine");
        let dir = std::env::temp_dir().join(format!("shoal-tests-tls-{}-{nth}", std::process::id()));
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
        write(&dir.join("roots.pem"), &issuer.pem());
        Self { issuer, dir }
    }

    /// The file with its own certificate.
    pub fn roots(&self) -> PathBuf {
        self.dir.join("roots.pem")
    }

    /// Writes `file.pem` and `file.key` for `names`, valid from and until so many days from now.
    pub fn issue(&self, file: &str, names: &[&str], days: (i64, i64)) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names are fine");
        let at = |days: i64| match (Duration::from_secs(days.unsigned_abs() * 86_400), days) {
            (away, 0..) => SystemTime::now() + away,
            (away, _) => SystemTime::now() - away,
        };
        (params.not_before, params.not_after) = (at(days.0).into(), at(days.1).into());
        let key = KeyPair::generate().expect("the kernel gives random numbers");
        let certificate = params.signed_by(&key, &self.issuer).expect("the parameters are fine");
        let pair =
            Pair { certificate: self.dir.join(format!("{file}.pem")), key: self.dir.join(format!("{file}.key")) };
        write(&pair.certificate, &certificate.pem());
        write(&pair.key, &key.serialize_pem());
        pair
    }

    /// A client that trusts this authority alone and speaks these versions.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("it is an authority");
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("the provider has ciphers for them");
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.dir));
    }
}

impl Pair {
    /// As a value of `tls.certificates`.
    pub fn toml(&self) -> String {
        format!("{{ certificate = \"{}\", key = \"{}\" }}", self.certificate.display(), self.key.display())
    }

    /// The certificate itself.
    pub fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).expect("we wrote it")
    }

    /// A server that has it.
    fn server(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().expect("the provider has ciphers for them");
        let key = PrivateKeyDer::from_pem_file(&self.key).expect("we wrote it");
        Arc::new(builder.with_no_client_auth().with_single_cert(vec![self.der()], key).expect("they fit"))
    }
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

/// A connection with TLS that has agreed on a session, or why it could not.
pub fn connect(
    to: SocketAddr,
    config: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    over(TcpStream::connect(to)?, config, name)
}

/// The same on a connection that is there already.
pub fn over(
    mut stream: TcpStream,
    config: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from(name.to_owned()).expect("tests use good names");
    let mut session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(session, stream))
}

/// Where plain clients of this harness reach a server that speaks TLS as `name`.
pub fn put_on(to: SocketAddr, config: &Arc<ClientConfig>, name: &'static str) -> SocketAddr {
    let config = Arc::clone(config);
    relay(to, move || {
        let name = ServerName::try_from(name).expect("tests use good names");
        (ClientConnection::new(Arc::clone(&config), name).expect("a session").into(), false)
    })
    .0
}

/// Where a plain origin is reached by TLS, with this certificate; and how many connections came.
pub fn take_off(to: SocketAddr, pair: &Pair) -> (SocketAddr, Arc<AtomicU64>) {
    let config = pair.server();
    relay(to, move || (ServerConnection::new(Arc::clone(&config)).expect("a session").into(), true))
}

/// A thread for each connection, until the process ends. `session` says whether TLS is on the accepted side.
fn relay(to: SocketAddr, session: impl Fn() -> (Connection, bool) + Send + 'static) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind((net::own_address(), 0)).expect("a free port for the relay");
    let address = listener.local_addr().expect("a bound socket has an address");
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for accepted in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::Relaxed);
            let (session, accepted_has_tls) = session();
            thread::spawn(move || {
                let Ok(connected) = TcpStream::connect(to) else { return reset(&accepted) };
                let (secure, plain) = if accepted_has_tls { (accepted, connected) } else { (connected, accepted) };
                if (Pump { session, secure: &secure, plain: &plain, arrived: Vec::new() }).run().is_err() {
                    // Whoever is on the plain side must not take what it has for the whole.
                    reset(&plain);
                    reset(&secure);
                }
            });
        }
    });
    (address, count)
}

struct Pump<'a> {
    session: Connection,
    secure: &'a TcpStream,
    plain: &'a TcpStream,
    /// Decrypted, on its way to the plain side.
    arrived: Vec<u8>,
}

impl Pump<'_> {
    fn run(mut self) -> io::Result<()> {
        for stream in [self.secure, self.plain] {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
        }
        let (mut from_plain, mut from_secure) = (true, true);
        while from_plain || from_secure || self.session.wants_write() {
            let when = |flag, condition| if condition { flag } else { PollFlags::empty() };
            let secure_wants = when(PollFlags::IN, from_secure && self.arrived.is_empty())
                | when(PollFlags::OUT, self.session.wants_write());
            let may_send = from_plain && !self.session.wants_write() && !self.session.is_handshaking();
            let plain_wants = when(PollFlags::IN, may_send) | when(PollFlags::OUT, !self.arrived.is_empty());
            let mut ready = [PollFd::new(self.secure, secure_wants), PollFd::new(self.plain, plain_wants)];
            poll(&mut ready, Some(&Timespec { tv_sec: 60, tv_nsec: 0 }))?;
            let [secure, plain] = ready.map(|ready| ready.revents());
            if plain.contains(PollFlags::ERR) || secure.contains(PollFlags::ERR) {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if !self.arrived.is_empty() {
                let sent = would_block((&mut self.plain).write(&self.arrived))?.unwrap_or(0);
                self.arrived.drain(..sent);
            } else if from_secure {
                from_secure = self.receive()?;
            }
            if may_send {
                let mut bytes = vec![0; STEP];
                match would_block((&mut self.plain).read(&mut bytes))? {
                    None => {}
                    Some(0) => {
                        from_plain = false;
                        self.session.send_close_notify();
                    }
                    Some(read) => self.session.writer().write_all(&bytes[..read])?,
                }
            }
            while self.session.wants_write() {
                if would_block(self.session.write_tls(&mut &*self.secure))?.is_none() {
                    break;
                }
            }
            if !from_secure && self.arrived.is_empty() {
                self.plain.shutdown(Shutdown::Write)?;
            }
        }
        self.secure.shutdown(Shutdown::Write)
    }

    /// Whether more may come. An end without close_notify is an error.
    fn receive(&mut self) -> io::Result<bool> {
        let Some(read) = would_block(self.session.read_tls(&mut &*self.secure))? else { return Ok(true) };
        let state = self.session.process_new_packets().map_err(io::Error::other)?;
        let at = self.arrived.len();
        self.arrived.resize(at + state.plaintext_bytes_to_read(), 0);
        self.session.reader().read_exact(&mut self.arrived[at..])?;
        match (read, state.peer_has_closed()) {
            (_, true) => Ok(false),
            (0, false) => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(true),
        }
    }
}

fn would_block<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
