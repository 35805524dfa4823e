//! How much one source may send.

use aya_ebpf::maps::Array;
use shoal_packet::rate::{BURST_NS, NEW_BURST_NS, admit as rate};
use shoal_packet::source::{Source, place};
use shoal_probe_maps::{Config, NETWORKS, SOURCES, Verdict, WINDOW_NS};

use crate::headers::Headers;
use crate::{BINDING_DUE, KNOWN_UNTIL, METER, NETWORK_DUE, NEW_SOURCE_DUE, SOURCE_DUE};

/// Whether it may pass: by its source's address, its network, and whether it is known.
#[inline(always)]
pub fn admit(headers: &Headers, config: &Config, now_ns: u64) -> Result<(), Verdict> {
    let source = source(headers);
    let at = place(config.seed, source.address, SOURCES);
    if config.source_ns != 0 && !take(&SOURCE_DUE, at, now_ns, config.source_ns, BURST_NS) {
        return Err(Verdict::SourceRate);
    }
    let network = place(config.seed, source.network, NETWORKS);
    if config.network_ns != 0 && !take(&NETWORK_DUE, network, now_ns, config.network_ns, BURST_NS) {
        return Err(Verdict::NetworkRate);
    }
    if config.attack_packets != 0
        && !is_known(at, now_ns)
        && is_attack(config, now_ns)
        && !take(&NEW_SOURCE_DUE, at, now_ns, config.new_source_ns, NEW_BURST_NS)
    {
        return Err(Verdict::NewSourceRate);
    }
    Ok(())
}

/// Whether a Binding request of this source may be answered.
#[inline(always)]
pub fn admit_binding(headers: &Headers, config: &Config, now_ns: u64) -> bool {
    let at = place(config.seed, source(headers).address, SOURCES);
    config.binding_ns == 0 || take(&BINDING_DUE, at, now_ns, config.binding_ns, BURST_NS)
}

#[inline(always)]
fn source(headers: &Headers) -> Source {
    let [a, b, _, d] = headers.source.words();
    if headers.is_ipv4 {
        Source::v4(d.to_ne_bytes())
    } else {
        let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_ne_bytes(), b.to_ne_bytes());
        Source::v6([a0, a1, a2, a3, b0, b1, b2, b3])
    }
}

/// Takes from the rate at this place. Two CPUs that do so at once may both take the same: a rate is a little more then.
#[inline(always)]
fn take(due: &Array<u64>, place: u32, now_ns: u64, interval_ns: u64, burst_ns: u64) -> bool {
    let Some(due) = due.get_ptr_mut(place) else { return true };
    // SAFETY: the map's own memory; a word is read and written whole.
    unsafe {
        match rate(*due, now_ns, interval_ns, burst_ns) {
            Some(next) => {
                *due = next;
                true
            }
            None => false,
        }
    }
}

#[inline(always)]
fn is_known(place: u32, now_ns: u64) -> bool {
    KNOWN_UNTIL.get(place).is_some_and(|until| *until > now_ns)
}

/// Counts a packet of an unknown source; whether that is too much.
#[inline(always)]
fn is_attack(config: &Config, now_ns: u64) -> bool {
    let Some(meter) = METER.get_ptr_mut(0) else { return false };
    // SAFETY: the map's own memory, of this CPU alone.
    let meter = unsafe { &mut *meter };
    if now_ns - meter.begun_ns > WINDOW_NS {
        meter.begun_ns = now_ns;
        meter.packets = 0;
    }
    meter.packets += 1;
    if meter.packets > config.attack_packets {
        meter.attack_until_ns = now_ns + BURST_NS;
    }
    now_ns < meter.attack_until_ns
}
