//! The same on burn's CPU backend.

mod attend;
mod product;
mod stored;

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, Backend, Dispatch, DispatchDevice, Flex, TensorMetadata, backend_extension,
};
use burn::prelude::*;
use burn::tensor::DType;
use rayon::prelude::*;

use super::Activation;
use super::math::{Function, exp, with_function};
pub(super) use attend::{Scoring, attend_cached};
pub(super) use product::{FEW_ROWS, MANY_ROWS};
use product::{Weight, dot};
use stored::{Stored, with_stored};

type FlexTensor = FloatTensor<Flex>;

/// Whether a tensor is one that these kernels read.
pub(super) fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_here(x)
}

/// Whether a tensor is one that those kernels read which know bf16, too.
pub(super) fn serves_half<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.dtype(), DType::F32 | DType::BF16) && is_here(x)
}

fn is_here<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

pub(super) fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(match bias {
        Some(bias) => Dispatch::linear_with_bias(x, weight, bias.into_dispatch()),
        None => Dispatch::linear_without_bias(x, weight),
    })
}

/// Between f32 and bf16.
pub(super) fn cast<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::convert(x.into_dispatch(), dtype))
}

pub(super) fn activate<const D: usize>(kind: Activation, x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::activate(x.into_dispatch(), kind))
}

pub(super) fn activate_gated<const D: usize>(
    kind: Activation,
    gate: Tensor<D>,
    up: Tensor<D>,
) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::activate_gated(
        gate.into_dispatch(),
        up.into_dispatch(),
        kind,
    ))
}

pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::rms_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        eps as f32,
    ))
}

pub(super) fn causal_softmax(
    scores: Tensor<4>,
    first_query: usize,
    window: Option<usize>,
) -> Tensor<4> {
    let window = window.unwrap_or(usize::MAX);
    Tensor::from_dispatch(Dispatch::causal_softmax(
        scores.into_dispatch(),
        first_query,
        window,
    ))
}

pub(super) fn cross_entropy(logits: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::cross_entropy_of(
        logits.into_dispatch(),
        labels.to_vec(),
    ))
}

pub(super) fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, interleaved: bool) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::rotate(
        x.into_dispatch(),
        cos.into_dispatch(),
        sin.into_dispatch(),
        interleaved,
    ))
}

/// Entry points of the kernels, plain and under autodiff.
#[backend_extension(Flex, Autodiff)]
trait Kernels: Backend {
    fn linear_without_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self>;
    fn linear_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
    fn convert(x: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self>;
    fn activate(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self>;
    fn activate_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        kind: Activation,
    ) -> FloatTensor<Self>;
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;
    fn causal_softmax(
        scores: FloatTensor<Self>,
        first_query: usize,
        window: usize,
    ) -> FloatTensor<Self>;
    fn cross_entropy_of(logits: FloatTensor<Self>, labels: Vec<u32>) -> FloatTensor<Self>;
    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        interleaved: bool,
    ) -> FloatTensor<Self>;
}

impl Kernels for Flex {
    fn linear_without_bias(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        Weight(weight).multiply(x, None)
    }

    fn linear_with_bias(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        Weight(weight).multiply(x, Some(bias))
    }

    fn convert(x: FlexTensor, dtype: DType) -> FlexTensor {
        stored::cast(x, dtype)
    }

    fn activate(x: FlexTensor, kind: Activation) -> FlexTensor {
        with_function!(kind, F => map(x, F::value))
    }

    fn activate_gated(gate: FlexTensor, up: FlexTensor, kind: Activation) -> FlexTensor {
        with_function!(kind, F => zip(gate, up, #[inline(always)] |gate, up| F::value(gate) * up))
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        RmsNorm { x, weight, eps }.forward()
    }

    fn causal_softmax(scores: FlexTensor, first_query: usize, window: usize) -> FlexTensor {
        softmax_rows(scores, first_query, window)
    }

    fn cross_entropy_of(logits: FlexTensor, labels: Vec<u32>) -> FlexTensor {
        CrossEntropy { logits, labels }.forward()
    }

    fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, interleaved: bool) -> FlexTensor {
        Rotation {
            cos,
            sin,
            interleaved,
        }
        .apply(x, 1.0)
    }
}

impl<C: CheckpointStrategy> Kernels for Autodiff<Flex, C> {
    fn linear_without_bias(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let weight = Weight(weight.primitive().clone());
        let output = weight.multiply(x, None);
        track::<C, _, 1>([node], weight, output)
    }

