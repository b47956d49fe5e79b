//! Bytes of a file to numbers in memory: copied where the types agree, rounded once where they do not.

use burn::tensor::Element;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};

use super::tensor_source::{FloatsMut, StoredDtype};

/// The types whose bytes are numbers on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FloatDtype {
    F32,
    F16,
    BF16,
}

impl FloatDtype {
    /// The same type, if it is one of these.
    pub(super) fn of(dtype: &StoredDtype) -> Option<Self> {
        match dtype {
            StoredDtype::F32 => Some(Self::F32),
            StoredDtype::F16 => Some(Self::F16),
            StoredDtype::BF16 => Some(Self::BF16),
            StoredDtype::Quantized(_) | StoredDtype::Opaque(_) => None,
        }
    }

    pub(super) fn size(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 | Self::BF16 => size_of::<u16>(),
        }
    }
}

/// Numbers that are converted at once. They stay in the first-level cache on their way, and copies stay small enough for ordinary stores:
/// past the cache, filling fresh memory is slower.
const PIECE: usize = 1024;

/// Decodes little-endian numbers, which need not be aligned. `bytes` holds as many as `into`.
pub(super) fn decode(dtype: FloatDtype, bytes: &[u8], into: FloatsMut<'_>) {
    debug_assert_eq!(bytes.len(), into.len() * dtype.size());
    match into {
        FloatsMut::F32(into) => {
            let pieces = bytes.chunks(PIECE * dtype.size());
            for (bytes, into) in pieces.zip(into.chunks_mut(PIECE)) {
                widen(dtype, bytes, into);
            }
        }
        FloatsMut::F16(into) => decode_halves(dtype, bytes, FloatDtype::F16, into),
        FloatsMut::BF16(into) => decode_halves(dtype, bytes, FloatDtype::BF16, into),
    }
}

/// Decodes to a half-precision type `T`, which `wanted` names. Other types go by way of single precision, which holds every number of
/// the other half: one rounding.
fn decode_halves<T>(dtype: FloatDtype, bytes: &[u8], wanted: FloatDtype, into: &mut [T])
where
    [T]: HalfFloatSliceExt,
{
    let pieces = bytes.chunks(PIECE * dtype.size());
    for (bytes, into) in pieces.zip(into.chunks_mut(PIECE)) {
        if dtype == wanted {
            copy_bits(bytes, into.reinterpret_cast_mut());
        } else {
            let mut wide = [0.0; PIECE];
            let wide = &mut wide[..into.len()];
            widen(dtype, bytes, wide);
            into.convert_from_f32_slice(wide);
        }
    }
}

/// To single precision, at most [`PIECE`] numbers.
fn widen(dtype: FloatDtype, bytes: &[u8], into: &mut [f32]) {
    match dtype {
        FloatDtype::F32 => {
            let (numbers, _) = bytes.as_chunks();
            for (value, &number) in into.iter_mut().zip(numbers) {
                *value = f32::from_le_bytes(number);
            }
        }
        FloatDtype::F16 => {
            let mut bits = [0; PIECE];
            let bits = &mut bits[..into.len()];
            copy_bits(bytes, bits);
            bits.reinterpret_cast::<f16>().convert_to_f32_slice(into);
        }
        FloatDtype::BF16 => {
            let mut bits = [0; PIECE];
            let bits = &mut bits[..into.len()];
            copy_bits(bytes, bits);
            bits.reinterpret_cast::<bf16>().convert_to_f32_slice(into);
        }
    }
}

fn copy_bits(bytes: &[u8], into: &mut [u16]) {
    let (numbers, _) = bytes.as_chunks();
    for (value, &number) in into.iter_mut().zip(numbers) {
        *value = u16::from_le_bytes(number);
    }
}

/// A type that weights are loaded as.
pub(super) trait Float: Element + Copy {
    fn zeros(len: usize) -> Vec<Self>;

    fn from_f32(x: f32) -> Self;

    fn floats(slice: &mut [Self]) -> FloatsMut<'_>;
}

impl Float for f32 {
    fn zeros(len: usize) -> Vec<Self> {
        vec![0.0; len]
    }

    fn from_f32(x: f32) -> Self {
        x
    }

    fn floats(slice: &mut [Self]) -> FloatsMut<'_> {
        slice.into()
    }
}

