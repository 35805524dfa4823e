//! Parents: shoal nodes between this one and the origins.
//!
//! Every node that has the same parents sends an object's misses to the same one of them, so the origin sees one request
//! for it. Which one is decided by highest random weight (Thaler and Ravishankar, 1998): when a parent goes, only its own
//! objects move. One that has too much to do already is passed over for the next (bounded loads: Mirrokni, Thorup and
//! Zadimoghaddam, SODA 2018).

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::Channel;
use super::health::Health;
use super::origin::{HttpTarget, OriginState, OriginTarget};
use crate::slices::key::SliceKey;

/// Parents tried for one fetch before the origins are.
const TRIED_MAX: usize = 2;

/// A parent may have so many percent of its share of the fetches under way.
const LOAD_PERCENT: u64 = 125;

/// How a parent is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentSettings {
    /// Labels metrics and the ledger.
    pub id: Arc<str>,
    /// Name or address, in lower case; an IPv6 address without brackets.
    pub host: Box<str>,
    /// TCP port.
    pub port: u16,
    /// Host and port as configured.
    pub authority: Box<str>,
    /// Share of the objects.
    pub weight: u16,
}

/// One parent, as all shards see it.
#[derive(Debug)]
pub struct Parent {
    settings: ParentSettings,
    health: Arc<Health>,
    fetches: AtomicUsize,
}

/// All parents of this node.
#[derive(Debug, Default)]
pub struct Parents(Vec<Arc<Parent>>);

/// A fetch under way from a parent.
#[derive(Debug)]
pub struct ParentFetch(Arc<Parent>);

impl Parents {
    /// As configured; all count as up.
    pub fn new(settings: &[ParentSettings]) -> Parents {
        let parent = |settings: &ParentSettings| {
            Arc::new(Parent { settings: settings.clone(), health: Arc::default(), fetches: AtomicUsize::new(0) })
        };
        Parents(settings.iter().map(parent).collect())
    }

    /// Those to ask for an object of `channel` before its origins, best first.
    pub fn pick(&self, channel: &Channel, key: &SliceKey, now_ms: u64) -> Vec<Arc<OriginState>> {
        if self.0.is_empty() {
            return Vec::new();
        }
        self.ranked(key.placement(), now_ms).into_iter().map(|parent| Arc::new(parent.as_origin(channel))).collect()
    }

    fn ranked(&self, placement: u64, now_ms: u64) -> Vec<&Arc<Parent>> {
        let up: Vec<_> = self.0.iter().filter(|parent| parent.health.is_up(now_ms)).collect();
        let fetches: u64 = up.iter().map(|parent| parent.fetches.load(Relaxed) as u64).sum();
        let weights: u64 = up.iter().map(|parent| u64::from(parent.settings.weight)).sum();
        let is_full = |parent: &Parent| {
            let share = (fetches + 1) * u64::from(parent.settings.weight) * LOAD_PERCENT;
            parent.fetches.load(Relaxed) as u64 >= share.div_ceil(weights.max(1) * 100)
        };
        let mut ranked: Vec<_> =
            up.into_iter().map(|parent| (is_full(parent), parent.score(placement), parent)).collect();
        ranked.sort_by(|(full, score, _), (other_full, other_score, _)| {
            full.cmp(other_full).then(other_score.total_cmp(score))
        });
        ranked.into_iter().take(TRIED_MAX).map(|(_, _, parent)| parent).collect()
    }
}

