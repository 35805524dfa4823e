//! The tracker: announces, scrapes and swarms, as bytes and as a state machine. No I/O, no clock.

#![forbid(unsafe_code)]
