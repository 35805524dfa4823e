//! HTTP/1.x on the wire: heads, ranges, conditionals, bodies; no I/O, no clock, no async.
//!
//! Everything that reads borrows from the caller's bytes and does not allocate on the paths that an ordinary request
//! takes. Times are Unix seconds given by the caller. What this crate refuses it refuses as RFC 9112 and RFC 9110 ask,
//! and each module says where it is more lenient and why.

#![forbid(unsafe_code)]

pub mod cache_control;
pub mod caching;
pub mod cdn_loop;
pub mod chunked;
pub mod conditional;
pub mod content_range;
pub mod date;
pub mod entity_tag;
pub mod forwarded;
#[doc(hidden)]
pub mod fuzzing;
pub mod headers;
pub mod mime;
pub mod multipart;
pub mod path;
pub mod proxy_v2;
pub mod query;
pub mod range;
pub mod request;
pub mod response;
pub mod writer;

mod error;
mod fields;
mod grammar;

pub use error::HeadError;
