//! Tensors of burn's CPU backend, Flex, and the numbers in them.

use burn::backend::tensor::FloatTensor;
use burn::backend::{DispatchDevice, Flex};
use burn::prelude::*;
use burn::tensor::DType;

use super::stored::Stored;

/// A float tensor of the CPU backend.
pub(super) type FlexTensor = FloatTensor<Flex>;

pub(super) fn is_flex_f32<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && is_flex(x)
}

pub(super) fn is_flex_f32_or_bf16<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.dtype(), DType::F32 | DType::BF16) && is_flex(x)
}

/// Whether a kernel that computes no gradient for this argument may read it.
pub(super) fn is_flex_constant<const D: usize>(x: &Tensor<D>) -> bool {
    is_flex_f32_or_bf16(x) && !x.is_tracked()
}

fn is_flex<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// The numbers of a contiguous tensor.
pub(super) fn values<T: Stored>(x: &FlexTensor) -> &[T] {
    x.as_slice().expect("a contiguous tensor of this type")
}

/// The numbers of an f32 tensor that [`FlexTensor::into_data`] has made contiguous; it copies them
/// only if they are shared.
pub(super) fn values_mut(x: &mut TensorData) -> &mut [f32] {
    x.as_mut_slice().expect("a tensor of f32")
}

/// A contiguous tensor.
pub(super) fn tensor<T: Stored>(values: Vec<T>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The tensor with each row (its last dimension) contiguous and no dimension reversed, copied only
/// if it is not so already.
pub(super) fn with_contiguous_rows(x: FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    let rows_are_contiguous =
        strides.last() == Some(&1) && strides.iter().all(|&stride| stride >= 0);
    if rows_are_contiguous {
        x
    } else {
        x.to_contiguous()
    }
}
