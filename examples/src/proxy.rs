//! The proxy sequences of `locate` and `train`: drawn, or read from a file.

use anyhow::{Context, Result, bail};
use pear_core::ProxyTask;
use pear_core::files::SequenceRecord;
use pear_models::ModelDirectory;

/// Which proxy sequences are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Their seed.
    pub seed: u64,
    /// Whether the model's BOS stands before each.
    pub bos: bool,
    /// Whether the special tokens are among those drawn.
    pub special: bool,
}

impl Draw {
    /// The longest sequence: more than any of our models was trained for.
    pub const LONGEST: usize = 1 << 17;

    /// What a file of results says about them.
    pub fn record(self, directory: &ModelDirectory) -> SequenceRecord {
        SequenceRecord::Drawn {
            bos: directory.config().bos_token.filter(|_| self.bos),
            special: self.special,
        }
    }

    /// What draws them for this model.
    ///
    /// # Errors
    /// A model without a BOS where one is asked for, or without enough tokens.
    pub fn task(self, directory: &ModelDirectory) -> Result<ProxyTask> {
        let config = directory.config();
        let special = if self.special {
            Vec::new()
        } else {
            directory.special_tokens()?
        };
        let bos = match (self.bos, config.bos_token) {
            (true, None) => bail!(
                "--bos: config.json of {} names no `bos_token_id`",
                directory.path().display()
            ),
            (true, bos) => bos,
            (false, _) => None,
        };
        let task = ProxyTask::new(config.vocab_size, &special, self.seed);
        Ok(task
            .with_context(|| directory.path().display().to_string())?
            .with_bos(bos))
    }

    /// Whether sequences of `n` tokens and the same again can be read by the model.
    ///
    /// # Errors
    /// Too few or too many; `flag` is named.
    pub fn check_length(self, flag: &str, n: usize, directory: &ModelDirectory) -> Result<()> {
        if n < 2 {
            bail!("{flag} {n}: expected 2 or more, the number of tokens that are repeated");
        }
        let positions = directory.config().max_positions();
        let longest = positions.unwrap_or(Self::LONGEST).min(Self::LONGEST);
        let length = n.saturating_mul(2).saturating_add(usize::from(self.bos));
        if length > longest {
            let room = (longest - usize::from(self.bos)) / 2;
            let owner = if positions.is_some_and(|p| p <= Self::LONGEST) {
                "of the model"
            } else {
                "at most"
            };
            bail!(
                "{flag} {n}: {length} tokens do not fit into the {longest} positions {owner}: expected {room} or less"
            );
        }
        Ok(())
    }
}
