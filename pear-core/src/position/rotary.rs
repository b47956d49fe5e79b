//! Rotary position embeddings (Su et al., [arXiv 2104.09864](https://arxiv.org/abs/2104.09864)) and their scalings.
//!
//! Angles and tables are always f32: a table in half precision is wrong by whole tokens at long context.

use std::sync::{Mutex, PoisonError};

use burn::prelude::*;
use burn::tensor::DType;

use crate::kernels;
use crate::position::Positions;
use crate::position::rotary_config::{RotaryConfig, RotaryLayout, RotaryScaling};

/// A rotary embedding with its table of cosines and sines, kept from one call to the next and shared by all layers.
#[derive(Debug)]
pub(super) struct Rotary {
    config: RotaryConfig,
    tables: Mutex<Option<Tables>>,
}

/// Rows `start .. start + len`, each `rotary_dim / 2` wide.
#[derive(Clone, Debug)]
struct Tables {
    cos: Tensor<2>,
    sin: Tensor<2>,
    start: usize,
    key: usize,
}

impl Tables {
    fn covers(&self, start: usize, len: usize, key: usize, device: &Device, dtype: DType) -> bool {
        self.key == key
            && self.start <= start
            && start + len <= self.start + self.cos.dims()[0]
            && self.cos.device() == *device
            && self.cos.dtype() == dtype
    }
}

impl Rotary {
    pub(super) fn new(config: RotaryConfig) -> Self {
        Self {
            config,
            tables: Mutex::new(None),
        }
    }

    pub(super) fn rotate(&self, x: Tensor<4>, positions: Positions) -> Tensor<4> {
        let [batch, heads, seq, head_dim] = x.dims();
        let (device, interleaved) = (
            x.device().inner(),
            self.config.layout == RotaryLayout::Interleaved,
        );
        let Some(&most) = positions.padding.iter().max() else {
            let (cos, sin) = self.cos_sin(positions, seq, &device, x.dtype());
            return kernels::rotate(x, cos, sin, interleaved);
        };
        // Every row has positions of its own: all rows are one long sequence.
        let first = positions.start.saturating_sub(most);
        let (cos, sin) = self.cos_sin(
            Positions {
                start: first,
                ..positions
            },
            positions.start + seq - first,
            &device,
            x.dtype(),
        );
        let rows = positions.of_rows(seq, first, &device);
        let (cos, sin) = (cos.select(0, rows.clone()), sin.select(0, rows));
        let x = x.swap_dims(0, 1).reshape([1, heads, batch * seq, head_dim]);
        kernels::rotate(x, cos, sin, interleaved)
            .reshape([heads, batch, seq, head_dim])
            .swap_dims(0, 1)
    }

    /// Cosines and sines of `seq` positions, `[seq, rotary_dim / 2]` each.
    fn cos_sin(
        &self,
        positions: Positions,
        seq: usize,
        device: &Device,
        dtype: DType,
    ) -> (Tensor<2>, Tensor<2>) {
        let key = self.config.frequency_key(positions.total);
        // A poisoned lock holds a table that is whole all the same: it is replaced in one assignment.
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let tables = match &mut *tables {
            Some(tables) if tables.covers(positions.start, seq, key, device, dtype) => {
                tables.clone()
            }
            slot => {
                // Frequencies that change with every token are not worth a table from the start.
                let growing = matches!(self.config.scaling, RotaryScaling::DynamicNtk { .. });
                let (start, end) = match growing {
                    true => (positions.start, positions.start + seq),
                    false => (0, (positions.start + seq).next_power_of_two().max(64)),
                };
                slot.insert(self.tables(start, end, positions.total, key, device, dtype))
                    .clone()
            }
        };
        let rows = |table: Tensor<2>| table.narrow(0, positions.start - tables.start, seq);
        (rows(tables.cos.clone()), rows(tables.sin.clone()))
    }

    fn tables(
        &self,
        start: usize,
        end: usize,
        total: usize,
        key: usize,
        device: &Device,
        dtype: DType,
    ) -> Tables {
        let frequencies = self.config.inverse_frequencies(total);
        let scaling = self.config.attention_scaling();
        let shape = [end - start, frequencies.len()];
        let (mut cos, mut sin) = (
            Vec::with_capacity(shape[0] * shape[1]),
            Vec::with_capacity(shape[0] * shape[1]),
        );
        for position in start..end {
            for &frequency in &frequencies {
                // The angle is rounded to f32 before its cosine is taken, as transformers does.
                let (s, c) = f64::from(position as f32 * frequency).sin_cos();
                cos.push((c * scaling) as f32);
                sin.push((s * scaling) as f32);
            }
        }
        let tensor = |values: Vec<f32>| {
            Tensor::<2>::from_data(TensorData::new(values, shape), (device, DType::F32)).cast(dtype)
        };
        Tables {
            cos: tensor(cos),
            sin: tensor(sin),
            start,
            key,
        }
    }
}
