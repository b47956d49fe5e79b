//! GPT-BigCode, the architecture of SantaCoder ([arXiv 2301.03988](https://arxiv.org/abs/2301.03988)) and StarCoder: GPT-2 with one key/value
//! head for all queries, weights stored `[out, in]`.

use super::tensors::{GPT, GPT_ROWS, TensorNames, row};
use super::{Family, gpt2};
use crate::param::ModuleId::*;

pub(super) const FAMILY: Family = Family {
    model_type: "gpt_bigcode",
    configure: |reader, config, layer| {
        if reader.flag("multi_query", true)? {
            layer.attention.num_key_value_heads = 1;
        }
        // What `multi_query` says, and in which precision scores are computed.
        reader.ignore(&[
            "num_key_value_heads",
            "attention_softmax_in_fp32",
            "scale_attention_softmax_in_fp32",
        ]);
        (gpt2::FAMILY.configure)(reader, config, layer)
    },
    configure_layers: |_, _| Ok(()),
    names: |_| &NAMES,
    ..gpt2::FAMILY
};

const NAMES: TensorNames = TensorNames {
    tables: &[
        &[
            row("attn.c_attn", &[QProj, KProj, VProj]).by_head_group(),
            row("attn.c_proj", &[OProj]),
            row("mlp.c_fc", &[UpProj]),
            row("mlp.c_proj", &[DownProj]),
        ],
        GPT_ROWS,
    ],
    ..GPT
};
