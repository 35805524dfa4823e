//! `shoal-xdp`: loads the XDP program, and the one that steers UDP flows, pins them with their maps, hands them to the data plane's user,
//! and ends.
//!
//! It alone needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and to give pins to another user than its own, root. The data plane then has none.

#![forbid(unsafe_code)]

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use shoal_dataplane::config::Config;
use shoal_dataplane::link::random_u64;
use shoal_dataplane::settings::xdp_place;
use shoal_probes::{LoadError, Mode, Pins, Probes, may_load};

/// Load, attach and remove the XDP program of a shoal node.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The data plane's configuration, whose section `xdp` says where the program goes and where it is pinned. `udp.steer` and
    /// `shards.count` say whether there is anything to steer.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder for the pins, instead of `xdp.pins`.
    #[arg(long, global = true, value_name = "FOLDER")]
    pins: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load this release's program, put it on the interfaces, and take it off all others. What is there is replaced without a gap.
    Load {
        /// Interfaces, instead of `xdp.interfaces`.
        interfaces: Vec<String>,
        /// Whose the pins are to be: name or number, with `:GROUP` if that is to be another than the folder's. By default who has the folder.
        #[arg(long, value_name = "USER")]
        user: Option<String>,
    },
    /// Put the program on one more interface.
    Attach {
        /// The interface.
        interface: String,
    },
    /// Take it off an interface. That takes only permission for the pins.
    Detach {
        /// The interface.
        interface: String,
    },
    /// Take it off all interfaces, and remove all pins.
    Unload {
        /// For systemd's ExecStopPost: only if the service has ended in order, and not with `xdp.keep`.
        #[arg(long)]
        stopped: bool,
    },
    /// List where it is.
    Status,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shoal-xdp: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let mut config = match &args.config {
        Some(path) => read(path)?,
        None => Config::default(),
    };
    let own = &mut config.xdp;
    if let Some(pins) = &args.pins {
        own.pins.clone_from(pins);
    }
    if let Command::Load { interfaces, .. } = &args.command
        && !interfaces.is_empty()
    {
        own.interfaces.clone_from(interfaces);
    }
    let Some(pins) = xdp_place(own)?.map(Pins::new) else {
        bail!("xdp.pins is empty, so that the data plane loads the program itself: name a folder, or --pins");
    };
    match &args.command {
        Command::Load { user, .. } => load(&config, &pins, user.as_deref()),
        Command::Attach { interface } => attach(&config, &pins, interface),
        Command::Detach { interface } => {
            pins.check()?;
            if !pins.detach(interface)? {
                bail!("XDP is not on {interface}; `shoal-xdp status` lists where it is");
            }
            println!("XDP is off {interface}");
            Ok(())
        }
        Command::Unload { stopped } => {
            let in_order = std::env::var("SERVICE_RESULT").is_ok_and(|result| result == "success");
            if !(*stopped && (config.xdp.keep || !in_order)) && pins.root().exists() {
                pins.check()?;
                pins.remove()?;
            }
            Ok(())
        }
        Command::Status => status(&pins),
    }
}

fn read(path: &PathBuf) -> anyhow::Result<Config> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the configuration {name}"))?;
    Ok(shoal_config::load(&text, &name)?)
}

fn load(config: &Config, pins: &Pins, user: Option<&str>) -> anyhow::Result<()> {
    let owner = user.map(owner).transpose()?;
    let interfaces = &config.xdp.interfaces;
    if interfaces.is_empty() {
        println!("no XDP: xdp.interfaces names none");
        if pins.root().exists() {
            pins.check()?;
            pins.remove()?;
        }
        return Ok(());
    }
    let mut probes = begin(config, pins)?;
    let mut failed = Vec::new();
    for interface in interfaces {
        match probes.attach(interface) {
            Ok(mode) => say(interface, mode),
            Err(error) => failed.push(error.to_string()),
        }
    }
    for interface in pins.detach_others(interfaces)? {
        println!("XDP is off {interface}");
    }
    hand_over(pins, owner)?;
    pins.remove_others()?;
    if failed.is_empty() { Ok(()) } else { bail!("{}", failed.join("; ")) }
}

fn attach(config: &Config, pins: &Pins, interface: &str) -> anyhow::Result<()> {
    let mode = begin(config, pins)?.attach(interface)?;
    hand_over(pins, None)?;
    say(interface, mode);
    Ok(())
}

fn begin(config: &Config, pins: &Pins) -> Result<Probes, LoadError> {
    if !may_load() {
        return Err(LoadError::Privilege(ErrorKind::PermissionDenied.into()));
    }
    let seed =
        random_u64().map_err(|error| LoadError::Other(format!("the kernel gives no random numbers: {error}")))?;
    let mut probes = Probes::load_pinned(pins, seed, config.xdp.channels)?;
    // 0 shards: as many as CPUs.
    let is_steered = config.udp.steer && config.shards.count != 1;
    let done = if is_steered { probes.pin_steering() } else { pins.remove_steering().map_err(LoadError::from) };
    if let Err(error) = done {
        eprintln!("shoal-xdp: {error}; UDP flows are steered only if the data plane may load the program itself");
    }
    Ok(probes)
}

fn say(interface: &str, mode: Mode) {
    println!("XDP is on {interface} ({})", mode.name());
}

/// Gives all pins to a user, or to whose the folder is.
fn hand_over(pins: &Pins, owner: Option<(u32, Option<u32>)>) -> anyhow::Result<()> {
    let Some((user, group)) = owner else { return Ok(pins.give_to_owner()?) };
    pins.give(user, group)?;
    if let Some(folder) = pins.closed_to(user, group) {
        let folder = folder.display();
        bail!("user {user} cannot enter {folder}, and so cannot feed the program: `chmod o+x {folder}`");
    }
    Ok(())
}

/// Ids of `USER`, `USER:GROUP`, `UID` or `UID:GID`.
fn owner(text: &str) -> anyhow::Result<(u32, Option<u32>)> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let user = id(user, "/etc/passwd").with_context(|| format!("--user {text}"))?;
    Ok((user, group.map(|group| id(group, "/etc/group").with_context(|| format!("--user {text}"))).transpose()?))
}

fn id(name: &str, file: &str) -> anyhow::Result<u32> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    let id = line.and_then(|line| line.split(':').nth(2)?.parse().ok());
    id.with_context(|| format!("{name} is not in {file}; give a number"))
}

fn status(pins: &Pins) -> anyhow::Result<()> {
    pins.check()?;
    for at in pins.attached()? {
        let mode = at.mode.map_or("none", Mode::name);
        println!("{} {mode} link {} program {}", at.interface, at.link.unwrap_or_default(), at.program);
    }
    Ok(())
}
