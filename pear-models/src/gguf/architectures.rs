//! The architectures of GGUF files that can be loaded.

use serde_json::json;

use super::architecture::{Architecture, Positions, llama, plain};
use super::describe::*;
use super::keys::Keys;
use super::{experts, names, rotary, windows};
use crate::family::{self, Family};

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
        describe: |keys, json| set_number(keys, json, "clip_qkv", "attention.clamp_kqv"),
        ..llama("olmo", "olmo")
    },
    Architecture {
        applies: windows::are_there,
        names: |_| names::BRANCH_NORMS,
        describe: set_windows,
        ..plain("olmo2", "olmo3")
    },
    Architecture {
        names: |_| names::BRANCH_NORMS,
        ..plain("olmo2", "olmo2")
    },
    llama("arcee", "arcee"),
    Architecture {
        names: |_| names::SEED_OSS,
        ..plain("seed_oss", "seed_oss")
    },
    Architecture {
        describe: |keys, json| {
            let normed = keys.layer_has(0, "attn_q_norm.weight");
            json.insert("use_qk_norm".into(), normed.into());
            set_logit_scale(keys, json)
        },
        ..plain("command-r", "cohere")
    },
    Architecture {
        describe: |keys, json| {
            windows::require(keys)?;
            set_windows(keys, json)?;
            set_logit_scale(keys, json)
        },
        ..plain("cohere2", "cohere2")
    },
    Architecture {
        names: |_| names::BRANCH_NORMS_PACKED_MLP,
        describe: |keys, _| rotary::refuse_sections(keys),
        ..plain("glm4", "glm4")
    },
    Architecture {
        names: |_| names::BRANCH_NORMS,
        describe: set_windows,
        ..plain("exaone4", "exaone4")
    },
    Architecture {
        describe: |keys, _| refuse_wide_heads(keys),
        finish: |_, config| {
            add_one_to_norms(config);
            Ok(())
        },
        ..plain("nemotron", "nemotron")
    },
    Architecture {
        positions: Positions::Learned,
        ..plain("gpt2", "gpt2")
    },
    Architecture {
        positions: Positions::Learned,
        ..plain("starcoder", "gpt_bigcode")
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
