//! The parameters of one module of a decoder.

use pear_core::NormConfig;

use crate::param::ParamKind;
use crate::tensor_part::MatrixLayout;

/// The weight of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weight {
    /// `[input, output]`.
    Linear { input: usize, output: usize },
    /// `[rows, width]`.
    Table { rows: usize, width: usize },
    /// `[width]`, in files perhaps as a matrix with rows of this many numbers.
    Vector { width: usize, row: Option<usize> },
}

/// The parameters of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ModuleShape {
    weight: Weight,
    /// Whether it has a weight of its own: a tied one is that of another module, and some norms have none.
    has_weight: bool,
    bias: bool,
    /// How many experts of a layer have a module of this shape each; `None` for modules outside the experts.
    num_experts: Option<usize>,
}

impl ModuleShape {
    /// A linear module.
    pub fn linear(input: usize, output: usize, bias: bool) -> Self {
        Self {
            weight: Weight::Linear { input, output },
            has_weight: true,
            bias,
            num_experts: None,
        }
    }

    /// A table of embeddings.
    pub fn table(rows: usize, width: usize) -> Self {
        Self {
            weight: Weight::Table { rows, width },
            has_weight: true,
            bias: false,
            num_experts: None,
        }
    }

    /// The same table as an unembedding: without a weight of its own where it is tied to the embedding.
    pub fn of_unembedding(self, tied: bool, bias: bool) -> Self {
        Self {
            has_weight: !tied,
            bias,
            ..self
        }
    }

    /// A norm of vectors of `width` numbers.
    pub fn norm(width: usize, norm: NormConfig) -> Self {
        Self {
            weight: Weight::Vector { width, row: None },
            has_weight: norm.has_weight(),
            bias: norm.has_bias(),
            num_experts: None,
        }
    }

    /// The same, the vector being a matrix with rows of `row` numbers in files.
    pub fn in_rows(self, row: usize) -> Self {
        let width = self.channels();
        let weight = Weight::Vector {
            width,
            row: Some(row),
        };
        Self { weight, ..self }
    }

    /// The same for each of `num_experts` experts.
    pub fn of_experts(self, num_experts: usize) -> Self {
        Self {
            num_experts: Some(num_experts),
            ..self
        }
    }

    /// How many experts of a layer have such a module each; `None` for modules outside the experts.
    pub fn num_experts(&self) -> Option<usize> {
        self.num_experts
    }

    /// Output channels: columns of a linear module, rows of a table, numbers of a vector.
    pub fn channels(&self) -> usize {
        match self.weight {
            Weight::Linear { output, .. } => output,
            Weight::Table { rows, .. } => rows,
            Weight::Vector { width, .. } => width,
        }
    }

    /// How its weight stands in a file, where that of a linear module stands as `projections` says.
    pub fn layout(&self, projections: MatrixLayout) -> MatrixLayout {
        match self.weight {
            Weight::Linear { .. } => projections,
            Weight::Vector { row: Some(row), .. } => MatrixLayout::Rows(row),
            Weight::Table { .. } | Weight::Vector { .. } => MatrixLayout::Table,
        }
    }

    /// The shape of one of its parameters, if it has it.
    pub fn of(&self, kind: ParamKind) -> Option<Vec<usize>> {
        match (kind, self.weight) {
            (ParamKind::Bias, _) => self.bias.then(|| vec![self.channels()]),
            (ParamKind::Weight, _) if !self.has_weight => None,
            (ParamKind::Weight, Weight::Linear { input, output }) => Some(vec![input, output]),
            (ParamKind::Weight, Weight::Table { rows, width }) => Some(vec![rows, width]),
            (ParamKind::Weight, Weight::Vector { width, .. }) => Some(vec![width]),
        }
    }
}
