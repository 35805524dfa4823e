//! How fast the body of a response goes out: the response by the kernel's pacing, all of a channel by its meter.

use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::routes::Limits;
use crate::telemetry::metrics::Counter;

/// Longest time that one piece waits: then it is sent, whatever the meter says, so that a mistake is no outage.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The pace of one response.
pub struct Pacer<'a> {
    connection: &'a Connection,
    limits: &'a Limits,
    /// Bytes that still go out as fast as they can.
    burst: u64,
    /// It has been counted.
    paced: bool,
}

impl<'a> Pacer<'a> {
    /// For the next response on the connection; `limits` are its channel's, if it has any.
    pub fn new(connection: &'a Connection, limits: Option<&'a Limits>) -> Option<Pacer<'a>> {
        let Some(limits) = limits else {
            connection.set_pace(None);
            return None;
        };
        let policy = limits.policy();
        if policy.response_burst_bytes > 0 || policy.response_bytes_per_second == 0 {
            connection.set_pace(None);
        }
        Some(Pacer { connection, limits, burst: policy.response_burst_bytes, paced: false })
    }

    /// Waits until some of the next `piece` bytes may be sent; returns how many.
    pub async fn next(&mut self, piece: usize) -> usize {
        let mut bytes = (piece as u64).min(self.limits.piece());
        let rate = self.limits.policy().response_bytes_per_second;
        if rate > 0 {
            if self.burst > 0 {
                bytes = bytes.min(self.burst);
                self.burst -= bytes;
            } else {
                // From now on the kernel spreads evenly what it is given.
                self.connection.set_pace(Some(rate));
                if !std::mem::replace(&mut self.paced, true) {
                    self.connection.context().stats.add(Counter::PacedResponses, 1);
                }
            }
        }
        let wait = self.limits.reserve(bytes, Instant::now()).min(WAIT_MAX);
        if wait > Duration::ZERO {
            let ctx = self.connection.context();
            ctx.stats.add(Counter::LimitWait, wait.as_micros() as u64);
            ctx.ring.sleep(wait).await;
        }
        bytes as usize
    }
}
