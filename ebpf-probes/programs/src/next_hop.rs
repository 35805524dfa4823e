//! Which way a packet leaves: what the host's routes and neighbours say, asked a few times in a second.

use core::mem::zeroed;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
};
use aya_ebpf::helpers::bpf_fib_lookup as fib_lookup;
use aya_ebpf::programs::XdpContext;
use shoal_packet::source::place;
use shoal_probe_maps::{Config, NEXT_HOP_NS, NEXT_HOPS as PLACES, NextHop, RelayPath, Verdict};

use crate::NEXT_HOPS;

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
    let [upper, lower] = path.destination.0;
    let number = upper ^ lower;
    let place = place(config.seed, number, PLACES);
    let hop = NEXT_HOPS.get_ptr_mut(place).ok_or(Verdict::NoNextHop)?;
    // SAFETY: the map's own memory, of this CPU alone.
    let hop = unsafe { &mut *hop };
    if hop.until_ns > now_ns && hop.destination == path.destination && hop.source == path.source {
        return Ok(hop);
    }
    ask(ctx, path, ipv4, hop)?;
    hop.source = path.source;
    hop.destination = path.destination;
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
    let half = |mac: [u8; 6], nth: usize| u16::from_ne_bytes([mac[nth * 2], mac[nth * 2 + 1]]);
    let (to, from) = (asked.dmac, asked.smac);
    hop.macs = [half(to, 0), half(to, 1), half(to, 2), half(from, 0), half(from, 1), half(from, 2)];
    Ok(())
}
