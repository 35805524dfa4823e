//! The data plane's kernel edge: ring, sockets, mapped memory.
