//! What a payload holds: a stamp, and bytes that follow from it.

/// Bytes of a stamp, so of a payload at least.
pub const STAMP: usize = 32;

/// Bytes of a payload at most.
pub const PAYLOAD_MAX: usize = 1472;

/// Places in the noise at which a payload's bytes may begin; a power of two.
const PLACES: usize = 1 << 15;

/// Which datagram it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run of this process in which it was sent.
    pub run: u32,
    /// The lane by which it was sent.
    pub lane: u32,
    /// Its number among those of its lane, from 0.
    pub number: u64,
    /// When it was sent or, by a schedule, should have been: nanoseconds since the run began.
    pub at: u64,
}

/// Writes payloads and checks them. Where the bytes behind a stamp come from depends on all of the stamp, so that the halves of
/// two payloads make no third.
#[derive(Debug)]
pub struct Stamper {
    key: u64,
    noise: Box<[u8]>,
}

/// Steps of a generator of numbers, and the finalizer of hashes made of them (splitmix64: Steele, Lea, Flood 2014).
fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Stamper {
    /// Payloads of two keys are taken for damaged by each other's.
    pub fn new(key: u64) -> Self {
        let words = (0..(PLACES + PAYLOAD_MAX).div_ceil(8) as u64).flat_map(|n| mixed(mixed(key) ^ n).to_le_bytes());
        Self { key, noise: words.collect() }
    }

    /// Fills `payload`, of [`STAMP`] to [`PAYLOAD_MAX`] bytes.
    pub fn write(&self, stamp: Stamp, payload: &mut [u8]) {
        let check = self.check(stamp, payload.len());
        let Some((head, rest)) = payload.split_first_chunk_mut::<STAMP>() else { return };
        let words = [u64::from(stamp.run) << 32 | u64::from(stamp.lane), stamp.number, stamp.at, check];
        for (place, word) in head.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        if let Some(noise) = self.noise(check, rest.len()) {
            rest.copy_from_slice(noise);
        }
    }

    /// The stamp of a payload; `None` when any byte of it is not as it was written.
    pub fn read(&self, payload: &[u8]) -> Option<Stamp> {
        let (head, rest) = payload.split_first_chunk::<STAMP>()?;
        let mut words = head.chunks_exact(8).map_while(|word| Some(u64::from_le_bytes(*word.first_chunk()?)));
        let (lane, number, at, check) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let stamp = Stamp { run: (lane >> 32) as u32, lane: lane as u32, number, at };
        (check == self.check(stamp, payload.len()) && rest == self.noise(check, rest.len())?).then_some(stamp)
    }

    fn check(&self, stamp: Stamp, len: usize) -> u64 {
        let Stamp { run, lane, number, at } = stamp;
        let words = [u64::from(run) << 32 | u64::from(lane), number, at, len as u64];
        words.into_iter().fold(self.key, |state, word| mixed(state ^ word))
    }

    fn noise(&self, check: u64, len: usize) -> Option<&[u8]> {
        let place = check as usize % PLACES;
        self.noise.get(place..place + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMPS: Stamp = Stamp { run: 3, lane: 70_000, number: 1 << 40, at: u64::MAX };

    fn payload(stamper: &Stamper, len: usize) -> Vec<u8> {
        let mut payload = vec![0; len];
        stamper.write(STAMPS, &mut payload);
        payload
    }

    #[test]
    fn what_was_written_is_read() {
        let stamper = Stamper::new(1);
        for len in [STAMP, STAMP + 1, 160, 1200, PAYLOAD_MAX] {
            assert_eq!(stamper.read(&payload(&stamper, len)), Some(STAMPS), "{len}");
        }
    }

    #[test]
    fn any_bit_that_changed_is_seen() {
        let stamper = Stamper::new(1);
        let good = payload(&stamper, 100);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(stamper.read(&bad), None, "{bit}");
        }
    }

    #[test]
    fn what_is_shorter_longer_of_two_or_of_another_process_is_damaged() {
        let stamper = Stamper::new(1);
        let good = payload(&stamper, 100);
        assert_eq!(stamper.read(&good[..99]), None);
        assert_eq!(stamper.read(&[&good[..], b"x"].concat()), None);
        assert_eq!(stamper.read(&good[..STAMP - 1]), None);
        let mut other = vec![0; 100];
        stamper.write(Stamp { number: 7, ..STAMPS }, &mut other);
        assert_eq!(stamper.read(&[&good[..60], &other[60..]].concat()), None);
        assert_eq!(Stamper::new(2).read(&good), None);
    }
}
