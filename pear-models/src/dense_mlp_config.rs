//! What varies between MLPs that are the same for every token.

use pear_core::Result;
use pear_core::kernels::Activation;
use serde::{Deserialize, Serialize};

use crate::config_error::invalid;

/// `down(act(gate(x)) · up(x))`, or `down(act(up(x)))` without a gate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DenseMlpConfig {
    /// Width between the projections.
    pub intermediate_size: usize,
    /// The nonlinearity.
    pub activation: Activation,
    /// Whether there is a `gate`.
    pub gated: bool,
    /// Whether the projections have biases.
    pub bias: bool,
}

impl DenseMlpConfig {
    /// # Errors
    /// [`Error::Config`](pear_core::Error::Config) for a width of zero.
    pub fn validate(&self) -> Result<()> {
        if self.intermediate_size == 0 {
            return Err(invalid("intermediate_size", 0, "expected at least 1"));
        }
        Ok(())
    }
}
