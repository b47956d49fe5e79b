//! The copying circuit, put into initial weights by hand.
//!
//! - Layer 0: half of the heads look one token back, half look two tokens back, wherever they stand; each writes what it saw into
//!   the residual stream, turned by a rotation of its own so that it can be told from the token itself.
//! - Layer 1: half of the heads look for the place whose token *before* is the present token, half for the place where the token
//!   *two before* is the one before the present; all copy the token that stands there.
//!
//! By itself this does not copy yet: training does that.

use std::collections::BTreeMap;

use pear_models::DecoderConfig;

use crate::random::Random;

/// Length of queries and keys that look at positions only (layer 0).
const POSITION_SCORES: f32 = 0.6;
/// What a head of layer 0 writes, against the token itself.
const SHIFTED: f32 = 0.3;
/// Length of queries and keys that look for a token (layer 1).
const MATCH: f32 = 3.5;
/// What a head of layer 1 copies, against the token itself.
const COPIED: f32 = 0.4;
/// The embedding and the attention of layers 0 and 1, by path and as burn's `Linear` holds them: `[in, out]`.
pub(super) fn circuit(
    config: &DecoderConfig,
    rope_theta: f64,
    random: &mut Random,
) -> BTreeMap<String, Vec<f32>> {
    let width = config.hidden_size;
    let attention = &config.layers[0].attention;
    let (heads, head_dim) = (attention.num_attention_heads, attention.head_dim);
    let half = heads / 2;

    // One direction that all tokens share and that positions are looked up by; the others, for tokens, are cut into heads.
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
        let shifted = turned(&part_here, &rotations[back - 1]);

        // A query rotated back by `back` positions meets a key rotated by none exactly there.
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
            turned(&part_here, &rotations[0])
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

/// What each channel of each head reads from (query, key, value) or writes to (output) the residual stream.
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

/// Each row through `rotation`.
fn turned(rows: &Rows, rotation: &Rows) -> Rows {
    rows.iter()
        .map(|row| rotation.iter().map(|r| dot(r, row)).collect())
        .collect()
}

/// A random orthonormal basis (Gram–Schmidt).
fn orthonormal(width: usize, random: &mut Random) -> Rows {
    let mut basis = Rows::with_capacity(width);
    for _ in 0..width {
        let mut vector = random.normal(width, 1.0);
        // Twice: what rounding leaves the first time, the second removes.
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

/// Takes the part along `direction`, of length 1, out of `vector`.
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
