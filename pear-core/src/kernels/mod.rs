//! The parts of a layer, each in one pass.
//!
//! On the CPU, a chain of elementwise tensor operations costs as much as the matrix products between them: each reads and
//! writes memory, takes a new buffer, and runs on one core with one scalar `exp` after the other. With this crate's feature `flex` these
//! functions run there as one vectorised loop over all cores, with a backward pass of their own, in f32 and, rounded where each operation
//! would be, in bf16. On every other device, in every other dtype and without the feature they are the tensor operations that define them.

#[cfg(feature = "cpu")]
mod flex;
#[cfg(feature = "cpu")]
mod math;

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use burn::nn::Linear;
use burn::prelude::*;
use burn::tensor::{DType, activation};

use crate::score_config::AttentionScoreConfig;

/// The nonlinearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// With the error function.
    Gelu,
    /// With the tanh approximation (`gelu_new`, `gelu_pytorch_tanh`, BLOOM's own).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// `x · weight + bias` for `x` of `[batch, seq, in]`, `weight` of `[in, out]` (or a view of `[out, in]`) and `bias` of `[out]`.
///
/// Products of many rows are cut in pieces that cores take as they get free: where one core is slower or busy, nobody waits for it.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    #[cfg(feature = "cpu")]
    {
        let rows = x.dims()[0] * x.dims()[1];
        let same = x.dtype() == weight.dtype()
            && bias.as_ref().is_none_or(|bias| bias.dtype() == x.dtype());
        let frozen = !weight.is_tracked() && bias.as_ref().is_none_or(|bias| !bias.is_tracked());
        // Several rows are summed in the same order however many they are: parts of a sweep give what the whole gives, bit for bit. In half
        // precision the backend would widen all of the weight each time.
        let pays = rows == 1 || rows >= flex::MANY_ROWS || x.dtype() != DType::F32;
        if pays && same && frozen && flex::serves_half(&x) && flex::serves_half(&weight) {
            return flex::linear(x, weight, bias);
        }
    }
    burn::tensor::module::linear(x, weight, bias)
}

/// [`linear`] with the weights of a burn layer.
pub fn linear_forward(layer: &Linear, x: Tensor<3>) -> Tensor<3> {
    linear(
        x,
        layer.weight.val(),
        layer.bias.as_ref().map(|bias| bias.val()),
    )
}

/// `x` in another float type, of any shape.
pub(crate) fn cast<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype {
        return x;
    }
    #[cfg(feature = "cpu")]
    if matches!(dtype, DType::F32 | DType::BF16) && flex::serves_half(&x) {
        return flex::cast(x, dtype);
    }
    x.cast(dtype)
}

/// The type to multiply tensors of this one's type in: on the CPU f32 for bf16, which every product would widen anew.
pub(crate) fn product_dtype<const D: usize>(x: &Tensor<D>) -> DType {
    #[cfg(feature = "cpu")]
    if flex::serves_half(x) {
        return DType::F32;
    }
    x.dtype()
}

/// `act(x)`, of any shape.
pub fn activate<const D: usize>(kind: Activation, x: Tensor<D>) -> Tensor<D> {
    let dtype = x.dtype();
    if is_half(dtype) {
        return cast(activate(kind, cast(x, DType::F32)), dtype);
    }
    #[cfg(feature = "cpu")]
    if flex::serves(&x) {
        return flex::activate(kind, x);
    }
    activate_composed(kind, x)
}

/// `act(gate) · up`, both of the same shape.
pub fn activate_gated<const D: usize>(
    kind: Activation,
    gate: Tensor<D>,
    up: Tensor<D>,
) -> Tensor<D> {
    let dtype = gate.dtype();
    if is_half(dtype) {
        return cast(
            activate_gated(kind, cast(gate, DType::F32), cast(up, DType::F32)),
            dtype,
        );
    }
    #[cfg(feature = "cpu")]
    if flex::serves(&gate) && flex::serves(&up) {
        return flex::activate_gated(kind, gate, up);
    }
    activate_composed(kind, gate) * up
}

fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

