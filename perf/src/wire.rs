//! Frames put onto a device as they are, from whomever they say.

use std::time::{Duration, Instant};
use std::{io, thread};

use shoal_sys::frames::{FRAME_MAX, FRAMES, FrameSender};

/// For how long a full batch is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// A frame is too long, the device is down, or nobody reads what it was given.
    pub fn send<'f>(&mut self, frames: impl IntoIterator<Item = &'f [u8]>) -> io::Result<u64> {
        let mut taken = 0;
        for bytes in frames {
            if bytes.len() > FRAME_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} bytes are no frame", bytes.len())));
            }
            if !self.add(bytes) {
                taken -= self.0.send()?;
                taken -= self.add_when_read(bytes)?;
            }
            taken += 1;
        }
        Ok(taken - self.0.send()?)
    }

    /// What goes on to another CPU is read there, in that CPU's time. How many frames the device did not take meanwhile.
    fn add_when_read(&mut self, bytes: &[u8]) -> io::Result<u64> {
        let mut refused = 0;
        let deadline = Instant::now() + PATIENCE;
        while !self.add(bytes) {
            if Instant::now() > deadline {
                let text = format!("{FRAMES} frames were sent, and none was read for {PATIENCE:?}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::yield_now();
            refused += self.0.send()?;
        }
        Ok(refused)
    }

    fn add(&mut self, bytes: &[u8]) -> bool {
        self.0.frame(bytes.len()).map(|frame| frame.copy_from_slice(bytes)).is_some()
    }
}
