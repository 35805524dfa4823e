//! Which way a packet leaves: what the host's routes and neighbours say, asked a few times in a second.

use core::mem::zeroed;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
};
use aya_ebpf::helpers::bpf_fib_lookup as fib_lookup;
use aya_ebpf::programs::XdpContext;
use shoal_packet::source::place;
use shoal_probe_maps::{Address, Config, NEXT_HOP_NS, NEXT_HOPS as PLACES, NextHop, RelayPath, Verdict};

use crate::NEXT_HOPS;
use crate::headers::words;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// As the stack takes it.
#[repr(C, align(8))]
struct Aligned(bpf_fib_lookup);

/// The interface that a packet came in by.
#[inline(always)]
pub fn ingress(ctx: &XdpContext) -> u32 {
    // SAFETY: the packet's own context.
    unsafe { (*ctx.ctx).ingress_ifindex }
}

/// The next hop of a path; or what becomes of the packet.
#[inline(always)]
pub fn find(
    ctx: &XdpContext,
    config: &Config,
    path: &RelayPath,
    ipv4: bool,
    now_ns: u64,
) -> Result<&'static NextHop, Verdict> {
    let (source, destination) = (words(&path.source.0), words(&path.destination.0));
    let [upper, lower] = destination;
    let number = upper ^ lower;
    let place = place(config.seed, number, PLACES);
    let hop = NEXT_HOPS.get_ptr_mut(place).ok_or(Verdict::NoNextHop)?;
    // SAFETY: the map's own memory, of this CPU alone.
    let hop = unsafe { &mut *hop };
    if hop.until_ns > now_ns && hop.destination.0 == destination && hop.source.0 == source {
        return Ok(hop);
    }
    ask(ctx, path, ipv4, hop)?;
    (hop.source, hop.destination) = (Address(source), Address(destination));
    hop.until_ns = now_ns + NEXT_HOP_NS;
    Ok(hop)
}

#[inline(always)]
fn ask(ctx: &XdpContext, path: &RelayPath, ipv4: bool, hop: &mut NextHop) -> Result<(), Verdict> {
    // SAFETY: numbers and arrays of them.
    let mut asked: Aligned = unsafe { zeroed() };
    let asked = &mut asked.0;
    asked.ifindex = ingress(ctx);
    if ipv4 {
        asked.family = AF_INET;
        asked.__bindgen_anon_3.ipv4_src = path.source.last();
        asked.__bindgen_anon_4.ipv4_dst = path.destination.last();
    } else {
        asked.family = AF_INET6;
        asked.__bindgen_anon_3.ipv6_src = path.source.words();
        asked.__bindgen_anon_4.ipv6_dst = path.destination.words();
    }
    // It is believed no longer while it is written.
    hop.until_ns = 0;
    // SAFETY: the packet's own context, and a structure of the size that is said.
    let said = unsafe { fib_lookup(ctx.ctx.cast(), asked, size_of::<bpf_fib_lookup>() as i32, 0) };
    match said as u32 {
        BPF_FIB_LKUP_RET_SUCCESS => {}
        BPF_FIB_LKUP_RET_FWD_DISABLED => return Err(Verdict::NoForwarding),
        BPF_FIB_LKUP_RET_FRAG_NEEDED => return Err(Verdict::TooLong),
        _ => return Err(Verdict::NoNextHop),
    }
    hop.interface = asked.ifindex;
    // SAFETY: no length was asked about, so the kernel has written the way's MTU there.
    hop.mtu = u32::from(unsafe { asked.__bindgen_anon_1.mtu_result });
    let ([a, b, c], [d, e, f]) = (halves(&asked.dmac), halves(&asked.smac));
    let pair = |first: u16, second: u16| u32::from(first) | u32::from(second) << 16;
    hop.macs = [pair(a, b), pair(c, d), pair(e, f)];
    Ok(())
}

/// An address as it lies on the stack, at an even place: the compiler would read it by larger parts than the verifier lets it.
#[inline(always)]
fn halves(mac: &[u8; 6]) -> [u16; 3] {
    // SAFETY: six bytes are three of them, and `bpf_fib_lookup` has its addresses at even places.
    core::array::from_fn(|nth| unsafe { mac.as_ptr().cast::<u16>().add(nth).read_volatile() })
}
