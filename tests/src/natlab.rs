//! NATs of every kind between clients and a public net, in network namespaces.
//!
//! The [hub](NatLab::hub) is the public net and where servers run, with several addresses on one bridge. Each
//! [`Side`] is a namespace that translates and, behind it, one for the client. Nothing leaves the machine.

mod detectors;
mod kind;
mod mailbox;
mod namespace;
mod peers;
mod probe;
mod sequential;
mod server;
mod uclient;
mod webrtc;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, fs};

pub use detectors::{Detector, Found, Type};
pub use kind::{Behaviour, Dependence, Kind};
pub use mailbox::Mailbox;
pub use namespace::{Namespace, of_process, sweep};
pub use peers::{CHANNEL, Peer, Serving, TICKET_KEY, TICKETED, Way, nat_type, ticket};
pub use probe::{Family, arrive, knock, punch, seen_by};
pub use sequential::FIRST_PORT;
pub use server::{Server, Told};
pub use uclient::{Echo, Uclient};
pub use webrtc::{Stack, Transport, exchange};

use crate::process::Process;
use crate::tool;
use sequential::{DEVICE, Mappings, Sequential};

/// Addresses of the hub, of each family.
const HUB_ADDRESSES: u8 = 4;

/// Sides of one lab: their numbers are bytes of addresses.
const MAX_SIDES: usize = 100;

/// What a client's way to the public net is like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What stands in the way.
    pub kind: Kind,
    /// Whether there is IPv6 as well.
    pub ipv6: bool,
    /// Of 1000 packets in each direction, how many are lost.
    pub lost: u32,
    /// Kilobits per second in each direction, if there is a limit.
    pub rate: Option<u32>,
}

impl From<Kind> for Plan {
    fn from(kind: Kind) -> Self {
        Self { kind, ipv6: false, lost: 0, rate: None }
    }
}

/// A client and its NAT.
#[derive(Debug)]
pub struct Side {
    plan: Plan,
    number: u8,
    /// Of the hub, where this side comes in.
    port: String,
    client: Namespace,
    sequential: Option<Sequential>,
    nat: Namespace,
}

/// A public net and its sides.
#[derive(Debug)]
pub struct NatLab {
    sides: Vec<Side>,
    hub: Namespace,
    dir: PathBuf,
}

/// Whether this machine lets us make such labs; if not, it is noted that `test` was skipped.
pub fn possible(test: &str) -> bool {
    static POSSIBLE: OnceLock<Result<(), String>> = OnceLock::new();
    match POSSIBLE.get_or_init(try_out) {
        Ok(()) => true,
        Err(reason) => {
            tool::skip(test, reason);
            false
        }
    }
}

fn try_out() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root may make network namespaces".to_owned());
    }
    for name in ["ip", "tc", "nft", "nsenter"] {
        tool::find(name).ok_or_else(|| format!("{name} is not installed"))?;
    }
    for (what, path) in [("TUN devices", "/dev/net/tun"), ("IPv6", "/proc/sys/net/ipv6")] {
        if !Path::new(path).exists() {
            return Err(format!("this system has no {what}"));
        }
    }
    let namespace = Namespace::create("try")?;
    namespace.ip("link add one type veth peer name other\nlink add bridge type bridge\n")?;
    namespace.tc("qdisc add dev one root tbf rate 1mbit burst 16kb latency 50ms\n")?;
    Kind::ALL.into_iter().try_for_each(|kind| namespace.nft(&kind.rules(1)))
}

impl NatLab {
    /// A hub, and a side for each of `plans`. See [`possible`] for where this cannot be.
    pub fn start<P: Copy + Into<Plan>>(plans: &[P]) -> Self {
        assert!(plans.len() <= MAX_SIDES, "{} sides are too many", plans.len());
        static SWEPT: OnceLock<()> = OnceLock::new();
        SWEPT.get_or_init(sweep);
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = env::temp_dir().join(format!("shoal-nat-{}-{nth}", std::process::id()));
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
        let made = Self::make(&nth.to_string(), plans, dir);
        made.unwrap_or_else(|error| panic!("cannot make the lab: {error}"))
    }

    fn make<P: Copy + Into<Plan>>(name: &str, plans: &[P], dir: PathBuf) -> Result<Self, String> {
        let hub = Namespace::create(&format!("{name}-hub"))?;
        hub.sysctl(ROUTER)?;
        hub.ip("link add bridge type bridge\nlink set bridge up\n")?;
        for nth in 0..HUB_ADDRESSES {
            hub.ip(&format!(
                "address add {}/24 dev bridge\naddress add {}/64 dev bridge nodad\n",
                hub_v4(nth),
                hub_v6(nth)
            ))?;
        }
        let mut lab = Self { sides: Vec::new(), hub, dir };
        for (nth, plan) in plans.iter().enumerate() {
            let side = Side::make(&lab.hub, &format!("{name}-{nth}"), nth as u8 + 1, (*plan).into())?;
            lab.sides.push(side);
        }
        Ok(lab)
    }

