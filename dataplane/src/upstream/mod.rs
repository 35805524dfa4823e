//! The back-to-source side: asking a channel's origins for bytes.

pub mod asked;
pub mod error;
pub mod file;
pub mod head;
pub mod http;
mod redirect;
pub mod resolve;
pub mod timeout;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use shoal_sys::arena::BlockWriter;
use shoal_sys::ring::Ring;

pub use asked::Asked;
pub use error::UpstreamError;
pub use head::{OriginHead, Validators};
pub use timeout::within;

use crate::clock::Clock;
use crate::routes::{Channel, OriginState, OriginTarget};
use file::FileBody;
use http::{HttpBody, HttpPool};

/// Limits on what a shard does towards origins.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamLimits {
    /// For resolving, and for each address to connect to, TLS handshake included.
    pub connect_timeout: Duration,
    /// For the head, and between two pieces of a body.
    pub response_timeout: Duration,
    /// Connections open at a time to one origin, from this shard.
    pub connections_per_origin: usize,
    /// Origins tried after the first, for one request.
    pub retries: usize,
    /// Blocks fetched ahead of the viewer that is furthest.
    pub readahead_blocks: u32,
}

/// What is asked of an origin.
pub struct Ask<'a> {
    /// Path below the origin's URL, with the allowed query.
    pub path: &'a str,
    /// First byte, and last one if there is a bound; none asks for the whole.
    pub range: Option<(u64, Option<u64>)>,
    /// The version already known: the range must be of it, or the answer may be that it still holds.
    pub known: Option<&'a Validators>,
    /// Ask whether `known` still holds.
    pub revalidate: bool,
    /// Shoal sends its own CORS lines; the origin's are dropped.
    pub own_cors: bool,
    /// What the viewer's request adds to it.
    pub asked: Option<&'a Asked>,
    /// The channel whose redirects are to be followed, if it wants that.
    pub follow: Option<&'a Channel>,
    /// Nodes that the request has passed already, as CDN-Loop tells them (RFC 8586).
    pub cdn_loop: Option<&'a str>,
}

impl Ask<'_> {
    /// Whether the question may change things at the origin.
    fn is_unsafe(&self) -> bool {
        self.asked.is_some_and(Asked::is_unsafe)
    }
}

/// A response body, wherever it comes from.
pub enum Body {
    /// Over HTTP.
    Http(HttpBody),
    /// From a local folder.
    File(FileBody),
}

/// This shard's way to all origins.
pub struct Upstreams {
    http: HttpPool,
    clock: Clock,
}

impl Upstreams {
    /// Without any connection yet. `node` is what this one is called in CDN-Loop and Via.
    pub fn new(ring: Ring, clock: Clock, limits: UpstreamLimits, tls: Arc<ClientConfig>, node: Arc<str>) -> Upstreams {
        Upstreams { http: HttpPool::new(ring, clock.clone(), limits, tls, node), clock }
    }

    /// Asks `origin`; gives the head and a body to read.
    pub async fn fetch(&self, origin: &Arc<OriginState>, ask: &Ask<'_>) -> Result<(OriginHead, Body), UpstreamError> {
        match &origin.target {
            OriginTarget::Http(target) => {
                let (head, body) = redirect::fetch(&self.http, origin, target, ask).await?;
                Ok((head, Body::Http(body)))
            }
            OriginTarget::File { root } => {
                let (head, body) = file::open(root, ask, self.clock.unix_s()).await?;
                Ok((head, Body::File(body)))
            }
        }
    }
}

impl Body {
    /// Appends some of the body to `block`: at most `limit` bytes and what fits, 0 at the end. The block comes back in any
    /// case but a bug of the ring.
    pub async fn fill(
        &mut self,
        block: BlockWriter,
        limit: usize,
    ) -> (Option<BlockWriter>, Result<usize, UpstreamError>) {
        match self {
            Body::Http(body) => body.fill(block, limit).await,
            Body::File(body) => body.fill(block, limit).await,
        }
    }

    /// Drops `count` bytes. Returns those that had to be read for it.
    pub async fn skip(&mut self, count: u64) -> Result<u64, UpstreamError> {
        match self {
            Body::Http(body) => body.skip(count).await.map(|()| count),
            Body::File(body) => {
                body.skip(count);
                Ok(0)
            }
        }
    }

    /// Bytes not read yet, where that is known.
    pub fn left(&self) -> Option<u64> {
        match self {
            Body::Http(body) => body.left(),
            Body::File(_) => Some(0),
        }
    }

    /// Whether others wait until it lets go of what it comes by.
    pub fn is_crowded(&self) -> bool {
        match self {
            Body::Http(body) => body.is_crowded(),
            Body::File(_) => false,
        }
    }

    /// Lets the next request use the connection, if it can.
    pub fn finish(self) {
        match self {
            Body::Http(body) => body.finish(),
            Body::File(_) => {}
        }
    }
}
