//! What user space is to see goes straight to it (AF_XDP), where it has a socket for the queue and a frame is nothing but what it
//! takes apart there: no VLAN tags, no options, no fragments. Everything else goes to the host's sockets, which are open beside.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, XskMap};
use aya_ebpf::programs::XdpContext;
use shoal_probe_maps::steer::EndpointKey;
use shoal_probe_maps::{Address, Queue, XSK_ENDPOINTS, XSK_FRAME_MAX, XSKS as SOCKETS, config};

use crate::CONFIG;
use crate::answer::is_from_one_host;
use crate::headers::{ETHERNET, Headers};

/// `BPF_F_NO_PREALLOC` (linux/bpf.h): memory for what is in there, not for what could be.
const NO_PREALLOC: u32 = 1;

#[map]
static XSKS: XskMap = XskMap::with_max_entries(SOCKETS, 0);

/// The place of each queue's socket in there.
#[map]
static XSK_PLACE: HashMap<Queue, u32> = HashMap::with_max_entries(SOCKETS, 0);

/// What such sockets serve. Ports of relays are not all in use, and those that are not may be the host's own.
#[map]
static XSK_ENDPOINT: HashMap<EndpointKey, u32> = HashMap::with_max_entries(XSK_ENDPOINTS, NO_PREALLOC);

/// Whether a packet that goes to user space may go by a frame.
#[inline(always)]
pub fn may_have(ctx: &XdpContext, headers: &Headers) -> bool {
    if !CONFIG.get(0).is_some_and(|config| config.flags & config::FRAMES != 0) {
        return false;
    }
    let Address([start, _]) = headers.source;
    let [first, second, ..] = start.to_ne_bytes();
    // An address that is somebody's only on one link: the socket says which.
    let link_local = !headers.is_ipv4 && first == 0xfe && second & 0xc0 == 0x80;
    let key = EndpointKey { address: headers.destination, port: headers.destination_port.into() };
    headers.is_plain
        && usize::from(headers.network) == ETHERNET
        && ctx.data_end() - ctx.data() <= XSK_FRAME_MAX
        && !link_local
        && is_from_one_host(ctx, headers)
        // SAFETY: the value says nothing; that there is one does.
        && unsafe { XSK_ENDPOINT.get(&key) }.is_some()
}

/// Gives it to the socket of the queue that it came by, or, where there is none, to the host.
#[inline(always)]
pub fn redirect(ctx: &XdpContext) -> u32 {
    // SAFETY: the packet's own context. Volatile: the kernel takes no read of two fields at once.
    let queue = unsafe {
        Queue {
            interface: (&raw const (*ctx.ctx).ingress_ifindex).read_volatile(),
            queue: (&raw const (*ctx.ctx).rx_queue_index).read_volatile(),
        }
    };
    // SAFETY: a number that is read whole.
    match unsafe { XSK_PLACE.get(&queue) } {
        Some(place) => XSKS.redirect(*place, XDP_PASS.into()).unwrap_or(XDP_PASS),
        None => XDP_PASS,
    }
}
