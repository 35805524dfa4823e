//! What conf tells an SDK, and why: apps and their anti-leech rules, P2P rules and parameters, signed requests.
//! docs/conf.md is its manual.
//!
//! | Module | Holds |
//! |---|---|
//! | [`app`] | apps: keys, and who may ask in their name |
//! | [`code`] | why a request is refused, one code for each reason |
//! | [`signature`] | requests signed with an app's key |
//! | [`nonces`] | signatures that were used already |
//! | [`rule`] | P2P rules, as documents |
//! | [`parameters`] | what rules set |
//! | [`engine`] | which rules hold for a viewer, which of them decides, and the explanation |
//! | [`glob`], [`version`] | patterns of ids and paths; versions of SDKs |
//!
//! Nothing here has a clock or randomness: time and viewer are arguments.

#![forbid(unsafe_code)]

pub mod app;
pub mod code;
pub mod engine;
#[doc(hidden)]
pub mod fuzzing;
pub mod glob;
pub mod nonces;
pub mod parameters;
pub mod rule;
pub mod signature;
pub mod version;
mod wrong;

pub use app::{App, AppRules};
pub use code::Code;
pub use engine::{Decision, Engine, Explanation, Subject};
pub use parameters::{Parameters, Settled};
pub use rule::{Rule, Switch};
pub use wrong::Wrong;
