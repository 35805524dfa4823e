//! In which order to ask the origins for one request.

use std::sync::Arc;

use super::origin::OriginState;

/// Origins of a channel at most: a word has so many bits.
pub(super) const MAX_ORIGINS: usize = 64;

/// Gives origins to try, one after the other: those that are up, by order and within an order by weighted lot; then, as
/// the last resort, the others likewise. Each at most once; those of weight 0 never. Costs no allocation.
#[derive(Debug, Clone)]
pub struct Pick<'a> {
    origins: &'a [Arc<OriginState>],
    /// Bits of the origins that are up and not given yet.
    up: u64,
    /// Bits of those that are down and not given yet.
    down: u64,
    random: u64,
}

impl<'a> Pick<'a> {
    /// `origins` are at most [`MAX_ORIGINS`]; `random` is fresh for each request.
    pub(super) fn new(origins: &'a [Arc<OriginState>], now_ms: u64, random: u64) -> Self {
        let (mut up, mut down) = (0, 0);
        for (at, origin) in origins.iter().enumerate().take(MAX_ORIGINS).filter(|(_, origin)| origin.weight > 0) {
            *(if origin.health.is_up(now_ms) { &mut up } else { &mut down }) |= 1 << at;
        }
        Self { origins, up, down, random }
    }
}

impl<'a> Iterator for Pick<'a> {
    type Item = &'a Arc<OriginState>;

    fn next(&mut self) -> Option<Self::Item> {
        let left = if self.up != 0 { self.up } else { self.down };
        let among = || self.origins.iter().enumerate().filter(|(at, _)| left >> at & 1 == 1);
        let order = among().map(|(_, origin)| origin.order).min()?;
        let equals = || among().filter(|(_, origin)| origin.order == order);
        let sum: u64 = equals().map(|(_, origin)| u64::from(origin.weight)).sum();
        let mut lot = self.random % sum.max(1);
        // SplitMix64's step and mix: the next draw must not depend on the remainder of this one.
        self.random = mix(self.random.wrapping_add(0x9e37_79b9_7f4a_7c15));
        let (at, origin) = equals().find(|(_, origin)| {
            let drawn = lot < u64::from(origin.weight);
            lot = lot.wrapping_sub(u64::from(origin.weight));
            drawn
        })?;
        self.up &= !(1 << at);
        self.down &= !(1 << at);
        Some(origin)
    }
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use shoal_link::channel::Origin;

    use super::super::health::{FAILURES_DOWN, HealthEvent};
    use super::*;

    fn origins(list: &[(&str, u16, u16)]) -> Vec<Arc<OriginState>> {
        list.iter()
            .map(|&(id, order, weight)| {
                let raw = Origin {
                    id: id.to_owned(),
                    url: "http://origin.test/".to_owned(),
                    order,
                    weight,
                    host: None,
                    range: true,
                    health_path: None,
                    health_interval_ms: 5000,
                };
                Arc::new(OriginState::compile(&raw, "origins[0]", None).unwrap())
            })
            .collect()
    }

    fn ids(origins: &[Arc<OriginState>], random: u64) -> Vec<&str> {
        Pick::new(origins, 1000, random).map(|origin| &*origin.id).collect()
    }

    #[test]
    fn by_order_then_by_health() {
        let origins = origins(&[("c", 3, 1), ("a", 1, 1), ("out", 0, 0), ("b", 2, 9)]);
        assert_eq!(ids(&origins, 7), ["a", "b", "c"]);
        for _ in 0..FAILURES_DOWN {
            origins[1].health.handle(HealthEvent::Failure, 1000);
        }
        assert_eq!(ids(&origins, 7), ["b", "c", "a"]);
        origins[3].health.handle(HealthEvent::CheckFailed, 1000);
        assert_eq!(ids(&origins, 7), ["c", "a", "b"]);
        assert_eq!(ids(&[], 7), [""; 0]);
    }

    #[test]
    fn within_an_order_by_weight_each_once() {
        let origins = origins(&[("a", 1, 1), ("b", 1, 2), ("c", 1, 7), ("d", 2, 1)]);
        let mut first: HashMap<&str, u32> = HashMap::new();
        let mut second_after_c: HashMap<&str, u32> = HashMap::new();
        for round in 0..30_000 {
            let ids = ids(&origins, mix(round));
            let mut sorted = ids.clone();
            sorted.sort_unstable();
            assert_eq!((sorted, ids[3]), (vec!["a", "b", "c", "d"], "d"));
            *first.entry(ids[0]).or_default() += 1;
            if ids[0] == "c" {
                *second_after_c.entry(ids[1]).or_default() += 1;
            }
        }
        for (id, share) in [("a", 0.1), ("b", 0.2), ("c", 0.7)] {
            let got = f64::from(first[id]) / 30_000.0;
            assert!((got - share).abs() < 0.01, "{id} came first in {got}");
        }
        let b = f64::from(second_after_c["b"]) / f64::from(second_after_c["a"] + second_after_c["b"]);
        assert!((b - 2.0 / 3.0).abs() < 0.02, "b came second in {b}");
    }
}
