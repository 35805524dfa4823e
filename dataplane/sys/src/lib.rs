//! The data plane's kernel edge: the nested ring, sockets, mapped memory.
//!
//! The only crate of the data plane with `unsafe`. What it exports is safe: an operation owns everything the kernel may
//! touch until its completion has been seen, also when the future that waits for it is dropped.
//!
//! - [`ring`]: one io_uring per shard, driven from inside the shard's executor
//! - [`net`]: sockets with the options the data plane needs
//! - [`udp`]: UDP sockets, and sending trains of datagrams
//! - [`frames`]: sending Ethernet frames of our own making, for load generators
//! - [`xsk`]: UDP by whole frames, past the kernel's network stack
//! - [`arena`]: the RAM tier's memory, shared by reference count
//! - [`doorbell`]: how another thread wakes a sleeping shard
//! - [`heap`]: the allocator, on huge pages

pub mod arena;
pub mod doorbell;
pub mod frames;
pub mod heap;
pub mod net;
pub mod ring;
pub mod udp;
pub mod xsk;
