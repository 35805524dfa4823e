//! What the data plane need not see of UDP is dropped or answered in the driver.
//!
//! ```text
//! packet ─▶ headers ─▶ ours? ─▶ lengths ─▶ block list ─▶ rates ─▶ shape ─▶ plain Binding? ─▶ user space
//!              │          │                                                  │
//!              └──────────┴─▶ the host, untouched                            └─▶ answer, out where it came in
//! ```
//!
//! Everything that is not UDP to one of the own addresses and ports passes untouched. Nothing is dropped here that user space
//! would serve, but for the limits; and a packet that cannot be handled here for whatever reason goes to user space, which can.

#![no_std]
#![no_main]

mod answer;
mod headers;
mod limits;
mod xsk;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie};
use aya_ebpf::programs::XdpContext;
use headers::{Headers, get};
use shoal_packet::shape::{Shape, shape};
use shoal_packet::source::{GATE_V4_WORDS, GATE_V6_BITS, gate_v4, gate_v6};
use shoal_probe_maps::{
    BLOCKED, Config, DROPS_BYTES, Drop, ENDPOINTS, Endpoint, EndpointKey, Meter, NETWORKS, SAMPLE, SOURCES, VERDICTS,
    Verdict, config, endpoint, port,
};

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// What each destination port is: [`port`].
#[map]
static PORTS: Array<u8> = Array::with_max_entries(1 << 16, 0);

#[map]
static ENDPOINT: HashMap<EndpointKey, Endpoint> = HashMap::with_max_entries(ENDPOINTS, 0);

#[map]
static BLOCK_V4: LpmTrie<u32, u32> = LpmTrie::with_max_entries(BLOCKED, 0);

#[map]
static BLOCK_V6: LpmTrie<[u32; 4], u32> = LpmTrie::with_max_entries(BLOCKED, 0);

/// Which parts of the address space have anything on the block lists.
#[map]
static GATE_V4: Array<u64> = Array::with_max_entries(GATE_V4_WORDS, 0);

#[map]
static GATE_V6: Array<u64> = Array::with_max_entries(GATE_V6_BITS / 64, 0);

/// The rates' words: [`shoal_packet::rate`].
#[map]
static SOURCE_DUE: Array<u64> = Array::with_max_entries(SOURCES, 0);

#[map]
static NETWORK_DUE: Array<u64> = Array::with_max_entries(NETWORKS, 0);

#[map]
static NEW_SOURCE_DUE: Array<u64> = Array::with_max_entries(SOURCES, 0);

#[map]
static BINDING_DUE: Array<u64> = Array::with_max_entries(SOURCES, 0);

/// Until when a source is known to be no forgery, by user space.
#[map]
static KNOWN_UNTIL: Array<u64> = Array::with_max_entries(SOURCES, 0);

#[map]
static METER: PerCpuArray<Meter> = PerCpuArray::with_max_entries(1, 0);

/// Packets by verdict.
#[map]
static VERDICT: PerCpuArray<u64> = PerCpuArray::with_max_entries(VERDICTS as u32, 0);

/// Sampled drops.
#[map]
static DROPS: RingBuf = RingBuf::with_byte_size(DROPS_BYTES, 0);

/// The whole way.
#[xdp]
pub fn shoal(ctx: XdpContext) -> u32 {
    let (verdict, by_frame) = judge(&ctx);
    if let Some(count) = VERDICT.get_ptr_mut(verdict as u32) {
        // SAFETY: the map's own memory, of this CPU alone.
        unsafe { *count += 1 };
    }
    match verdict {
        Verdict::Answered => XDP_TX,
        Verdict::Passed if by_frame => xsk::redirect(&ctx),
        verdict if verdict.is_drop() => XDP_DROP,
        _ => XDP_PASS,
    }
}

