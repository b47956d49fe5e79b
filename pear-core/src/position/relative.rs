//! A trained bias for each head and bucket of distances (T5, [arXiv 1910.10683](https://arxiv.org/abs/1910.10683)).

use std::ops::Range;

use burn::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// T5-style relative positions, causal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelativeConfig {
    /// Query heads (`num_heads`).
    pub num_heads: usize,
    /// Buckets (`relative_attention_num_buckets`, 32 in T5): the first half hold one distance each.
    pub num_buckets: usize,
    /// From this distance on everything is in the last bucket (`relative_attention_max_distance`, 128 in T5).
    pub max_distance: usize,
}

impl RelativeConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if self.num_buckets < 2 {
            return Err(Error::config(
                "relative_attention_num_buckets",
                self.num_buckets,
                "expected at least 2",
            ));
        }
        if self.max_distance <= self.num_buckets / 2 {
            return Err(Error::config(
                "relative_attention_max_distance",
                self.max_distance,
                format!(
                    "expected more than half of the {} buckets",
                    self.num_buckets
                ),
            ));
        }
        if self.num_heads == 0 {
            return Err(Error::config("num_heads", 0, "expected at least 1"));
        }
        Ok(())
    }

    /// `table`: `[num_buckets, heads]`. Returns `[1, heads, queries, keys]`, f32.
    pub(super) fn bias(
        &self,
        table: Tensor<2>,
        queries: Range<usize>,
        keys: Range<usize>,
    ) -> Tensor<4> {
        let (num_queries, num_keys) = (queries.len(), keys.len());
        let buckets: Vec<i32> = queries
            .flat_map(|query| keys.clone().map(move |key| query.saturating_sub(key)))
            .map(|distance| relative_bucket(distance, self.num_buckets, self.max_distance) as i32)
            .collect();
        let device = table.device();
        let buckets = Tensor::<1, Int>::from_data(
            TensorData::new(buckets, [num_queries * num_keys]),
            &device,
        );
        let bias = table.select(0, buckets).transpose().reshape([
            1,
            self.num_heads,
            num_queries,
            num_keys,
        ]);
        bias.cast(burn::tensor::DType::F32)
    }
}

/// The bucket of a key that stands `distance` positions before the query.
pub fn relative_bucket(distance: usize, num_buckets: usize, max_distance: usize) -> usize {
    let exact = num_buckets / 2;
    if distance < exact {
        return distance;
    }
    // In f32, as the reference computes it: the edges of the buckets depend on the rounding.
    let ratio =
        (distance as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    let bucket = exact + (ratio * (num_buckets - exact) as f32) as usize;
    bucket.min(num_buckets - 1)
}
