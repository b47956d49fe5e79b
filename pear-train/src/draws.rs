//! Which of many things a step reads: each once, in random order, before any is read again.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The indices, below `len`, of the `count` things that step `step`, counted from 0, reads. `first_stream` and the number of times that
/// all have been read choose the random numbers of the seed.
pub(crate) fn drawn(
    len: usize,
    seed: u64,
    first_stream: u64,
    step: usize,
    count: usize,
) -> Vec<usize> {
    let mut order = (usize::MAX, Vec::new());
    let mut draw = |place: usize| {
        let epoch = place / len;
        if order.0 != epoch {
            order = (epoch, permutation(len, seed, first_stream + epoch as u64));
        }
        order.1[place % len]
    };
    let start = step * count;
    (start..start + count).map(&mut draw).collect()
}

fn permutation(len: usize, seed: u64, stream: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    let mut order: Vec<usize> = (0..len).collect();
    for last in (1..len).rev() {
        // Multiply-shift, as for proxy sequences: no release of a library changes it.
        let other = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, other as usize);
    }
    order
}
