#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shoal_stun::fuzzing::punch::operations(bytes));
