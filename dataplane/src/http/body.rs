//! Sending bodies: from blocks, as they are or as they arrive.

use std::sync::Arc;

use shoal_http::chunked;
use shoal_sys::arena::BlockRef;
use shoal_sys::ring::SendMsg;

use super::connection::{Broken, Connection};
use super::pacing::Pacer;
use crate::slices::flight::BlockError;
use crate::slices::key::SliceKey;
use crate::slices::version::Version;

/// Bytes of one version on their way to one viewer.
pub struct BodySender<'a> {
    /// The connection.
    pub connection: &'a Connection,
    /// The object.
    pub key: &'a SliceKey,
    /// The version of it.
    pub version: &'a Arc<Version>,
    /// Pieces get a chunk's frame.
    pub chunked: bool,
    /// How fast they go out, where that is limited.
    pub pacer: Option<Pacer<'a>>,
}

/// Why a body did not go out whole.
#[derive(Debug)]
pub enum BodyError {
    /// The client is gone, or was let go.
    Client(Broken),
    /// The bytes cannot be had.
    Source(BlockError),
}

impl From<Broken> for BodyError {
    fn from(broken: Broken) -> Self {
        BodyError::Client(broken)
    }
}

impl BodySender<'_> {
    /// Keeps a block of the version at hand.
    pub fn hold(&self, index: u32, block: BlockRef) {
        self.connection.watched.hold(self.version, index, block);
    }

    /// Sends the bytes `from..to`, to the end of the object when that is open, after what is in `msg.head`. What remains to
    /// be sent is in the message that comes back.
    pub async fn send(&mut self, mut msg: Box<SendMsg>, from: u64, to: Option<u64>) -> Result<Box<SendMsg>, BodyError> {
        let ctx = self.connection.context();
        let block_bytes = ctx.slices.store().block_bytes() as u64;
        let last = to.map_or(u32::MAX, |to| ctx.slices.store().index_of(to.saturating_sub(1)));
        let mut at = from;
        while to.is_none_or(|to| at < to) {
            let index = ctx.slices.store().index_of(at);
            let offset = (at - u64::from(index) * block_bytes) as usize;
            let block = match self.connection.watched.held(index, offset) {
                Some(block) => block,
                None => {
                    self.connection.watched.release();
                    match ctx.slices.block(self.key, self.version, index, offset, last).await {
                        Ok(Some(block)) => {
                            self.hold(index, block.clone());
                            block
                        }
                        Ok(None) if to.is_none() => break,
                        Ok(None) => return Err(BodyError::Source(BlockError::Changed)),
                        Err(error) => return Err(BodyError::Source(error)),
                    }
                }
            };
            let left = to.map_or(u64::MAX, |to| to - at);
            let end = block.filled().min(offset.saturating_add(usize::try_from(left).unwrap_or(usize::MAX)));
            let piece = match &mut self.pacer {
                Some(pacer) => pacer.next(end - offset).await,
                None => end - offset,
            };
            let end = offset + piece;
            if self.chunked {
                msg.head.extend_from_slice(chunked::chunk_head(piece as u64).as_bytes());
            }
            msg.set_body(block, offset..end);
            let by_file = piece >= ctx.settings.sendfile_min_bytes && msg.can_send_file();
            msg = self.connection.send(msg, by_file).await?;
            msg.clear();
            if self.chunked {
                msg.head.extend_from_slice(b"\r\n");
            }
            at += piece as u64;
        }
        Ok(msg)
    }

    /// Reads the whole version into memory, if it has at most `most` bytes.
    pub async fn collect(&mut self, most: usize) -> Result<Option<Vec<u8>>, BlockError> {
        let ctx = self.connection.context();
        let block_bytes = ctx.slices.store().block_bytes() as u64;
        let mut body = Vec::new();
        loop {
            let at = body.len() as u64;
            if self.version.total().is_some_and(|total| at >= total) {
                return Ok(Some(body));
            }
            let index = ctx.slices.store().index_of(at);
            let offset = (at - u64::from(index) * block_bytes) as usize;
            let at_hand = self.connection.watched.held(index, offset);
            self.connection.watched.release();
            let block = match at_hand {
                Some(block) => block,
                None => match ctx.slices.block(self.key, self.version, index, offset, u32::MAX).await? {
                    Some(block) => block,
                    None => return Ok(Some(body)),
                },
            };
            let bytes = &block.bytes()[offset..];
            if body.len() + bytes.len() > most {
                return Ok(None);
            }
            body.extend_from_slice(bytes);
        }
    }
}

impl Drop for BodySender<'_> {
    fn drop(&mut self) {
        self.connection.watched.release();
    }
}
