//! Fixed sines and cosines added to the embeddings (Vaswani et al., [arXiv 1706.03762](https://arxiv.org/abs/1706.03762)).

use std::ops::Range;

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the sines and cosines stand in a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinusoidalLayout {
    /// All sines, then all cosines, wavelengths to `10000` inclusive: tensor2tensor, fairseq, XGLM.
    HalfSplit,
    /// A sine and its cosine in turn, as the paper has it.
    Interleaved,
}

/// Sinusoidal positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SinusoidalConfig {
    /// How a vector is laid out.
    pub layout: SinusoidalLayout,
    /// Added to each position; XGLM counts from 2.
    pub offset: usize,
    /// Width of a vector (`hidden_size`).
    pub width: usize,
}

impl SinusoidalConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.width < 4 || !self.width.is_multiple_of(2) {
            return Err(Error::config(
                "hidden_size",
                self.width,
                "sinusoidal positions need an even width of at least 4",
            ));
        }
        Ok(())
    }

    /// `[positions, width]`, f32.
    pub(super) fn table(
        &self,
        positions: Range<usize>,
        width: usize,
        device: &Device,
    ) -> Tensor<2> {
        let half = width / 2;
        let frequency = |i: usize| match self.layout {
            SinusoidalLayout::HalfSplit => 10000f64.powf(-(i as f64) / (half - 1) as f64),
            SinusoidalLayout::Interleaved => 10000f64.powf(-2.0 * i as f64 / width as f64),
        };
        let rows = positions.len();
        let mut table = vec![0f32; rows * width];
        for (row, position) in table.chunks_mut(width).zip(positions) {
            for i in 0..half {
                let (sin, cos) = ((position + self.offset) as f64 * frequency(i)).sin_cos();
                let (at_sin, at_cos) = match self.layout {
                    SinusoidalLayout::HalfSplit => (i, half + i),
                    SinusoidalLayout::Interleaved => (2 * i, 2 * i + 1),
                };
                row[at_sin] = sin as f32;
                row[at_cos] = cos as f32;
            }
        }
        Tensor::from_data(
            TensorData::new(table, [rows, width]),
            (&device.clone().inner(), burn::tensor::DType::F32),
        )
    }
}
