//! Which objects viewers ask for most, lately.
//!
//! Few requests are counted one by one, of many a sample: in each tick about [`PER_TICK`] are looked up in a table, each of
//! them for as many as were passed over. So the cost for a request goes towards one decrement as their number grows.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::slices::key::{KeyState, SliceKey};

/// Requests looked up in a tick of the shard, as far as the rate of the tick before tells.
const PER_TICK: u64 = 64;

/// The longest step from one request that is looked up to the next.
const STEP_MAX: u64 = 4096;

/// A window is as long as this; the one before is kept.
const WINDOW_MS: u64 = 60_000;

/// Objects counted in a window, before the less popular half makes room.
const OBJECTS_MAX: usize = 2048;

/// What was asked of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// Requests answered.
    pub requests: u64,
    /// Body bytes sent for them.
    pub bytes: u64,
}

/// What was asked of a shard lately.
#[derive(Debug)]
pub struct Demands {
    /// Milliseconds that it was counted for.
    pub ms: u64,
    /// By object.
    pub objects: Vec<(SliceKey, Demand)>,
}

/// A shard's count.
pub struct Popular {
    skip: Cell<u64>,
    windows: RefCell<Windows>,
}

struct Windows {
    /// A request that is looked up stands for so many.
    step: u64,
    /// Requests of this tick.
    in_tick: u64,
    dice: u64,
    current: Window,
    before: Window,
}

#[derive(Default)]
struct Window {
    begun_ms: u64,
    objects: HashMap<SliceKey, Demand, KeyState>,
}

impl std::ops::AddAssign for Demand {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.bytes += other.bytes;
    }
}

impl Popular {
    /// Counts from now on.
    pub fn new(now_ms: u64) -> Popular {
        let window = || Window { begun_ms: now_ms, ..Window::default() };
        let windows = Windows { step: 1, in_tick: 0, dice: now_ms | 1, current: window(), before: window() };
        Popular { skip: Cell::new(0), windows: RefCell::new(windows) }
    }

    /// A request for the object was answered with `bytes` of body.
    pub fn count(&self, key: &SliceKey, bytes: u64) {
        match self.skip.get().checked_sub(1) {
            Some(left) => self.skip.set(left),
            None => self.skip.set(self.windows.borrow_mut().sample(key, bytes)),
        }
    }

    /// To be called at each tick of the shard.
    pub fn tick(&self, now_ms: u64) {
        let mut windows = self.windows.borrow_mut();
        windows.step = (std::mem::take(&mut windows.in_tick) / PER_TICK).clamp(1, STEP_MAX);
        if now_ms.saturating_sub(windows.current.begun_ms) >= WINDOW_MS {
            windows.before = std::mem::replace(&mut windows.current, Window { begun_ms: now_ms, ..Window::default() });
        }
    }

    /// What was asked in this window and the one before.
    pub fn demands(&self, now_ms: u64) -> Demands {
        let windows = self.windows.borrow();
        let mut objects = windows.before.objects.clone();
        for (key, demand) in &windows.current.objects {
            *objects.entry(key.clone()).or_default() += *demand;
        }
        let ms = now_ms.saturating_sub(windows.before.begun_ms);
        Demands { ms, objects: objects.into_iter().collect() }
    }
}

impl Windows {
    /// Returns how many requests are passed over now.
    fn sample(&mut self, key: &SliceKey, bytes: u64) -> u64 {
        let step = self.step;
        self.in_tick += step;
        self.current.add(key, Demand { requests: step, bytes: bytes.saturating_mul(step) });
        if step == 1 {
            return 0;
        }
        // Steps of random length: who asks in turns is not always, or never, the one that is looked up (xorshift64).
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % (2 * step - 1)
    }
}

impl Window {
    fn add(&mut self, key: &SliceKey, demand: Demand) {
        if let Some(sum) = self.objects.get_mut(key) {
            *sum += demand;
            return;
        }
        if self.objects.len() >= OBJECTS_MAX {
            self.make_room();
        }
        self.objects.insert(key.clone(), demand);
    }

    /// Forgets who is in the lower half by requests, and not in the upper quarter by bytes.
    fn make_room(&mut self) {
        let threshold = |value: fn(&Demand) -> u64, place: usize| {
            let mut values: Vec<u64> = self.objects.values().map(value).collect();
            let place = place.min(values.len().saturating_sub(1));
            *values.select_nth_unstable(place).1
        };
        let requests = threshold(|demand| demand.requests, OBJECTS_MAX / 2);
        let bytes = threshold(|demand| demand.bytes, OBJECTS_MAX / 4 * 3);
        self.objects.retain(|_, demand| demand.requests > requests || demand.bytes > bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(path: &str) -> SliceKey {
        SliceKey::new(1, "a", path, "")
    }

    fn found(popular: &Popular, path: &str) -> Demand {
        let demands = popular.demands(0).objects;
        demands.into_iter().find(|(found, _)| *found == key(path)).map(|(_, demand)| demand).unwrap_or_default()
    }

    #[test]
    fn few_requests_are_counted_exactly_for_two_windows() {
        let popular = Popular::new(1_000);
        for n in 0..30 {
            popular.count(&key("a"), 100);
            popular.count(&key("b"), n);
        }
        assert_eq!(found(&popular, "a"), Demand { requests: 30, bytes: 3_000 });
        popular.tick(1_000 + WINDOW_MS);
        popular.count(&key("a"), 1);
        assert_eq!(found(&popular, "a"), Demand { requests: 31, bytes: 3_001 });
        assert_eq!(popular.demands(1_500 + WINDOW_MS).ms, WINDOW_MS + 500);
        popular.tick(1_000 + 2 * WINDOW_MS);
        assert_eq!(found(&popular, "a"), Demand { requests: 1, bytes: 1 });
        assert_eq!(found(&popular, "b"), Demand::default());
    }

    #[test]
    fn of_many_requests_a_sample_tells_the_shares() {
        let popular = Popular::new(1);
        let (mut looked_up, rounds) = (0, 100);
        for _ in 0..rounds {
            for n in 0..8_000u64 {
                let before = popular.skip.get();
                // Half of all, in turns with the rest.
                popular.count(&key(if n % 2 == 0 { "half" } else { "others" }), 10);
                looked_up += u64::from(before == 0);
            }
            popular.tick(2);
        }
        // The first tick knows of no rate.
        assert!(looked_up < 8_000 + rounds * PER_TICK * 2, "{looked_up}");
        let half = found(&popular, "half");
        assert!(half.requests.abs_diff(400_000) < 40_000, "{half:?}");
        assert_eq!(half.bytes, half.requests * 10);
    }

    #[test]
    fn a_flood_of_names_does_not_drive_out_the_popular_ones() {
        let popular = Popular::new(1);
        for n in 0..200_000u64 {
            popular.count(&key(&format!("flood-{n}")), 1);
            if n % 100 == 0 {
                popular.count(&key("wanted"), 1);
            }
            if n % 1_000 == 0 {
                popular.count(&key("large"), 1 << 30);
            }
        }
        assert!(popular.windows.borrow().current.objects.len() <= OBJECTS_MAX);
        assert_eq!(found(&popular, "wanted").requests, 2_000);
        assert_eq!(found(&popular, "large").bytes, 200 << 30);
    }
}
