//! The heap: jemalloc on huge pages.
//!
//! What a shard knows of its objects lies all over the heap, and each request goes to some of it that was not used lately. With
//! pages of 4 KiB the processor has to look up where each of those places is, in tables that are in none of its caches
//! either; a huge page spans five hundred of them.

pub use tikv_jemallocator::Jemalloc as Heap;

/// Read before main; jemalloc(3), section "Tuning".
// SAFETY: jemalloc declares this symbol as a pointer to a string that ends in NUL, which this is; nobody else has the name.
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static MALLOC_CONF: &[u8; 31] = b"thp:always,metadata_thp:always\0";
