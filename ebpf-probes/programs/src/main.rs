//! What the data plane need not see of UDP is dropped or answered in the driver.
//!
//! ```text
//! packet ─▶ headers ─▶ ours? ─▶ lengths ─▶ block list ─▶ rates ─▶ shape ─▶ plain Binding? ─▶ bound channel? ─▶ user space
//!              │          │                                                  │                 │
//!              └──────────┴─▶ the host, untouched                            └─▶ answer        └─▶ other end, by the host's routes
//! ```
//!
//! Everything that is not UDP to one of the own addresses and ports passes untouched. Nothing is dropped here that user space
//! would serve, but for the limits; and a packet that cannot be handled here for whatever reason goes to user space, which can.

#![no_std]
#![no_main]

mod answer;
mod headers;
mod limits;
mod measure;
mod next_hop;
mod relay;
mod steer;
mod xsk;

use core::mem::MaybeUninit;

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, DevMapHash, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie};
use aya_ebpf::programs::XdpContext;
use headers::{Headers, get};
use shoal_packet::shape::{Shape, shape};
use shoal_packet::source::{GATE_V4_ALL, GATE_V4_WORDS, GATE_V6_BITS, gate_v4, gate_v6};
use shoal_probe_maps::{
    BLOCKED, CHANNELS, Config, DROPS_BYTES, Drop, INTERFACES, Meter, NETWORKS, NEXT_HOPS as NEXT_HOP_PLACES, NextHop,
    OWN_PER_PORT, OWN_PLACES, Own, RelayKey, RelayOwner, RelayPath, RelayUsage, SAMPLE, SOURCES, VERDICTS, Verdict,
    config, own, port,
};

#[map]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

/// What each destination port is, and where its addresses lie: [`port`].
#[map]
static PORTS: Array<u32> = Array::with_max_entries(1 << 16, 0);

/// Own addresses; those of a port lie together.
#[map]
static OWN: Array<Own> = Array::with_max_entries(OWN_PLACES, 0);

/// The paths of bound channels, from both ends.
#[map]
static RELAY: HashMap<RelayKey, RelayPath> = HashMap::with_max_entries(2 * CHANNELS, 0);

/// By CPU, and then by the place of the channel.
#[map]
static RELAY_USAGE: Array<RelayUsage> = Array::with_max_entries(CHANNELS, BPF_F_MMAPABLE);

/// What of it user space has taken into its books. The programs have no use for it, but it has to live as long.
#[map]
static RELAY_TAKEN: Array<RelayUsage> = Array::with_max_entries(CHANNELS, BPF_F_MMAPABLE);

/// The same holds for this.
#[map]
static RELAY_OWNER: Array<RelayOwner> = Array::with_max_entries(CHANNELS, 0);

/// Interfaces that packets may leave by, by their index: those that take frames from here.
#[map]
static OUT: DevMapHash = DevMapHash::with_max_entries(INTERFACES, 0);

#[map]
static NEXT_HOPS: PerCpuArray<NextHop> = PerCpuArray::with_max_entries(NEXT_HOP_PLACES, 0);

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
#[inline(always)]
pub fn shoal(ctx: XdpContext) -> u32 {
    go(&ctx)
}

#[inline(always)]
fn go(ctx: &XdpContext) -> u32 {
    let (verdict, by_frame) = judge(ctx);
    if let Some(count) = VERDICT.get_ptr_mut(verdict as u32) {
        // SAFETY: the map's own memory, of this CPU alone.
        unsafe { *count += 1 };
    }
    match verdict {
        Verdict::Answered | Verdict::Relayed => XDP_TX,
        Verdict::Redirected => XDP_REDIRECT,
        verdict if verdict.is_drop() => XDP_DROP,
        Verdict::Untouched | Verdict::Headers | Verdict::Fragment => XDP_PASS,
        // Not by steering: what goes on at another CPU comes to no such socket.
        _ if by_frame => xsk::redirect(ctx),
        _ => steer::pass(ctx),
    }
}

/// The verdict, and of what goes to user space whether an AF_XDP socket may have it.
#[inline(always)]
fn judge(ctx: &XdpContext) -> (Verdict, bool) {
    // Nearly all packets are like this. The rest is compiled twice, and here with everything at a known place.
    if let Some(headers) = Headers::plain_ipv4(ctx) {
        return judge_udp(ctx, &headers);
    }
    match Headers::parse(ctx) {
        Ok(headers) => judge_udp(ctx, &headers),
        Err(verdict) => (verdict, false),
    }
}

