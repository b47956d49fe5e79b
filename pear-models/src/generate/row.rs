//! One prompt and what follows it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::generate_options::GenerateOptions;
use crate::sample::choose;

pub(super) struct Row {
    /// Index of the prompt.
    pub prompt: usize,
    /// The prompt, then the new tokens.
    pub tokens: Vec<u32>,
    pub prompt_len: usize,
    pub ended: bool,
    random: ChaCha8Rng,
}

impl Row {
    pub fn new(prompt: usize, tokens: &[u32], options: &GenerateOptions) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(options.seed);
        random.set_stream(prompt as u64);
        Self {
            prompt,
            tokens: tokens.to_vec(),
            prompt_len: tokens.len(),
            ended: false,
            random,
        }
    }

    /// Adds the next token, of which these are the logits.
    pub fn choose(&mut self, logits: &[f32], options: &GenerateOptions) {
        let token = choose(logits, &self.tokens, options, &mut self.random);
        self.tokens.push(token);
        self.ended = options.eos_tokens.contains(&token)
            || self.new_tokens().len() == options.max_new_tokens;
    }

    pub fn last_token(&self) -> u32 {
        *self.tokens.last().expect("a prompt has tokens")
    }

    pub fn new_tokens(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }

    pub fn into_new_tokens(mut self) -> Vec<u32> {
        self.tokens.split_off(self.prompt_len)
    }
}
