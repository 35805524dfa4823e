//! Channels and tenants of the newest snapshot, found by id and by URL.

use std::collections::HashMap;
use std::sync::Arc;

use shoal_link::access::names::bare_host;
use shoal_link::{Channel, Tenant};
use shoal_ticket::path_signature;

use crate::link::Published;

/// Made once for each snapshot.
pub struct Directory {
    published: Arc<Published>,
    by_id: HashMap<Box<str>, usize>,
    tenants: HashMap<Box<str>, usize>,
    /// By host (empty: any), then by prefix.
    routes: HashMap<Box<str>, HashMap<Box<str>, usize>>,
}

impl Directory {
    /// Of a snapshot.
    pub fn new(published: Arc<Published>) -> Self {
        let channels = published.snapshot.channels.iter().enumerate();
        let by_id = channels.clone().map(|(at, channel)| (channel.id.as_str().into(), at)).collect();
        let mut routes: HashMap<Box<str>, HashMap<Box<str>, usize>> = HashMap::new();
        let any = [String::new()];
        for (at, channel) in channels {
            for host in if channel.hosts.is_empty() { &any } else { channel.hosts.as_slice() } {
                routes.entry(host.as_str().into()).or_default().insert(channel.prefix.as_str().into(), at);
            }
        }
        let tenants = published.snapshot.tenants.iter().enumerate();
        let tenants = tenants.map(|(at, tenant)| (tenant.id.as_str().into(), at)).collect();
        Self { published, by_id, tenants, routes }
    }

    /// Version of the snapshot.
    pub fn version(&self) -> u64 {
        self.published.snapshot.version
    }

    /// A channel.
    pub fn channel(&self, id: &str) -> Option<&Channel> {
        self.published.snapshot.channels.get(*self.by_id.get(id)?)
    }

    /// A tenant that has rules.
    pub fn tenant(&self, id: &str) -> Option<&Tenant> {
        self.published.snapshot.tenants.get(*self.tenants.get(id)?)
    }

    /// The channel that answers to a URL, and the path below its prefix: the longest prefix at the host, else at any host; where
    /// there is none, the same for what follows a signature in front. As nodes find it.
    pub fn at<'p>(&self, authority: &str, path: &'p str) -> Option<(&Channel, &'p str)> {
        let found = self.route(authority, path);
        found.or_else(|| self.route(authority, path_signature(path)?.rest))
    }

    fn route<'p>(&self, authority: &str, path: &'p str) -> Option<(&Channel, &'p str)> {
        let host = bare_host(authority);
        [host.as_ref(), ""].into_iter().find_map(|host| {
            let prefixes = self.routes.get(host)?;
            let mut end = path.len();
            while let Some(slash) = path.get(..end)?.rfind('/') {
                let (prefix, rest) = path.split_at_checked(slash + 1)?;
                if let Some(at) = prefixes.get(prefix) {
                    return Some((self.published.snapshot.channels.get(*at)?, rest));
                }
                end = slash;
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shoal_link::Snapshot;

    use super::*;

    fn channel(id: &str, hosts: &[&str], prefix: &str) -> Channel {
        let origins = json!([{"id": "o", "url": "http://origin.test/"}]);
        serde_json::from_value(json!({"id": id, "hosts": hosts, "prefix": prefix, "origins": origins})).unwrap()
    }

    #[test]
    fn urls_lead_to_channels_as_at_nodes() {
        let channels =
            vec![channel("any", &[], "/a/"), channel("deep", &[], "/a/b/"), channel("hosted", &["h.test"], "/a/")];
        let snapshot = Snapshot { version: 7, channels, ..Snapshot::default() };
        let directory = Directory::new(Arc::new(Published::new(snapshot).unwrap()));
        let at =
            |host: &str, path: &str| directory.at(host, path).map(|(channel, rest)| format!("{} {rest}", channel.id));
        assert_eq!(at("x.test", "/a/b/c/d").unwrap(), "deep c/d");
        assert_eq!(at("x.test", "/a/c").unwrap(), "any c");
        assert_eq!(at("H.test.:8080", "/a/b/c").unwrap(), "hosted b/c");
        assert_eq!(at("x.test", "/b/c"), None);
        assert_eq!(at("x.test", "/a"), None);
        assert_eq!(at("x.test", ""), None);
        let signed = format!("/202001010000/{}/a/x.ts", "0".repeat(32));
        assert_eq!(at("x.test", &signed).unwrap(), "any x.ts");
        assert_eq!(directory.channel("deep").unwrap().prefix, "/a/b/");
        assert!(directory.channel("none").is_none() && directory.tenant("acme").is_none());
        assert_eq!(directory.version(), 7);
    }
}
