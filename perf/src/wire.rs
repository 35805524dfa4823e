//! Frames put onto a device as they are, from whomever they say.

use std::io;

use shoal_sys::frames::FrameSender;

/// A device, as who stands at its other end sees it.
#[derive(Debug)]
pub struct Wire(FrameSender);

impl Wire {
    /// By the device's name, in the thread's network namespace. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// There is no such device, or the kernel does not let us.
    pub fn open(device: &str) -> io::Result<Self> {
        FrameSender::open(device).map(Self)
    }

    /// Sends frames. How many the device took.
    ///
    /// # Errors
    /// A frame is too long, or the device is down.
    pub fn send<'f>(&mut self, frames: impl IntoIterator<Item = &'f [u8]>) -> io::Result<u64> {
        let mut taken = 0;
        for bytes in frames {
            if !self.add(bytes) {
                taken -= self.0.send()?;
                if !self.add(bytes) {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("{} bytes are no frame", bytes.len()),
                    ));
                }
            }
            taken += 1;
        }
        Ok(taken - self.0.send()?)
    }

    fn add(&mut self, bytes: &[u8]) -> bool {
        self.0.frame(bytes.len()).map(|frame| frame.copy_from_slice(bytes)).is_some()
    }
}
