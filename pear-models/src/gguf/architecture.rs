//! The architectures of GGUF files: which family each is, how its tensors are named, and which of its metadata no other one has.

use pear_core::{NormConfig, QkNorm};
use serde_json::json;

use super::keys::{Json, Keys};
use super::names::{self, Names};
use super::{experts, rotary, windows};
use crate::config::DecoderConfig;
use crate::error::Error;
use crate::family::{self, Family};
use crate::layer_config::LayerConfig;

/// The models of one `general.architecture`.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// `model_type` of the family.
    pub model_type: &'static str,
    /// Which of the models of this name are meant.
    applies: fn(&Keys) -> bool,
    pub positions: Positions,
    pub names: fn(&Keys) -> Names,
    /// Adds keys of `config.json` that only this architecture has.
    pub describe: fn(&Keys, &mut Json) -> Result<(), Error>,
    /// Sets what neither `config.json` nor the tensors' names tell.
    pub finish: fn(&Keys, &mut DecoderConfig) -> Result<(), Error>,
}

/// The keys of a config that say where positions come from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    Rotary,
    Learned,
    Alibi,
}

/// Most architectures have nothing of their own.
const PLAIN: Architecture = Architecture {
    name: "",
    model_type: "",
    applies: |_| true,
    positions: Positions::Rotary,
    names: |_| names::PLAIN,
    describe: |_, _| Ok(()),
    finish: |_, _| Ok(()),
};

const fn plain(name: &'static str, model_type: &'static str) -> Architecture {
    Architecture {
        name,
        model_type,
        ..PLAIN
    }
}

/// With the rows of queries and keys in Llama's order.
const fn llama(name: &'static str, model_type: &'static str) -> Architecture {
    Architecture {
        names: |_| names::LLAMA,
        ..plain(name, model_type)
    }
}

/// Of several with the same name the first one that applies counts.
const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        applies: experts::are_there,
        names: |keys| {
            if keys.layer_has(0, "ffn_down.0.weight") {
                names::LLAMA_EXPERTS_APART
            } else {
                names::LLAMA_EXPERTS
            }
        },
        describe: experts::describe,
        ..plain("llama", "mixtral")
    },
    llama("llama", "llama"),
    plain("qwen2", "qwen2"),
    plain("qwen3", "qwen3"),
    Architecture {
        names: |_| names::EXPERTS,
        describe: |keys, json| experts::describe_with_sum(keys, json, false),
        ..plain("qwen2moe", "qwen2_moe")
    },
    Architecture {
        names: |_| names::EXPERTS,
        describe: |keys, json| experts::describe_with_sum(keys, json, true),
        ..plain("qwen3moe", "qwen3_moe")
    },
    Architecture {
        names: |_| names::EXPERTS,
        describe: |keys, json| experts::describe_with_sum(keys, json, false),
        ..plain("olmoe", "olmoe")
    },
    llama("smollm3", "smollm3"),
    plain("starcoder2", "starcoder2"),
    Architecture {
        describe: set_multipliers,
        ..llama("granite", "granite")
    },
    Architecture {
        names: |_| names::LLAMA_EXPERTS,
        describe: |keys, json| {
            set_multipliers(keys, json)?;
            experts::describe(keys, json)
        },
        ..plain("granitemoe", "granitemoe")
    },
    Architecture {
        names: |_| names::PACKED_MLP,
        describe: windows::describe,
        ..plain("phi3", "phi3")
    },
    Architecture {
        names: |_| names::EXPERTS,
        describe: |keys, json| {
            rotary::name_mscales(json);
            windows::describe(keys, json)?;
            experts::describe(keys, json)
        },
        ..plain("phimoe", "phimoe")
    },
    plain("phi2", "phi"),
    Architecture {
        finish: |_, config| {
            add_one_to_norms(config);
            Ok(())
        },
        ..plain("gemma", "gemma")
    },
    Architecture {
        names: |_| names::BRANCH_NORMS,
        describe: |keys, json| {
            set_query_scale(keys, json, 46)?;
            set_number(
                keys,
                json,
                "attn_logit_softcapping",
                "attn_logit_softcapping",
            )?;
            set_number(
                keys,
                json,
                "final_logit_softcapping",
                "final_logit_softcapping",
            )?;
            windows::describe(keys, json)
        },
        finish: |_, config| {
            add_one_to_norms(config);
            Ok(())
        },
        ..plain("gemma2", "gemma2")
    },
    Architecture {
        names: |_| names::BRANCH_NORMS,
        describe: |keys, json| {
            set_query_scale(keys, json, 62)?;
            for (key, name) in [
                ("final_logit_softcapping", "final_logit_softcapping"),
                ("rope_local_base_freq", "rope.freq_base_swa"),
            ] {
                set_number(keys, json, key, name)?;
            }
            windows::describe_with_pattern(keys, json)
        },
        finish: |_, config| {
            add_one_to_norms(config);
            Ok(())
        },
        ..plain("gemma3", "gemma3_text")
    },
    Architecture {
        names: |_| names::BRANCH_NORMS,
        ..plain("olmo2", "olmo2")
    },
    Architecture {
        positions: Positions::Learned,
        ..plain("gpt2", "gpt2")
    },
    Architecture {
        positions: Positions::Alibi,
        ..plain("bloom", "bloom")
    },
    Architecture {
        positions: Positions::Alibi,
        describe: |keys, json| {
            let bias = keys.number("attention.max_alibi_bias")?.unwrap_or(0.0);
            json.insert(
                "attn_config".into(),
                json!({"alibi": bias != 0.0, "alibi_bias_max": bias}),
            );
            Ok(())
        },
        finish: |keys, config| {
            let clip = keys
                .number("attention.clamp_kqv")?
                .filter(|&clip| clip != 0.0);
            for layer in &mut config.layers {
                layer.attention.clip_qkv = clip;
            }
            Ok(())
        },
        ..plain("mpt", "mpt")
    },
    llama("baichuan", "baichuan"),
    Architecture {
        describe: set_parallel_residual,
        ..plain("gptneox", "gpt_neox")
    },
    Architecture {
        // The converter's default for a key that is missing is not that of the model: the norm tells.
        describe: |keys, json| {
            let parallel = !keys.layer_has(0, "ffn_norm.weight");
            json.insert("use_parallel_residual".into(), parallel.into());
            Ok(())
        },
        ..plain("stablelm", "stablelm")
    },
    Architecture {
        names: |keys| {
            if has_two_norms(keys) {
                names::FALCON_40B
            } else {
                names::PLAIN
            }
        },
        // All models in the terms of the newer ones, which say more.
        describe: |keys, json| {
            let heads = keys.size("attention.head_count_kv")?.unwrap_or(1);
            let norms = if has_two_norms(keys) { 2 } else { 1 };
            json.insert("new_decoder_architecture".into(), true.into());
            json.insert("num_kv_heads".into(), heads.into());
            json.insert("num_ln_in_parallel_attn".into(), norms.into());
            Ok(())
        },
        ..plain("falcon", "falcon")
    },
];

