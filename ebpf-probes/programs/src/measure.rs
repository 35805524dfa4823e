//! Programs to measure the other one by: what the driver alone can do, and a sender that is fed by BPF_PROG_RUN's live frames.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_xdp_adjust_head};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;
use shoal_probe_maps::{FEED_WORDS, Feed};

use crate::headers::{ETHERNET, fold, get, set, sum};

/// The head of what is sent: the receiver has written over it.
#[map]
static FEED: Array<Feed> = Array::with_max_entries(1, 0);

/// Packets of the programs below.
#[map]
static MEASURED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// What an empty program costs.
#[xdp]
pub fn shoal_empty(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// What the driver can drop, counted.
#[xdp]
pub fn shoal_drop(_ctx: XdpContext) -> u32 {
    count();
    XDP_DROP
}

/// What the driver can send back, counted.
#[xdp]
pub fn shoal_tx(_ctx: XdpContext) -> u32 {
    count();
    XDP_TX
}

/// Makes the frame what it was before it was answered or relayed: so a program that changes it can be run on the same one again.
#[xdp]
pub fn shoal_reset(ctx: XdpContext) -> u32 {
    if reset(&ctx).is_some() { XDP_PASS } else { XDP_ABORTED }
}

/// The same, and then the whole way.
#[xdp]
pub fn shoal_again(ctx: XdpContext) -> u32 {
    if reset(&ctx).is_some() { crate::go(&ctx) } else { XDP_ABORTED }
}

#[inline(always)]
fn reset(ctx: &XdpContext) -> Option<()> {
    let length = FEED.get(0)?.length as i32;
    let grown = (ctx.data_end() - ctx.data()) as i32 - length;
    // SAFETY: the packet's own context.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, grown) } != 0 {
        return None;
    }
    feed(ctx)
}

/// Sends what it is fed with.
#[xdp]
pub fn shoal_feed(ctx: XdpContext) -> u32 {
    if feed(&ctx).is_some() { XDP_TX } else { XDP_ABORTED }
}

#[inline(always)]
fn count() {
    if let Some(count) = MEASURED.get_ptr_mut(0) {
        // SAFETY: the map's own memory, of this CPU alone.
        unsafe { *count += 1 };
    }
}

/// Writes all but the tail. Where that comes.
#[inline(always)]
fn write<const LEADS: usize>(ctx: &XdpContext, feed: &Feed) -> Option<usize> {
    for nth in 0..LEADS {
        set(ctx, nth * 2, feed.lead[nth])?;
    }
    for nth in 0..FEED_WORDS {
        if nth >= feed.words as usize {
            break;
        }
        set(ctx, LEADS * 2 + nth * 8, feed.head[nth])?;
    }
    // Below 256 in any case: for the verifier.
    Some(LEADS * 2 + (feed.words as usize * 8 & 0xff))
}

#[inline(always)]
fn feed(ctx: &XdpContext) -> Option<()> {
    let feed = FEED.get(0)?;
    let behind = if feed.leads == 1 { write::<1>(ctx, feed)? } else { write::<3>(ctx, feed)? };
    for nth in 0..feed.tail.len() {
        if nth >= feed.halves as usize {
            break;
        }
        set(ctx, behind + nth * 2, feed.tail[nth])?;
    }
    if feed.random == 0 {
        return Some(());
    }
    // Sources of 16 bits at random, with a right checksum; that of UDP is not there.
    let [first, second, third, source, destination] = get::<[u32; 5]>(ctx, ETHERNET)?;
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let source = source & 0x0000_ffff | random << 16;
    let bare = u32::from_ne_bytes({
        let [hops, protocol, ..] = third.to_ne_bytes();
        [hops, protocol, 0, 0]
    });
    let [s0, s1] = (!fold(sum(first) + sum(second) + sum(bare) + sum(source) + sum(destination))).to_ne_bytes();
    let [hops, protocol, ..] = third.to_ne_bytes();
    set(ctx, ETHERNET + 8, [u32::from_ne_bytes([hops, protocol, s0, s1]), source])
}
