//! Names to addresses, asked again when they have become old.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, ToSocketAddrs};
use std::rc::Rc;

use super::error::UpstreamError;
use super::http::literal;
use crate::clock::Clock;

/// How long an answer is used. The system's resolver does not tell the record's own lifetime.
const KEEP_MS: u64 = 30_000;

/// How much longer an old answer serves those who do not wait for a new one.
const OLD_MS: u64 = 5 * 60_000;

/// Names remembered; origins are few.
const NAMES_MAX: usize = 4096;

/// Addresses, and until when they are trusted.
type Known = (u64, Rc<[SocketAddr]>);

/// Host and port.
type Name = (String, u16);

/// A shard's resolver: the system's, on glommio's blocking pool, with a memory.
#[derive(Default)]
pub struct Resolver {
    known: RefCell<HashMap<Name, Known>>,
    refreshing: RefCell<HashSet<Name>>,
}

impl Resolver {
    /// The addresses of `host`, in the order to try them. An old answer is better than none.
    pub async fn resolve(
        self: &Rc<Self>,
        host: &str,
        port: u16,
        clock: &Clock,
    ) -> Result<Rc<[SocketAddr]>, UpstreamError> {
        if let Some(address) = literal(host, port) {
            return Ok(Rc::new([address]));
        }
        let key = (host.to_owned(), port);
        let old = self.known.borrow().get(&key).cloned();
        if let Some((until, addresses)) = old {
            let now_ms = clock.now_ms();
            // An answer that is a little old is better than waiting for a new one.
            if now_ms < until.saturating_add(OLD_MS) {
                if now_ms >= until {
                    self.refresh(key, clock.clone());
                }
                return Ok(addresses);
            }
            return match look_up(key.clone()).await {
                Ok(found) if !found.is_empty() => Ok(self.remember(key, found, clock)),
                // One that is very old is still better than none.
                _ => Ok(addresses),
            };
        }
        match look_up(key.clone()).await {
            Ok(addresses) if addresses.is_empty() => {
                Err(UpstreamError::Resolve { host: key.0, error: "the name has no address".to_owned() })
            }
            Ok(addresses) => Ok(self.remember(key, addresses, clock)),
            Err(error) => Err(UpstreamError::Resolve { host: key.0, error: error.to_string() }),
        }
    }

    fn remember(&self, key: Name, addresses: Vec<SocketAddr>, clock: &Clock) -> Rc<[SocketAddr]> {
        let addresses: Rc<[SocketAddr]> = addresses.into();
        let mut known = self.known.borrow_mut();
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(key, (clock.now_ms() + KEEP_MS, Rc::clone(&addresses)));
        addresses
    }

    /// Asks again in the background, once at a time for a name.
    fn refresh(self: &Rc<Self>, key: Name, clock: Clock) {
        if !self.refreshing.borrow_mut().insert(key.clone()) {
            return;
        }
        let this = Rc::clone(self);
        glommio::spawn_local(async move {
            match look_up(key.clone()).await {
                Ok(addresses) if !addresses.is_empty() => drop(this.remember(key.clone(), addresses, &clock)),
                _ => tracing::warn!(host = %key.0, "cannot resolve an origin's name again; its last addresses stay in use"),
            }
            this.refreshing.borrow_mut().remove(&key);
        })
        .detach();
    }
}

async fn look_up(key: Name) -> std::io::Result<Vec<SocketAddr>> {
    glommio::executor().spawn_blocking(move || (key.0.as_str(), key.1).to_socket_addrs().map(Vec::from_iter)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_executor;

    /// No name server has to be asked about this one.
    const NO_NAME: &str = "no..name";

    #[test]
    fn addresses_need_no_resolver() {
        in_executor(|| async {
            let (resolver, clock) = (Rc::new(Resolver::default()), Clock::start());
            for (host, address) in
                [("192.0.2.7", "192.0.2.7:81"), ("2001:db8::7", "[2001:db8::7]:81"), ("[::1]", "[::1]:81")]
            {
                assert_eq!(*resolver.resolve(host, 81, &clock).await.unwrap(), [address.parse().unwrap()]);
            }
            assert!(resolver.known.borrow().is_empty());
        });
    }

    #[test]
    fn names_are_remembered_and_an_old_answer_serves_until_there_is_a_new_one() {
        in_executor(|| async {
            let (resolver, clock) = (Rc::new(Resolver::default()), Clock::start());
            let first = resolver.resolve("localhost", 81, &clock).await.unwrap();
            assert!(first.iter().all(|address| address.ip().is_loopback() && address.port() == 81), "{first:?}");
            assert!(Rc::ptr_eq(&first, &resolver.resolve("localhost", 81, &clock).await.unwrap()));
            assert!(!Rc::ptr_eq(&first, &resolver.resolve("localhost", 82, &clock).await.unwrap()));

            let error = resolver.resolve(NO_NAME, 81, &clock).await.unwrap_err();
            assert!(matches!(&error, UpstreamError::Resolve { host, .. } if host == NO_NAME), "{error}");
            assert_eq!(resolver.known.borrow().len(), 2, "what failed is asked again");
            let place = |name: &str| resolver.known.borrow()[&(name.to_owned(), 81)].clone();
            for name in [NO_NAME, "localhost"] {
                resolver.known.borrow_mut().insert((name.to_owned(), 81), (clock.now_ms(), Rc::clone(&first)));
                for _ in 0..3 {
                    assert!(Rc::ptr_eq(&first, &resolver.resolve(name, 81, &clock).await.unwrap()));
                    assert_eq!(resolver.refreshing.borrow().len(), 1, "asked again once, behind the scenes");
                }
                while !resolver.refreshing.borrow().is_empty() {
                    glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
                }
            }
            assert!(Rc::ptr_eq(&first, &place(NO_NAME).1), "better than none");
            assert!(!Rc::ptr_eq(&first, &place("localhost").1) && place("localhost").0 > clock.now_ms());
        });
    }

    #[test]
    fn a_very_old_answer_serves_only_where_there_is_no_other() {
        in_executor(|| async {
            let (resolver, clock) = (Rc::new(Resolver::default()), Clock::start());
            let old: Rc<[SocketAddr]> = Rc::new(["192.0.2.1:81".parse().unwrap()]);
            for name in [NO_NAME, "localhost"] {
                resolver.known.borrow_mut().insert((name.to_owned(), 81), (0, Rc::clone(&old)));
            }
            assert!(Rc::ptr_eq(&old, &resolver.resolve(NO_NAME, 81, &clock).await.unwrap()));
            let found = resolver.resolve("localhost", 81, &clock).await.unwrap();
            assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        });
    }

    #[test]
    fn the_memory_is_bounded() {
        in_executor(|| async {
            let (resolver, clock) = (Rc::new(Resolver::default()), Clock::start());
            let names = (0..NAMES_MAX).map(|n| ((format!("host{n}"), 80), (u64::MAX, Rc::from([]))));
            resolver.known.borrow_mut().extend(names);
            assert!(!resolver.resolve("localhost", 81, &clock).await.unwrap().is_empty());
            assert!(resolver.known.borrow().len() <= NAMES_MAX);
        });
    }
}
