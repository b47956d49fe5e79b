//! The types that numbers are stored in. All are computed in f32.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Element, bf16};

use super::{FlexTensor, filled, tensor, values};

/// A type that the kernels read and write.
pub(super) trait Stored: Element + bytemuck::Pod + Send + Sync {
    fn widen(self) -> f32;

    /// The nearest, of two as near the even one.
    fn narrow(x: f32) -> Self;
}

impl Stored for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }
}

// `bf16`'s own conversions branch at NaN and so stay scalar.
impl Stored for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
        // Rounding could carry a NaN over to infinity.
        let quiet = bits | 0x0040_0000;
        Self::from_bits(((if x.is_nan() { quiet } else { nearest }) >> 16) as u16)
    }
}

/// Calls a function with the type that a tensor, f32 or bf16, is stored in.
macro_rules! with_stored {
    ($x:expr, $T:ident => $call:expr) => {
        match $x.dtype() {
            burn::tensor::DType::BF16 => {
                type $T = burn::tensor::bf16;
                $call
            }
            _ => {
                type $T = f32;
                $call
            }
        }
    };
}
pub(super) use with_stored;

fn converted<A: Stored, B: Stored>(x: &[A]) -> Vec<B> {
    filled(
        x.len(),
        1,
        #[inline(always)]
        |first, out| {
            out.iter_mut().zip(&x[first..]).for_each(|(out, x)| {
                out.write(B::narrow(x.widen()));
            });
        },
    )
}

/// A tensor of f32 or bf16 in one of these types.
pub(super) fn cast(x: FlexTensor, dtype: DType) -> FlexTensor {
    if x.dtype() == dtype {
        return x;
    }
    let (shape, x) = (x.shape(), x.to_contiguous());
    match dtype {
        DType::BF16 => tensor(converted::<f32, bf16>(values(&x)), shape),
        _ => tensor(converted::<bf16, f32>(values(&x)), shape),
    }
}
