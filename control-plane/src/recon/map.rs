//! To which channel a line of a log belongs: as the edge asks the CDN (the URLs of its origins), else as viewers ask the edge.

use std::collections::HashMap;

use shoal_http::path;
use shoal_link::Channel;

use crate::store::{Store, StoreError};

/// Folders that are remembered; then it begins anew.
const MAX_KNOWN: usize = 65_536;

/// Tenant and channel.
pub(super) type Place = Option<(String, String)>;

/// Finds channels, and remembers them by folder: all of a folder belong to one.
pub(super) struct Map<'a> {
    store: &'a Store,
    /// Of the provider's origins, by host: base path, tenant, channel; longest base first.
    origins: HashMap<String, Vec<(String, String, String)>>,
    known: HashMap<(String, String), Place>,
}

impl<'a> Map<'a> {
    /// `origins`: ids of those that are the provider's.
    pub(super) fn new(store: &'a Store, channels: &[Channel], origins: &[String]) -> Self {
        let mut by_host: HashMap<String, Vec<(String, String, String)>> = HashMap::new();
        for channel in channels {
            for origin in channel.origins.iter().filter(|origin| origins.contains(&origin.id)) {
                let Some((host, base)) = host_and_base(&origin.url) else { continue };
                let host = origin.host.as_deref().map_or(host, bare);
                by_host.entry(host).or_default().push((base, channel.tenant.clone(), channel.id.clone()));
            }
        }
        by_host.values_mut().for_each(|list| list.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.cmp(b))));
        Self { store, origins: by_host, known: HashMap::new() }
    }

    /// The channel of a URL; none when it is no channel's.
    pub(super) fn find(&mut self, host: Option<&str>, raw_path: &str) -> Result<Place, StoreError> {
        let Ok(path) = path::normalize(raw_path) else { return Ok(None) };
        let folder = path.get(..=path.rfind('/').unwrap_or(0)).unwrap_or("/").to_owned();
        let key = (host.map(bare).unwrap_or_default(), folder);
        if let Some(place) = self.known.get(&key) {
            return Ok(place.clone());
        }
        let place = self.look(&key.0, host.is_some(), &path)?;
        if self.known.len() >= MAX_KNOWN {
            self.known.clear();
        }
        self.known.insert(key, place.clone());
        Ok(place)
    }

    fn look(&self, host: &str, named: bool, path: &str) -> Result<Place, StoreError> {
        let by_origin = self.origins.get(host).into_iter().flatten();
        let below = |base: &str| path.starts_with(base);
        if let Some((_, tenant, channel)) = by_origin.into_iter().find(|(base, _, _)| below(base)) {
            return Ok(Some((tenant.clone(), channel.clone())));
        }
        let found = self.store.channel_at(named.then_some(host), path)?;
        Ok(found.map(|stored| (stored.document.tenant, stored.document.id)))
    }
}

/// Host without port, lower case.
fn bare(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    host.to_ascii_lowercase()
}

/// Host and base path, with a slash at both ends, of an origin's URL.
fn host_and_base(url: &str) -> Option<(String, String)> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let (authority, base) = rest.split_once('/').unwrap_or((rest, ""));
    let base = base.trim_end_matches('/');
    Some((bare(authority), if base.is_empty() { "/".to_owned() } else { format!("/{base}/") }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::tests::TempDir;

    #[test]
    fn origins_come_before_prefixes_and_the_longest_base_first() {
        let dir = TempDir::new();
        let store = Store::open(dir.path()).unwrap();
        let channel = |id: &str, url: &str| -> Channel {
            let origins = json!([{"id": "cdn", "url": url}, {"id": "own", "url": "http://own.test/"}]);
            serde_json::from_value(json!({"id": id, "prefix": format!("/{id}/"), "origins": origins})).unwrap()
        };
        let channels = [channel("a", "https://CDN.test:8443/live"), channel("b", "http://cdn.test/live/b/")];
        let mut map = Map::new(&store, &channels, &["cdn".to_owned()]);
        let mut find = |host: Option<&str>, path: &str| map.find(host, path).unwrap().map(|(_, channel)| channel);
        assert_eq!(find(Some("cdn.test"), "/live/x/1.ts").as_deref(), Some("a"));
        assert_eq!(find(Some("CDN.test:443"), "/live/b/1.ts").as_deref(), Some("b"));
        assert_eq!(find(Some("cdn.test"), "/other/1.ts"), None);
        assert_eq!(find(Some("own.test"), "/x.ts"), None, "not the provider's");
        assert_eq!(find(None, "/live/x/1.ts"), None);
        assert_eq!(find(Some("cdn.test"), "no path"), None);
    }
}
