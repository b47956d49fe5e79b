//! The operations of a layer, each in one pass over memory where that is possible.
//!
//! On the CPU, a chain of elementwise tensor operations costs as much as the matrix products
//! between them: each reads and writes memory, takes a new buffer, and runs on one core with a
//! scalar `exp`. With this crate's feature `cpu` these operations are kernels there: one
//! vectorised loop over all cores with a backward pass of its own, in f32 and, rounded where each
//! tensor operation would round, in bf16. On every other device, in every other type and without
//! the feature, they are composed of burn's tensor operations.

// Each operation has a file of its own, or a folder, with its function and the checks of its
// arguments, the composed form that defines it, the condition under which the kernel runs instead,
// the kernel (a type that implements `dispatch::Differentiable`) with its backward pass, and the
// tests that compare both forms. One more operation is one more file and its lines here.
mod activation;
mod cast;
mod causal_attention;
mod cross_entropy;
mod inner_product;
mod kl_divergence;
mod linear;
mod log_sum_exp;
mod rms_norm;
mod rotation;
mod softmax;

mod check;
// What kernels are made of.
#[cfg(feature = "cpu")]
mod buffer;
#[cfg(feature = "cpu")]
mod dispatch;
#[cfg(feature = "cpu")]
mod flex;
#[cfg(feature = "cpu")]
mod loops;
#[cfg(feature = "cpu")]
mod math;
#[cfg(feature = "cpu")]
mod matrix;
#[cfg(feature = "cpu")]
mod stored;
#[cfg(all(test, feature = "cpu"))]
mod testing;
#[cfg(feature = "cpu")]
mod tiles;

pub use activation::{Activation, activate, activate_gated};
pub(crate) use causal_attention::{
    causal_attention, check_arguments as check_attention, holds_few_scores,
};
pub use cross_entropy::cross_entropy;
pub use inner_product::inner_product;
pub use kl_divergence::kl_divergence;
pub use linear::{linear, linear_forward, linear_start};
pub use log_sum_exp::log_sum_exp;
pub use rms_norm::{rms_norm, rms_norm_rounded_once};
pub(crate) use rotation::rotate;

/// Whether the CPU kernels multiply bf16 by instructions of this processor (AMX, or AVX-512's `vdpbf16ps`). Products are then faster in bf16
/// than in f32; otherwise they are no faster, except where the memory that weights are read from limits them. False without the feature `cpu`.
pub fn multiplies_bf16() -> bool {
    #[cfg(feature = "cpu")]
    return tiles::Instructions::best().is_some();
    #[cfg(not(feature = "cpu"))]
    false
}
