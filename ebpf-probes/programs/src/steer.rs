//! Flows come to their owners: to its CPU, before the kernel makes packets of them (CPUMAP), and to its socket (sk_reuseport).
//!
//! Whatever is not known here is left to the kernel, which has its own choice of sockets, and any CPU will do.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::sk_action::SK_PASS;
use aya_ebpf::bindings::xdp_action::XDP_PASS;
use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_skb_load_bytes_relative};
use aya_ebpf::macros::{map, sk_reuseport};
use aya_ebpf::maps::{Array, CpuMap, HashMap, PerCpuArray, ReusePortSockArray};
use aya_ebpf::programs::{SkReuseportContext, XdpContext};
use shoal_packet::flow::{Owners, RelayPorts};
use shoal_probe_maps::steer::{COUNTS, CPUS, Count, ENDPOINTS, EndpointKey, SHARDS, SOCKETS, Steer};
use shoal_probe_maps::{Address, port};

use crate::PORTS;
use crate::headers::Headers;

/// As `skb->protocol` has them: in network order.
const ETHERTYPE_IPV4: u16 = 0x0800_u16.to_be();
const ETHERTYPE_IPV6: u16 = 0x86dd_u16.to_be();

/// Offsets are from the network header (linux/bpf.h, `bpf_hdr_start_off`).
const FROM_NETWORK: u32 = 1;

/// Where both addresses lie in their headers.
const IPV4_ADDRESSES: u32 = 12;
const IPV6_ADDRESSES: u32 = 8;

#[map]
static STEER: Array<Steer> = Array::with_max_entries(1, 0);

/// The place of an endpoint's first socket in [`STEER_SOCKETS`]; those of the other shards follow.
#[map]
static STEER_PLACE: HashMap<EndpointKey, u32> = HashMap::with_max_entries(ENDPOINTS, 0);

#[map]
static STEER_SOCKETS: ReusePortSockArray = ReusePortSockArray::with_max_entries(SOCKETS, 0);

/// By [`Count`].
#[map]
static STEER_COUNT: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTS, 0);

/// The CPU of each shard.
#[map]
static SHARD_CPU: Array<u32> = Array::with_max_entries(SHARDS, 0);

/// Has those CPUs, and no others.
#[map]
static STEER_CPUS: CpuMap = CpuMap::with_max_entries(CPUS, 0);

/// For the sockets that share an address and port: the owner's.
#[sk_reuseport]
pub fn shoal_steer(ctx: SkReuseportContext) -> u32 {
    count(if select(&ctx).is_some() { Count::Owner } else { Count::Kernel });
    SK_PASS
}

/// `None`: the kernel chooses.
#[inline(always)]
fn select(ctx: &SkReuseportContext) -> Option<()> {
    let steer = STEER.get(0)?;
    // The data begins with UDP's header.
    let start = ctx.data();
    if start + size_of::<[u16; 2]>() > ctx.data_end() {
        return None;
    }
    // SAFETY: it was checked that both ports are there; every bit pattern is a number.
    let [source_port, own_port] = unsafe { (start as *const [u16; 2]).read_unaligned() }.map(u16::from_be);
    let protocol = ctx.eth_protocol() as u16;
    let (source, own) = if protocol == ETHERTYPE_IPV4 {
        let [source, own] = load::<[u32; 2]>(ctx, IPV4_ADDRESSES)?;
        (Address::v4(source), Address::v4(own))
    } else if protocol == ETHERTYPE_IPV6 {
        let [source, own] = load::<[[u64; 2]; 2]>(ctx, IPV6_ADDRESSES)?;
        (Address(source), Address(own))
    } else {
        return None;
    };
    let owner = owner(steer, protocol == ETHERTYPE_IPV4, (source, source_port), (own, own_port));
    // SAFETY: entries are made before the sockets are, and taken away when a process has them that begins anew: then it may be the place
    // of another endpoint, whose socket the kernel does not take for this one.
    let place = unsafe { STEER_PLACE.get(&EndpointKey { address: own, port: own_port.into() }) }?;
    STEER_SOCKETS.select_reuseport(ctx, place + owner).ok()
}

/// A part of the network header.
#[inline(always)]
fn load<T: Copy + Default>(ctx: &SkReuseportContext, offset: u32) -> Option<T> {
    let mut part = T::default();
    // SAFETY: the kernel writes to `part` as many bytes as it has, or none.
    let result = unsafe {
        bpf_skb_load_bytes_relative(ctx.as_ptr(), offset, (&raw mut part).cast(), size_of::<T>() as u32, FROM_NETWORK)
    };
    (result == 0).then_some(part)
}

/// What becomes of a packet that goes to user space.
#[inline(always)]
pub fn pass(ctx: &XdpContext) -> u32 {
    match STEER.get(0) {
        // The headers are taken apart once more: to keep them until here costs every packet.
        Some(steer) if steer.cpus != 0 => match Headers::parse(ctx) {
            Ok(headers) => redirect(steer, &headers).unwrap_or(XDP_PASS),
            Err(_) => XDP_PASS,
        },
        _ => XDP_PASS,
    }
}

/// `None`: it stays on this CPU.
#[inline(always)]
fn redirect(steer: &Steer, headers: &Headers) -> Option<u32> {
    let is_relay = PORTS.get(headers.destination_port.into()).is_some_and(|of| port::parts(*of).0 == port::RELAY);
    let shard = if is_relay {
        let ports = RelayPorts { first: steer.relay_first, each: steer.relay_each };
        ports.shard(headers.destination_port).filter(|shard| *shard < steer.shards)?
    } else {
        let (source, own) = ((headers.source, headers.source_port), (headers.destination, headers.destination_port));
        owner(steer, headers.is_ipv4, source, own)
    };
    let cpu = *SHARD_CPU.get(shard)?;
    // SAFETY: no arguments.
    if cpu == unsafe { bpf_get_smp_processor_id() } as u32 {
        return None;
    }
    let action = STEER_CPUS.redirect(cpu, XDP_PASS.into()).ok()?;
    count(Count::Cpu);
    Some(action)
}

#[inline(always)]
fn owner(steer: &Steer, is_ipv4: bool, (source, port): (Address, u16), (own, own_port): (Address, u16)) -> u32 {
    let owners = Owners { seed: steer.seed, shards: steer.shards };
    if is_ipv4 {
        owners.of_ipv4((source.last().to_ne_bytes(), port), (own.last().to_ne_bytes(), own_port))
    } else {
        owners.of_ipv6((bytes(source), port), (bytes(own), own_port))
    }
}

#[inline(always)]
fn bytes(Address([upper, lower]): Address) -> [u8; 16] {
    let mut bytes = [0; 16];
    let (chunks, _) = bytes.as_chunks_mut::<8>();
    (chunks[0], chunks[1]) = (upper.to_ne_bytes(), lower.to_ne_bytes());
    bytes
}

#[inline(always)]
fn count(what: Count) {
    if let Some(count) = STEER_COUNT.get_ptr_mut(what as u32) {
        // SAFETY: the map's own memory, of this CPU alone.
        unsafe { *count += 1 };
    }
}
