//! One allocation with a channel, asked for over an ordinary socket.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::dance::{Ask, Client, Step};

/// Time for all of it; the server may just be starting.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time for an answer.
const ANSWER: Duration = Duration::from_millis(200);

/// Allocates for the socket's address, and binds the channel to the peer.
///
/// # Errors
/// The server refuses, or does not answer.
pub fn obtain(
    socket: &UdpSocket,
    server: SocketAddr,
    client: &mut Client,
    channel: u16,
    peer: SocketAddr,
) -> anyhow::Result<()> {
    socket.set_read_timeout(Some(ANSWER))?;
    let deadline = Instant::now() + PATIENCE;
    for ask in [Ask::Allocate, Ask::Bind(channel, peer)] {
        let mut request = client.request(ask);
        loop {
            ensure!(Instant::now() < deadline, "{server} does not grant {ask:?}");
            // A port that is not open yet shows as an error.
            drop(socket.send_to(&request, server));
            let mut answer = [0; 1500];
            let Ok(length) = socket.recv(&mut answer) else { continue };
            match client.handle(&answer[..length])? {
                Step::Granted => break,
                Step::Again => request = client.request(ask),
                Step::Later | Step::Other => {}
            }
        }
    }
    Ok(())
}