#[inline(always)]
fn judge_udp(ctx: &XdpContext, headers: &Headers) -> (Verdict, bool) {
    let verdict = ours(ctx, headers);
    if verdict.is_drop() {
        sample(ctx, headers, verdict);
    }
    let to_user_space = matches!(
        verdict,
        Verdict::Passed | Verdict::NotRelayed | Verdict::NoNextHop | Verdict::NoForwarding | Verdict::TooLong
    );
    (verdict, to_user_space && xsk::may_have(ctx, headers))
}

#[inline(always)]
fn ours(ctx: &XdpContext, headers: &Headers) -> Verdict {
    let Some(config) = CONFIG.get(0) else { return Verdict::Untouched };
    let of_port = PORTS.get(headers.destination_port.into()).copied().unwrap_or(port::NONE);
    let (kind, first, count) = port::parts(of_port);
    if kind == port::NONE {
        return Verdict::Untouched;
    }
    let Some(own) = find(headers, first, count) else { return Verdict::Untouched };
    if !headers.lengths_agree {
        return Verdict::Length;
    }
    if !headers.is_header_intact(ctx) {
        return Verdict::HeaderChecksum;
    }
    if is_blocked(headers, config) {
        return Verdict::Blocked;
    }
    // A few milliseconds behind, and much cheaper than to the nanosecond.
    // SAFETY: no arguments.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() };
    if let Err(verdict) = limits::admit(headers, config, now_ns) {
        return verdict;
    }
    if headers.is_fragment {
        let dropped = config.flags & config::DROP_FRAGMENTS != 0;
        return if dropped { Verdict::FragmentDropped } else { Verdict::Fragment };
    }
    if kind != port::CLIENTS {
        let relayed = relay::relay(ctx, headers, own, headers.destination_port, config, now_ns);
        return relayed.unwrap_or(Verdict::Passed);
    }
    let Some(first) = get::<[u8; 4]>(ctx, headers.payload.into()) else { return Verdict::Shape };
    match shape(first, headers.length.into()) {
        Shape::Other => Verdict::Shape,
        Shape::Stun if own.flags & own::ANSWER != 0 => answer::answer(ctx, headers, own, config, now_ns),
        Shape::Stun => Verdict::Passed,
        Shape::ChannelData => {
            let channel = u16::from_be_bytes([first[0], first[1]]);
            relay::relay(ctx, headers, own, channel, config, now_ns).unwrap_or(Verdict::Passed)
        }
    }
}

/// The own address that it came to, of those on its port.
#[inline(always)]
fn find(headers: &Headers, first: u32, count: u32) -> Option<&'static Own> {
    for nth in 0..OWN_PER_PORT {
        if nth >= count {
            break;
        }
        let own = OWN.get(first + nth)?;
        if own.address == headers.destination {
            return Some(own);
        }
    }
    None
}

#[inline(always)]
fn is_blocked(headers: &Headers, config: &Config) -> bool {
    let words = headers.source.words();
    // Most addresses are far from any that is blocked, and the list is slow.
    if headers.is_ipv4 {
        let (word, shift) = gate_v4(words[3].to_ne_bytes());
        return match GATE_V4.get(word).map_or(0, |word| word >> shift & GATE_V4_ALL) {
            0 => false,
            GATE_V4_ALL => true,
            _ => BLOCK_V4.get(lpm_trie::Key::new(32, words[3])).is_some(),
        };
    }
    let (word, bit) = gate_v6(config.seed, words[0].to_ne_bytes());
    (config.flags & config::BLOCK_V6_SHORT != 0 || GATE_V6.get(word).is_some_and(|word| word & bit != 0))
        && is_on_list(words)
}

/// Looks an IPv6 address up in the block list. The words of the key are written one by one: the compiler would join them to pieces that
/// are not aligned, as the verifier wants them on the stack.
#[inline(always)]
fn is_on_list(words: [u32; 4]) -> bool {
    let mut key = MaybeUninit::<lpm_trie::Key<[u32; 4]>>::uninit();
    let place = key.as_mut_ptr().cast::<u32>();
    // SAFETY: five words are all that the key is made of.
    let key = unsafe {
        place.write_volatile(128);
        for (nth, word) in words.into_iter().enumerate() {
            place.add(1 + nth).write_volatile(word);
        }
        key.assume_init_ref()
    };
    BLOCK_V6.get(key).is_some()
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
        at_ns: unsafe { bpf_ktime_get_coarse_ns() },
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
