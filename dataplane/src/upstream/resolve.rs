//! Names to addresses, asked again when they have become old.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;

use super::error::UpstreamError;
use super::http::literal;
use crate::clock::Clock;

/// How long an answer is used. The system's resolver does not tell the record's own lifetime.
const KEEP_MS: u64 = 30_000;

/// Names remembered; origins are few.
const NAMES_MAX: usize = 4096;

/// Addresses, and until when they are trusted.
type Known = (u64, Rc<[SocketAddr]>);

/// A shard's resolver: the system's, on glommio's blocking pool, with a memory.
#[derive(Default)]
pub struct Resolver {
    known: RefCell<HashMap<(String, u16), Known>>,
}

impl Resolver {
    /// The addresses of `host`, in the order to try them. An old answer is better than none.
    pub async fn resolve(&self, host: &str, port: u16, clock: &Clock) -> Result<Rc<[SocketAddr]>, UpstreamError> {
        if let Some(address) = literal(host, port) {
            return Ok(Rc::new([address]));
        }
        let key = (host.to_owned(), port);
        let old = self.known.borrow().get(&key).cloned();
        if let Some((until, addresses)) = &old
            && clock.now_ms() < *until
        {
            return Ok(Rc::clone(addresses));
        }
        let asked = key.clone();
        let answer = glommio::executor()
            .spawn_blocking(move || (asked.0.as_str(), asked.1).to_socket_addrs().map(Vec::from_iter))
            .await;
        match (answer, old) {
            (Ok(addresses), _) if !addresses.is_empty() => {
                let addresses: Rc<[SocketAddr]> = addresses.into();
                let mut known = self.known.borrow_mut();
                if known.len() >= NAMES_MAX {
                    known.clear();
                }
                known.insert(key, (clock.now_ms() + KEEP_MS, Rc::clone(&addresses)));
                Ok(addresses)
            }
            (_, Some((_, addresses))) => Ok(addresses),
            (Ok(_), None) => Err(UpstreamError::Resolve { host: key.0, error: "the name has no address".to_owned() }),
            (Err(error), None) => Err(UpstreamError::Resolve { host: key.0, error: error.to_string() }),
        }
    }
}
