//! What is added up.

use shoal_report::Report;

/// Upper bounds of the histogram of times to the first frame, in milliseconds; the last bucket has none.
pub const FIRST_FRAME_MS: [u64; HISTOGRAM - 1] = [100, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 10_000];
/// Buckets of the histogram.
pub const HISTOGRAM: usize = 12;
/// Number of columns.
pub const COLUMNS: usize = NAMES.len();

/// The columns, in the store and in this order in [`Sums::columns`].
pub(crate) const NAMES: [&str; 26] = [
    "viewers",
    "reports",
    "edge_bytes",
    "direct_bytes",
    "p2p_in_bytes",
    "p2p_out_bytes",
    "connections",
    "connection_failures",
    "stalls",
    "stall_ms",
    "playing_ms",
    "errors",
    "first_frames",
    "first_frame_ms",
    "h0",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "h7",
    "h8",
    "h9",
    "h10",
    "h11",
];

/// Sums of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// Sessions that reported in the bucket.
    pub viewers: u64,
    /// Reports.
    pub reports: u64,
    /// Bytes from our edges.
    pub edge_bytes: u64,
    /// Bytes from other CDNs.
    pub direct_bytes: u64,
    /// Bytes from peers.
    pub p2p_in_bytes: u64,
    /// Bytes to peers.
    pub p2p_out_bytes: u64,
    /// Connections to peers.
    pub connections: u64,
    /// Those that failed.
    pub connection_failures: u64,
    /// Stalls.
    pub stalls: u64,
    /// Their milliseconds.
    pub stall_ms: u64,
    /// Milliseconds played.
    pub playing_ms: u64,
    /// Errors.
    pub errors: u64,
    /// Sessions that told their time to the first frame.
    pub first_frames: u64,
    /// The sum of those times.
    pub first_frame_ms: u64,
    /// How many of them were in each bucket.
    pub histogram: [u64; HISTOGRAM],
}

impl Sums {
    /// Of one report.
    pub fn of(report: &Report) -> Self {
        let mut sums = Self {
            reports: 1,
            edge_bytes: report.edge_bytes,
            direct_bytes: report.direct_bytes,
            p2p_in_bytes: report.p2p_in_bytes,
            p2p_out_bytes: report.p2p_out_bytes,
            connections: report.connections,
            connection_failures: report.connection_failures,
            stalls: report.stalls,
            stall_ms: report.stall_ms,
            playing_ms: report.playing_ms,
            errors: report.errors,
            ..Self::default()
        };
        if let Some(ms) = report.first_frame_ms {
            sums.first_frames = 1;
            sums.first_frame_ms = ms;
            let bucket = FIRST_FRAME_MS.iter().position(|bound| ms <= *bound).unwrap_or(HISTOGRAM - 1);
            sums.histogram[bucket] = 1;
        }
        sums
    }

    /// Adds; never beyond the largest number.
    pub fn add(&mut self, other: &Self) {
        let mut columns = self.columns();
        columns.iter_mut().zip(other.columns()).for_each(|(sum, value)| *sum = sum.saturating_add(value));
        *self = Self::from_columns(columns);
    }

    pub(crate) fn columns(&self) -> [u64; COLUMNS] {
        let mut columns = [0; COLUMNS];
        let plain = [
            self.viewers,
            self.reports,
            self.edge_bytes,
            self.direct_bytes,
            self.p2p_in_bytes,
            self.p2p_out_bytes,
            self.connections,
            self.connection_failures,
            self.stalls,
            self.stall_ms,
            self.playing_ms,
            self.errors,
            self.first_frames,
            self.first_frame_ms,
        ];
        columns.iter_mut().zip(plain.iter().chain(&self.histogram)).for_each(|(to, from)| *to = *from);
        columns
    }

    pub(crate) fn from_columns(columns: [u64; COLUMNS]) -> Self {
        let [
            viewers,
            reports,
            edge_bytes,
            direct_bytes,
            p2p_in_bytes,
            p2p_out_bytes,
            connections,
            connection_failures,
            stalls,
            stall_ms,
            playing_ms,
            errors,
            first_frames,
            first_frame_ms,
            histogram @ ..,
        ] = columns;
        Self {
            viewers,
            reports,
            edge_bytes,
            direct_bytes,
            p2p_in_bytes,
            p2p_out_bytes,
            connections,
            connection_failures,
            stalls,
            stall_ms,
            playing_ms,
            errors,
            first_frames,
            first_frame_ms,
            histogram,
        }
    }

    /// The share of bytes that came from peers; none where nothing came.
    pub fn share_ratio(&self) -> Option<f64> {
        shoal_report::share_ratio(self.p2p_in_bytes, self.edge_bytes, self.direct_bytes)
    }

    /// The time to the first frame that `part` (0 to 1) of the sessions were within, in milliseconds: within its bucket, as
    /// if spread evenly. Beyond the last bound: that bound. None without any.
    pub fn first_frame_within(&self, part: f64) -> Option<f64> {
        let all: u64 = self.histogram.iter().sum();
        if all == 0 {
            return None;
        }
        let wanted = part.clamp(0.0, 1.0) * all as f64;
        let (mut below, mut from) = (0.0, 0.0);
        for (count, to) in self.histogram.iter().zip(FIRST_FRAME_MS) {
            let (count, to) = (*count as f64, to as f64);
            if count > 0.0 && below + count >= wanted {
                return Some(from + (to - from) * ((wanted - below) / count).clamp(0.0, 1.0));
            }
            (below, from) = (below + count, to);
        }
        Some(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_names_belong_together() {
        let columns: [u64; COLUMNS] = std::array::from_fn(|at| at as u64 + 1);
        let sums = Sums::from_columns(columns);
        assert_eq!(sums.columns(), columns);
        let at = |name| NAMES.iter().position(|other| *other == name).unwrap() as u64 + 1;
        assert_eq!(
            (sums.viewers, sums.edge_bytes, sums.playing_ms),
            (at("viewers"), at("edge_bytes"), at("playing_ms"))
        );
        assert_eq!((sums.first_frame_ms, sums.histogram[11]), (at("first_frame_ms"), at("h11")));
    }

    #[test]
    fn percentiles_come_from_the_histogram() {
        let mut sums = Sums::default();
        assert_eq!(sums.first_frame_within(0.5), None);
        for ms in [50, 150, 150, 250, 60_000] {
            sums.add(&Sums::of(&Report { first_frame_ms: Some(ms), ..Report::default() }));
        }
        assert_eq!((sums.first_frames, sums.first_frame_ms, sums.reports), (5, 60_600, 5));
        assert_eq!(sums.first_frame_within(0.4), Some(150.0));
        assert_eq!(sums.first_frame_within(0.8), Some(300.0));
        assert_eq!(sums.first_frame_within(1.0), Some(10_000.0));
    }
}
