//! URIs inside HLS playlists and DASH manifests: a viewer's ticket is added to those that lead back to us.
//!
//! A relative URI drops the query of the playlist that it stands in, so a player would ask for segments without a
//! ticket. [`add_query_hls`] and [`add_query_dash`] copy a playlist and add the ticket to each URI; every other byte
//! stays as it is. A URI that leads to another host, or that is no HTTP at all (`data:`, `skd:`), is left alone: tickets
//! are for us only.

#![forbid(unsafe_code)]

mod dash;
#[doc(hidden)]
pub mod fuzzing;
mod hls;
#[cfg(test)]
mod tests;
mod uri;
mod xml;

pub use dash::add_query_dash;
pub use hls::add_query_hls;

/// Bytes of a playlist at most.
pub const MAX_BODY: usize = 4 << 20;
/// Bytes that a playlist may have with all tickets added. A body of nothing but short URIs would grow a hundredfold.
pub const MAX_OUTPUT: usize = 32 << 20;

/// What to add, and to which URIs.
#[derive(Debug, Clone, Copy)]
pub struct Addition<'a> {
    /// One parameter, `name=value`, of `A-Z a-z 0-9 - . _ ~ %`. It replaces a parameter of that name.
    pub query: &'a str,
    /// Authorities (`host` or `host:port`, in any case) that are us: absolute URIs to them get the query too.
    pub authorities: &'a [&'a str],
}

/// Why a playlist is not rewritten. The caller serves it as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaylistError {
    /// Its beginning is not that of a playlist.
    #[error("not {expected}: it must begin with {begin}; check the origin's answer, or its file extension")]
    NotPlaylist {
        /// What it should be.
        expected: &'static str,
        /// What that begins with.
        begin: &'static str,
    },
    /// More bytes than are rewritten.
    #[error("the playlist has {bytes} bytes{with}; at most {limit} are rewritten: make it shorter")]
    TooLarge {
        /// How many.
        bytes: usize,
        /// `" with tickets added"`, or nothing.
        with: &'static str,
        /// [`MAX_BODY`] or [`MAX_OUTPUT`].
        limit: usize,
    },
    /// [`Addition::query`] is not one parameter of safe characters.
    #[error("`{query}` is not one parameter name=value of A-Z a-z 0-9 - . _ ~ %: percent-encode it")]
    Query {
        /// As given.
        query: String,
    },
}

/// An [`Addition`] that was checked, and the limits of one run.
struct Change<'a> {
    name: &'a [u8],
    query: &'a [u8],
    authorities: &'a [&'a str],
}

impl<'a> Change<'a> {
    fn new(body: &[u8], addition: &Addition<'a>) -> Result<Self, PlaylistError> {
        let query = addition.query;
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%');
        match query.split_once('=') {
            Some((name, value)) if !name.is_empty() && name.bytes().chain(value.bytes()).all(safe) => {
                check_size(body.len(), "", MAX_BODY)?;
                Ok(Self { name: name.as_bytes(), query: query.as_bytes(), authorities: addition.authorities })
            }
            _ => Err(PlaylistError::Query { query: query.to_owned() }),
        }
    }
}

fn check_size(bytes: usize, with: &'static str, limit: usize) -> Result<(), PlaylistError> {
    if bytes > limit { Err(PlaylistError::TooLarge { bytes, with, limit }) } else { Ok(()) }
}

fn check_output(bytes: usize) -> Result<(), PlaylistError> {
    check_size(bytes, " with tickets added", MAX_OUTPUT)
}
