//! Cases set up to be looked at: our node under the load of one, as long as somebody looks.

use std::path::Path;

use anyhow::Context;

use super::case::Case;
use super::certificate::Certificate;
use super::edge::Edge;
use super::load::Load;
use super::{disk, gso, ram};
use crate::signals::Stop;

/// What is needed to set a case up.
pub(crate) struct Stage<'a> {
    /// Folder of the built programs.
    pub(crate) bin: &'a Path,
    /// Folder to use.
    pub(crate) dir: &'a Path,
    pub(crate) load: &'a Load,
    pub(crate) stop: &'a Stop,
}

/// The names of the cases that can be set up: those that are about throughput.
pub(crate) fn names() -> Vec<&'static str> {
    [ram::CASES, gso::CASES, disk::CASES].into_iter().flatten().map(|case| case.name).collect()
}

impl Stage<'_> {
    /// Starts our node for a case, has `look` do what it wants with both, and stops the node.
    pub(crate) fn show(
        &self,
        name: &str,
        look: impl FnOnce(&Edge, &Case) -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<()> {
        let of = |cases: &'static [Case]| cases.iter().find(|case| case.name == name);
        if let Some(case) = of(ram::CASES) {
            let certificate = Certificate::within(self.dir);
            certificate.make()?;
            return play(Edge::start(self.bin, self.dir, &certificate, ram::CASES, self.stop)?, case, look);
        }
        if let Some(case) = of(disk::CASES) {
            let edge = disk::start(self.bin, self.dir, disk::RAM, std::slice::from_ref(case), self.stop)?;
            disk::fill(&edge, case, self.load, self.stop)?;
            return play(edge, case, look);
        }
        let case = of(gso::CASES);
        let case = case.with_context(|| format!("there is no scenario `{name}`; these are: {}", names().join(", ")))?;
        gso::within(|| play(gso::start(self.bin, self.dir, case, self.stop)?, case, look))
    }
}

fn play(edge: Edge, case: &Case, look: impl FnOnce(&Edge, &Case) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let looked = look(&edge, case);
    edge.node.stop()?;
    looked
}