macro_rules! half_float {
    ($($half:ty),*) => {$(
        impl Float for $half {
            fn zeros(len: usize) -> Vec<Self> {
                // Of integers, the allocator gives zeroed memory without writing to it.
                vec![0u16; len].reinterpret_into()
            }

            fn from_f32(x: f32) -> Self {
                Self::from_f32(x)
            }

            fn floats(slice: &mut [Self]) -> FloatsMut<'_> {
                slice.into()
            }
        }
    )*};
}

half_float!(f16, bf16);

#[cfg(test)]
mod tests {
    use super::*;

    /// Every bit pattern of 16 bits, one byte off any alignment.
    fn all_halves() -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend((0..=u16::MAX).flat_map(u16::to_le_bytes));
        bytes
    }

    /// Single-precision numbers around every rounding border of both half types: exact, just beside and halfway, overflow, subnormal.
    fn borders() -> Vec<f32> {
        (0..=u16::MAX)
            .flat_map(|bits| {
                [
                    f16::from_bits(bits).to_f32(),
                    bf16::from_bits(bits).to_f32(),
                ]
            })
            .flat_map(|x| {
                [0, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001]
                    .map(|more| f32::from_bits(x.to_bits().wrapping_add(more)))
            })
            .collect()
    }

    #[test]
    fn halves_of_the_wanted_type_are_copied_bit_for_bit() {
        let bytes = all_halves();
        let expected: Vec<u16> = (0..=u16::MAX).collect();
        let mut half = vec![f16::ZERO; expected.len()];
        decode(FloatDtype::F16, &bytes[1..], (&mut half[..]).into());
        assert_eq!(half.reinterpret_cast(), expected);
        let mut brain = vec![bf16::ZERO; expected.len()];
        decode(FloatDtype::BF16, &bytes[1..], (&mut brain[..]).into());
        assert_eq!(brain.reinterpret_cast(), expected);
    }

    #[test]
    fn halves_become_the_f32_that_they_are_and_are_rounded_once_to_the_other_half() {
        let bytes = all_halves();
        let count = usize::from(u16::MAX) + 1;
        let (mut wide, mut half, mut brain) = (
            vec![0f32; count],
            vec![f16::ZERO; count],
            vec![bf16::ZERO; count],
        );
        decode(FloatDtype::F16, &bytes[1..], (&mut wide[..]).into());
        decode(FloatDtype::F16, &bytes[1..], (&mut brain[..]).into());
        for bits in 0..=u16::MAX {
            let x = f16::from_bits(bits);
            let index = usize::from(bits);
            assert_eq!(wide[index].to_bits(), x.to_f32().to_bits(), "{x}");
            assert_eq!(brain[index].to_bits(), bf16::from_f32(x.to_f32()).to_bits());
        }
        decode(FloatDtype::BF16, &bytes[1..], (&mut wide[..]).into());
        decode(FloatDtype::BF16, &bytes[1..], (&mut half[..]).into());
        for bits in 0..=u16::MAX {
            let x = bf16::from_bits(bits);
            let index = usize::from(bits);
            assert_eq!(wide[index].to_bits(), x.to_f32().to_bits(), "{x}");
            assert_eq!(half[index].to_bits(), f16::from_f32(x.to_f32()).to_bits());
        }
    }

    #[test]
    fn single_precision_is_copied_or_rounded_to_nearest_even() {
        let numbers = borders();
        let mut bytes = vec![0];
        bytes.extend(numbers.iter().flat_map(|x| x.to_le_bytes()));
        let (mut wide, mut half, mut brain) = (
            vec![0f32; numbers.len()],
            vec![f16::ZERO; numbers.len()],
            vec![bf16::ZERO; numbers.len()],
        );
        decode(FloatDtype::F32, &bytes[1..], (&mut wide[..]).into());
        decode(FloatDtype::F32, &bytes[1..], (&mut half[..]).into());
        decode(FloatDtype::F32, &bytes[1..], (&mut brain[..]).into());
        for (index, x) in numbers.iter().enumerate() {
            assert_eq!(wide[index].to_bits(), x.to_bits());
            assert_eq!(half[index].to_bits(), f16::from_f32(*x).to_bits(), "{x}");
            assert_eq!(brain[index].to_bits(), bf16::from_f32(*x).to_bits(), "{x}");
        }
        let above = f32::from_bits(0x3f80_8000);
        assert_eq!(bf16::from_f32(above), bf16::ONE, "a tie goes to even");
    }
}
