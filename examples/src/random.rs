//! Random numbers that do not depend on the machine.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Eight bytes that depend on a text alone.
pub fn hashed(text: &str) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..8]);
    bytes
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// Stream `stream` of a seed.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        Self(rng)
    }

    /// Uniform below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.0.next_u64()) * bound as u128) >> 64) as usize
    }

    /// Uniform between `low` and `high`, both inclusive.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// Uniform in `0..1`.
    pub fn uniform(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// If there are none.
    pub fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// `count` of the `choices` without replacement, in random order; all of them if there are fewer.
    pub fn sample<T>(&mut self, choices: impl IntoIterator<Item = T>, count: usize) -> Vec<T> {
        let mut left: Vec<T> = choices.into_iter().collect();
        (0..count.min(left.len()))
            .map(|_| left.swap_remove(self.below(left.len())))
            .collect()
    }

    /// `count` normal numbers with mean 0 (Box–Muller).
    pub fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let (radius, turn) = (1.0 - self.uniform(), self.uniform());
                (deviation * (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos())
                    as f32
            })
            .collect()
    }
}
