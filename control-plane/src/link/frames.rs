//! Frames off a byte stream.

use bytes::{Buf, BytesMut};
use shoal_link::DataMessage;
use shoal_link::frame::{self, FrameError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Bytes read at a time, while messages are small.
const READ: usize = 16 << 10;

/// Reads messages; what was read of an unfinished one stays when a call is dropped.
pub(super) struct Frames<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(READ) }
    }

    /// The next message; `None` when the peer closed the connection.
    pub(super) async fn next(&mut self) -> Result<Option<DataMessage>, ReadError> {
        loop {
            if let Some((message, used)) = frame::decode(&self.buffer)? {
                self.buffer.advance(used);
                return Ok(Some(message));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}
