//! The work that a model needs, counted.

use pear_core::proxy::ProxyBatch;
use pear_locate::{LocateOptions, Mode};
use pear_models::{DecoderConfig, DenseMlpConfig, MlpConfig};

/// Floating-point operations that the parts of a model need; a multiplication and an addition are two.
#[derive(Clone, Copy, Debug)]
pub struct Flops {
    /// Projections and MLP of one layer, for one position.
    pub block: f64,
    /// The same without queries, keys and values: what a variant needs where its attention's output is known, or replaced.
    pub block_without_qkv: f64,
    /// The MLP of one layer, for one position.
    pub mlp: f64,
    /// Scores and values of one query against one key, over all heads of a layer.
    pub attention: f64,
    /// All logits of one position.
    pub logits: f64,
    layers: f64,
    heads: f64,
}

impl Flops {
    /// Of a model with this config, whose layers are taken to be like the first one.
    ///
    /// # Panics
    /// If there are no layers.
    pub fn of(config: &DecoderConfig) -> Self {
        let layer = &config.layers[0];
        let attention = &layer.attention;
        let hidden = config.hidden_size as f64;
        let query = (attention.num_attention_heads * attention.head_dim) as f64;
        let key_value = (attention.num_key_value_heads * attention.head_dim) as f64;
        let of_mlp = |mlp: &DenseMlpConfig| {
            let matrices = if mlp.gated { 3.0 } else { 2.0 };
            2.0 * hidden * mlp.intermediate_size as f64 * matrices
        };
        let mlp = match &layer.mlp {
            MlpConfig::Dense(mlp) => of_mlp(mlp),
            MlpConfig::Experts(experts) => {
                let router = 2.0 * hidden * experts.num_experts as f64;
                let shared = experts.shared.map_or(0.0, |shared| of_mlp(&shared.mlp));
                router + shared + experts.num_experts_per_token as f64 * of_mlp(&experts.expert)
            }
            other => unreachable!("dense, or of experts: {other:?}"),
        };
        let block_without_qkv = 2.0 * hidden * query + mlp;
        Self {
            block: block_without_qkv + 2.0 * hidden * (query + 2.0 * key_value),
            block_without_qkv,
            mlp,
            attention: 4.0 * query,
            logits: 2.0 * hidden * config.vocab_size as f64,
            layers: config.layers.len() as f64,
            heads: attention.num_attention_heads as f64,
        }
    }

    /// Locating with these options: one run of the sequences, each replaced head's variant through its own and all higher layers, the logits of the
    /// second half (for the accuracy on the proxy task) and of one token a variant.
    pub fn sweep(&self, options: &LocateOptions, batches: &[ProxyBatch]) -> f64 {
        let (layers, heads) = (self.layers, self.heads);
        let is_replaced = |layer: &usize| options.layers.is_none_or(|range| range.contains(*layer));
        let replaced = (0..layers as usize).filter(is_replaced);
        let (count, above) = replaced.fold((0.0, 0.0), |(count, above), layer| {
            (count + 1.0, above + layers - 1.0 - layer as f64)
        });
        let one = |batch: &ProxyBatch| {
            let (seq, n) = (batch.seq_len() as f64, batch.n() as f64);
            let run = self.layers_once(seq) + (n - 1.0) * self.logits;
            let through = match options.mode {
                Mode::Activation => self.block + self.attention * seq,
                Mode::Path => self.mlp,
            };
            // A head's own layer: only its own rows of the output projection change.
            let own = self.mlp + (self.block_without_qkv - self.mlp) / heads;
            batch.len() as f64 * (run + heads * (count * own + above * through))
        };
        batches.iter().map(one).sum()
    }

    /// One training step with the lowest re-weighted head in layer `first`: a run, the logits of one half, and the way back through
    /// activations down to that layer's output projection.
    pub fn training_step(&self, first: usize, sequences: usize, n: usize) -> f64 {
        let (seq, above) = (2.0 * n as f64, self.layers - 1.0 - first as f64);
        let attention = self.attention * (seq + 1.0) / 2.0;
        // Weights get no gradient: the way back costs what the way there did, twice for the products within attention.
        let back = seq * (above * (self.block + 2.0 * attention) + self.block_without_qkv)
            + n as f64 * self.logits;
        let logits = n as f64 * self.logits;
        self.run(sequences, n) + sequences as f64 * (logits + back)
    }

    /// All layers once, for sequences of `2 n` tokens.
    pub fn run(&self, sequences: usize, n: usize) -> f64 {
        sequences as f64 * self.layers_once(2.0 * n as f64)
    }

    /// All layers once, for one sequence of so many tokens.
    pub fn layers_once(&self, seq: f64) -> f64 {
        self.layers * seq * (self.block + self.attention * (seq + 1.0) / 2.0)
    }
}
