//! What SDKs and CDNs report: our own schema, CMCD, and the log formats of CDNs. No I/O, no clock.
//!
//! | Module | Holds |
//! |---|---|
//! | [`batch`] | a session's reports as an SDK posts them, JSON |
//! | [`cmcd`] | CTA-5004 and CTA-5004-B: values, query, headers, events, and how an event becomes a report |
//! | [`logs`] | access logs of CDNs and web servers, line by line |

#![forbid(unsafe_code)]

pub mod batch;
pub mod cmcd;
mod fields;
#[doc(hidden)]
pub mod fuzzing;
pub mod logs;

pub use batch::{Batch, Provider, Report};
pub use cmcd::{Cmcd, CmcdError};
pub use fields::Refused;

/// Share ratio: what came from peers, of all that came; none where nothing came.
pub fn share_ratio(p2p_bytes: u64, edge_bytes: u64, direct_bytes: u64) -> Option<f64> {
    let all = u128::from(p2p_bytes) + u128::from(edge_bytes) + u128::from(direct_bytes);
    (all > 0).then(|| p2p_bytes as f64 / all as f64)
}
