//! The proxy sequences that the commands draw.

use anyhow::{Context, Result, bail};
use pear_core::ProxyTask;
use pear_core::files::SequenceRecord;
use pear_models::ModelDirectory;

/// Which proxy sequences are drawn.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Seed of the sequences.
    pub seed: u64,
    /// Whether each begins with the model's BOS.
    pub bos: bool,
    /// Whether special tokens may be drawn.
    pub special: bool,
}

impl Draw {
    /// The longest sequence: longer than what any supported model was trained for.
    pub const LONGEST: usize = 1 << 17;

    /// Their description in files of results.
    pub fn record(self, directory: &ModelDirectory) -> SequenceRecord {
        SequenceRecord::Drawn {
            bos: directory.config().bos_token.filter(|_| self.bos),
            special: self.special,
        }
    }

    /// The proxy task of a model.
    ///
    /// # Errors
    /// A model without a BOS although one is asked for, or with too few tokens.
    pub fn task(self, directory: &ModelDirectory) -> Result<ProxyTask> {
        let config = directory.config();
        let special = if self.special {
            Vec::new()
        } else {
            directory.special_tokens()?
        };
        let bos = match (self.bos, config.bos_token) {
            (true, None) => bail!(
                "--bos: the config of {} names no `bos_token_id`",
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

    /// Checks that the model can read sequences of `n` tokens repeated once.
    ///
    /// # Errors
    /// Too few or too many tokens, naming `flag`.
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