fn activate_composed<const D: usize>(kind: Activation, x: Tensor<D>) -> Tensor<D> {
    match kind {
        Activation::Silu => x.clone() * activation::sigmoid(x),
        // Not burn's own, which in backward passes is another function: that of the form with tanh.
        Activation::Gelu => x.clone() * 0.5 * ((x * FRAC_1_SQRT_2).erf() + 1.0),
        Activation::GeluTanh => {
            // (1 + tanh(u)) / 2 = sigmoid(2u), and one sigmoid is cheaper than a tanh.
            let cubic = x.clone().square() * x.clone() * 0.044715 + x.clone();
            x * activation::sigmoid(cubic * (2.0 * FRAC_2_PI.sqrt()))
        }
        Activation::Relu => activation::relu(x),
    }
}

/// Root-mean-square norm over the last dimension, in f32, times `weight`, which is as long as that dimension. In half precision it is
/// rounded before the weight and after, as Llama's is.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    #[cfg(feature = "cpu")]
    if flex::serves_half(&x)
        && x.dtype() == weight.dtype()
        && flex::serves_half(&weight)
        && !weight.is_tracked()
    {
        return flex::rms_norm(x, weight, eps);
    }
    rms_norm_composed(x, weight, eps)
}

/// As [`rms_norm`], but rounded only after the weight, as OLMo 2's and Gemma's are.
pub fn rms_norm_rounded_once<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    eps: f64,
) -> Tensor<D> {
    let dtype = x.dtype();
    cast(
        rms_norm(cast(x, DType::F32), cast(weight, DType::F32), eps),
        dtype,
    )
}

fn rms_norm_composed<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let scale = (x.clone().square().mean_dim(D - 1) + eps).sqrt().recip();
    (x * scale).cast(dtype) * weight.unsqueeze::<D>()
}

/// Attention of the last few of the positions that keys and values hold, each of which sees those up to its own; shapes as in
/// [`attend`](crate::attend), `bias` broadcastable to `[batch, heads, queries, keys]`. `None` where it is nothing for this kernel.
pub(crate) fn attend_few(
    query: &Tensor<4>,
    key: &Tensor<4>,
    value: &Tensor<4>,
    bias: Option<&Tensor<4>>,
    options: AttentionScoreConfig,
) -> Option<Tensor<4>> {
    #[cfg(feature = "cpu")]
    {
        let [_, _, queries, head_dim] = query.dims();
        let plain =
            |x: &Tensor<4>| !x.is_autodiff() && x.dtype() == query.dtype() && flex::serves_half(x);
        if queries <= flex::FEW_ROWS
            && [query, key, value].into_iter().all(plain)
            && bias.is_none_or(flex::serves)
        {
            let scale = options
                .scale
                .unwrap_or_else(|| (head_dim as f64).sqrt().recip()) as f32;
            let scoring = flex::Scoring {
                scale,
                soft_cap: options.soft_cap.map(|cap| cap as f32),
                window: options.window,
            };
            return Some(flex::attend_cached(
                query.clone(),
                key.clone(),
                value.clone(),
                bias.cloned(),
                scoring,
            ));
        }
    }
    let _ = (query, key, value, bias, options);
    None
}

/// Softmax over the last dimension of scores `[batch, heads, queries, keys]`, f32, where query `i` sees no key after `first_query + i`
/// and, with a window, only the last `window` of those before it.
pub(crate) fn causal_softmax(
    scores: Tensor<4>,
    first_query: usize,
    window: Option<usize>,
) -> Tensor<4> {
    #[cfg(feature = "cpu")]
    if flex::serves(&scores) {
        return flex::causal_softmax(scores, first_query, window);
    }
    causal_softmax_composed(scores, first_query, window)
}

fn causal_softmax_composed(
    scores: Tensor<4>,
    first_query: usize,
    window: Option<usize>,
) -> Tensor<4> {
    let [_, _, queries, keys] = scores.dims();
    let device = scores.device();
    let scores = match causal_mask(first_query, queries, keys, window, &device) {
        Some(mask) => scores.mask_fill(mask.unsqueeze::<4>(), f32::NEG_INFINITY),
        None => scores,
    };
    activation::softmax(scores, 3)
}

/// `[queries, keys]`, `true` where a query must not look; `None` where every query may look everywhere.
fn causal_mask(
    first_query: usize,
    queries: usize,
    keys: usize,
    window: Option<usize>,
    device: &Device,
) -> Option<Tensor<2, Bool>> {
    let hides_past = window.is_some_and(|window| window < first_query + queries);
    if queries == 1 && first_query + 1 == keys && !hides_past {
        return None;
    }
    let positions = |first: usize, len: usize| {
        Tensor::<1, Int>::arange(first as i64..(first + len) as i64, device)
    };
    let distance = positions(first_query, queries).reshape([queries, 1])
        - positions(0, keys).reshape([1, keys]);
    let future = distance.clone().lower_elem(0);
    Some(match window {
        Some(window) if hides_past => future.bool_or(distance.greater_equal_elem(window as i64)),
        _ => future,
    })
}

