//! How the tensors of a family's checkpoints are named, and which parameters they hold.

use std::borrow::Cow;
use std::ops::Range;

use crate::config::DecoderConfig;
use crate::param::ModuleId::{self, *};
use crate::param::ParamId;
use crate::tensor_part::{MatrixLayout, Stacked, TensorPart};

/// How modules share the output channels of one tensor, in the order in which the row lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    /// One block for each module.
    Blocks,
    /// A block for each module within each group of heads, a group being a key/value head with the query heads that read it.
    HeadGroups,
    /// One module, after so many channels that nothing uses.
    After(usize),
}

/// A tensor, or one of each layer, and the modules that it holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Without prefix, number of the layer and kind of parameter. `*` stands for the number of an expert; without it the tensor holds the
    /// modules of all experts, one matrix or vector for each.
    name: &'static str,
    modules: &'static [ModuleId],
    packing: Packing,
    /// Whether queries and keys have the channels that are rotated together side by side.
    in_pairs: bool,
}

/// The tensor `name` holds one module, or several, one block of output channels for each.
pub(crate) const fn row(name: &'static str, modules: &'static [ModuleId]) -> Row {
    Row {
        name,
        modules,
        packing: Packing::Blocks,
        in_pairs: false,
    }
}

impl Row {
    /// Queries and keys have, in each head, the channels that are rotated together side by side, as in the original Llama release and in the
    /// GGUF files of its architecture. In the decoder they are half a head apart.
    pub const fn in_pairs(self) -> Self {
        Self {
            in_pairs: true,
            ..self
        }
    }

    /// Each group of heads has blocks of its own, a group being a key/value head with the query heads that read it.
    pub const fn by_head_group(self) -> Self {
        Self {
            packing: Packing::HeadGroups,
            ..self
        }
    }

    /// The first `unused` output channels belong to no module.
    pub const fn after(self, unused: usize) -> Self {
        Self {
            packing: Packing::After(unused),
            ..self
        }
    }

    /// All output channels of the tensor, and among them those of a module that it holds.
    fn channels(
        &self,
        config: &DecoderConfig,
        layer: Option<usize>,
        module: ModuleId,
    ) -> Option<(usize, Vec<Range<usize>>)> {
        let (groups, mut stride) = match self.packing {
            Packing::Blocks => (1, 0),
            Packing::HeadGroups => {
                let attention = &config.layers.get(layer?)?.attention;
                (attention.num_key_value_heads, 0)
            }
            Packing::After(unused) => (1, unused),
        };
        let mut own = 0..0;
        for &held in self.modules {
            let block = config.module(layer, held)?.channels() / groups;
            if held == module {
                own = stride..stride + block;
            }
            stride += block;
        }
        let mut channels = (0..groups)
            .map(|group| group * stride + own.start..group * stride + own.end)
            .collect();
        if self.in_pairs && matches!(module, QProj | KProj) {
            let head_dim = config.layers.get(layer?)?.attention.head_dim;
            channels = halves_of_pairs(channels, head_dim);
        }
        Some((groups * stride, channels))
    }
}

/// The channels of heads that stand in pairs: first the first ones of all pairs, then the second ones.
fn halves_of_pairs(channels: Vec<Range<usize>>, head_dim: usize) -> Vec<Range<usize>> {
    if !head_dim.is_multiple_of(2) {
        return channels;
    }
    let heads = channels
        .into_iter()
        .flat_map(|range| range.step_by(head_dim));
    heads
        .flat_map(|head| {
            let first = (head..head + head_dim).step_by(2);
            first.clone().chain(first.map(|channel| channel + 1))
        })
        .map(|channel| channel..channel + 1)
        .collect()
}

/// The names of a family. Read from left to right a row says what a tensor is made of, from right to left where a parameter is: loading,
/// saving and folding follow the same table.
#[derive(Debug)]
pub(crate) struct TensorNames {
    /// What may stand before the names of all tensors but the unembedding, in the order of trying.
    pub prefixes: &'static [&'static str],
    /// What stands before the number of a layer.
    pub layers: &'static str,
    /// Tables of rows; a module is looked for in the first table first.
    pub tables: &'static [&'static [Row]],
    /// How the matrices of projections stand.
    pub projections: MatrixLayout,
    /// Ends of the names of tensors that hold no weights: masks and tables from older releases.
    pub buffers: &'static [&'static str],
    /// Beginnings of the names of tensors that belong to other models in the same checkpoint, such as one that sees images.
    pub other_models: &'static [&'static str],
}

