//! Coordinates in which all directions cost the same on plain text.

use crate::Result;
use crate::cholesky::Cholesky;
use crate::fisher::Fisher;

/// `α = 1 + L⁻ᵀ θ`, where `L Lᵀ` is the Fisher matrix, made safe to invert: `½ |θ|²` is about the divergence on plain text.
///
/// The symmetric root instead of `L` would turn the coordinates, which nothing that follows notices: momentum, norms and means are the
/// same in turned coordinates.
#[derive(Clone, Debug)]
pub(super) struct Whitening {
    factor: Cholesky,
}

impl Whitening {
    /// The Fisher matrix may have fewer samples than heads: its entries between heads are shrunk by the share `shrinkage`, and `ridge`
    /// times the mean of its diagonal is added to the diagonal.
    pub(super) fn new(fisher: &Fisher, shrinkage: f64, ridge: f64) -> Result<Self> {
        let factor = fisher.shrunk_factor(shrinkage, ridge)?;
        Ok(Self { factor })
    }

    /// Coefficients as the model sees them.
    pub(super) fn coefficients(&self, theta: &[f64]) -> Vec<f32> {
        let changes = self.factor.solve_transposed(theta);
        changes.iter().map(|change| (1.0 + change) as f32).collect()
    }

    /// The gradient by θ, from that by α.
    pub(super) fn gradient(&self, by_coefficient: &[f64]) -> Vec<f64> {
        self.factor.solve_lower(by_coefficient)
    }
}

/// `½ |θ|²`: the divergence that the Fisher matrix predicts, in nats a position.
pub(super) fn predicted_divergence(theta: &[f64]) -> f64 {
    theta.iter().map(|x| x * x).sum::<f64>() / 2.0
}