    fn linear_with_bias(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let weight = Weight(weight.primitive().clone());
        let output = weight.multiply(x, Some(bias.primitive().clone()));
        track::<C, _, 1>([node], weight, output)
    }

    fn convert(x: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let before = Cast { from: x.dtype() };
        track::<C, _, 1>([node], before, stored::cast(x, dtype))
    }

    fn activate(x: FloatTensor<Self>, kind: Activation) -> FloatTensor<Self> {
        let (input, node) = (x.primitive().clone(), x.node());
        let output = Flex::activate(input.clone(), kind);
        track::<C, _, 1>([node], Activated { kind, x: input }, output)
    }

    fn activate_gated(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        kind: Activation,
    ) -> FloatTensor<Self> {
        let kernel = Gated {
            kind,
            gate: gate.primitive().clone(),
            up: up.primitive().clone(),
        };
        let output = Flex::activate_gated(kernel.gate.clone(), kernel.up.clone(), kind);
        track::<C, _, 2>([gate.node(), up.node()], kernel, output)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let kernel = RmsNorm {
            x: x.primitive().clone(),
            weight: weight.primitive().clone(),
            eps,
        };
        let output = kernel.forward();
        track::<C, _, 1>([x.node()], kernel, output)
    }

    fn causal_softmax(
        scores: FloatTensor<Self>,
        first_query: usize,
        window: usize,
    ) -> FloatTensor<Self> {
        let (scores, node) = scores.into_parts();
        let weights = Flex::causal_softmax(scores, first_query, window);
        track::<C, _, 1>(
            [node],
            Softmax {
                weights: weights.clone(),
            },
            weights,
        )
    }

    fn cross_entropy_of(logits: FloatTensor<Self>, labels: Vec<u32>) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        let kernel = CrossEntropy { logits, labels };
        let output = kernel.forward();
        track::<C, _, 1>([node], kernel, output)
    }

    fn rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        interleaved: bool,
    ) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let kernel = Rotation {
            cos: cos.primitive().clone(),
            sin: sin.primitive().clone(),
            interleaved,
        };
        let output = kernel.apply(x, 1.0);
        track::<C, _, 1>([node], kernel, output)
    }
}

/// What a kernel keeps for its way back: gradients of its inputs from that of its output.
trait Pullback<const N: usize>: Clone + std::fmt::Debug + Send + 'static {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; N];
}

#[derive(Debug)]
struct Differentiate<P>(PhantomData<P>);

impl<P: Pullback<N> + Sync, const N: usize> Backward<Flex, N> for Differentiate<P> {
    type State = P;

    fn backward(self, ops: Ops<P, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        for (parent, grad) in ops.parents.into_iter().zip(ops.state.pull(grad)) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, grad);
            }
        }
    }
}

/// The output as a node of the graph, if one of its inputs is.
fn track<C: CheckpointStrategy, P: Pullback<N> + Sync, const N: usize>(
    inputs: [NodeGuard; N],
    pullback: P,
    output: FlexTensor,
) -> FloatTensor<Autodiff<Flex, C>> {
    match Differentiate(PhantomData)
        .prepare::<C>(inputs)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(step) => step.finish(pullback, output),
        OpsKind::UnTracked(step) => step.finish(output),
    }
}

#[derive(Clone, Debug)]
struct Cast {
    from: DType,
}

impl Pullback<1> for Cast {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; 1] {
        [stored::cast(grad, self.from)]
    }
}

#[derive(Clone, Debug)]
struct Activated {
    kind: Activation,
    x: FlexTensor,
}

impl Pullback<1> for Activated {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; 1] {
        [
            with_function!(self.kind, F => zip(grad, self.x, #[inline(always)] |grad, x| grad * F::value_and_slope(x).1)),
        ]
    }
}

#[derive(Clone, Debug)]
struct Gated {
    kind: Activation,
    gate: FlexTensor,
    up: FlexTensor,
}

impl Pullback<2> for Gated {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; 2] {
        let grad = grad.to_contiguous();
        let (mut to_gate, mut to_up) = (self.gate.into_data(), self.up.into_data());
        let (gate, up) = (values_mut(&mut to_gate), values_mut(&mut to_up));
        let parts = gate
            .par_chunks_mut(BLOCK)
            .zip(up.par_chunks_mut(BLOCK))
            .zip(values::<f32>(&grad).par_chunks(BLOCK));
        with_function!(self.kind, F => parts.for_each(|((gate, up), grad)| vectorised(#[inline(always)] || {
            for ((gate, up), &grad) in gate.iter_mut().zip(up.iter_mut()).zip(grad) {
                let (value, slope) = F::value_and_slope(*gate);
                (*gate, *up) = (grad * *up * slope, grad * value);
            }
        })));
        [FlexTensor::from_data(to_gate), FlexTensor::from_data(to_up)]
    }
}

