//! STUN, NAT discovery, TURN and punching: what the bytes mean, and who does what when. No I/O, no clock, no randomness of
//! its own: time and seeds are arguments, bytes are borrowed, side effects are values.
//!
//! - [`message`]: STUN (RFC 8489), its classic form (RFC 3489), ChannelData and streams; read in place, written into the
//!   caller's buffer.
//! - [`credentials`]: long-term credentials with time-limited names and nonces that need no memory.
//! - [`discovery`]: the server for Binding in both dialects, with NAT behaviour discovery (RFC 5780), also by two nodes with
//!   one address each.
//! - [`nat`]: the client that finds out its NAT's type.
//! - [`turn`]: the TURN server (RFC 8656), one for each shard.
//! - [`punch`]: the server that introduces peers to one another (docs/punch.md), one for each shard.
//!
//! A shard's loop, in terms of this crate:
//!
//! ```text
//! datagram(s) from a client, on a server socket (or a frame of its stream: message::next_frame)
//!   a train?   Server::handle_client_train(ms, flow, bytes, segment) -> TrainToPeer: payloads(), by one sendmsg with GSO;
//!              go on behind its datagrams; None: the next datagram alone
//!   of punch   punch::is_punch(bytes): it is for punch::shard_of(bytes, seed, shards), or for this shard if that is None
//!     another's  hand client, local and bytes to that shard, which goes on with `own`
//!     own        punch::Server::handle(now, client, local, bytes, gate, out) -> Outcome
//!                  Reply { length, proven }  send out[..length] from `local` back; if not proven, within the source's limit
//!                  Done, Dropped(reason)     nothing; it is counted
//!                and behind a batch, while there is one: punch::Server::poll_transmit(ms, out) -> Transmit { from, to, length }:
//!                  send out[..length] from that one of the server's sockets
//!   else one   Server::handle_client(now, flow, bytes, relays, out) -> FromClient
//!                Forward(ToPeer)     send data from the socket of `relay` to `peer`, with DF if it says so
//!                Reply { length, … } send out[..length] back; if not authenticated, only within the source's limit
//!                Binding             discovery::answer(bytes, local, source, endpoints, out) -> Answer
//!                  Send { from, to } send out[..length] from that one of the four sockets, within the source's limit
//!                  Ask { from, to }  PartnerLink::ask(from.port(), to, out[..length], message): send it to the partner
//!                Dropped(reason)     nothing; it is counted
//! datagram(s) from one peer, on the socket of a relay
//!   Server::handle_peer(ms, relay, peer, segments, bytes) -> ToClient
//!     for each payload: head(length), the payload, padding() to `flow`; with a channel the head is the same for all of
//!     one length, and they are one train
//! an ICMP error on the socket of a relay    Server::handle_icmp(…) -> send out[..length] to `flow`
//! at Server::next_deadline()                Server::advance(ms, relays)
//! at punch::Server::next_deadline()         punch::Server::advance(ms), and poll_transmit as above
//! at PartnerLink::next_deadline()           PartnerLink::poll_heartbeat(ms, message): send it to the partner
//! from the partner                          PartnerLink::handle(message) -> Send { from, to, payload }: send it
//! each second                               Server::take_usage(…): the ledger's
//!                                           punch::Server::take_observations(…): the tracker's
//! gate: the node's channels and tickets (punch::Gate)
//! relays: the shard's sockets (turn::Relays): open(relay, address) binds one, close(relay) closes it, during a call
//! ```

#![forbid(unsafe_code)]

pub mod credentials;
mod deadlines;
pub mod discovery;
#[doc(hidden)]
pub mod fuzzing;
pub mod message;
pub mod nat;
pub mod punch;
mod random;
pub mod turn;