/// The cross-entropy of each row: `logits` is `[rows, vocab]`, `labels` has a token for each row, the result is `[rows]`, f32.
///
/// # Panics
/// If there are not as many labels as rows, or one of them is not below `vocab`.
pub fn cross_entropy(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let [rows, vocab] = logits.dims();
    assert_eq!(labels.len(), rows, "a label for each row");
    assert!(
        labels.iter().all(|&label| (label as usize) < vocab),
        "labels below {vocab}"
    );
    #[cfg(feature = "cpu")]
    if flex::serves(&logits) {
        return flex::cross_entropy(logits, labels);
    }
    cross_entropy_composed(logits, labels)
}

fn cross_entropy_composed(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let rows = labels.len();
    let labels: Vec<i32> = labels.iter().map(|&label| label as i32).collect();
    let logits = logits.cast(DType::F32);
    // The shift changes no value and so no gradient: it stays out of the graph.
    let plain = if logits.is_autodiff() {
        logits.clone().inner()
    } else {
        logits.clone()
    };
    let labels = Tensor::<2, Int>::from_data(TensorData::new(labels, [rows, 1]), &plain.device());
    let shifted = logits - plain.max_dim(1);
    let total = shifted.clone().exp().sum_dim(1).log();
    (total - shifted.gather(1, labels)).reshape([rows])
}

/// Rotates `x`, `[batch, heads, seq, head_dim]`, by angles whose cosines and sines are `[seq, rotary_dim / 2]`: channel `i` with channel
/// `i + rotary_dim / 2`, or with its neighbour if `interleaved`. Channels from `rotary_dim` on stay.
pub(crate) fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, interleaved: bool) -> Tensor<4> {
    #[cfg(feature = "cpu")]
    if flex::serves_half(&x) && x.dtype() == cos.dtype() && flex::serves_half(&cos) {
        return flex::rotate(x, cos, sin, interleaved);
    }
    rotate_composed(x, cos, sin, interleaved)
}

