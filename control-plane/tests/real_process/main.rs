//! The real `shoal-control` and `shoalctl`, and data planes of our own making that speak the link.

#![expect(clippy::unwrap_used, reason = "what is not there fails the test, here as in its helpers")]

mod ctl;
mod instances;
mod ledger;
mod link;
mod peers;
mod people;
mod process;
mod recon;
mod reports;
mod service;
mod support;
mod tenants;
#[path = "../../src/store/testing.rs"]
#[expect(dead_code, reason = "the library's own tests use all of it")]
mod testing;
