//! The part of a checkpoint's tensor that holds a parameter.

use std::ops::Range;

/// How the matrix of a parameter stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MatrixLayout {
    /// `[out, in]`, to be transposed to burn's `[in, out]`: the `Linear` of PyTorch.
    OutIn,
    /// `[in, out]`, as in burn: the `Conv1D` of GPT-2.
    InOut,
    /// A table with a row for each token or position, as in burn.
    Table,
    /// A vector that stands as the rows of a matrix, each of this width.
    Rows(usize),
}

/// Where the numbers of a parameter are.
///
/// A tensor is divided along its output channels, of which a table has one for each row, a vector one for each number. Biases are divided
/// like the weights that they belong to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorPart {
    /// Name of the tensor.
    pub name: String,
    /// How its matrix stands in the file; a vector stands in one way only.
    pub layout: MatrixLayout,
    /// All output channels of the tensor.
    pub total: usize,
    /// Those of the parameter, in its own order.
    pub channels: Vec<Range<usize>>,
    /// Which of the matrices, or vectors, of a tensor that holds one for each expert.
    pub stacked: Option<Stacked>,
}

/// One of several matrices, or vectors, that a tensor holds one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stacked {
    pub index: usize,
    /// How many there are: the first size of the tensor.
    pub count: usize,
}

impl TensorPart {
    /// The shape that the tensor has in the file, for a parameter of shape `shape`.
    pub fn file_shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut file_shape = self.matrix_shape(shape);
        if let Some(stacked) = self.stacked {
            file_shape.insert(0, stacked.count);
        }
        file_shape
    }

    /// Numbers of the tensor that stand before the matrix that the parameter is in.
    pub fn numbers_before(&self, shape: &[usize]) -> usize {
        let numbers = self.matrix_shape(shape).iter().product::<usize>();
        self.stacked.map_or(0, |stacked| stacked.index * numbers)
    }

    /// The shape in the file of the matrix, or vector, that the parameter is in.
    fn matrix_shape(&self, shape: &[usize]) -> Vec<usize> {
        match (shape, self.layout) {
            ([input, _], MatrixLayout::OutIn) => vec![self.total, *input],
            ([input, _], MatrixLayout::InOut) => vec![*input, self.total],
            ([_, width], MatrixLayout::Table) => vec![self.total, *width],
            ([_], MatrixLayout::Rows(width)) => vec![self.total / width, width],
            _ => vec![self.total],
        }
    }

    /// The parameter's channels one by one.
    pub fn indices(&self) -> impl Iterator<Item = usize> {
        self.channels.iter().cloned().flatten()
    }
}
