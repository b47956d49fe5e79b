//! Memory for tensors.
//!
//! Every tensor on the CPU is an allocation of its own. One that gives its pages back to the system and takes them again, zeroed, costs a
//! quarter of the time of a training step.

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`, which the bindings leave out.
const PURGE_DELAY: mi_option_t = 15;

/// Keeps freed pages for the next tensor. Call it first in `main`.
pub fn keep_pages() {
    // SAFETY: sets a number that the allocator reads when it next frees pages; negative is never.
    unsafe { mi_option_set(PURGE_DELAY, -1) };
}
