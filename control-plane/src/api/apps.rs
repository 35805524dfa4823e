//! Apps: who may ask conf.

use shoal_conf::App;

use super::documents::{self, Words};
use crate::rest::openapi::Routes;

/// One page of apps.
pub type AppPage = documents::Page<App>;

const WORDS: Words = Words {
    all: "/api/v1/apps",
    one: "/api/v1/apps/{id}",
    list: ("listApps", "Lists apps."),
    create: ("createApp", "Creates an app."),
    read: ("readApp", "Reads an app; its secrets are hidden."),
    replace: ("replaceApp", "Replaces an app, or creates it. A secret of *** keeps the one of that id."),
    patch: "patchApp",
    delete: ("deleteApp", "Deletes an app: nobody can ask in its name any more."),
    missing: "There is no such app.",
    taken: "There is such an app.",
    stale: "The app was changed meanwhile.",
};

pub(super) fn add(routes: Routes) -> Routes {
    documents::add::<App>(routes, &WORDS)
}