impl Parent {
    /// How well an object is placed here: -weight / ln(u), u drawn from (0, 1) by the hash of both.
    fn score(&self, placement: u64) -> f64 {
        let hash = shoal_packet::hash_key(placement, self.settings.authority.as_bytes());
        let drawn = ((hash >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        -f64::from(self.settings.weight) / drawn.ln()
    }

    /// The parent as an origin of the channel: the same URL that viewers use.
    fn as_origin(self: &Arc<Self>, channel: &Channel) -> OriginState {
        let ParentSettings { id, host, port, authority, .. } = &self.settings;
        let target = HttpTarget {
            host: host.clone(),
            port: *port,
            base: channel.prefix.clone(),
            authority: channel.host.as_ref().unwrap_or(authority).clone(),
            tls: None,
        };
        OriginState {
            id: Arc::clone(id),
            url: format!("http://{authority}{}", channel.prefix).into(),
            target: OriginTarget::Http(target),
            order: 0,
            weight: 1,
            range: true,
            health_path: None,
            health_interval_ms: 0,
            health: Arc::clone(&self.health),
            parent: Some(Arc::clone(self)),
        }
    }

    /// Counts a fetch until it is dropped.
    pub fn begin(self: &Arc<Self>) -> ParentFetch {
        self.fetches.fetch_add(1, Relaxed);
        ParentFetch(Arc::clone(self))
    }
}

impl Drop for ParentFetch {
    fn drop(&mut self) {
        self.0.fetches.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::{FAILURES_DOWN, HealthEvent};
    use super::*;

    const OBJECTS: u64 = 20_000;

    fn parents(weights: &[u16]) -> Parents {
        let settings: Vec<_> = weights
            .iter()
            .enumerate()
            .map(|(at, &weight)| ParentSettings {
                id: format!("p{at}").into(),
                host: format!("10.0.0.{at}").into(),
                port: 80,
                authority: format!("10.0.0.{at}").into(),
                weight,
            })
            .collect();
        Parents::new(&settings)
    }

    fn first(parents: &Parents, object: u64) -> Option<Arc<str>> {
        let placement = shoal_packet::hash_key(0, &object.to_le_bytes());
        parents.ranked(placement, 1000).first().map(|parent| Arc::clone(&parent.settings.id))
    }

    fn take_down(parent: &Parent) {
        for _ in 0..FAILURES_DOWN {
            parent.health.handle(HealthEvent::Failure, 1000);
        }
    }

    #[test]
    fn objects_are_spread_by_weight() {
        let parents = parents(&[1, 1, 2]);
        let mut counts = [0u64; 3];
        for object in 0..OBJECTS {
            let id = first(&parents, object).unwrap();
            counts[usize::from(id.as_bytes()[1] - b'0')] += 1;
        }
        for (count, share) in counts.iter().zip([1, 1, 2]) {
            let expected = OBJECTS * share / 4;
            assert!(count.abs_diff(expected) < expected / 20, "{counts:?}");
        }
    }

    #[test]
    fn only_the_objects_of_one_that_is_down_move() {
        let parents = parents(&[1, 1, 1, 1]);
        let before: Vec<_> = (0..OBJECTS).map(|object| first(&parents, object).unwrap()).collect();
        take_down(&parents.0[2]);
        for (object, before) in (0..OBJECTS).zip(&before) {
            let now = first(&parents, object).unwrap();
            assert_eq!(**before == *"p2", now != *before, "object {object}: {before} became {now}");
        }
        parents.0.iter().for_each(|parent| take_down(parent));
        assert_eq!(first(&parents, 1), None, "then the origins are asked");
    }

    #[test]
    fn one_that_is_full_is_passed_over() {
        let parents = parents(&[1, 1, 1, 1]);
        let object = (0..).find(|&object| first(&parents, object).unwrap() == Arc::from("p1")).unwrap();
        // All fetches are of objects that belong to one parent: no parent ever has much more than a quarter of them.
        let mut under_way = Vec::new();
        for round in 1..=400u64 {
            let placement = shoal_packet::hash_key(0, &object.to_le_bytes());
            let chosen = parents.ranked(placement, 1000).first().map(|parent| parent.begin());
            under_way.extend(chosen);
            let most = parents.0.iter().map(|parent| parent.fetches.load(Relaxed) as u64).max().unwrap();
            assert!(most <= (round * 125).div_ceil(400).max(1) + 1, "{most} of {round}");
        }
        drop(under_way);
        assert_eq!(first(&parents, object).unwrap(), Arc::from("p1"), "back when it has time");
    }
}
