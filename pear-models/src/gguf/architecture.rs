//! An architecture of GGUF files: which family it is, how its tensors are named, and which of its metadata no other one has.

use super::keys::{Json, Keys};
use super::names::{self, Names};
use crate::config::DecoderConfig;
use crate::error::Error;

/// The models of one `general.architecture`.
pub(super) struct Architecture {
    /// `general.architecture`.
    pub name: &'static str,
    /// `model_type` of the family.
    pub model_type: &'static str,
    /// Which of the models of this name are meant.
    pub applies: fn(&Keys) -> bool,
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
pub(super) const PLAIN: Architecture = Architecture {
    name: "",
    model_type: "",
    applies: |_| true,
    positions: Positions::Rotary,
    names: |_| names::PLAIN,
    describe: |_, _| Ok(()),
    finish: |_, _| Ok(()),
};

pub(super) const fn plain(name: &'static str, model_type: &'static str) -> Architecture {
    Architecture {
        name,
        model_type,
        ..PLAIN
    }
}

/// With the rows of queries and keys in Llama's order.
pub(super) const fn llama(name: &'static str, model_type: &'static str) -> Architecture {
    Architecture {
        names: |_| names::LLAMA,
        ..plain(name, model_type)
    }
}