#[derive(Clone, Debug)]
struct RmsNorm {
    x: FlexTensor,
    weight: FlexTensor,
    eps: f32,
}

impl RmsNorm {
    fn forward(&self) -> FlexTensor {
        with_stored!(self.x, T => self.forward_in::<T>())
    }

    fn forward_in<T: Stored>(&self) -> FlexTensor {
        let (x, weight) = (self.x.to_contiguous(), self.weight.to_contiguous());
        let (x_values, weight, width) = (
            values::<T>(&x),
            values::<T>(&weight),
            weight.shape().num_elements(),
        );
        let output = filled(
            x_values.len(),
            width,
            #[inline(always)]
            |first, out| {
                let rows = x_values[first * width..].chunks_exact(width);
                for (out, x) in out.chunks_exact_mut(width).zip(rows) {
                    let scale = self.scale(x);
                    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
                        out.write(T::narrow(
                            T::narrow(x.widen() * scale).widen() * weight.widen(),
                        ));
                    }
                }
            },
        );
        tensor(output, x.shape())
    }

    #[inline(always)]
    fn scale<T: Stored>(&self, x: &[T]) -> f32 {
        (sum(
            x,
            #[inline(always)]
            |x| x.widen() * x.widen(),
        ) / x.len() as f32
            + self.eps)
            .sqrt()
            .recip()
    }
}

impl Pullback<1> for RmsNorm {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; 1] {
        let dtype = grad.dtype();
        let in_single = |x: &FlexTensor| stored::cast(x.to_contiguous(), DType::F32);
        let (x, weight) = (in_single(&self.x), in_single(&self.weight));
        let (x, weight) = (values::<f32>(&x), values::<f32>(&weight));
        let width = weight.len();
        let mut grad = stored::cast(grad, DType::F32).into_data();
        in_blocks(
            values_mut(&mut grad),
            width,
            #[inline(always)]
            |first, grad| {
                let rows = x[first * width..].chunks_exact(width);
                for (grad, x) in grad.chunks_exact_mut(width).zip(rows) {
                    let scale = self.scale(x);
                    grad.iter_mut()
                        .zip(weight)
                        .for_each(|(grad, weight)| *grad *= weight);
                    let along = scale * scale * dot(grad, x) / width as f32;
                    grad.iter_mut()
                        .zip(x)
                        .for_each(|(grad, x)| *grad = scale * (*grad - x * along));
                }
            },
        );
        [stored::cast(FlexTensor::from_data(grad), dtype)]
    }
}

/// In place if nobody else holds the scores.
fn softmax_rows(scores: FlexTensor, first_query: usize, window: usize) -> FlexTensor {
    let shape = scores.shape();
    let (queries, keys) = (shape[2], shape[3]);
    let mut scores = scores.into_data();
    in_blocks(
        values_mut(&mut scores),
        keys,
        #[inline(always)]
        |first, rows| {
            for (row, scores) in (first..).zip(rows.chunks_exact_mut(keys)) {
                let end = (first_query + row % queries + 1).min(keys);
                let start = (first_query + row % queries + 1)
                    .saturating_sub(window)
                    .min(end);
                scores[..start].fill(0.0);
                scores[end..].fill(0.0);
                let seen = &mut scores[start..end];
                let highest = max(seen);
                seen.iter_mut().for_each(|x| *x = exp(*x - highest));
                let scale = sum(
                    seen,
                    #[inline(always)]
                    |x| x,
                )
                .recip();
                seen.iter_mut().for_each(|x| *x *= scale);
            }
        },
    );
    FlexTensor::from_data(scores)
}

#[derive(Clone, Debug)]
struct Softmax {
    weights: FlexTensor,
}

impl Pullback<1> for Softmax {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; 1] {
        let keys = grad.shape()[3];
        let weights = self.weights.to_contiguous();
        let weights = values::<f32>(&weights);
        let mut grad = grad.into_data();
        in_blocks(
            values_mut(&mut grad),
            keys,
            #[inline(always)]
            |first, rows| {
                for (grad, weights) in rows
                    .chunks_exact_mut(keys)
                    .zip(weights[first * keys..].chunks_exact(keys))
                {
                    let along = dot(grad, weights);
                    grad.iter_mut()
                        .zip(weights)
                        .for_each(|(grad, weight)| *grad = weight * (*grad - along));
                }
            },
        );
        [FlexTensor::from_data(grad)]
    }
}

