//! coturn's own TURN client, which sends through the relay to a peer that sends everything back.

use std::fmt;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::probe::Family;
use super::server::Told;
use super::{NatLab, Side};
use crate::process::Process;

/// Time for one run; it takes five seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// Messages of each of the two clients in a run without TLS.
const MESSAGES: &str = "20";

/// coturn's turnutils_peer: whoever writes to it gets it back.
#[derive(Debug)]
pub struct Echo {
    v4: IpAddr,
    v6: IpAddr,
    port: u16,
    process: Process,
}

impl Echo {
    /// One at the hub's last address of each family.
    pub fn start(lab: &NatLab, turnutils_peer: &Path) -> Self {
        let last = |addresses: Vec<IpAddr>| *addresses.last().expect("the hub has addresses");
        let (v4, v6) = (last(lab.addresses()), last(lab.addresses_v6()));
        let port = 3480;
        let mut command = lab.hub().command(turnutils_peer);
        command.args(["-p", &port.to_string(), "-L", &v4.to_string(), "-L", &v6.to_string()]);
        let process = Process::start("turnutils_peer", &mut command, &lab.dir().join("peer.log"));
        let echo = Self { v4, v6, port, process };
        for ip in [v4, v6] {
            echo.await_answer(&lab.hub().udp((ip, 0).into()), ip);
        }
        echo
    }

    /// One behind a side, at the client's addresses.
    pub fn behind(lab: &NatLab, side: &Side, turnutils_peer: &Path) -> Self {
        let v4 = IpAddr::from(side.client_address());
        let v6 = side.client_address_v6().map(IpAddr::from);
        let port = 3480;
        let mut command = side.client().command(turnutils_peer);
        command.args(["-p", &port.to_string(), "-L", &v4.to_string()]);
        command.args(v6.iter().flat_map(|v6| ["-L".to_owned(), v6.to_string()]));
        let log = format!("peer-{}.log", side.port());
        let process = Process::start("turnutils_peer", &mut command, &lab.dir().join(log));
        let echo = Self { v4, v6: v6.unwrap_or(v4), port, process };
        for ip in [Some(v4), v6].into_iter().flatten() {
            echo.await_answer(&side.client().udp((ip, 0).into()), ip);
        }
        echo
    }

    fn await_answer(&self, socket: &UdpSocket, ip: IpAddr) {
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("the time is not zero");
        // Ten seconds; both fail until there is somebody.
        let answered = (0..500).any(|_| {
            drop(socket.send_to(b"there?", (ip, self.port)));
            socket.recv(&mut [0; 8]).is_ok()
        });
        assert!(answered, "turnutils_peer does not answer at {ip}:\n{}", self.process.output());
    }
}

/// One way of using a relay.
#[derive(Debug, Clone, Copy)]
pub struct Uclient {
    /// What it shows.
    pub name: &'static str,
    /// How the client comes to the server.
    pub client: Family,
    /// How the relay goes on to the peer.
    pub peer: Family,
    /// Whether it makes its own time-limited name.
    mints: bool,
    /// Whether it speaks TLS, and looks at the certificate.
    secure: bool,
    /// Further arguments.
    arguments: &'static [&'static str],
}

impl Uclient {
    /// What every TURN server over UDP has to do. The default of the program is channels, and of each client an
    /// even port with the next one reserved for a second allocation.
    pub const UDP: &[Self] = &[
        Self::of("channels, even and reserved ports", &[]),
        Self::of("channels", &["-c"]),
        Self::of("Send and Data indications", &["-c", "-s"]),
        Self::of("DONT-FRAGMENT", &["-c", "-s", "-g"]),
        Self::of("padded channels", &["-c", "-D", "-l", "101"]),
        Self::of("permissions again and again", &["-c", "-G"]),
        Self::of("both ends relayed", &["-y"]),
        Self::of("1200 bytes", &["-c", "-l", "1200"]),
        Self { mints: true, ..Self::of("a name of its own making", &["-c"]) },
        Self { peer: Family::V6, ..Self::of("to an IPv6 peer", &["-c", "-x"]) },
        Self { client: Family::V6, ..Self::of("from an IPv6 client", &["-c", "-X"]) },
        Self { client: Family::V6, peer: Family::V6, ..Self::of("IPv6 throughout", &["-c", "-x"]) },
    ];