/// The architecture of a model.
pub(super) fn find(keys: &Keys) -> Option<&'static Architecture> {
    ARCHITECTURES
        .iter()
        .find(|known| known.name == keys.architecture && (known.applies)(keys))
}

/// The architectures that can be loaded.
pub(super) fn names() -> Vec<&'static str> {
    let mut names: Vec<_> = ARCHITECTURES.iter().map(|known| known.name).collect();
    // Those of one name stand together.
    names.dedup();
    names
}

/// The family that an architecture belongs to.
pub(super) fn family(architecture: &Architecture) -> &'static Family {
    family::find(architecture.model_type).expect("architectures name families that there are")
}

/// The hidden size divided among the heads.
fn width_per_head(keys: &Keys) -> Result<usize, Error> {
    let heads = keys.required("attention.head_count")?;
    let width = keys.required("embedding_length")?.checked_div(heads);
    width.ok_or_else(|| keys.error("attention.head_count", "is 0"))
}

/// Channels of a head.
fn head_dim(keys: &Keys) -> Result<usize, Error> {
    match keys.size("attention.key_length")? {
        Some(head_dim) => Ok(head_dim),
        None => width_per_head(keys),
    }
}

fn set(json: &mut Json, key: &str, number: f64) {
    json.insert(key.into(), json!(number));
}

/// Takes a number over, if it is there.
fn set_number(keys: &Keys, json: &mut Json, key: &str, name: &str) -> Result<(), Error> {
    if let Some(number) = keys.number(name)? {
        set(json, key, number);
    }
    Ok(())
}

/// The multipliers of Granite.
fn set_multipliers(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    // The unscaled product where the file does not say.
    let scale = keys.number("attention.scale")?.filter(|&x| x != 0.0);
    let default = (head_dim(keys)? as f64).sqrt().recip();
    set(json, "attention_multiplier", scale.unwrap_or(default));
    for (key, name) in [
        ("logits_scaling", "logit_scale"),
        ("residual_multiplier", "residual_scale"),
        ("embedding_multiplier", "embedding_scale"),
    ] {
        set_number(keys, json, key, name)?;
    }
    Ok(())
}

/// The scale of Gemma's scores, which is not in the file: the 27B model alone, known by its layers, has another one than that of its heads.
fn set_query_scale(keys: &Keys, json: &mut Json, layers_of_27b: usize) -> Result<(), Error> {
    let scalar = if keys.required("block_count")? == layers_of_27b {
        width_per_head(keys)?
    } else {
        head_dim(keys)?
    };
    set(json, "query_pre_attn_scalar", scalar as f64);
    Ok(())
}

fn set_parallel_residual(keys: &Keys, json: &mut Json) -> Result<(), Error> {
    let parallel = keys.flag("use_parallel_residual")?.unwrap_or(true);
    json.insert("use_parallel_residual".into(), parallel.into());
    Ok(())
}

fn has_two_norms(keys: &Keys) -> bool {
    keys.layer_has(0, "attn_norm_2.weight")
}

/// The converter has added the 1 to the weights of norms that multiply by `1 + weight`.
fn add_one_to_norms(config: &mut DecoderConfig) {
    let plain = |norm: &mut NormConfig| {
        if let NormConfig::RmsPlusOne { eps } = *norm {
            *norm = NormConfig::RmsRoundedOnce { eps };
        }
    };
    for LayerConfig {
        norm, attention, ..
    } in &mut config.layers
    {
        plain(norm);
        if let Some(QkNorm::Head(norm)) = &mut attention.qk_norm {
            plain(norm);
        }
    }
    config.final_norm.as_mut().map(plain);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_names_a_family() {
        for architecture in ARCHITECTURES {
            assert_eq!(family(architecture).model_type, architecture.model_type);
        }
    }
}
