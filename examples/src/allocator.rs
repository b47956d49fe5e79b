//! A global allocator that suits tensors.
//!
//! Every tensor on the CPU is an allocation of its own. Returning its pages to the system, only to get zeroed ones for the next tensor,
//! takes a quarter of the time of a training step.

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` in `mimalloc.h`, which the bindings lack.
const PURGE_DELAY: mi_option_t = 15;

/// Makes the allocator keep freed pages for the next tensor. Call it first in `main`.
pub fn keep_pages() {
    // SAFETY: sets an integer option, which the allocator reads when it next frees pages; a negative delay means never.
    unsafe { mi_option_set(PURGE_DELAY, -1) };
}
