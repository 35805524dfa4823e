//! What SDKs and CDNs report: our own schema, CMCD, and the log formats of CDNs. No I/O, no clock.

#![forbid(unsafe_code)]