    /// What only coturn understands: it has the number of a draft for ADDITIONAL-ADDRESS-FAMILY.
    pub const COTURN: &[Self] = &[Self::of("two families at once", &["-Z"])];

    /// The same as over UDP over TCP between client and server.
    pub const TCP: &[Self] = &[
        Self::of("over TCP, channels", &["-c", "-t"]),
        Self::of("over TCP, indications", &["-c", "-t", "-s"]),
        Self::of("over TCP, odd lengths", &["-c", "-t", "-l", "101"]),
        Self::of("over TCP, both ends relayed", &["-c", "-y", "-t"]),
        Self { client: Family::V6, ..Self::of("over TCP, from an IPv6 client", &["-c", "-t", "-X"]) },
    ];

    /// Over TLS.
    pub const TLS: &[Self] = &[
        Self { secure: true, ..Self::of("over TLS, channels", &["-c", "-t"]) },
        Self { secure: true, ..Self::of("over TLS, indications", &["-c", "-t", "-s"]) },
        Self { secure: true, ..Self::of("over TLS, 1200 bytes", &["-c", "-t", "-l", "1200"]) },
    ];

    const fn of(name: &'static str, arguments: &'static [&'static str]) -> Self {
        Self { name, client: Family::V4, peer: Family::V4, mints: false, secure: false, arguments }
    }

    /// Runs it on a side; `Err` is what it says if it did not get everything back that it sent.
    pub fn run(&self, lab: &NatLab, side: &Side, uclient: &Path, told: &Told, echo: &Echo) -> Result<Counts, String> {
        let server = if self.client == Family::V4 { told.v4 } else { told.v6 };
        let peer = if self.peer == Family::V4 { echo.v4 } else { echo.v6 };
        let mut command = side.client().command(uclient);
        command.args(self.arguments);
        if self.secure {
            // It takes each TLS record for one message: no two may come at once.
            command.args(["-m", "1", "-n", "8", "-z", "200", "-S"]);
            command.args(told.roots.iter().flat_map(|roots| ["-E".as_ref(), roots.as_os_str()]));
        } else {
            command.args(["-m", "2", "-n", MESSAGES, "-z", "5"]);
        }
        if self.mints {
            command.args(["-u", "minted", "-W", &told.secret]);
        } else {
            command.args(["-u", &told.user, "-w", &told.password]);
        }
        command.args(["-e", &peer.to_string(), "-r", &echo.port.to_string()]);
        command.args(["-p", &server.port().to_string(), &server.ip().to_string()]);
        let text = lab.say(&mut command, PATIENCE);
        match counts(&text) {
            Some(counts) if counts.sent > 0 && counts.sent == counts.received => Ok(counts),
            _ => Err(text),
        }
    }
}

impl fmt::Display for Uclient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// Messages of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Sent to the relay.
    pub sent: u32,
    /// Come back.
    pub received: u32,
}

/// From the last of its lines with both.
fn counts(text: &str) -> Option<Counts> {
    let line = text.lines().rev().find(|line| line.contains("tot_send_msgs=") && line.contains("tot_recv_msgs="))?;
    let number = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    Some(Counts { sent: number("tot_send_msgs=")?, received: number("tot_recv_msgs=")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_counts_are_the_whole() {
        let text = "5: : start_mclient: msz=2, tot_send_msgs=20, tot_recv_msgs=19, tot_send_bytes ~ 2000\n\
                    5: : start_mclient: tot_send_msgs=40, tot_recv_msgs=40\n\
                    5: : start_mclient: tot_send_bytes ~ 4000, tot_recv_bytes ~ 4000\n";
        assert_eq!(counts(text), Some(Counts { sent: 40, received: 40 }));
        assert_eq!(counts("0: : error 401 (Unauthorized)\n"), None);
    }
}
