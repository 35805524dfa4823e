//! XDP on a node: by its own pages, and by the loader beside this program.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use shoal_link::xdp::{Drop, Status};
use ureq::Agent;

use crate::arguments::{Arguments, Attach, Xdp};
use crate::client::Failure;
use crate::run::{age, print_json};
use crate::table::{Align, Table};

/// The loader.
const LOADER: &str = "shoal-xdp";

/// For a node to answer; the stream of drops has no end.
const WAIT: Duration = Duration::from_secs(10);

/// Most bytes of a line of drops.
const MAX_LINE: u64 = 4 << 10;

/// The pages of one node.
pub(crate) struct NodePages {
    agent: Agent,
    base: String,
    json: bool,
}

impl NodePages {
    pub(crate) fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let base = arguments.node_api.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") || base.parse::<ureq::http::Uri>().is_err() {
            let message =
                format!("--node-api {base}: give a URL such as http://127.0.0.1:9090 (or set SHOAL_NODE_API)");
            return Err(Failure::Usage(message));
        }
        let config = Agent::config_builder().http_status_as_error(false).timeout_recv_response(Some(WAIT));
        let agent = Agent::new_with_config(config.timeout_connect(Some(WAIT)).proxy(None).build());
        Ok(Self { agent, base, json: arguments.json })
    }

    pub(crate) fn xdp(&self, command: &Xdp) -> Result<(), Failure> {
        match command {
            Xdp::Status => {
                let status = self.status()?;
                if self.json {
                    return print_json(&status);
                }
                print!("{}", shown(&status));
                Ok(())
            }
            Xdp::Attach(attach) => self.load("attach", attach),
            Xdp::Detach(attach) => self.load("detach", attach),
        }
    }

    /// Has the loader do it: it is the one program with privileges.
    fn load(&self, what: &str, attach: &Attach) -> Result<(), Failure> {
        let pins = match &attach.pins {
            Some(pins) => pins.clone(),
            None => self.status()?.pins.ok_or_else(|| {
                Failure::Node("the node pins nothing (xdp.pins), so that only itself can attach its program".to_owned())
            })?,
        };
        let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join(LOADER)));
        let loader = beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(LOADER));
        let status = Command::new(&loader).args(["--pins", &pins, what, &attach.interface]).status();
        let status = status.map_err(|error| Failure::Node(format!("cannot run {}: {error}", loader.display())))?;
        if status.success() {
            Ok(())
        } else {
            Err(Failure::Node(format!("{LOADER} did not {what} it; its reason stands above")))
        }
    }

    /// Shows drops as they come, `count` of them.
    pub(crate) fn drops(&self, count: Option<usize>) -> Result<(), Failure> {
        let status = self.status()?;
        // There never would be one.
        if let Some(why) = absence(&status) {
            return Err(Failure::Node(format!("no XDP on the node: {why}")));
        }
        if status.sample_every == 0 {
            return Err(Failure::Node("the node samples no drops: xdp.sample_every is 0".to_owned()));
        }
        let mut lines = BufReader::new(self.get("/xdp/drops")?.into_body().into_reader());
        let mut out = std::io::stdout().lock();
        let mut left = count.unwrap_or(usize::MAX);
        while left > 0 {
            let mut line = String::new();
            let read = std::io::Read::take(&mut lines, MAX_LINE).read_line(&mut line);
            if read.map_err(|error| self.unreachable(&error.to_string()))? == 0 {
                return Err(self.unreachable("it has ended"));
            }
            let drop: Drop = serde_json::from_str(&line).map_err(|error| self.foreign(&error))?;
            let written = if self.json { out.write_all(line.as_bytes()) } else { writeln!(out, "{}", told(&drop)) };
            if written.and_then(|()| out.flush()).is_err() {
                // Whoever read it has gone.
                return Ok(());
            }
            left -= 1;
        }
        Ok(())
    }

    fn status(&self) -> Result<Status, Failure> {
        let text = self.get("/xdp")?.into_body().read_to_string();
        let text = text.map_err(|error| self.unreachable(&error.to_string()))?;
        serde_json::from_str(&text).map_err(|error| self.foreign(&error))
    }

    fn get(&self, path: &str) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let response = self.agent.get(format!("{}{path}", self.base)).call();
        let response = response.map_err(|error| self.unreachable(&error.to_string()))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let said = response.into_body().read_to_string().unwrap_or_default();
        Err(Failure::Node(format!("the node answers {status}: {}", said.trim())))
    }

    fn foreign(&self, error: &serde_json::Error) -> Failure {
        self.unreachable(&format!("its answer is none of this release: {error}"))
    }

    fn unreachable(&self, why: &str) -> Failure {
        Failure::Unreachable(format!(
            "the node at {}: {why}; check that it runs, and --node-api (or SHOAL_NODE_API)",
            self.base
        ))
    }
}

