#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shoal_swarm::fuzzing::replica_batch(bytes));