    /// Makes a router of the hub, with an interface for each side, where it was a switch: only what has a next hop of its own, on an
    /// interface of its own, is sent on before the host has seen it.
    pub fn make_router(&self) -> Result<(), String> {
        for side in &self.sides {
            let (port, outside) = (&side.port, side.outside());
            let mut lines = format!("link set {port} nomaster\n");
            for nth in 0..HUB_ADDRESSES {
                let (v4, v6) = (hub_v4(nth), hub_v6(nth));
                lines += &format!("address add {v4}/32 dev {port}\naddress add {v6}/128 dev {port} nodad\n");
            }
            lines += &format!("route add {outside}/32 dev {port} src {}\n", hub_v4(0));
            if side.plan.kind.is_routed() || side.plan.kind.predictable() {
                let behind = Ipv4Addr::new(NET, 0, side.number, 0);
                lines += &format!("route replace {behind}/24 via {outside} dev {port}\n");
            }
            if side.plan.ipv6 {
                let (outside, behind) = (v6(0, u16::from(side.number) + 0x100), v6(u16::from(side.number), 0));
                lines += &format!("route add {outside}/128 dev {port}\n");
                lines += &format!("route replace {behind}/64 via {outside} dev {port}\n");
            }
            self.hub.ip(&lines)?;
            // The sides believe each other on the same link.
            self.hub.sysctl(&[(&format!("ipv4/conf/{port}/proxy_arp"), "1")])?;
        }
        Ok(())
    }

    /// The public net.
    pub fn hub(&self) -> &Namespace {
        &self.hub
    }