#[derive(Clone, Debug)]
struct CrossEntropy {
    logits: FlexTensor,
    labels: Vec<u32>,
}

impl CrossEntropy {
    fn forward(&self) -> FlexTensor {
        let logits = self.logits.to_contiguous();
        let (logits, vocab) = (values(&logits), self.logits.shape()[1]);
        let rows = logits.par_chunks_exact(vocab).zip(&self.labels);
        let losses: Vec<f32> = rows
            .map(|(logits, &label)| {
                vectorised(
                    #[inline(always)]
                    || {
                        let highest = max(logits);
                        sum(
                            logits,
                            #[inline(always)]
                            |x| exp(x - highest),
                        )
                        .ln()
                            + highest
                            - logits[label as usize]
                    },
                )
            })
            .collect();
        tensor(losses, Shape::new([self.labels.len()]))
    }
}

impl Pullback<1> for CrossEntropy {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; 1] {
        let (vocab, grad) = (self.logits.shape()[1], grad.to_contiguous());
        let mut logits = self.logits.into_data();
        let rows = values_mut(&mut logits).par_chunks_exact_mut(vocab);
        rows.zip(self.labels)
            .zip(values(&grad))
            .for_each(|((logits, label), grad)| {
                vectorised(
                    #[inline(always)]
                    || {
                        let highest = max(logits);
                        logits.iter_mut().for_each(|x| *x = exp(*x - highest));
                        let scale = grad
                            / sum(
                                logits,
                                #[inline(always)]
                                |x| x,
                            );
                        logits.iter_mut().for_each(|x| *x *= scale);
                        logits[label as usize] -= grad;
                    },
                );
            });
        [FlexTensor::from_data(logits)]
    }
}

#[derive(Clone, Debug)]
struct Rotation {
    cos: FlexTensor,
    sin: FlexTensor,
    interleaved: bool,
}

impl Rotation {
    /// From a view with the heads anywhere to a contiguous tensor; `direction` −1 turns back.
    fn apply(&self, x: FlexTensor, direction: f32) -> FlexTensor {
        with_stored!(x, T => self.apply_in::<T>(x, direction))
    }

    fn apply_in<T: Stored>(&self, x: FlexTensor, direction: f32) -> FlexTensor {
        let x = if x.layout().strides()[3] == 1 {
            x
        } else {
            x.to_contiguous()
        };
        let (cos, sin) = (self.cos.to_contiguous(), self.sin.to_contiguous());
        let (cos, sin, half) = (values::<T>(&cos), values::<T>(&sin), self.cos.shape()[1]);
        let (shape, strides, offset) = (x.shape(), x.layout().strides(), x.layout().start_offset());
        let (heads, seq, width) = (shape[1], shape[2], shape[3]);
        let source: &[T] = x.storage();
        let output = filled(
            shape.num_elements(),
            width,
            #[inline(always)]
            |first, out| {
                for (row, out) in (first..).zip(out.chunks_exact_mut(width)) {
                    let (position, head, sample) =
                        (row % seq, row / seq % heads, row / seq / heads);
                    let start = sample as isize * strides[0]
                        + head as isize * strides[1]
                        + position as isize * strides[2];
                    let start = offset + start as usize;
                    let x = &source[start..start + width];
                    let angles = position * half..(position + 1) * half;
                    let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
                    let (turned, rest) = out.split_at_mut(2 * half);
                    if self.interleaved {
                        let pairs = turned.chunks_exact_mut(2).zip(x.chunks_exact(2));
                        for ((out, x), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                            let (cos, sin) = (cos.widen(), direction * sin.widen());
                            out[0].write(T::narrow(product(x[0], cos) - product(x[1], sin)));
                            out[1].write(T::narrow(product(x[1], cos) + product(x[0], sin)));
                        }
                    } else {
                        let (low, high) = turned.split_at_mut(half);
                        let (a, b) = x[..2 * half].split_at(half);
                        for i in 0..half {
                            let (cos, sin) = (cos[i].widen(), direction * sin[i].widen());
                            low[i].write(T::narrow(product(a[i], cos) - product(b[i], sin)));
                            high[i].write(T::narrow(product(b[i], cos) + product(a[i], sin)));
                        }
                    }
                    rest.iter_mut().zip(&x[2 * half..]).for_each(|(out, &x)| {
                        out.write(x);
                    });
                }
            },
        );
        tensor(output, shape)
    }
}

