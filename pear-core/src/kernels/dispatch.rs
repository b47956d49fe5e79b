//! How a kernel runs: on plain tensors of the CPU backend, or as a node of an autodiff graph over
//! them.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, backend_extension};
use burn::prelude::*;

use super::flex::FlexTensor;

/// An operation on `N` tensors of the CPU backend; what else it depends on is in the implementing
/// type.
pub(super) trait Kernel<const N: usize>: Clone + Debug + Send + 'static {
    fn forward(&self, inputs: [FlexTensor; N]) -> FlexTensor;
}

/// A kernel with a backward pass.
pub(super) trait Differentiable<const N: usize>: Kernel<N> {
    /// What the backward pass needs of the forward pass.
    type Saved: Clone + Debug + Send + 'static;

    fn forward_saving(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Self::Saved);

    /// The gradient of each input from that of the output; `None` for inputs that callers never
    /// track.
    fn backward(&self, saved: Self::Saved, gradient: FlexTensor) -> [Option<FlexTensor>; N];
}

/// Runs a kernel on tensors of the CPU backend, none of them under autodiff.
pub(super) fn run<const D: usize, const N: usize>(
    kernel: impl Kernel<N>,
    inputs: [FloatTensor<Dispatch>; N],
) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::run(Inputs::from_array(inputs), kernel))
}

/// Runs a kernel on tensors of the CPU backend, any of them under autodiff.
pub(super) fn run_differentiable<const D: usize, const N: usize>(
    kernel: impl Differentiable<N>,
    inputs: [FloatTensor<Dispatch>; N],
) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::run_differentiable(
        Inputs::from_array(inputs),
        kernel,
    ))
}

/// Tensors that cross burn's dispatch together: an argument of it cannot be an array.
#[derive(ExtensionType)]
enum Inputs<B: Backend> {
    One(FloatTensor<B>),
    Two(FloatTensor<B>, FloatTensor<B>),
    Three(FloatTensor<B>, FloatTensor<B>, FloatTensor<B>),
    Four(
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
        FloatTensor<B>,
    ),
}

impl<B: Backend> Inputs<B> {
    fn from_array<const N: usize>(tensors: [FloatTensor<B>; N]) -> Self {
        const { assert!(1 <= N && N <= 4, "kernels have one to four inputs") };
        let mut tensors = tensors.into_iter();
        let mut next = || tensors.next().expect("N tensors");
        match N {
            1 => Self::One(next()),
            2 => Self::Two(next(), next()),
            3 => Self::Three(next(), next(), next()),
            _ => Self::Four(next(), next(), next(), next()),
        }
    }

    fn into_array<const N: usize>(self) -> [FloatTensor<B>; N] {
        let tensors = match self {
            Self::One(a) => vec![a],
            Self::Two(a, b) => vec![a, b],
            Self::Three(a, b, c) => vec![a, b, c],
            Self::Four(a, b, c, d) => vec![a, b, c, d],
        };
        tensors
            .try_into()
            .expect("as many as `from_array` was given")
    }
}

#[backend_extension(Flex)]
trait Run: Backend {
    fn run<const N: usize, K: Kernel<N>>(
        #[extension_type] inputs: Inputs<Self>,
        kernel: K,
    ) -> FloatTensor<Self>;
}

impl Run for Flex {
    fn run<const N: usize, K: Kernel<N>>(inputs: Inputs<Self>, kernel: K) -> FlexTensor {
        kernel.forward(inputs.into_array())
    }
}

#[backend_extension(Flex, Autodiff)]
trait RunDifferentiable: Backend {
    fn run_differentiable<const N: usize, K: Differentiable<N>>(
        #[extension_type] inputs: Inputs<Self>,
        kernel: K,
    ) -> FloatTensor<Self>;
}

impl RunDifferentiable for Flex {
    fn run_differentiable<const N: usize, K: Differentiable<N>>(
        inputs: Inputs<Self>,
        kernel: K,
    ) -> FlexTensor {
        kernel.forward(inputs.into_array())
    }
}

impl<C: CheckpointStrategy> RunDifferentiable for Autodiff<Flex, C> {
    fn run_differentiable<const N: usize, K: Differentiable<N>>(
        inputs: Inputs<Self>,
        kernel: K,
    ) -> FloatTensor<Self> {
        let inputs = inputs.into_array::<N>();
        let nodes = inputs.each_ref().map(|input| input.node());
        let inputs = inputs.map(|input| input.into_primitive());
        match KernelBackward(PhantomData)
            .prepare::<C>(nodes)
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(step) => {
                let (output, saved) = kernel.forward_saving(inputs);
                step.finish((kernel, saved), output)
            }
            OpsKind::UnTracked(step) => step.finish(kernel.forward(inputs)),
        }
    }
}

#[derive(Debug)]
struct KernelBackward<K>(PhantomData<K>);

impl<const N: usize, K: Differentiable<N>> Backward<Flex, N> for KernelBackward<K> {
    type State = (K, K::Saved);

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (kernel, saved) = ops.state;
        let gradient = gradients.consume::<Flex>(&ops.node);
        let of_inputs = kernel.backward(saved, gradient);
        for (parent, gradient) in ops.parents.into_iter().zip(of_inputs) {
            if let Some(parent) = parent {
                let gradient = gradient.expect("only inputs that have gradients are tracked");
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}
