//! Our node, as the cases need it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::SERVER_CPU;
use super::case::Case;
use super::certificate::Certificate;
use crate::node::{Node, Place};
use crate::signals::Stop;
use crate::up;

const CHANNEL: &str = "bench";

/// Seconds that a ticket is good for: longer than any run.
const TICKET_S: u32 = 24 * 3600;

/// Our node with the benchmark's files behind a channel that asks for tickets.
pub(crate) struct Edge {
    pub(crate) node: Node,
    pub(super) files: PathBuf,
    ticket: String,
}

impl Edge {
    /// Writes the files of these cases below `dir` and starts the node.
    pub(crate) fn start(
        bin: &Path,
        dir: &Path,
        certificate: &Certificate,
        cases: &[Case],
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let place = Place::somewhere(dir.join("node"), vec![SERVER_CPU])?.with_tls(certificate.clone())?;
        Self::start_with(bin, place, &dir.join("files"), cases, stop)
    }

    /// The same somewhere else.
    pub(super) fn start_with(
        bin: &Path,
        place: Place,
        files: &Path,
        cases: &[Case],
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        for case in cases {
            case.write_files(files)?;
        }
        let mut node = Node::start(bin, place, stop)?;
        node.put_channel(&channel(CHANNEL, files)?)?;
        let ticket = ticket(&node, CHANNEL)?;
        let case = cases.first().context("there are cases")?;
        node.await_path(&format!("/{CHANNEL}/{}?{ticket}", case.file(0)), stop)?;
        Ok(Self { node, files: files.to_owned(), ticket })
    }

    /// The signed URLs of a case's objects.
    pub(crate) fn urls(&self, case: &Case) -> Vec<String> {
        let place = &self.node.place;
        let base = match &place.tls {
            Some((address, _)) if case.tls => format!("https://{address}/{CHANNEL}"),
            _ => format!("http://{}/{CHANNEL}", place.http),
        };
        case.urls(&base).into_iter().map(|url| format!("{url}?{}", self.ticket)).collect()
    }
}

/// A channel of the files in a folder, which asks for tickets and keeps what it has.
pub(super) fn channel(id: &str, files: &Path) -> anyhow::Result<Value> {
    let key = json!({"id": "k1", "secret": up::random_hex()?});
    Ok(json!({
        "id": id, "prefix": format!("/{id}/"),
        "origins": [{"id": "files", "url": format!("file:{}", files.display())}],
        "cache": {"default_ttl_ms": 1000 * u64::from(TICKET_S), "query_allow": ["n"]},
        "access": {"ticket": {"keys": [key]}},
    }))
}

/// The query with a ticket that opens the whole channel, as one viewer's does.
pub(super) fn ticket(node: &Node, channel: &str) -> anyhow::Result<String> {
    let signed = node.sign(channel, "x", "", TICKET_S)?;
    Ok(signed.split_once('?').context("a signed URL has a query")?.1.to_owned())
}
