//! Secrets of keys go in and never come out.

use shoal_link::Channel;

use crate::field::FieldError;

/// What stands in place of a secret in answers. Sent back for a key that is there, it keeps that key's secret; so a
/// channel can be read, changed and replaced without knowing its secrets.
pub const HIDDEN: &str = "***";

/// Replaces every secret by [`HIDDEN`].
pub(super) fn hide(mut channel: Channel) -> Channel {
    for key in channel.access.ticket.iter_mut().flat_map(|ticket| &mut ticket.keys) {
        HIDDEN.clone_into(&mut key.secret);
    }
    channel
}

/// Fills in the secrets of `old` where `channel` says [`HIDDEN`].
pub(super) fn keep(channel: &mut Channel, old: Option<&Channel>) -> Result<(), Vec<FieldError>> {
    let old = old.and_then(|old| old.access.ticket.as_ref()).map(|ticket| ticket.keys.as_slice()).unwrap_or_default();
    let mut errors = Vec::new();
    let keys = channel.access.ticket.iter_mut().flat_map(|ticket| &mut ticket.keys);
    for (at, key) in keys.enumerate().filter(|(_, key)| key.secret == HIDDEN) {
        match old.iter().find(|old| old.id == key.id) {
            Some(old) => key.secret.clone_from(&old.secret),
            None => errors.push(FieldError::new(
                format!("access.ticket.keys[{at}].secret"),
                HIDDEN,
                format!("keeps the secret of a key that is there, and there is none `{}`; write the secret", key.id),
            )),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
