//! Frames for user space (AF_XDP): which sockets there are, and what they serve.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::{HashMap, Map, MapData, XskMap};

use crate::maps::steer::EndpointKey;
use crate::maps::{self, Queue, config};
use crate::{LoadError, MapError, Probes, address};

/// The maps for it.
pub(crate) struct Xsks {
    sockets: XskMap<MapData>,
    places: HashMap<MapData, Queue, u32>,
    /// Of the map of endpoints: whoever changes it has a handle of its own.
    endpoints: OwnedFd,
    /// Places that are taken.
    taken: u32,
}

impl Xsks {
    pub(crate) fn new(take: &mut impl FnMut(&'static str) -> Result<Map, LoadError>) -> Result<Self, LoadError> {
        let endpoints = match take("XSK_ENDPOINT")? {
            Map::HashMap(map) => map.fd().as_fd().try_clone_to_owned().map_err(cannot_clone)?,
            _ => return Err(LoadError::Missing("XSK_ENDPOINT")),
        };
        Ok(Self { sockets: take("XSKS")?.try_into()?, places: take("XSK_PLACE")?.try_into()?, endpoints, taken: 0 })
    }

    /// Forgets whose queues are: a socket that gets a frame of another queue drops it.
    pub(crate) fn clear(&mut self) -> Result<(), MapError> {
        self.taken = 0;
        let queues: Vec<Queue> = self.places.keys().collect::<Result<_, _>>()?;
        queues.iter().try_for_each(|queue| self.places.remove(queue))
    }
}

/// What AF_XDP sockets serve: addresses with ports. What comes to others goes to the host's sockets.
#[derive(Debug)]
pub struct FrameEndpoints(HashMap<MapData, EndpointKey, u32>);

impl FrameEndpoints {
    /// One more.
    ///
    /// # Errors
    /// The kernel's, here and below: there are [`XSK_ENDPOINTS`](maps::XSK_ENDPOINTS) already.
    pub fn add(&mut self, at: SocketAddr) -> Result<(), MapError> {
        self.0.insert(endpoint(at), 0, 0)
    }

    /// One less.
    pub fn remove(&mut self, at: SocketAddr) -> Result<(), MapError> {
        self.0.remove(&endpoint(at))
    }

    /// None any more: those of a process before this one, if the map has outlived it.
    pub fn clear(&mut self) -> Result<(), MapError> {
        let keys: Vec<EndpointKey> = self.0.keys().collect::<Result<_, _>>()?;
        keys.iter().try_for_each(|key| self.0.remove(key))
    }
}

impl Probes {
    /// Gives the frames that come by a queue of an interface, which is named by its index, to an AF_XDP socket that is bound there: those
    /// for the [`frame_endpoints`](Self::frame_endpoints). When the socket is closed they go to the host again.
    ///
    /// # Errors
    /// The kernel's, or there are [`XSKS`](maps::XSKS) sockets already.
    pub fn add_socket(&mut self, interface: u32, queue: u32, socket: impl AsFd) -> Result<(), MapError> {
        let Xsks { sockets, places, taken, .. } = &mut self.xsks;
        sockets.set(*taken, socket.as_fd().as_raw_fd(), 0)?;
        places.insert(Queue { interface, queue }, *taken, 0)?;
        *taken += 1;
        if self.now.flags & config::FRAMES == 0 {
            self.now.flags |= config::FRAMES;
            self.config.set(0, self.now, 0)?;
        }
        Ok(())
    }

    /// What the sockets serve, for a thread of its own to change.
    ///
    /// # Errors
    /// The kernel's.
    pub fn frame_endpoints(&self) -> Result<FrameEndpoints, MapError> {
        let descriptor = self.xsks.endpoints.try_clone().map_err(cannot_clone)?;
        Ok(FrameEndpoints(Map::from_map_data(MapData::from_fd(descriptor)?)?.try_into()?))
    }
}

fn endpoint(at: SocketAddr) -> EndpointKey {
    EndpointKey { address: address(at.ip()), port: at.port().into() }
}

fn cannot_clone(io_error: io::Error) -> MapError {
    MapError::CreateError { name: "XSK_ENDPOINT".to_owned(), io_error }
}

const _: () = assert!(maps::XSK_FRAME_MAX > 1500 + 14 + 8, "a frame of Ethernet fits");
