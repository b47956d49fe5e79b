//! Which token comes next.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::generate_options::GenerateOptions;

/// One of the tokens, by their logits; `seen` are those before it.
pub(crate) fn choose(
    logits: &[f32],
    seen: &[u32],
    options: &GenerateOptions,
    random: &mut ChaCha8Rng,
) -> u32 {
    let penalized = penalize(logits, seen, options.repetition_penalty);
    let logits = penalized.as_deref().unwrap_or(logits);
    if options.temperature == 0.0 {
        // The first of equal logits wins, as in PyTorch and NumPy.
        return (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
            as u32;
    }
    let candidates = candidates(logits, options);
    let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
    let mut point = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * total;
    for &(token, weight) in &candidates {
        point -= weight;
        if point < 0.0 {
            return token;
        }
    }
    candidates.last().map_or(0, |&(token, _)| token)
}

/// The logits with the repetition penalty, if there is one.
fn penalize(logits: &[f32], seen: &[u32], penalty: f64) -> Option<Vec<f32>> {
    if penalty == 1.0 {
        return None;
    }
    let penalty = penalty as f32;
    let mut penalized = logits.to_vec();
    // From what they were: a token that was seen twice is not punished twice.
    for &token in seen {
        let logit = logits[token as usize];
        penalized[token as usize] = if logit < 0.0 {
            logit * penalty
        } else {
            logit / penalty
        };
    }
    Some(penalized)
}

/// The tokens that may be drawn, with weights proportional to their probabilities.
fn candidates(logits: &[f32], options: &GenerateOptions) -> Vec<(u32, f64)> {
    let highest = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let weight = |logit: f32| ((f64::from(logit) - highest) / options.temperature).exp();
    let mut all: Vec<(u32, f64)> = (0..)
        .zip(logits.iter().map(|&logit| weight(logit)))
        .collect();
    if let Some(k) = options.top_k.filter(|&k| k < all.len()) {
        let mut sorted: Vec<f32> = logits.to_vec();
        let (_, &mut least, _) = sorted.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        // Tokens as likely as the last one stay, too.
        all.retain(|&(token, _)| logits[token as usize] >= least);
    }
    if let Some(p) = options.top_p.filter(|&p| p < 1.0) {
        let total: f64 = all.iter().map(|(_, weight)| weight).sum();
        // All below this together do not make up `1 - p`: nobody need sort them.
        let negligible = (1.0 - p) * total / all.len() as f64;
        all.retain(|&(_, weight)| weight >= negligible);
        // Of equal ones the last first, as in transformers.
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        let mut before = 0.0;
        all.retain(|&(_, weight)| {
            let keep = before < p * total;
            before += weight;
            keep
        });
    }
    if let Some(p) = options.min_p {
        // The likeliest token weighs 1.
        all.retain(|&(_, weight)| weight >= p);
    }
    all
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Table {
        logits: Vec<Vec<f32>>,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        row: usize,
        seen: Vec<u32>,
        temperature: f64,
        top_k: Option<usize>,
        top_p: Option<f64>,
        min_p: Option<f64>,
        repetition_penalty: f64,
        probabilities: Vec<f64>,
    }

    #[test]
    fn tokens_are_drawn_with_the_probabilities_of_transformers() {
        let table: Table =
            serde_json::from_str(include_str!("../tests/fixtures/sampling/sampling.json")).unwrap();
        assert!(table.cases.len() >= 60);
        for (number, case) in table.cases.iter().enumerate() {
            let options = GenerateOptions {
                temperature: case.temperature,
                top_k: case.top_k,
                top_p: case.top_p,
                min_p: case.min_p,
                repetition_penalty: case.repetition_penalty,
                ..GenerateOptions::default()
            };
            let logits = &table.logits[case.row];
            let penalized = penalize(logits, &case.seen, case.repetition_penalty);
            let kept = candidates(penalized.as_ref().unwrap_or(logits), &options);
            let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
            let mut ours = vec![0.0; logits.len()];
            kept.iter()
                .for_each(|&(token, weight)| ours[token as usize] = weight / total);
            for (token, (ours, theirs)) in ours.iter().zip(&case.probabilities).enumerate() {
                assert!(
                    (ours - theirs).abs() < 1e-6,
                    "case {number}, token {token}: {ours}, expected {theirs}"
                );
            }
        }
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.0, 1.0, f32::NEG_INFINITY, 2.0];
        let options = GenerateOptions {
            temperature: 1.0,
            ..GenerateOptions::default()
        };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0usize; 4];
        (0..20_000).for_each(|_| counts[choose(&logits, &[], &options, &mut random) as usize] += 1);
        for (count, share) in counts.into_iter().zip([0.0900, 0.2447, 0.0, 0.6652]) {
            assert!((count as f64 / 20_000.0 - share).abs() < 0.01, "{counts:?}");
        }
    }
}