impl TensorNames {
    /// The part of a tensor that holds a parameter; `None` for parameters that the family or the model does not have.
    pub fn part(&self, config: &DecoderConfig, prefix: &str, id: ParamId) -> Option<TensorPart> {
        let row = self.row(id.module)?;
        let shape = config.module(id.layer, id.module)?;
        let (total, channels) = row.channels(config, id.layer, id.module)?;
        let (mut name, kind) = (Cow::from(row.name), id.kind.name());
        let mut stacked = None;
        if let (Some(index), Some(count)) = (id.expert, shape.num_experts()) {
            if name.contains('*') {
                name = name.replace('*', &index.to_string()).into();
            } else {
                stacked = Some(Stacked { index, count });
            }
        }
        Some(TensorPart {
            name: match id.layer {
                Some(layer) => format!("{prefix}{}{layer}.{name}.{kind}", self.layers),
                None if id.module == LmHead => format!("{name}.{kind}"),
                None => format!("{prefix}{name}.{kind}"),
            },
            layout: shape.layout(self.projections),
            total,
            channels,
            stacked,
        })
    }

    /// Whether a tensor of this name may be there without being read: a buffer, one of another model, or an unembedding that is the
    /// embedding.
    pub fn is_superfluous(&self, config: &DecoderConfig, name: &str) -> bool {
        let is_unembedding = self
            .row(LmHead)
            .is_some_and(|row| name.strip_suffix(".weight") == Some(row.name));
        self.buffers.iter().any(|end| name.ends_with(end))
            || self
                .other_models
                .iter()
                .any(|start| name.starts_with(start))
            || config.tie_word_embeddings && is_unembedding
    }

    fn row(&self, module: ModuleId) -> Option<&'static Row> {
        let mut rows = self.tables.iter().copied().flatten();
        rows.find(|row| row.modules.contains(&module))
    }
}

/// The names of Llama, which most families have taken over.
pub(crate) const LLAMA: TensorNames = TensorNames {
    prefixes: &["model.", ""],
    layers: "layers.",
    tables: &[LLAMA_ROWS],
    projections: MatrixLayout::OutIn,
    buffers: &["rotary_emb.inv_freq"],
    other_models: &[],
};

/// The names of GPT-2, as far as later families have taken them over.
pub(crate) const GPT: TensorNames = TensorNames {
    prefixes: &["transformer.", ""],
    layers: "h.",
    tables: &[GPT_ROWS],
    projections: MatrixLayout::OutIn,
    buffers: &[".attn.bias", ".attn.masked_bias"],
    other_models: &[],
};

pub(crate) const GPT_ROWS: &[Row] = &[
    row("wte", &[EmbedTokens]),
    row("wpe", &[Positions]),
    row("ln_f", &[FinalNorm]),
    row("lm_head", &[LmHead]),
    row("ln_1", &[InputNorm]),
    row("ln_2", &[PostAttentionNorm]),
];