    /// The hub's IPv4 addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        (0..HUB_ADDRESSES).map(|nth| hub_v4(nth).into()).collect()
    }

    /// The hub's IPv6 addresses.
    pub fn addresses_v6(&self) -> Vec<IpAddr> {
        (0..HUB_ADDRESSES).map(|nth| hub_v6(nth).into()).collect()
    }

    /// All sides, in the order of their plans.
    pub fn sides(&self) -> &[Side] {
        &self.sides
    }

    /// What a client says until it ends; panics if it does not in time.
    pub fn say(&self, command: &mut Command, within: Duration) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = self.dir.join(format!("client-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
        let mut process = Process::start("client", command, &log);
        assert!(process.wait(within).is_some(), "{command:?} did not end:\n{}", process.output());
        process.output()
    }

    /// A folder that goes away with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for NatLab {
    fn drop(&mut self) {
        // With the namespaces end the processes in there, which may be writing.
        self.sides.clear();
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Settings of what passes packets on. Sources are not looked at, for those from a TUN device are somebody else's.
const ROUTER: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/accept_dad", "0"),
];

/// A client believes no advertisements, and uses its addresses at once.
const CLIENT: &[(&str, &str)] = &[("ipv6/conf/default/accept_ra", "0"), ("ipv6/conf/default/accept_dad", "0")];

impl Side {
    fn make(hub: &Namespace, name: &str, number: u8, plan: Plan) -> Result<Self, String> {
        let (nat, client) = (Namespace::create(&format!("{name}-nat"))?, Namespace::create(&format!("{name}-client"))?);
        nat.sysctl(ROUTER)?;
        client.sysctl(CLIENT)?;
        let mut side = Self { plan, number, port: format!("side{number}"), client, sequential: None, nat };
        let Plan { kind, ipv6, lost, rate } = plan;
        let (outside, inside, gateway) = (side.outside(), side.client_address(), side.gateway());
        let port = side.port.clone();
        side.nat.ip(&format!(
            "link add outer type veth peer name {port} netns {hub}\n\
             link add inner type veth peer name eth netns {client}\n\
             address add {outside}/24 dev outer\n\
             address add {gateway}/24 dev inner\n\
             link set outer up\n\
             link set inner up\n\
             route add default via {}\n",
            hub_v4(0),
            hub = hub.name(),
            client = side.client.name(),
        ))?;
        hub.ip(&format!("link set {port} master bridge\nlink set {port} up\n"))?;
        side.client
            .ip(&format!("address add {inside}/24 dev eth\nlink set eth up\nroute add default via {gateway}\n"))?;
        if kind.is_routed() || kind.predictable() {
            hub.ip(&format!("route add {}/24 via {outside}\n", Ipv4Addr::new(NET, 0, number, 0)))?;
        }
        if ipv6 {
            side.route_v6(hub)?;
        }
        if let Kind::Sequential { step } = kind {
            side.sequential = Some(Sequential::start(&side.nat, Mappings::new(side.public(), step))?);
            side.nat.ip(&format!(
                "link set {DEVICE} up\n\
                 route add {}/32 dev {DEVICE}\n\
                 route add default dev {DEVICE} table {TABLE}\n\
                 rule add iif inner ipproto udp lookup {TABLE}\n",
                side.public()
            ))?;
        }
        side.nat.nft(&kind.rules(lost))?;
        if let Some(rate) = rate {
            side.nat.tc(&["outer", "inner"].map(|device| limit(device, rate)).concat())?;
        }
        Ok(side)
    }

    fn route_v6(&self, hub: &Namespace) -> Result<(), String> {
        let [outside, gateway, inside] =
            [v6(0, u16::from(self.number) + 0x100), v6(u16::from(self.number), 1), v6(u16::from(self.number), 2)];
        self.nat.ip(&format!(
            "address add {outside}/64 dev outer nodad\n\
             address add {gateway}/64 dev inner nodad\n\
             route add default via {}\n",
            hub_v6(0)
        ))?;
        self.client.ip(&format!("address add {inside}/64 dev eth nodad\nroute add default via {gateway}\n"))?;
        hub.ip(&format!("route add {}/64 via {outside}\n", v6(u16::from(self.number), 0)))
    }

    /// What stands in the way.
    pub fn kind(&self) -> Kind {
        self.plan.kind
    }

    /// What was asked for.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    /// The hub's interface by which it comes.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// The NAT's interface towards the hub.
    pub fn outer(&self) -> &'static str {
        "outer"
    }

    /// Has the wire between NAT and hub take frames by so many queues in each direction, which one by the CPU that sends. `Err`: why not.
    pub fn set_queues(&self, hub: &Namespace, queues: u32) -> Result<(), String> {
        let queues = queues.to_string();
        // No end may have fewer to receive by than the other has to send by.
        for which in ["rx", "tx"] {
            for (namespace, device) in [(hub, self.port()), (&self.nat, self.outer())] {
                let output = tool::run(namespace.command("ethtool").args(["-L", device, which, &queues]));
                if !output.status.success() {
                    return Err(String::from_utf8_lossy(&output.stderr).into_owned());
                }
            }
        }
        Ok(())
    }

    /// Has the client write its checksums itself, as on a wire: a veth leaves them to who comes next. `Err`: why not.
    pub fn write_checksums(&self) -> Result<(), String> {
        let output = tool::run(self.client.command("ethtool").args(["-K", "eth", "tx", "off"]));
        output.status.success().then_some(()).ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Where the client runs.
    pub fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where the NAT is.
    pub fn nat(&self) -> &Namespace {
        &self.nat
    }

    /// The client's own IPv4 address.
    pub fn client_address(&self) -> Ipv4Addr {
        self.inside(2)
    }

    /// The client's own IPv6 address, if it has one.
    pub fn client_address_v6(&self) -> Option<Ipv6Addr> {
        self.plan.ipv6.then(|| v6(u16::from(self.number), 2))
    }

    /// The IPv4 address that others see UDP of the client come from.
    pub fn public(&self) -> Ipv4Addr {
        match self.plan.kind {
            Kind::Sequential { .. } => Ipv4Addr::new(NET, 0, self.number, 1),
            kind if kind.is_routed() => self.client_address(),
            _ => self.outside(),
        }
    }

    fn outside(&self) -> Ipv4Addr {
        Ipv4Addr::new(NET, 0, 0, 100 + self.number)
    }

    fn gateway(&self) -> Ipv4Addr {
        self.inside(1)
    }

    fn inside(&self, host: u8) -> Ipv4Addr {
        let net = if self.plan.kind.is_routed() { NET } else { 10 };
        Ipv4Addr::new(net, 0, self.number, host)
    }
}

/// Of the public addresses, the first byte: global ones, for a relay refuses those reserved for tests and documents.
const NET: u8 = 20;

/// The routing table of what is translated in user space.
const TABLE: u32 = 100;

fn hub_v4(nth: u8) -> Ipv4Addr {
    Ipv4Addr::new(NET, 0, 0, 1 + nth)
}

fn hub_v6(nth: u8) -> Ipv6Addr {
    v6(0, 1 + u16::from(nth))
}

fn v6(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2a0f, 5, 0, net, 0, 0, 0, host)
}

fn limit(device: &str, rate: u32) -> String {
    format!("qdisc add dev {device} root tbf rate {rate}kbit burst 16kb latency 50ms\n")
}
