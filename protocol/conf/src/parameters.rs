//! P2P parameters: what rules set, and what an SDK gets.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wrong::Wrong;

/// Most transports.
const MAX_TRANSPORTS: usize = 8;

/// A value within its bounds, or what to write instead.
trait Bounded<B: ?Sized> {
    fn check(&self, bounds: &B) -> Result<(), String>;
}

macro_rules! bounded_number {
    ($($number:ty),*) => {$(
        impl Bounded<std::ops::RangeInclusive<$number>> for $number {
            fn check(&self, bounds: &std::ops::RangeInclusive<$number>) -> Result<(), String> {
                if bounds.contains(self) { return Ok(()) }
                Err(format!("must be from {} to {}", bounds.start(), bounds.end()))
            }
        }
    )*};
}
bounded_number!(u32, u64);

impl Bounded<()> for bool {
    fn check(&self, (): &()) -> Result<(), String> {
        Ok(())
    }
}

impl Bounded<usize> for Vec<String> {
    fn check(&self, most: &usize) -> Result<(), String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let good = |name: &String| (1..=16).contains(&name.len()) && name.bytes().all(allowed);
        if self.len() <= *most && self.iter().all(good) {
            return Ok(());
        }
        Err(format!("must be at most {most} names of 1 to 16 of a-z, 0-9, '-', as in webrtc or shoal-udp"))
    }
}

macro_rules! parameters {
    ($($(#[doc = $help:literal])* $name:ident: $type:ty = $default:expr, $bounds:expr;)*) => {
        /// Parameters that a rule sets; those that it leaves out are other rules' or the default.
        #[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub struct Parameters {
            $($(#[doc = $help])* #[serde(skip_serializing_if = "Option::is_none")] pub $name: Option<$type>,)*
        }

        /// Every parameter, as an SDK gets them.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        pub struct Settled {
            $($(#[doc = $help])* pub $name: $type,)*
        }

        impl Default for Settled {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Parameters {
            /// Every parameter, in the order of documents.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// What is out of its bounds.
            pub(crate) fn check(&self, wrong: &mut Vec<Wrong>) {
                $(if let Some(value) = &self.$name && let Err(message) = value.check(&$bounds) {
                    wrong.push(Wrong::new(concat!("parameters.", stringify!($name)), format!("{value:?}"), message));
                })*
            }

            /// Takes from `other` what is not set yet, and names it.
            pub(crate) fn fill(&mut self, other: &Self) -> Vec<&'static str> {
                let mut taken = Vec::new();
                $(if self.$name.is_none() && other.$name.is_some() {
                    self.$name.clone_from(&other.$name);
                    taken.push(stringify!($name));
                })*
                taken
            }

            /// With the default for what is not set.
            pub fn settle(self) -> Settled {
                Settled { $($name: self.$name.unwrap_or_else(|| $default),)* }
            }
        }
    };
}

parameters! {
    /// Seconds between two announces, and between two questions to conf.
    interval_s: u32 = 16, 4..=600;
    /// Most peers connected at a time.
    peers_max: u32 = 24, 0..=200;
    /// Bytes of a piece that peers ask one another for.
    slice_bytes: u32 = 65_536, 1_024..=4_194_304;
    /// Bytes per second that a viewer gives to others; 0: no limit.
    upload_bytes_per_second: u64 = 0, 0..=1_099_511_627_776;
    /// Peers that a viewer gives to at a time; 0: no limit.
    upload_peers_max: u32 = 0, 0..=200;
    /// Give to others over networks that are paid by volume, as mobile ones.
    upload_metered: bool = false, ();
    /// Peers may meet through a relay (TURN) where they cannot directly.
    relay_allowed: bool = true, ();
    /// Peers meet through a relay only: none learns another's address.
    relay_only: bool = false, ();
    /// How peers may talk, the better ones first: `webrtc`, `shoal-udp`, `tcp`, as the tracker names them.
    transports: Vec<String> = vec!["webrtc".to_owned(), "shoal-udp".to_owned()], MAX_TRANSPORTS;
    /// Seconds behind the play head that are asked of peers.
    prefetch_s: u32 = 30, 0..=3_600;
    /// Seconds from the start in which everything is asked of the edge.
    cdn_first_s: u32 = 10, 0..=3_600;
    /// With less than so many milliseconds buffered the edge is asked at once.
    cdn_below_ms: u32 = 4_000, 0..=600_000;
    /// Milliseconds that playback stands still to count as a stall.
    stall_ms: u32 = 500, 50..=60_000;
    /// After so many stalls a viewer stops using peers; 0: never.
    stalls_max: u32 = 3, 0..=1_000;
    /// Stalls older than so many seconds do not count.
    stall_window_s: u32 = 120, 1..=86_400;
    /// Seconds between two reports.
    report_interval_s: u32 = 16, 4..=3_600;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_sets_one_counts_and_defaults_fill_the_rest() {
        let mut merged = Parameters { peers_max: Some(5), ..Parameters::default() };
        let taken = merged.fill(&Parameters { peers_max: Some(9), relay_only: Some(true), ..Parameters::default() });
        assert_eq!(taken, ["relay_only"]);
        assert_eq!(merged.settle(), Settled { peers_max: 5, relay_only: true, ..Settled::default() });
        assert_eq!(Settled::default().interval_s, 16);
    }

    #[test]
    fn defaults_are_within_their_bounds_and_bounds_are_held() {
        let text = serde_json::to_string(&Settled::default()).unwrap();
        let all: Parameters = serde_json::from_str(&text).unwrap();
        let mut wrong = Vec::new();
        all.check(&mut wrong);
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(Parameters::default().fill(&all), Parameters::NAMES);
        for text in [r#"{"interval_s": 3}"#, r#"{"transports": ["A"]}"#, r#"{"slice_bytes": 0}"#] {
            let mut wrong = Vec::new();
            serde_json::from_str::<Parameters>(text).unwrap().check(&mut wrong);
            assert_eq!(wrong.len(), 1, "{text}");
        }
        assert!(serde_json::from_str::<Parameters>(r#"{"intervall_s": 3}"#).is_err());
    }
}