pub(crate) const LLAMA_ROWS: &[Row] = &[
    row("embed_tokens", &[EmbedTokens]),
    row("norm", &[FinalNorm]),
    row("lm_head", &[LmHead]),
    row("input_layernorm", &[InputNorm]),
    row("self_attn.q_proj", &[QProj]),
    row("self_attn.k_proj", &[KProj]),
    row("self_attn.v_proj", &[VProj]),
    row("self_attn.o_proj", &[OProj]),
    row("self_attn.q_norm", &[QNorm]),
    row("self_attn.k_norm", &[KNorm]),
    row("post_attention_layernorm", &[PostAttentionNorm]),
    row("pre_feedforward_layernorm", &[PreFeedforwardNorm]),
    row("post_feedforward_layernorm", &[PostFeedforwardNorm]),
    row("mlp.gate_proj", &[GateProj]),
    row("mlp.up_proj", &[UpProj]),
    row("mlp.down_proj", &[DownProj]),
];

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges, some of which hold one"
)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::family::config_file::read_config;

    /// The channels and shapes of every tensor's parts, by name.
    fn parts(directory: &Path) -> BTreeMap<String, Vec<(TensorPart, Vec<usize>)>> {
        let read = read_config(&directory.join("config.json")).unwrap();
        let (family, config) = (read.family, read.config);
        let names = (family.names)(&config);
        let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, shape) in config.parameters() {
            assert_eq!(ParamId::from_path(&id.to_string()), Some(id));
            let part = names.part(&config, "", id);
            let part = part.unwrap_or_else(|| panic!("{}: {id}", directory.display()));
            let shape = part.file_shape(&shape);
            parts
                .entry(part.name.clone())
                .or_default()
                .push((part, shape));
        }
        parts
    }

    #[test]
    fn every_channel_of_every_tensor_belongs_to_one_parameter() {
        let fixtures = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures"));
        let directories = fixtures.read_dir().unwrap().map(|entry| entry.unwrap());
        let (mut packed, mut stacks) = (0, 0);
        for directory in directories.filter(|entry| entry.path().join("config.json").exists()) {
            for (name, parts) in parts(&directory.path()) {
                packed += usize::from(parts.len() > 1);
                let (first, shape) = &parts[0];
                for (part, other) in &parts {
                    let same = (first.total, first.layout) == (part.total, part.layout);
                    assert!(same && shape == other, "{name}: {parts:?}");
                }
                // A tensor that holds a matrix for each expert must hold those of all.
                let num_matrices = first.stacked.map_or(1, |stacked| stacked.count);
                stacks += usize::from(first.stacked.is_some());
                for matrix in 0..num_matrices {
                    let held = parts.iter().map(|(part, _)| part);
                    let mut channels: Vec<usize> = held
                        .filter(|part| part.stacked.map_or(0, |stacked| stacked.index) == matrix)
                        .flat_map(TensorPart::indices)
                        .collect();
                    channels.sort_unstable();
                    // The table of OPT's positions begins with rows that nothing uses.
                    let unused = first.total - channels.len();
                    assert!(
                        unused == 0 || name.contains("embed_positions"),
                        "{name}: {parts:?}"
                    );
                    let expected: Vec<usize> = (unused..first.total).collect();
                    assert_eq!(channels, expected, "{name}: {parts:?}");
                }
            }
        }
        assert!(packed > 40, "only {packed} packed tensors");
        assert_eq!(stacks, 4, "tensors of Granite-MoE's experts");
    }

    #[test]
    fn blocks_and_head_groups_are_where_the_row_says() {
        // Four query heads of 4 channels, one key/value head for two of them, an MLP of 12.
        let config = DecoderConfig::from_json(&serde_json::json!({
            "model_type": "llama", "vocab_size": 5, "hidden_size": 16, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 1, "intermediate_size": 12,
        }))
        .unwrap();
        let qkv = row("qkv", &[QProj, KProj, VProj]);
        let of = |row: Row, module| row.channels(&config, Some(0), module).unwrap();
        assert_eq!(of(qkv, QProj), (32, vec![0..16]));
        assert_eq!(of(qkv, KProj), (32, vec![16..24]));
        assert_eq!(of(qkv, VProj), (32, vec![24..32]));
        let grouped = qkv.by_head_group();
        assert_eq!(of(grouped, QProj), (32, vec![0..8, 16..24]));
        assert_eq!(of(grouped, KProj), (32, vec![8..12, 24..28]));
        assert_eq!(of(grouped, VProj), (32, vec![12..16, 28..32]));
        let gate_up = row("gate_up", &[GateProj, UpProj]);
        assert_eq!(of(gate_up, UpProj), (24, vec![12..24]));
        let paired = qkv.in_pairs();
        let (_, keys) = of(paired, KProj);
        let keys: Vec<usize> = keys.into_iter().flatten().collect();
        assert_eq!(keys, [16, 18, 17, 19, 20, 22, 21, 23]);
        assert_eq!(of(paired, VProj), (32, vec![24..32]));
        let after = row("down", &[DownProj]).after(2);
        assert_eq!(of(after, DownProj), (18, vec![2..18]));
        assert_eq!(row("no", &[KNorm]).channels(&config, Some(0), KNorm), None);
    }
}
