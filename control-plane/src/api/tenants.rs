//! Tenants: list, create, read, replace, patch, delete.

use shoal_link::Tenant;

use super::documents::{self, Words};
use crate::rest::openapi::Routes;

/// One page of tenants that have rules.
pub type TenantPage = documents::Page<Tenant>;

const WORDS: Words = Words {
    all: "/api/v1/tenants",
    one: "/api/v1/tenants/{id}",
    list: ("listTenants", "Lists tenants that have rules."),
    create: ("createTenant", "Gives a tenant rules."),
    read: ("readTenant", "Reads a tenant; its secrets are hidden."),
    replace: (
        "replaceTenant",
        "Replaces a tenant, or creates it. A secret of *** keeps the one that is there under that id.",
    ),
    patch: "patchTenant",
    delete: (
        "deleteTenant",
        "Takes a tenant's rules away: nothing is relayed in its name. Its channels and its ledger stay.",
    ),
    missing: "There is no such tenant.",
    taken: "There is such a tenant.",
    stale: "The tenant was changed meanwhile.",
};

pub(super) fn add(routes: Routes) -> Routes {
    documents::add::<Tenant>(routes, &WORDS)
}