/// Why a node has no XDP, if it has none.
fn absence(status: &Status) -> Option<&str> {
    let unasked = (status.layout == 0).then_some("xdp.interfaces names none");
    status.absent.as_deref().or(unasked)
}

fn shown(status: &Status) -> String {
    if let Some(why) = absence(status) {
        return format!("no XDP: {why}\n");
    }
    let by = if status.loaded_here { "the node itself" } else { LOADER };
    let place = match (&status.pins, status.keep) {
        (None, _) => "ends with the node".to_owned(),
        (Some(pins), false) => format!("pinned in {pins} until the node is stopped in order"),
        (Some(pins), true) => format!("pinned in {pins}, and stays"),
    };
    let mut text = format!("loaded by {by}, layout {}, {place}\n\n", status.layout);
    let mut interfaces = Table::new(&[
        ("INTERFACE", Align::Left),
        ("MODE", Align::Left),
        ("LINK", Align::Right),
        ("PROGRAM", Align::Right),
        ("TAG", Align::Left),
        ("SINCE", Align::Left),
    ]);
    for at in &status.interfaces {
        interfaces.row(vec![
            at.interface.clone(),
            at.mode.clone(),
            at.link.map_or_else(String::new, |link| link.to_string()),
            at.program.to_string(),
            at.tag.clone().unwrap_or_else(|| "another".to_owned()),
            at.since.map_or_else(String::new, |since| age(since * 1_000)),
        ]);
    }
    let mut packets = Table::new(&[("VERDICT", Align::Left), ("PACKETS", Align::Right)]);
    for count in status.packets.iter().filter(|count| count.packets > 0) {
        packets.row(vec![count.verdict.clone(), count.packets.to_string()]);
    }
    text.push_str(&format!("{interfaces}\n{packets}"));
    text
}

/// A drop in a line. Times are UTC, as in the logs.
fn told(drop: &Drop) -> String {
    let (day_ms, at) = (drop.at_ms % 86_400_000, |unit: u64, of: u64| drop.at_ms / unit % of);
    let (hour, minute, second) = (day_ms / 3_600_000, at(60_000, 60), at(1_000, 60));
    let place = |address: std::net::IpAddr, port: u16| match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    };
    format!(
        "{hour:02}:{minute:02}:{second:02}.{:03} {} {} > {} {} bytes {}",
        drop.at_ms % 1_000,
        drop.verdict,
        place(drop.source, drop.source_port),
        place(drop.destination, drop.destination_port),
        drop.length,
        drop.first
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_a_line() {
        let drop = Drop {
            at_ms: 86_400_000 * 3 + 3_723_004,
            source: [192, 0, 2, 7].into(),
            source_port: 4711,
            destination: [192, 0, 2, 1].into(),
            destination_port: 0,
            verdict: "blocked".to_owned(),
            length: 62,
            first: "0001".to_owned(),
        };
        assert_eq!(told(&drop), "01:02:03.004 blocked 192.0.2.7:4711 > 192.0.2.1 62 bytes 0001");
    }

    #[test]
    fn a_node_without_xdp_says_so() {
        assert!(shown(&Status::default()).contains("xdp.interfaces"));
        let absent = Status { absent: Some("no privileges".to_owned()), ..Status::default() };
        assert_eq!(shown(&absent), "no XDP: no privileges\n");
    }
}
