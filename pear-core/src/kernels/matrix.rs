//! The numbers of a weight.

use crate::kernels::flex::FlexTensor;
use crate::kernels::stored::Stored;

/// A weight `[inputs, outputs]` of any layout: the number of input `i` and output `j` is `numbers[i
/// * strides[0] + j * strides[1]]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub numbers: &'a [T],
    pub inputs: usize,
    pub outputs: usize,
    pub strides: [usize; 2],
}

impl<'a, T: Stored> Matrix<'a, T> {
    /// The numbers of a tensor that [`with_positive_strides`] returned.
    pub fn new(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let (shape, strides) = (layout.shape(), layout.strides());
        Self {
            numbers: &tensor.storage()[layout.start_offset()..],
            inputs: shape[0],
            outputs: shape[1],
            // The stride of a dimension of length 1 may be 0, and does not matter.
            strides: [strides[0].max(1) as usize, strides[1].max(1) as usize],
        }
    }
}

/// The tensor, copied if a dimension is reversed or repeats one number.
pub(super) fn with_positive_strides(x: FlexTensor) -> FlexTensor {
    let (shape, strides) = (x.layout().shape(), x.layout().strides());
    let is_positive = (0..2).all(|axis| strides[axis] > 0 || shape[axis] == 1);
    if is_positive { x } else { x.to_contiguous() }
}