fn rotate_composed(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, interleaved: bool) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = x.dims();
    let half = cos.dims()[1];
    let rotary_dim = 2 * half;
    let rotated = if interleaved {
        let (cos, sin) = (
            cos.reshape([1, 1, seq, half, 1]),
            sin.reshape([1, 1, seq, half, 1]),
        );
        let pairs = x
            .clone()
            .narrow(3, 0, rotary_dim)
            .reshape([batch, heads, seq, half, 2]);
        let (a, b) = (pairs.clone().narrow(4, 0, 1), pairs.narrow(4, 1, 1));
        let rotated = vec![
            a.clone() * cos.clone() - b.clone() * sin.clone(),
            b * cos + a * sin,
        ];
        Tensor::cat(rotated, 4).reshape([batch, heads, seq, rotary_dim])
    } else {
        let (cos, sin) = (cos.unsqueeze::<4>(), sin.unsqueeze::<4>());
        let (a, b) = (
            x.clone().narrow(3, 0, half),
            x.clone().narrow(3, half, half),
        );
        Tensor::cat(
            vec![
                a.clone() * cos.clone() - b.clone() * sin.clone(),
                b * cos + a * sin,
            ],
            3,
        )
    };
    if rotary_dim == head_dim {
        return rotated;
    }
    Tensor::cat(
        vec![rotated, x.narrow(3, rotary_dim, head_dim - rotary_dim)],
        3,
    )
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 2.0), &Device::flex())
    }

    fn distance<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
        let largest: f32 = b.clone().abs().max().into_scalar();
        (a - b).abs().max().into_scalar::<f32>() / largest
    }

    /// Values of `fast` and `composed`, and their gradients under the same weights of the output.
    fn check<const D: usize, const O: usize>(
        x: Tensor<D>,
        fast: impl Fn(Tensor<D>) -> Tensor<O>,
        composed: impl Fn(Tensor<D>) -> Tensor<O>,
    ) {
        let expected = composed(x.clone());
        let weights = random(expected.dims());
        assert!(distance(fast(x.clone()), expected) < 2e-6);
        // The input is a view as well: heads are swapped out of the projection's layout.
        let gradient = |f: &dyn Fn(Tensor<D>) -> Tensor<O>| {
            let x = x.clone().autodiff().require_grad();
            let gradients = (f(x.clone() * 1.0) * weights.clone()).sum().backward();
            x.grad(&gradients).expect("a gradient")
        };
        assert!(distance(gradient(&fast), gradient(&composed)) < 5e-6);
    }

    /// As [`check`], in bf16: the same but for the last of its 8 bits where a sum was taken in another order, or a gradient rounded less often.
    fn check_half<const D: usize>(
        x: Tensor<D>,
        fast: impl Fn(Tensor<D>) -> Tensor<D>,
        composed: impl Fn(Tensor<D>) -> Tensor<D>,
    ) {
        let x = x.cast(DType::BF16);
        let weights = random(x.dims());
        let outcome = |f: &dyn Fn(Tensor<D>) -> Tensor<D>| {
            let x = x.clone().autodiff().require_grad();
            let output = f(x.clone());
            assert_eq!(output.dtype(), DType::BF16);
            let value = output.clone().inner().cast(DType::F32);
            let gradients = (output.cast(DType::F32) * weights.clone()).sum().backward();
            let gradient = x.grad(&gradients).expect("a gradient");
            assert_eq!(gradient.dtype(), DType::BF16);
            (value, gradient.cast(DType::F32))
        };
        let ((value, gradient), (expected, expected_gradient)) =
            (outcome(&fast), outcome(&composed));
        let different = (value.clone() - expected.clone())
            .abs()
            .greater_elem(0.0)
            .int()
            .sum()
            .into_scalar::<i64>() as usize;
        assert!(
            different * 500 <= x.dims().iter().product(),
            "{different} numbers differ"
        );
        assert!(distance(value, expected) < 4e-3);
        assert!(distance(gradient, expected_gradient) < 1e-2);
    }

    #[test]
    fn numbers_are_rounded_to_half_precision_and_back_as_the_backend_does() {
        Device::flex().seed(9);
        let special = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            1e-40,
            1.0 + 1.0 / 256.0,
            1.0 + 3.0 / 256.0,
        ];
        let x = Tensor::cat(
            vec![
                random([20_000]),
                Tensor::from_floats(special, &Device::flex()),
            ],
            0,
        );
        let half = cast(x.clone(), DType::BF16);
        assert_eq!(half.clone().into_data(), x.cast(DType::BF16).into_data());
        assert_eq!(
            cast(half.clone(), DType::F32).into_data(),
            half.cast(DType::F32).into_data()
        );
        let nan =
            Tensor::<1>::from_floats([f32::NAN, f32::from_bits(0x7fff_ffff)], &Device::flex());
        assert!(
            cast(nan, DType::BF16)
                .cast(DType::F32)
                .is_nan()
                .all()
                .into_scalar::<bool>()
        );
        check(
            random([3, 50]),
            |x| cast(cast(x, DType::BF16), DType::F32),
            |x| x.cast(DType::BF16).cast(DType::F32),
        );
    }

    #[test]
    fn products_and_their_gradients_are_those_of_the_backend() {
        Device::flex().seed(6);
        let composed = burn::tensor::module::linear::<3>;
        let bias = random([33]);
        // Views: a table of embeddings is read as its transpose, heads are merged by a swap.
        for weight in [
            random([40, 33]),
            random([33, 40]).transpose(),
            random([33, 50]).narrow(1, 5, 40).transpose(),
        ] {
            for x in [
                random([3, 211, 40]),
                random([211, 3, 40]).swap_dims(0, 1),
                random([2, 3, 40]),
                random([1, 1, 40]),
            ] {
                check(
                    x.clone(),
                    |x| linear(x, weight.clone(), None),
                    |x| composed(x, weight.clone(), None),
                );
                let with_bias = |f: fn(Tensor<3>, Tensor<2>, Option<Tensor<1>>) -> Tensor<3>| {
                    let (weight, bias) = (weight.clone(), bias.clone());
                    move |x| f(x, weight.clone(), Some(bias.clone()))
                };
                check(x, with_bias(linear), with_bias(composed));
            }
        }
    }

    #[test]
    fn products_in_half_precision_are_summed_in_single_and_rounded_once() {
        Device::flex().seed(7);
        let half = |x: Tensor<3>| x.cast(DType::BF16);
        let bias = random::<1>([333]).cast(DType::BF16);
        for weight in [
            random([300, 333]),
            random([333, 300]).transpose(),
            random([300, 400]).narrow(1, 5, 333),
        ] {
            let weight = weight.cast(DType::BF16);
            for x in [
                random([1, 1, 300]),
                random([2, 3, 300]),
                random([5, 20, 300]),
                random([3, 100, 300]),
            ] {
                let x = half(x);
                let expected = x
                    .clone()
                    .cast(DType::F32)
                    .matmul(weight.clone().cast(DType::F32).unsqueeze::<3>());
                let ours = linear(x.clone(), weight.clone(), None);
                assert_eq!(ours.dtype(), DType::BF16);
                // Half a unit in the last of 8 bits.
                let error = (ours.cast(DType::F32) - expected.clone()).abs()
                    - expected.clone().abs() * 0.00391;
                assert!(error.max().into_scalar::<f32>() < 1e-4);
                let ours = linear(x, weight.clone(), Some(bias.clone())).cast(DType::F32);
                assert!(
                    distance(
                        ours,
                        expected + bias.clone().cast(DType::F32).unsqueeze::<3>()
                    ) < 4e-3
                );
            }
        }
    }

    #[test]
    fn few_rows_times_a_weight_that_is_read_in_parts_are_those_of_the_backend() {
        Device::flex().seed(10);
        // Parts of the inputs, of more outputs than are read as one stream, and of the outputs.
        for shape in [[1003, 333], [1003, 2100], [40, 17_000]] {
            let weight = random(shape);
            let x = random([1, 1, shape[0]]);
            let expected = burn::tensor::module::linear(x.clone(), weight.clone(), None);
            assert!(
                distance(linear(x, weight.clone(), None), expected) < 2e-6,
                "{shape:?}"
            );
            let (x, weight) = (
                random([1, 3, shape[0]]).cast(DType::BF16),
                weight.cast(DType::BF16),
            );
            let expected = x
                .clone()
                .cast(DType::F32)
                .matmul(weight.clone().cast(DType::F32).unsqueeze::<3>());
            assert!(
                distance(linear(x, weight, None).cast(DType::F32), expected) < 4e-3,
                "{shape:?}"
            );
        }
    }

    #[test]
    fn attention_over_a_cache_is_that_of_the_composed_operations() {
        Device::flex().seed(8);
        let cache = |heads| random([2, heads, 64, 16]).narrow(2, 0, 37);
        let (key, value) = (cache(2), cache(2));
        let composed = |query: Tensor<4>,
                        bias: Option<Tensor<4>>,
                        options: AttentionScoreConfig| {
            let queries = query.dims()[2];
            let repeated = |x: &Tensor<4>| {
                Tensor::cat(
                    (0..2)
                        .flat_map(|head| vec![x.clone().narrow(1, head, 1); 3])
                        .collect(),
                    1,
                )
            };
            let mut scores =
                query.matmul(repeated(&key).swap_dims(2, 3)) * options.scale.unwrap_or(0.25);
            if let Some(cap) = options.soft_cap {
                scores = (scores / cap).tanh() * cap;
            }
            let scores = bias.map_or(scores.clone(), |bias| scores + bias);
            causal_softmax_composed(scores, 37 - queries, options.window).matmul(repeated(&value))
        };
        for queries in [1, 5] {
            let query = random([2, queries, 6, 16]).swap_dims(1, 2);
            for (bias, soft_cap, window, scale) in [
                (None, None, None, None),
                (Some([1, 6, queries, 37]), None, Some(7), None),
                (Some([1, 6, 1, 37]), Some(3.0), None, Some(0.4)),
                (Some([2, 1, 1, 37]), None, Some(100), None),
            ] {
                let (bias, options) = (
                    bias.map(random::<4>),
                    AttentionScoreConfig {
                        scale,
                        soft_cap,
                        window,
                    },
                );
                let ours = attend_few(&query, &key, &value, bias.as_ref(), options)
                    .expect("a kernel for this");
                assert!(
                    distance(ours, composed(query.clone(), bias, options)) < 2e-6,
                    "{queries} {options:?}"
                );
            }
        }
        let half = |x: &Tensor<4>| x.clone().cast(DType::BF16);
        let query = random([2, 6, 1, 16]);
        let ours = attend_few(
            &half(&query),
            &half(&key),
            &half(&value),
            None,
            AttentionScoreConfig::default(),
        )
        .expect("one for half");
        assert_eq!(ours.dtype(), DType::BF16);
        assert!(
            distance(
                ours.cast(DType::F32),
                composed(query, None, AttentionScoreConfig::default())
            ) < 0.03
        );
    }

    #[test]
    fn activations_and_their_gradients_are_those_of_the_composed_operations() {
        Device::flex().seed(1);
        // More than a block, and not a whole number of vectors.
        let (x, up) = (random([3, 5, 999]), random([3, 5, 999]));
        for kind in [
            Activation::Silu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Relu,
        ] {
            check(
                x.clone(),
                |x| activate(kind, x),
                |x| activate_composed(kind, x),
            );
            check(
                x.clone(),
                |x| activate_gated(kind, x, up.clone()),
                |x| activate_composed(kind, x) * up.clone(),
            );
            check(
                up.clone(),
                |up| activate_gated(kind, x.clone(), up),
                |up| activate_composed(kind, x.clone()) * up,
            );
        }
    }

    #[test]
    fn norms_and_their_gradients_are_those_of_the_composed_operations() {
        Device::flex().seed(2);
        let weight = random([130]);
        check(
            random([2, 90, 130]),
            |x| rms_norm(x, weight.clone(), 1e-3),
            |x| rms_norm_composed(x, weight.clone(), 1e-3),
        );
        let view = random([2, 7, 3, 130]).swap_dims(1, 2);
        check(
            view,
            |x| rms_norm(x, weight.clone(), 1e-3),
            |x| rms_norm_composed(x, weight.clone(), 1e-3),
        );
        let weight = weight.cast(DType::BF16);
        check_half(
            random([2, 90, 130]),
            |x| rms_norm(x, weight.clone(), 1e-3),
            |x| rms_norm_composed(x, weight.clone(), 1e-3),
        );
    }

    #[test]
    fn softmax_sees_what_it_may_and_nothing_else() {
        Device::flex().seed(3);
        for (queries, keys, window) in [
            (37, 37, None),
            (5, 37, None),
            (1, 37, None),
            (37, 37, Some(4)),
            (1, 37, Some(4)),
        ] {
            let first = keys - queries;
            let scores = random([2, 3, queries, keys]);
            check(
                scores,
                |x| causal_softmax(x, first, window),
                |x| causal_softmax_composed(x, first, window),
            );
        }
    }

    #[test]
    fn losses_and_their_gradients_are_those_of_the_composed_operations() {
        Device::flex().seed(4);
        let labels: Vec<u32> = (0..40).map(|row| row * 7 % 301).collect();
        check(
            random([40, 301]),
            |x| cross_entropy(x, &labels),
            |x| cross_entropy_composed(x, &labels),
        );
    }

    #[test]
    fn rotations_and_their_gradients_are_those_of_the_composed_operations() {
        Device::flex().seed(5);
        let angles = random([30, 8]);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let view = random([2, 30, 3, 20]).swap_dims(1, 2);
        for interleaved in [false, true] {
            for x in [
                view.clone(),
                random([2, 3, 30, 20]),
                view.clone().narrow(3, 2, 16),
            ] {
                let rotate_by = |f: fn(Tensor<4>, Tensor<2>, Tensor<2>, bool) -> Tensor<4>| {
                    let (cos, sin) = (cos.clone(), sin.clone());
                    move |x| f(x, cos.clone(), sin.clone(), interleaved)
                };
                check(x.clone(), rotate_by(rotate), rotate_by(rotate_composed));
                let half_by = |f: fn(Tensor<4>, Tensor<2>, Tensor<2>, bool) -> Tensor<4>| {
                    let (cos, sin) = (cos.clone().cast(DType::BF16), sin.clone().cast(DType::BF16));
                    move |x| f(x, cos.clone(), sin.clone(), interleaved)
                };
                check_half(x, half_by(rotate), half_by(rotate_composed));
            }
        }
    }

    #[test]
    fn a_tensor_that_others_hold_is_not_changed() {
        let x = random([4, 8]);
        let before = x.clone().into_data();
        let _ = activate(Activation::Silu, x.clone());
        let _ = activate_gated(Activation::Silu, x.clone(), x.clone());
        let _ = causal_softmax(x.clone().reshape([1, 1, 4, 8]), 4, None);
        assert_eq!(x.into_data(), before);
    }
}
