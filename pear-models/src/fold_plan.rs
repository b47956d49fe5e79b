//! What folding does to each tensor.

use std::fmt;

use pear_core::HeadId;

/// What folding a profile into a checkpoint changes: see [`ModelDirectory::fold_plan`](crate::ModelDirectory::fold_plan).
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FoldPlan {
    /// The tensors that change, layer by layer. All others stay byte for byte.
    pub tensors: Vec<FoldedTensor>,
}

impl FoldPlan {
    pub(crate) fn new(mut tensors: Vec<FoldedTensor>) -> Self {
        tensors.sort_by(|a, b| (a.layer, &a.name).cmp(&(b.layer, &b.name)));
        Self { tensors }
    }
}

/// A tensor that folding changes: an output projection.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FoldedTensor {
    /// The layer.
    pub layer: usize,
    /// Name of the tensor.
    pub name: String,
    /// The heads whose coefficients it takes.
    pub heads: Vec<HeadId>,
    /// Its type, as the format writes it.
    pub dtype: String,
    /// Its type once it is folded.
    pub folded_dtype: String,
    /// How it takes the coefficients.
    pub route: FoldRoute,
    /// How far the numbers that are written anew are from the exact products: root mean square of the differences, divided by that of the
    /// products.
    pub relative_error: f64,
    /// Its bytes.
    pub num_bytes: u64,
    /// Its bytes once it is folded.
    pub folded_num_bytes: u64,
}

/// How a tensor takes coefficients. Nothing is ever quantised anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FoldRoute {
    /// The numbers are multiplied and rounded once to their type.
    Values,
    /// The scales of quantised blocks are multiplied; codes and type stay.
    Scales,
    /// The codes stay, the type changes to one with a scale for every 32 numbers, so that each scale belongs to one head.
    Codes,
    /// The whole tensor is stored unquantised.
    Unquantized,
}

impl fmt::Display for FoldRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Values => "values",
            Self::Scales => "scales",
            Self::Codes => "codes kept",
            Self::Unquantized => "unquantised",
        })
    }
}

/// The differences between numbers and what they should be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Deviation {
    squared_error: f64,
    squares: f64,
}

impl Deviation {
    pub fn add(&mut self, number: f32, exact: f64) {
        self.squared_error += (f64::from(number) - exact).powi(2);
        self.squares += exact * exact;
    }

    /// Root mean square of the differences, divided by that of the exact numbers.
    pub fn relative(self) -> f64 {
        if self.squared_error == 0.0 {
            0.0
        } else {
            (self.squared_error / self.squares).sqrt()
        }
    }
}
