//! Channels: list, create, read, replace, patch, delete.

use shoal_link::Channel;

use super::documents::{self, Words};
use crate::app::App;
use crate::rest::input::IfMatch;
use crate::rest::openapi::Routes;
use crate::rest::problem::Problem;
use crate::store::Stored;

/// One page of channels.
pub type ChannelPage = documents::Page<Channel>;

const WORDS: Words = Words {
    all: "/api/v1/channels",
    one: "/api/v1/channels/{id}",
    list: ("listChannels", "Lists channels."),
    create: ("createChannel", "Creates a channel."),
    read: ("readChannel", "Reads a channel; its secrets are hidden."),
    replace: (
        "replaceChannel",
        "Replaces a channel, or creates it. A secret of *** keeps the one that the key of that id has.",
    ),
    patch: "patchChannel",
    delete: ("deleteChannel", "Deletes a channel; its ledger stays."),
    missing: "There is no such channel.",
    taken: "The id, or host and prefix, are another channel's.",
    stale: "The channel was changed meanwhile.",
};

pub(super) fn add(routes: Routes) -> Routes {
    documents::add::<Channel>(routes, &WORDS)
}

/// Changes a channel, if it is at a revision that `wanted` names; for the console, where secrets stay as they are.
pub(crate) async fn change_channel(
    app: &App,
    id: &str,
    wanted: Option<&IfMatch>,
    change: impl Fn(&Channel) -> Result<Channel, Problem>,
) -> Result<Stored<Channel>, Problem> {
    documents::modify(app, id, wanted, |old| documents::check(change(old)?, Some(old))).await
}
