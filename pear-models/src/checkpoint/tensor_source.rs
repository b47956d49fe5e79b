//! The tensors of a checkpoint, whatever the format of its files.

use std::fmt::{self, Debug};
use std::ops::Range;

use half::{bf16, f16};

use crate::error::Error;

/// The tensors of a checkpoint: what there is, and its numbers in the type that the caller wants.
///
/// Opening a source reads and checks headers only, so that a file that lies about its sizes is refused before memory is allocated
/// for it; numbers are read when they are asked for. Sources are `Sync`: one thread may read the next layer's tensors while another
/// computes with this one's. [`SafetensorsCheckpoint`](crate::SafetensorsCheckpoint) is the source of a Hugging Face directory.
///
/// Numbers are addressed in row-major order, and a *row* runs along the last dimension: a matrix `[out, in]` has `out` rows of `in`
/// numbers. Formats that quantise numbers in blocks, which lie within a row, decode whole blocks and keep what was asked for: callers
/// that can read whole rows should.
///
/// ```
/// use pear_models::{SafetensorsCheckpoint, TensorSource};
/// use safetensors::Dtype;
/// use safetensors::tensor::{TensorView, serialize_to_file};
///
/// let folder = tempfile::tempdir()?;
/// let bytes: Vec<u8> = [1f32, 2., 3., 4., 5., 6.].iter().flat_map(|x| x.to_le_bytes()).collect();
/// let weight = TensorView::new(Dtype::F32, vec![3, 2], &bytes)?;
/// serialize_to_file([("weight", weight)], None, &folder.path().join("model.safetensors"))?;
///
/// let source = SafetensorsCheckpoint::open(folder.path())?;
/// assert_eq!(source.names().collect::<Vec<_>>(), ["weight"]);
/// assert_eq!(source.info("weight").unwrap().shape, [3, 2]);
///
/// let mut last_rows = [0f32; 4];
/// source.rows("weight", 1..3, (&mut last_rows[..]).into())?;
/// assert_eq!(last_rows, [3., 4., 5., 6.]);
///
/// let error = source.rows("weight", 2..4, (&mut last_rows[..]).into()).unwrap_err();
/// assert!(error.to_string().contains("tensor `weight`: numbers 4..8 of [3, 2]"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait TensorSource: Debug + Send + Sync {
    /// The name of every tensor, in ascending order.
    fn names(&self) -> Box<dyn Iterator<Item = &str> + '_>;

    /// Shape and type of a tensor, or `None` if there is none of this name.
    fn info(&self, name: &str) -> Option<&TensorInfo>;

    /// Writes the numbers of a tensor from `range.start` to before `range.end`, in row-major order, into `into`.
    ///
    /// Numbers already of the wanted type are copied bit for bit; others are rounded once, to nearest even. NaNs stay NaNs.
    ///
    /// # Errors
    /// [`Error::Tensor`] for a name that is not there, a range out of bounds, a buffer of another length than the range, or a type
    /// that the source does not decode; [`Error::Io`] from sources that read files at this point.
    fn read(&self, name: &str, range: Range<usize>, into: FloatsMut<'_>) -> Result<(), Error>;

    /// Writes whole rows of a tensor into `into`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn rows(&self, name: &str, rows: Range<usize>, into: FloatsMut<'_>) -> Result<(), Error> {
        let row_len = self.info(name).map_or(1, TensorInfo::row_len);
        let range = rows.start.saturating_mul(row_len)..rows.end.saturating_mul(row_len);
        self.read(name, range, into)
    }

    /// The bytes that hold a tensor, as they are in the files: one piece, or several where a format keeps, say, codes and scales
    /// apart. Empty for a name that is not there.
    fn raw(&self, name: &str) -> Vec<&[u8]>;

    /// A hint that a tensor will not be read again soon, so that its pages need not count as this process's memory. Reading it
    /// again is slower, nothing else.
    fn release(&self, _name: &str) {}
}

/// Shape and type of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Sizes, the outermost first, as PyTorch prints them. Empty for a scalar.
    pub shape: Vec<usize>,
    /// The type of the numbers in the file.
    pub dtype: StoredDtype,
    /// Bytes that the tensor takes in the files.
    pub num_bytes: u64,
}

impl TensorInfo {
    /// How many numbers there are: the product of all sizes, or `usize::MAX` where it is larger.
    pub fn num_elements(&self) -> usize {
        self.shape
            .iter()
            .fold(1, |product: usize, &size| product.saturating_mul(size))
    }

    /// Numbers in a row: the last size, 1 for a scalar.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Checks what [`TensorSource::read`] is asked for: numbers that are there, and a buffer of `len` that holds exactly them.
    ///
    /// # Errors
    /// What is wrong, without the tensor's name.
    pub fn check_range(&self, range: &Range<usize>, len: usize) -> Result<(), String> {
        if range.start > range.end || range.end > self.num_elements() {
            return Err(format!("numbers {range:?} of {:?}", self.shape));
        }
        if len != range.len() {
            return Err(format!(
                "a buffer of {len} for the numbers {range:?}: expected {}",
                range.len()
            ));
        }
        Ok(())
    }
}

/// The type of a tensor's numbers in the file. It is shown as the format writes it: `BF16`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoredDtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    BF16,
    /// Codes with shared scales, which the source decodes; by the name that the format has for it.
    Quantized(String),
    /// A type that the source does not decode: integers, booleans.
    Opaque(String),
}

