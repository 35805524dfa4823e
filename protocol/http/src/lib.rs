//! HTTP/1.x on the wire: heads, ranges, conditionals, bodies; no I/O.

#![forbid(unsafe_code)]