impl Pullback<1> for Rotation {
    fn pull(self, grad: FlexTensor) -> [FlexTensor; 1] {
        [self.apply(grad, -1.0)]
    }
}

/// Numbers that one core works on at a time: they fit its nearest cache.
const BLOCK: usize = 1 << 13;

/// A product, rounded.
#[inline(always)]
fn product<T: Stored>(x: T, factor: f32) -> f32 {
    T::narrow(x.widen() * factor).widen()
}

/// Runs a loop with the widest vector instructions of the machine.
#[inline(always)]
fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Calls `f` on blocks of whole rows, with the number of their first row, on all cores.
fn in_blocks<T: Send>(data: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let rows = (BLOCK / width.max(1)).max(1);
    if data.len() <= rows * width {
        return vectorised(
            #[inline(always)]
            || f(0, data),
        );
    }
    data.par_chunks_mut(rows * width)
        .enumerate()
        .for_each(|(block, data)| {
            vectorised(
                #[inline(always)]
                || f(block * rows, data),
            )
        });
}

/// A new buffer of `len` numbers, a multiple of `width`. `write` must write every number of the rows it is given.
fn filled<T: Stored>(
    len: usize,
    width: usize,
    write: impl Fn(usize, &mut [MaybeUninit<T>]) + Sync,
) -> Vec<T> {
    let mut buffer = Vec::with_capacity(len);
    in_blocks(&mut buffer.spare_capacity_mut()[..len], width, write);
    // SAFETY: the blocks cover the first `len` numbers, and every caller in this file writes all of each block.
    unsafe { buffer.set_len(len) };
    buffer
}

/// `f(x)`, in place if nobody else holds `x`.
fn map(x: FlexTensor, f: impl Fn(f32) -> f32 + Sync) -> FlexTensor {
    let mut x = x.into_data();
    in_blocks(
        values_mut(&mut x),
        1,
        #[inline(always)]
        |_, x| x.iter_mut().for_each(|x| *x = f(*x)),
    );
    FlexTensor::from_data(x)
}

/// `f(a, b)`, in place if nobody else holds `a`.
fn zip(a: FlexTensor, b: FlexTensor, f: impl Fn(f32, f32) -> f32 + Sync) -> FlexTensor {
    let b = b.to_contiguous();
    let b = values(&b);
    if a.is_unique() {
        let mut a = a.into_data();
        in_blocks(
            values_mut(&mut a),
            1,
            #[inline(always)]
            |first, a| {
                a.iter_mut()
                    .zip(&b[first..])
                    .for_each(|(a, &b)| *a = f(*a, b));
            },
        );
        return FlexTensor::from_data(a);
    }
    let (shape, a) = (a.shape(), a.to_contiguous());
    let a = values(&a);
    let output = filled(
        a.len(),
        1,
        #[inline(always)]
        |first, out| {
            for ((out, &a), &b) in out.iter_mut().zip(&a[first..]).zip(&b[first..]) {
                out.write(f(a, b));
            }
        },
    );
    tensor(output, shape)
}

/// The numbers of a contiguous tensor.
fn values<T: Stored>(x: &FlexTensor) -> &[T] {
    x.as_slice().expect("a contiguous tensor of this type")
}

/// The numbers of what [`FlexTensor::into_data`] gave: in order, and copied only if somebody else holds them.
fn values_mut(x: &mut TensorData) -> &mut [f32] {
    x.as_mut_slice().expect("a tensor of f32")
}

fn tensor<T: Stored>(values: Vec<T>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// Sums in several lanes, so that additions need not wait for each other.
#[inline(always)]
fn sum<T: Copy>(x: &[T], f: impl Fn(T) -> f32) -> f32 {
    let mut lanes = [0f32; 32];
    let blocks = x.chunks_exact(32);
    let rest: f32 = blocks.remainder().iter().map(|&x| f(x)).sum();
    for block in blocks {
        lanes
            .iter_mut()
            .zip(block)
            .for_each(|(lane, &x)| *lane += f(x));
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let blocks = x.chunks_exact(32);
    let rest = blocks
        .remainder()
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, larger);
    for block in blocks {
        lanes
            .iter_mut()
            .zip(block)
            .for_each(|(lane, &x)| *lane = larger(*lane, x));
    }
    lanes.iter().copied().fold(rest, larger)
}

/// One instruction, unlike `f32::max`, which treats NaN apart.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}
