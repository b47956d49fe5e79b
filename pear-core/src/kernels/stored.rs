//! The types that numbers are stored in. All are computed in f32.

use burn::tensor::{Element, bf16};

/// A type that the kernels read and write.
pub(super) trait Stored: Element + bytemuck::Pod + Send + Sync {
    fn widen(self) -> f32;

    /// The nearest number of this type; of two that are equally near, the even one.
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

/// Runs `$body` with `$T` standing for the type that a tensor, f32 or bf16, is stored in.
macro_rules! with_stored {
    ($x:expr, $T:ident => $body:expr) => {
        match $x.dtype() {
            burn::tensor::DType::BF16 => {
                type $T = burn::tensor::bf16;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(super) use with_stored;
