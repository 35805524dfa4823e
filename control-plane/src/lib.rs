//! The control plane: channels, keys, snapshots, ledger, admin API.
//!
//! | Module | Holds |
//! |---|---|
//! | [`config`] | the keys of the configuration file |
//! | [`server`] | start and stop: store, token, admin API, link |
//! | [`app`] | what requests and connections share |
//! | [`access`] | who may do what: roles, users, tokens, sessions, the log of changes |
//! | [`api`] | the admin REST API under `/api/v1`, its OpenAPI document, `/metrics`, `/healthz`, `/readyz` |
//! | `console` | web pages for people, under `/console` on the admin listener |
//! | [`public`] | conf, tracker and reports, under `/v1` on a listener of their own |
//! | [`pass`] | what a viewer shows to tracker and reports |
//! | [`recon`] | CDNs' logs, and what was delivered against what was counted |
//! | [`conf`] | what SDKs are told: rules, apps, passes |
//! | [`geo`] | where an address is |
//! | [`report`] | what viewers' SDKs and players report: spool, sums, raw records |
//! | [`tls`] | the public API's certificate |
//! | `rest` | what both APIs have in common: routes that describe themselves, typed input, errors |
//! | [`validate`], [`field`] | raw channels and tenants become valid ones; what is wrong with a field |
//! | [`link`] | the control link's server: data planes connect, get snapshots and commands, bring usage and health |
//! | [`store`] | all SQL |
//! | [`instances`] | changes and nodes of the other instances that share the store |
//! | `orders` | commands to nodes, wherever they are connected |
//! | [`peers`] | which peers are registered at which node, for the tracker; in memory |
//! | [`tracker`] | announces by HTTP and WebSocket, and the swarms behind them |
//! | [`metrics`] | the table of metrics |
//! | [`token`] | the operator's own token, in a file |
//!
//! A channel's or tenant's way: request → [`api`] → [`validate::Valid`] → [`store`] (document and snapshot version in one
//! commit) → [`link::Hub`] publishes the newest snapshot → every connection sends it when its node has another.
//! Usage comes the other way: connection → [`store`] (sums and batch number in one commit) → acknowledgement.

#![forbid(unsafe_code)]

pub mod access;
pub mod api;
pub mod app;
pub mod conf;
pub mod config;
mod console;
pub mod field;
pub mod geo;
mod http;
pub mod instances;
pub mod link;
pub mod metrics;
mod orders;
pub mod pass;
pub mod peers;
pub mod public;
pub mod recon;
pub mod report;
mod rest;
pub mod server;
pub mod store;
pub mod tls;
pub mod token;
pub mod tracker;
pub mod validate;
