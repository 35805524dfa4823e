//! `shoal-idle`: holds many keep-alive connections on which one request was made and nothing more is asked.

#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use anyhow::Context;
use clap::Parser;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, bind, connect, recv, send, socket};
use shoal_perf::plan::Plan;
use shoal_perf::response::{self, MAX_HEAD};

/// Connections of one address of 127.0.0.0/8: viewers come from many.
const PER_ADDRESS: usize = 500;

/// Opens connections, makes one request on each, says so with a line, and holds them until its input ends. Fails when the
/// server has closed one by then.
#[derive(Parser, Debug)]
#[command(name = "shoal-idle", version)]
struct Args {
    /// What to ask for: http://127.0.0.1:port/path
    url: String,
    /// Connections.
    #[arg(short, long, default_value_t = 10_000)]
    connections: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let plan = Plan::new(std::slice::from_ref(&args.url), &[])?;
    let target = plan.targets.first().context("a plan has a target")?;
    anyhow::ensure!(plan.tls.is_none(), "{}: only http:// is possible", args.url);
    let most = 200 * PER_ADDRESS;
    anyhow::ensure!((1..=most).contains(&args.connections), "--connections: between 1 and {most} are possible");
    let mut held = Vec::with_capacity(args.connections);
    for number in 0..args.connections {
        let opened = open(plan.server, number).and_then(|stream| ask(stream, &target.request));
        held.push(opened.with_context(|| format!("connection {number} of {}", args.connections))?);
    }
    println!("{}", held.len());
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    let closed = held.iter().filter(|stream| !is_open(stream)).count();
    anyhow::ensure!(closed == 0, "the server closed {closed} of {} idle connections", held.len());
    Ok(())
}

/// Connects from an address of its own for every few connections, where the server is on IPv4 loopback.
fn open(server: SocketAddr, number: usize) -> anyhow::Result<TcpStream> {
    if server.ip() != IpAddr::V4(Ipv4Addr::LOCALHOST) {
        return Ok(TcpStream::connect(server)?);
    }
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let host = u8::try_from(2 + number / PER_ADDRESS)?;
    bind(&socket, &SocketAddr::from(([127, 0, 0, host], 0)))?;
    connect(&socket, &server)?;
    Ok(TcpStream::from(socket))
}

/// Makes the request and reads the answer.
fn ask(mut stream: TcpStream, request: &[u8]) -> anyhow::Result<TcpStream> {
    send(&stream, request, SendFlags::NOSIGNAL)?;
    let (mut bytes, mut filled) = (vec![0; MAX_HEAD], 0);
    let head = loop {
        let read = stream.read(&mut bytes[filled..])?;
        anyhow::ensure!(read > 0, "the server closed the connection before its answer");
        filled += read;
        if let Some(head) = response::parse(&bytes[..filled])? {
            break head;
        }
    };
    anyhow::ensure!(head.status == 200, "status {} instead of 200", head.status);
    anyhow::ensure!(!head.close, "the server closes a keep-alive connection");
    let left = head.body_len.checked_sub((filled - head.head_len) as u64).context("more than Content-Length came")?;
    let read = io::copy(&mut Read::by_ref(&mut stream).take(left), &mut io::sink())?;
    anyhow::ensure!(read == left, "the server closed the connection within the body");
    Ok(stream)
}

fn is_open(stream: &TcpStream) -> bool {
    recv(stream, &mut [0; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK) == Err(Errno::AGAIN)
}
