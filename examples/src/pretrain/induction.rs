//! The copying circuit (previous-token and induction heads), written into initial weights by hand.
//!
//! - Layer 0: half of the heads attend to the previous token, half to the one before it. Each writes the token it attends to into the
//!   residual stream, rotated by an orthogonal matrix of its own so that it can be told from the token at that position.
//! - Layer 1: half of the heads attend to positions whose *previous* token equals the current one, half to positions whose token *two
//!   back* equals the previous one. All copy the token at that position.
//!
//! The model does not copy yet with these weights; after a few hundred training steps it does.

use std::collections::BTreeMap;

use pear_models::DecoderConfig;

use crate::random::Random;

/// Norm of queries and keys that depend on positions alone (layer 0).
const POSITION_SCORES: f32 = 0.6;
/// Norm of what a head of layer 0 writes, relative to a token's embedding.
const SHIFTED: f32 = 0.3;
/// Norm of queries and keys that match tokens (layer 1).
const MATCH: f32 = 3.5;
/// Norm of what a head of layer 1 writes, relative to a token's embedding.
const COPIED: f32 = 0.4;

/// The embedding and the attention weights of layers 0 and 1 by path, matrices as in burn's `Linear`: `[in, out]`.
pub(super) fn circuit(
    config: &DecoderConfig,
    rope_theta: f64,
    random: &mut Random,
) -> BTreeMap<String, Vec<f32>> {
    let width = config.hidden_size;
    let attention = &config.layers[0].attention;
    let heads = attention.num_attention_heads;
    let head_dim = attention.head_dim;
    let half = heads / 2;

    // One direction is common to all tokens: queries and keys that depend on positions alone read it. The others represent tokens and
    // are divided between the heads.
    let basis = orthonormal(width, random);
    let (shared, token_directions) = (&basis[0], &basis[1..]);
    let nothing = vec![0.0; width];
    let part = |head: usize| -> Rows {
        (head * head_dim..(head + 1) * head_dim)
            .map(|i| token_directions.get(i).unwrap_or(&nothing).clone())
            .collect()
    };
    let rotations = [orthonormal(width, random), orthonormal(width, random)];

    let embedding: Rows = (0..config.vocab_size)
        .map(|_| {
            let mut token = random.normal(width, 1.0);
            remove(&mut token, shared);
            normalize(&mut token);
            token.iter().zip(shared).map(|(t, s)| t + s).collect()
        })
        .collect();

    let pairs = head_dim / 2;
    let frequencies: Vec<f64> = (0..pairs)
        .map(|i| rope_theta.powf(-2.0 * i as f64 / head_dim as f64))
        .collect();
    let mut layers = [Heads::default(), Heads::default()];
    for head in 0..heads {
        let (back, index) = if head < half {
            (1, head)
        } else {
            (2, head - half)
        };
        let part_here = part(index);
        let shifted = rotated(&part_here, &rotations[back - 1]);

        // The rotary embedding turns this query and key parallel where the key is `back` positions before the query.
        let angles = frequencies.iter().map(|f| back as f64 * f);
        let query = angles.clone().map(f64::cos).chain(angles.map(|a| -a.sin()));
        let key = (0..head_dim).map(|i| if i < pairs { 1.0 } else { 0.0 });
        let along_shared = |numbers: &mut dyn Iterator<Item = f64>| -> Rows {
            numbers
                .map(|x| {
                    shared
                        .iter()
                        .map(|s| POSITION_SCORES * x as f32 * s)
                        .collect()
                })
                .collect()
        };
        layers[0].query.extend(along_shared(&mut query.into_iter()));
        layers[0].key.extend(along_shared(&mut key.into_iter()));
        layers[0].output.extend(scaled(&shifted, SHIFTED));
        layers[0].value.extend(part_here.clone());

        let sought = if back == 1 {
            part_here
        } else {
            rotated(&part_here, &rotations[0])
        };
        let copied = part((index + half) % heads);
        layers[1].query.extend(scaled(&sought, MATCH));
        layers[1].key.extend(scaled(&shifted, MATCH));
        layers[1].output.extend(scaled(&copied, COPIED));
        layers[1].value.extend(copied);
    }

    let mut weights = BTreeMap::from([("embed_tokens".to_string(), embedding.concat())]);
    for (layer, heads) in layers.into_iter().enumerate() {
        let matrices = [
            ("q_proj", transposed(&heads.query)),
            ("k_proj", transposed(&heads.key)),
            ("v_proj", transposed(&heads.value)),
            ("o_proj", heads.output.concat()),
        ];
        weights.extend(
            matrices.map(|(name, numbers)| {
                (format!("layers.{layer}.self_attn.{name}.weight"), numbers)
            }),
        );
    }
    weights
}

/// A matrix; within [`Heads`], `head_dim` rows for each head.
type Rows = Vec<Vec<f32>>;

/// For each channel of each head, the direction of the residual stream that it reads (query, key, value) or writes (output).
#[derive(Default)]
struct Heads {
    query: Rows,
    key: Rows,
    value: Rows,
    output: Rows,
}

fn transposed(rows: &Rows) -> Vec<f32> {
    (0..rows[0].len())
        .flat_map(|column| rows.iter().map(move |row| row[column]))
        .collect()
}

fn scaled(rows: &Rows, factor: f32) -> Rows {
    rows.iter()
        .map(|row| row.iter().map(|x| factor * x).collect())
        .collect()
}

/// Each row multiplied by `rotation`.
fn rotated(rows: &Rows, rotation: &Rows) -> Rows {
    rows.iter()
        .map(|row| rotation.iter().map(|r| dot(r, row)).collect())
        .collect()
}

/// A random orthonormal basis (Gram–Schmidt).
fn orthonormal(width: usize, random: &mut Random) -> Rows {
    let mut basis = Rows::with_capacity(width);
    for _ in 0..width {
        let mut vector = random.normal(width, 1.0);
        // Twice, since rounding leaves a small part the first time.
        for _ in 0..2 {
            basis.iter().for_each(|other| remove(&mut vector, other));
            normalize(&mut vector);
        }
        basis.push(vector);
    }
    basis
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Removes the component along `direction`, a unit vector, from `vector`.
fn remove(vector: &mut [f32], direction: &[f32]) {
    let along = dot(vector, direction);
    vector
        .iter_mut()
        .zip(direction)
        .for_each(|(x, d)| *x -= along * d);
}

fn normalize(vector: &mut [f32]) {
    let length = dot(vector, vector).sqrt();
    vector.iter_mut().for_each(|x| *x /= length);
}