/// What an empty program costs, to be measured beside the one above.
#[xdp]
pub fn shoal_empty(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// The verdict, and of what passes whether an AF_XDP socket may have it.
#[inline(always)]
fn judge(ctx: &XdpContext) -> (Verdict, bool) {
    let headers = match Headers::parse(ctx) {
        Ok(headers) => headers,
        Err(verdict) => return (verdict, false),
    };
    let verdict = ours(ctx, &headers);
    if verdict.is_drop() {
        sample(ctx, &headers, verdict);
    }
    (verdict, matches!(verdict, Verdict::Passed) && xsk::may_have(ctx, &headers))
}

#[inline(always)]
fn ours(ctx: &XdpContext, headers: &Headers) -> Verdict {
    let Some(config) = CONFIG.get(0) else { return Verdict::Untouched };
    let kind = PORTS.get(headers.destination_port.into()).copied().unwrap_or(port::NONE);
    if kind == port::NONE {
        return Verdict::Untouched;
    }
    let of_clients = kind == port::CLIENTS;
    let key = EndpointKey {
        address: headers.destination,
        port: if of_clients { headers.destination_port.into() } else { 0 },
    };
    // SAFETY: entries are replaced whole and rarely; an answer with an old second address is still one.
    let Some(own) = (unsafe { ENDPOINT.get(&key) }) else { return Verdict::Untouched };
    if !headers.lengths_agree {
        return Verdict::Length;
    }
    if !headers.is_header_intact(ctx) {
        return Verdict::HeaderChecksum;
    }
    if is_blocked(headers, config) {
        return Verdict::Blocked;
    }
    // SAFETY: no arguments.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if let Err(verdict) = limits::admit(headers, config, now_ns) {
        return verdict;
    }
    if headers.is_fragment {
        let dropped = config.flags & config::DROP_FRAGMENTS != 0;
        return if dropped { Verdict::FragmentDropped } else { Verdict::Fragment };
    }
    if !of_clients {
        return Verdict::Passed;
    }
    let Some(first) = get::<[u8; 4]>(ctx, headers.payload.into()) else { return Verdict::Shape };
    match shape(first, headers.length.into()) {
        Shape::Other => Verdict::Shape,
        Shape::Stun if own.flags & endpoint::ANSWER != 0 => answer::answer(ctx, headers, own, config, now_ns),
        _ => Verdict::Passed,
    }
}

#[inline(always)]
fn is_blocked(headers: &Headers, config: &Config) -> bool {
    let words = headers.source.0;
    // Most addresses are far from any that is blocked, and the list is slow.
    let is_open = |gate: &Array<u64>, (word, bit): (u32, u64)| gate.get(word).is_some_and(|word| word & bit != 0);
    if headers.is_ipv4 {
        is_open(&GATE_V4, gate_v4(words[3].to_ne_bytes())) && BLOCK_V4.get(lpm_trie::Key::new(32, words[3])).is_some()
    } else {
        let short = config.flags & config::BLOCK_V6_SHORT != 0;
        (short || is_open(&GATE_V6, gate_v6(config.seed, words[0].to_ne_bytes())))
            && BLOCK_V6.get(lpm_trie::Key::new(128, words)).is_some()
    }
}

/// Tells user space of a drop, now and then.
#[inline(always)]
fn sample(ctx: &XdpContext, headers: &Headers, verdict: Verdict) {
    let every = CONFIG.get(0).map_or(0, |config| u64::from(config.sample_every));
    let Some(meter) = METER.get_ptr_mut(0) else { return };
    // SAFETY: the map's own memory, of this CPU alone.
    let drops = unsafe {
        (*meter).drops += 1;
        (*meter).drops
    };
    if every == 0 || drops % every != 0 {
        return;
    }
    let Some(mut entry) = DROPS.reserve::<Drop>(0) else { return };
    let sampled = get::<[u8; SAMPLE]>(ctx, headers.payload.into());
    entry.write(Drop {
        // SAFETY: no arguments.
        at_ns: unsafe { bpf_ktime_get_ns() },
        source: headers.source,
        destination: headers.destination,
        source_port: headers.source_port,
        destination_port: headers.destination_port,
        verdict: verdict as u32,
        length: (ctx.data_end() - ctx.data()) as u32,
        sampled: if sampled.is_some() { SAMPLE as u32 } else { 0 },
        sample: sampled.unwrap_or([0; SAMPLE]),
    });
    entry.submit(0);
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
