//! Load generators and scenarios against peers.

#![forbid(unsafe_code)]
