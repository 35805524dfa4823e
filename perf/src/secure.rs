//! TLS around a connection: one version and one cipher, so that all servers do the same work.

use std::fs;
use std::io::{BufRead, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use shoal_perf::expected::Expected;
use shoal_perf::plan::Plan;
use shoal_perf::report::{Cores, Tally};
use shoal_perf::response;

use crate::Args;

/// Bytes of records read at once.
const WIRE_BYTES: usize = 256 << 10;

/// Bytes of plaintext read at once where bodies are compared.
const READ_BYTES: usize = 64 << 10;

/// How to begin sessions with the server of a plan.
pub(crate) struct Trust {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

/// One session.
pub(crate) struct Secure {
    session: ClientConnection,
    wire: Vec<u8>,
}

impl Trust {
    /// For the plan's server; `None` when its URLs are plain.
    pub(crate) fn of(plan: &Plan, roots: Option<&Path>) -> anyhow::Result<Option<Trust>> {
        let Some(host) = &plan.tls else { return Ok(None) };
        let roots = roots.context("https:// needs --roots, the certificates to trust")?;
        let pem = fs::read(roots).with_context(|| format!("--roots {}", roots.display()))?;
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            store.add(certificate?).with_context(|| format!("--roots {}", roots.display()))?;
        }
        let mut provider = ring::default_provider();
        provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Some(Trust { config: Arc::new(config), name: ServerName::try_from(host.clone())? }))
    }

    fn session(&self) -> anyhow::Result<ClientConnection> {
        Ok(ClientConnection::new(Arc::clone(&self.config), self.name.clone())?)
    }
}

impl Secure {
    /// Agrees on a session over a connection that still waits for its bytes.
    pub(crate) fn new(trust: &Trust, mut stream: &TcpStream) -> anyhow::Result<Secure> {
        let mut session = trust.session()?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).context("TLS handshake")?;
        }
        Ok(Secure { session, wire: vec![0; WIRE_BYTES] })
    }

    /// Sends a short request.
    pub(crate) fn send(&mut self, mut stream: &TcpStream, request: &[u8]) -> anyhow::Result<()> {
        self.session.writer().write_all(request)?;
        while self.session.wants_write() {
            self.session.write_tls(&mut stream).context("cannot send the request")?;
        }
        Ok(())
    }

    /// Reads once, and gives the plaintext to `take`. False when nothing more is there.
    pub(crate) fn receive(
        &mut self,
        stream: &TcpStream,
        mut take: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let read = match recv(stream, &mut self.wire[..], RecvFlags::empty()) {
            Err(Errno::AGAIN) => return Ok(false),
            read => read?.1,
        };
        anyhow::ensure!(read > 0, "the server closed the connection");
        let mut wire = &self.wire[..read];
        while !wire.is_empty() {
            self.session.read_tls(&mut wire)?;
            let mut left = self.session.process_new_packets()?.plaintext_bytes_to_read();
            while left > 0 {
                let mut reader = self.session.reader();
                let plain = reader.fill_buf()?;
                let used = plain.len();
                take(plain)?;
                reader.consume(used);
                left -= used;
            }
        }
        Ok(read == self.wire.len())
    }
}

/// A checking run: every body is read and compared, over one connection.
pub(crate) fn verify(args: &Args, plan: Plan, trust: &Trust) -> anyhow::Result<Value> {
    let stream = TcpStream::connect(plan.server).with_context(|| format!("cannot connect to {}", plan.server))?;
    let mut stream = StreamOwned::new(trust.session()?, stream);
    let targets: Vec<Expected> =
        plan.targets.into_iter().map(|target| Expected::new(target, args.status, args.bytes)).collect();
    let (mut tally, begun) = (Tally::new()?, Instant::now());
    for target in targets.iter().cycle() {
        if begun.elapsed() >= args.duration() || tally.requests >= args.requests.unwrap_or(u64::MAX) {
            break;
        }
        let due = Instant::now();
        stream.write_all(target.request)?;
        let mut buffer = vec![0; READ_BYTES];
        let mut filled = 0;
        let head = loop {
            let read = stream.read(&mut buffer[filled..])?;
            anyhow::ensure!(read > 0, "{}: the server closed the connection before its answer", target.path);
            filled += read;
            if let Some(head) = response::parse(&buffer[..filled])? {
                break head;
            }
        };
        let mut hash = response::Hash::default();
        hash.add(&buffer[head.head_len..filled]);
        let mut left = head.body_len.checked_sub((filled - head.head_len) as u64);
        while let Some(more @ 1..) = left {
            let ask = buffer.len().min(more as usize);
            let read = stream.read(&mut buffer[..ask])?;
            anyhow::ensure!(read > 0, "{}: {more} bytes of the body are missing", target.path);
            hash.add(&buffer[..read]);
            left = Some(more - read as u64);
        }
        left.with_context(|| format!("{}: more bytes than Content-Length came", target.path))?;
        match target.check(&head, Some(hash.value())) {
            Ok(()) => tally.response(head.body_len, due.elapsed()),
            Err(wrong) => tally.error(|| wrong),
        }
    }
    Ok(tally.report(begun.elapsed(), 1, None, Cores::default()))
}