impl StoredDtype {
    /// Whether [`TensorSource::rows`] decodes it.
    pub fn is_readable(&self) -> bool {
        !matches!(self, Self::Opaque(_))
    }
}

impl fmt::Display for StoredDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Quantized(name) | Self::Opaque(name) => name,
        })
    }
}

/// A buffer to read numbers into, in one of the types that models compute in. Slices convert into it.
#[derive(Debug)]
pub enum FloatsMut<'a> {
    /// Single precision.
    F32(&'a mut [f32]),
    /// Half precision.
    F16(&'a mut [f16]),
    /// The upper half of single precision.
    BF16(&'a mut [bf16]),
}

impl FloatsMut<'_> {
    /// How many numbers fit.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(into) => into.len(),
            Self::F16(into) => into.len(),
            Self::BF16(into) => into.len(),
        }
    }

    /// Whether none fit.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the first number is that is NaN or infinite.
    pub(super) fn first_not_finite(&self) -> Option<usize> {
        match self {
            Self::F32(into) => first_piece(into, |x| x.to_bits(), 0x7f80_0000),
            Self::F16(into) => first_piece(into, |x| x.to_bits().into(), 0x7c00),
            Self::BF16(into) => first_piece(into, |x| x.to_bits().into(), 0x7f80),
        }
    }
}

/// The first number all of whose `exponent` bits are set. Pieces without one are passed over without a branch for each number.
fn first_piece<T: Copy>(numbers: &[T], bits: impl Fn(T) -> u32, exponent: u32) -> Option<usize> {
    const PIECE: usize = 1024;
    let is_not_finite = |x: T| bits(x) & exponent == exponent;
    numbers
        .chunks(PIECE)
        .enumerate()
        .find_map(|(piece, numbers)| {
            let any = numbers.iter().fold(false, |any, &x| any | is_not_finite(x));
            if !any {
                return None;
            }
            let at = numbers.iter().position(|&x| is_not_finite(x));
            at.map(|at| piece * PIECE + at)
        })
}

impl<'a> From<&'a mut [f32]> for FloatsMut<'a> {
    fn from(into: &'a mut [f32]) -> Self {
        Self::F32(into)
    }
}

impl<'a> From<&'a mut [f16]> for FloatsMut<'a> {
    fn from(into: &'a mut [f16]) -> Self {
        Self::F16(into)
    }
}

impl<'a> From<&'a mut [bf16]> for FloatsMut<'a> {
    fn from(into: &'a mut [bf16]) -> Self {
        Self::BF16(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(shape: &[usize]) -> TensorInfo {
        TensorInfo {
            shape: shape.to_vec(),
            dtype: StoredDtype::F32,
            num_bytes: 0,
        }
    }

    #[test]
    fn the_first_number_that_is_not_finite_is_found_in_every_type() {
        let at = [5, 1024, 2047, 2999];
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for first in at {
                let mut wide = vec![1.5f32; 3000];
                wide[first] = odd;
                wide[2999] = odd;
                let mut f16s: Vec<f16> = wide.iter().map(|&x| f16::from_f32(x)).collect();
                let mut bf16s: Vec<bf16> = wide.iter().map(|&x| bf16::from_f32(x)).collect();
                assert_eq!(
                    FloatsMut::from(&mut wide[..]).first_not_finite(),
                    Some(first)
                );
                assert_eq!(
                    FloatsMut::from(&mut f16s[..]).first_not_finite(),
                    Some(first)
                );
                assert_eq!(
                    FloatsMut::from(&mut bf16s[..]).first_not_finite(),
                    Some(first)
                );
            }
        }
        let mut finite = [0.0, f32::MAX, f32::MIN, f32::MIN_POSITIVE];
        assert_eq!(FloatsMut::from(&mut finite[..]).first_not_finite(), None);
    }

    #[test]
    fn rows_run_along_the_last_dimension() {
        for (shape, elements, row_len) in [
            (&[][..], 1, 1),
            (&[5], 5, 5),
            (&[3, 7], 21, 7),
            (&[3, 7, 2], 42, 2),
            (&[0, usize::MAX, 2], 0, 2),
            (&[2, usize::MAX], usize::MAX, usize::MAX),
        ] {
            let info = info(shape);
            assert_eq!((info.num_elements(), info.row_len()), (elements, row_len));
        }
    }

    #[test]
    fn ranges_out_of_bounds_and_buffers_of_another_length_are_refused() {
        let matrix = info(&[3, 7]);
        assert_eq!(matrix.check_range(&(7..21), 14), Ok(()));
        assert_eq!(matrix.check_range(&(21..21), 0), Ok(()));
        let reversed = Range { start: 2, end: 1 };
        for (range, len, message) in [
            (1..22, 21, "numbers 1..22 of [3, 7]"),
            (22..22, 0, "numbers 22..22 of [3, 7]"),
            (reversed, 0, "numbers 2..1 of [3, 7]"),
            (
                0..14,
                13,
                "a buffer of 13 for the numbers 0..14: expected 14",
            ),
            (
                0..14,
                15,
                "a buffer of 15 for the numbers 0..14: expected 14",
            ),
        ] {
            assert_eq!(matrix.check_range(&range, len).unwrap_err(), message);
        }
        assert!(info(&[0, 9]).check_range(&(0..1), 1).is_err());
    }
}
