//! Which shard a datagram is for.

use crate::message::{AttributeType, ChannelId, Class, Message, Method, Registration};

/// Whether a datagram is of punching, by its method and magic cookie; nothing else of it is looked at.
#[must_use]
#[inline]
pub fn is_punch(datagram: &[u8]) -> bool {
    Method::peek(datagram)
        .is_some_and(|method| matches!(method, Method::REGISTER | Method::INTRODUCE | Method::INTRODUCED))
}

/// The shard that owns a channel.
#[must_use]
pub fn shard_of_channel(channel: &str, seed: u64, shards: u16) -> u16 {
    shoal_packet::owner(shoal_packet::hash_key(seed, channel.as_bytes()), shards.into()) as u16
}

/// The shard that a datagram of punching must be handled by: its channel's. `None` when any will do, because it is refused
/// or challenged by each in the same way: that one then which received it. `seed` is one for all shards of the node.
#[must_use]
pub fn shard_of(datagram: &[u8], seed: u64, shards: u16) -> Option<u16> {
    let message = Message::parse(datagram).ok()?;
    let made_by = |[a, b]: [u8; 2]| Some(u16::from_be_bytes([a, b])).filter(|shard| *shard < shards);
    let registration = || message.read::<Registration>().ok().flatten();
    match (message.method(), message.class()) {
        (Method::REGISTER, Class::Request) => match message.read::<ChannelId<'_>>() {
            Ok(Some(channel)) => {
                let challenged = !message.has(AttributeType::NONCE) && !message.has(AttributeType::REGISTRATION);
                (!challenged).then(|| shard_of_channel(channel.0, seed, shards))
            }
            Ok(None) => registration().and_then(|Registration([a, b, ..])| made_by([a, b])),
            Err(_) => None,
        },
        (Method::INTRODUCE, Class::Request) => registration().and_then(|Registration([a, b, ..])| made_by([a, b])),
        (Method::INTRODUCED, Class::Success | Class::Error) => {
            let [_, _, _, _, a, b, ..] = *message.transaction_id().as_bytes();
            made_by([a, b])
        }
        _ => None,
    }
}
