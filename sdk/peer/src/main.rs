//! `shoal-peer`: finds the type of a NAT, is there for other peers, connects to one. Prints a line of JSON for whatever
//! happens.

#![forbid(unsafe_code)]

mod lines;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use shoal_peer::register::Identity;
use shoal_peer::session::{Event, Session, Settings, Task};
use shoal_peer::shell::Shell;
use shoal_peer::transfer::{MAX_BYTES, Verdict};
use shoal_peer::turn::Account;
use shoal_peer::wire::{MAX_CHANNEL, MAX_TICKET, PeerId};
use shoal_stun::nat::{Dialect, Timing};

/// Reference client for NAT type, punching and relay. Prints JSON, an object a line; what is asked for comes last.
#[derive(Parser, Debug)]
#[command(name = "shoal-peer", version)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Finds the type of the NAT.
    Type(Type),
    /// Registers, answers introductions, receives transfers and checks them.
    Serve(Serve),
    /// Is introduced to a peer, connects to it, straight or by the relay, and sends it bytes.
    Connect(Connect),
}

#[derive(Args, Debug)]
struct Type {
    /// The node's STUN address.
    #[arg(long)]
    node: SocketAddr,
    /// In whose words to ask.
    #[arg(long, default_value = "modern")]
    dialect: In,
}

#[derive(ValueEnum, Debug, Clone, Copy)]
enum In {
    /// RFC 8489 and RFC 5780.
    Modern,
    /// RFC 3489.
    Classic,
}

#[derive(Args, Debug)]
struct Peer {
    /// The node that the other peer is registered on.
    #[arg(long)]
    node: SocketAddr,
    /// The channel's id.
    #[arg(long)]
    channel: String,
    /// Who this is: 40 hexadecimal digits.
    #[arg(long)]
    id: PeerId,
    /// The viewer's ticket, where the channel asks for one.
    #[arg(long)]
    ticket: Option<String>,
    /// A TURN server.
    #[arg(long, requires = "user", requires = "password")]
    turn: Option<SocketAddr>,
    /// A user that it knows.
    #[arg(long, default_value = "")]
    user: String,
    /// And the password.
    #[arg(long, default_value = "")]
    password: String,
    /// The channel is relay only.
    #[arg(long, requires = "turn")]
    relay_only: bool,
    /// Leaves discovery out: the NAT's type is told as unknown.
    #[arg(long)]
    no_discovery: bool,
    /// Seconds after which it ends, whatever is under way.
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

#[derive(Args, Debug)]
struct Serve {
    #[command(flatten)]
    peer: Peer,
    /// Transfers to receive; 0: any number.
    #[arg(long, default_value_t = 1)]
    transfers: u32,
}

#[derive(Args, Debug)]
struct Connect {
    #[command(flatten)]
    peer: Peer,
    /// Whom to connect to: 40 hexadecimal digits.
    #[arg(long)]
    to: PeerId,
    /// How much to send.
    #[arg(long, default_value_t = 100_000)]
    bytes: u64,
}

impl Peer {
    /// What a session needs to know, checked.
    fn settings(self, shell: &Shell, task: Task) -> anyhow::Result<Settings> {
        if self.channel.is_empty() || self.channel.len() > MAX_CHANNEL {
            bail!("--channel has {} bytes: give 1 to {MAX_CHANNEL}", self.channel.len());
        }
        if self.ticket.as_ref().is_some_and(|ticket| ticket.is_empty() || ticket.len() > MAX_TICKET) {
            bail!("--ticket: give 1 to {MAX_TICKET} bytes, or leave it out");
        }
        let Self { user, password, .. } = self;
        Ok(Settings {
            identity: Identity { node: self.node, peer: self.id, channel: self.channel, ticket: self.ticket },
            local: shell.local(),
            turn: self.turn.map(|server| Account { server, user, password }),
            relay_only: self.relay_only,
            discovery: (!self.no_discovery).then(Timing::default),
            task,
        })
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().what) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("shoal-peer: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(what: What) -> anyhow::Result<ExitCode> {
    match what {
        What::Type(Type { node, dialect }) => {
            let dialect = match dialect {
                In::Modern => Dialect::Modern,
                In::Classic => Dialect::Classic,
            };
            let found = bind(node)?.discover(dialect, node, Timing::default()).context("cannot receive")?;
            println!("{}", lines::found(&found));
            Ok(ExitCode::SUCCESS)
        }
        What::Serve(Serve { peer, transfers }) => take_part(peer, Task::Serve(transfers)),
        What::Connect(Connect { bytes, .. }) if bytes > MAX_BYTES => bail!("--bytes: at most {MAX_BYTES}"),
        What::Connect(Connect { peer, to, bytes }) => take_part(peer, Task::Connect(to, bytes)),
    }
}

fn bind(node: SocketAddr) -> anyhow::Result<Shell> {
    Shell::bind(node).with_context(|| format!("no way to {node}"))
}

/// Fails when a transfer was wrong, or none came about that was wanted.
fn take_part(peer: Peer, task: Task) -> anyhow::Result<ExitCode> {
    let shell = bind(peer.node)?;
    let until = peer.seconds.saturating_mul(1_000);
    let settings = peer.settings(&shell, task)?;
    let mut session = Session::new(settings, Shell::seed().context("no randomness")?, shell.now());
    let (mut right, mut wrong) = (0_u32, false);
    shell
        .run(&mut session, until, |session, event| {
            match &event {
                Event::Finished(finished) if finished.verdict == Verdict::Right => right += 1,
                Event::Finished(_) | Event::Failed(_) => wrong = true,
                Event::Found(_) | Event::Registered(_) => {}
            }
            println!("{}", lines::event(session, &event));
        })
        .context("cannot receive")?;
    let enough = match task {
        Task::Serve(transfers) => right >= transfers,
        Task::Connect(..) => right > 0,
    };
    if !enough && !wrong {
        println!("{}", lines::out_of_time(&session));
    }
    Ok(if enough && !wrong { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
