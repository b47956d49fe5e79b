//! The rotation of queries and keys by rotary position embeddings.

use burn::prelude::*;

use super::check;
#[cfg(feature = "cpu")]
use super::dispatch::run_differentiable;
#[cfg(feature = "cpu")]
use super::flex::{is_flex_constant, is_flex_f32_or_bf16};

/// Rotates `x`, `[batch, heads, seq, head_dim]`, by angles whose cosines and sines are `[seq,
/// rotary_dim / 2]`: channel `i` with channel `i + rotary_dim / 2`, or with its neighbour if
/// `interleaved`. Channels from `rotary_dim` on stay. All have the same type.
///
/// # Panics
/// If the shapes do not match, `rotary_dim` is larger than `head_dim`, or the types differ.
pub(crate) fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, interleaved: bool) -> Tensor<4> {
    check_arguments(&x, &cos, &sin);
    #[cfg(feature = "cpu")]
    if is_flex_f32_or_bf16(&x) && is_flex_constant(&cos) && is_flex_constant(&sin) {
        let inputs = [x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch()];
        return run_differentiable(kernel::Rotation { interleaved }, inputs);
    }
    rotate_composed(x, cos, sin, interleaved)
}

fn check_arguments(x: &Tensor<4>, cos: &Tensor<2>, sin: &Tensor<2>) {
    const NAME: &str = "rotate";
    let dims = x.dims();
    let [_, _, seq, head_dim] = dims;
    let [_, half] = cos.dims();
    check::shape(NAME, ("cos", &cos.dims()), &[seq, half], ("x", &dims));
    check::shape(
        NAME,
        ("sin", &sin.dims()),
        &[seq, half],
        ("cos", &cos.dims()),
    );
    assert!(
        2 * half <= head_dim,
        "{NAME}: `cos` of shape {:?} rotates more channels than `x` of shape {dims:?} has",
        cos.dims()
    );
    check::same_dtype(
        NAME,
        &[("x", x.dtype()), ("cos", cos.dtype()), ("sin", sin.dtype())],
    );
}

fn rotate_composed(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>, interleaved: bool) -> Tensor<4> {
    let [batch, heads, seq, head_dim] = x.dims();
    let half = cos.dims()[1];
    let rotary_dim = 2 * half;
    let rotated = if interleaved {
        let cos = cos.reshape([1, 1, seq, half, 1]);
        let sin = sin.reshape([1, 1, seq, half, 1]);
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
        let a = x.clone().narrow(3, 0, half);
        let b = x.clone().narrow(3, half, half);
        let rotated = vec![
            a.clone() * cos.clone() - b.clone() * sin.clone(),
            b * cos + a * sin,
        ];
        Tensor::cat(rotated, 3)
    };
    if rotary_dim == head_dim {
        return rotated;
    }
    let rest = x.narrow(3, rotary_dim, head_dim - rotary_dim);
    Tensor::cat(vec![rotated, rest], 3)
}

#[cfg(feature = "cpu")]
mod kernel {
    use burn::backend::TensorMetadata;

    use crate::kernels::buffer::{Writer, filled};
    use crate::kernels::dispatch::{Differentiable, Kernel};
    use crate::kernels::flex::{FlexTensor, tensor, values, with_contiguous_rows};
    use crate::kernels::stored::{Stored, with_stored};

    #[derive(Clone, Debug)]
    pub(super) struct Rotation {
        pub interleaved: bool,
    }

    impl Kernel<3> for Rotation {
        fn forward(&self, [x, cos, sin]: [FlexTensor; 3]) -> FlexTensor {
            self.rotate(x, &cos, &sin, 1.0)
        }
    }

    impl Differentiable<3> for Rotation {
        /// Cosines and sines.
        type Saved = [FlexTensor; 2];

        fn forward_saving(&self, [x, cos, sin]: [FlexTensor; 3]) -> (FlexTensor, [FlexTensor; 2]) {
            (self.rotate(x, &cos, &sin, 1.0), [cos, sin])
        }

        fn backward(
            &self,
            [cos, sin]: [FlexTensor; 2],
            gradient: FlexTensor,
        ) -> [Option<FlexTensor>; 3] {
            [Some(self.rotate(gradient, &cos, &sin, -1.0)), None, None]
        }
    }

    impl Rotation {
        /// From a tensor of any layout to a contiguous one; the angles are multiplied by
        /// `direction`, 1 or −1.
        fn rotate(
            &self,
            x: FlexTensor,
            cos: &FlexTensor,
            sin: &FlexTensor,
            direction: f32,
        ) -> FlexTensor {
            let (shape, half) = (x.shape(), cos.shape()[1]);
            let (x, cos, sin) = (
                with_contiguous_rows(x),
                cos.to_contiguous(),
                sin.to_contiguous(),
            );
            with_stored!(x, T => {
                let (cos, sin) = (values(&cos), values(&sin));
                tensor(self.rotate_rows::<T>(&x, Angles { cos, sin, half, direction }), shape)
            })
        }

        fn rotate_rows<T: Stored>(&self, x: &FlexTensor, angles: Angles<T>) -> Vec<T> {
            let (shape, strides) = (x.shape(), x.layout().strides());
            let (heads, seq, width) = (shape[1], shape[2], shape[3]);
            let (numbers, offset) = (x.storage::<T>(), x.layout().start_offset());
            filled(
                shape[0] * heads * seq,
                width,
                #[inline(always)]
                |rows, out| {
                    for row in rows {
                        let position = row % seq;
                        let head = row / seq % heads;
                        let sample = row / seq / heads;
                        let start = offset
                            + sample * strides[0] as usize
                            + head * strides[1] as usize
                            + position * strides[2] as usize;
                        let x = &numbers[start..start + width];
                        if self.interleaved {
                            angles.rotate_neighbours(position, x, out);
                        } else {
                            angles.rotate_halves(position, x, out);
                        }
                        if 2 * angles.half < width {
                            out.extend(x[2 * angles.half..].iter().copied());
                        }
                    }
                },
            )
        }
    }

    /// Cosines and sines of `half` angles for each position.
    struct Angles<'a, T> {
        cos: &'a [T],
        sin: &'a [T],
        half: usize,
        direction: f32,
    }

    impl<T: Stored> Angles<'_, T> {
        #[inline(always)]
        fn rotate_halves(&self, position: usize, x: &[T], out: &mut Writer<T>) {
            let (a, b) = x[..2 * self.half].split_at(self.half);
            let pairs = a.iter().zip(b).zip(self.at(position));
            let rotated = pairs.map(|((&a, &b), angle)| rotate_pair(a, b, angle));
            out.extend_halves(self.half, rotated);
        }

        #[inline(always)]
        fn rotate_neighbours(&self, position: usize, x: &[T], out: &mut Writer<T>) {
            let (pairs, _) = x[..2 * self.half].as_chunks::<2>();
            let pairs = pairs.iter().zip(self.at(position));
            out.extend_pairs(pairs.map(|(&[a, b], angle)| rotate_pair(a, b, angle)));
        }

        #[inline(always)]
        fn at(&self, position: usize) -> impl Iterator<Item = (f32, f32)> {
            let angles = position * self.half..(position + 1) * self.half;
            let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
            cos.iter()
                .zip(sin)
                .map(|(cos, sin)| (cos.widen(), self.direction * sin.widen()))
        }
    }

    #[inline(always)]
    fn rotate_pair<T: Stored>(a: T, b: T, (cos, sin): (f32, f32)) -> [T; 2] {
        [
            T::narrow(product(a, cos) - product(b, sin)),
            T::narrow(product(b, cos) + product(a, sin)),
        ]
    }

    /// A product, rounded.
    #[inline(always)]
    fn product<T: Stored>(x: T, factor: f32) -> f32 {
        T::narrow(x.widen() * factor).widen()
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use burn::tensor::DType;

    use super::super::testing::{assert_rejected, check, check_bf16, random, seed};
    use super::*;

    type Rotate = fn(Tensor<4>, Tensor<2>, Tensor<2>, bool) -> Tensor<4>;

    #[test]
    fn values_and_gradients_are_those_of_the_composed_operations() {
        seed(5);
        let angles = random([30, 8]);
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let view = random([2, 30, 3, 20]).swap_dims(1, 2);
        for interleaved in [false, true] {
            let in_type = |dtype: DType, f: Rotate| {
                let (cos, sin) = (cos.clone().cast(dtype), sin.clone().cast(dtype));
                move |x| f(x, cos.clone(), sin.clone(), interleaved)
            };
            for x in [
                view.clone(),
                random([2, 3, 30, 20]),
                view.clone().narrow(3, 2, 16),
                view.clone().flip([2, 3]),
            ] {
                let (f32, bf16) = (DType::F32, DType::BF16);
                check(
                    x.clone(),
                    in_type(f32, rotate),
                    in_type(f32, rotate_composed),
                );
                check_bf16(x, in_type(bf16, rotate), in_type(bf16, rotate_composed));
            }
        }
    }

    #[test]
    fn nothing_is_rotated_where_there_is_nothing() {
        for (shape, half) in [([2, 3, 0, 4], 2), ([0, 3, 5, 4], 2), ([2, 3, 5, 4], 0)] {
            let x = Tensor::<4>::ones(shape, &Device::flex());
            let angles = Tensor::<2>::ones([shape[2], half], &Device::flex());
            let rotated = rotate(x.clone(), angles.clone(), angles, true);
            assert_eq!(rotated.dims(), shape);
        }
    }

    #[test]
    fn tables_that_do_not_fit_are_rejected() {
        let x = [2, 3, 5, 8];
        for rows in [1, 4, 6] {
            let message = format!(
                "rotate: `cos` must have shape [5, 4] where `x` has shape {x:?}, but has [{rows}, 4]"
            );
            assert_rejected(&message, |new| {
                rotate(new.ones(x), new.ones([rows, 4]), new.ones([5, 4]), false)
            });
            let message = format!(
                "rotate: `sin` must have shape [5, 4] where `cos` has shape [5, 4], but has [{rows}, 4]"
            );
            assert_rejected(&message, |new| {
                rotate(new.ones(x), new.ones([5, 4]), new.ones([rows, 4]), true)
            });
        }
        assert_rejected(
            "rotate: `sin` must have shape [5, 4] where `cos` has shape [5, 4], but has [5, 3]",
            |new| rotate(new.ones(x), new.ones([5, 4]), new.ones([5, 3]), false),
        );
        assert_rejected(
            "rotate: `cos` of shape [5, 5] rotates more channels than `x` of shape [2, 3, 5, 8] has",
            |new| rotate(new.ones(x), new.ones([5, 5]), new.ones([5, 5]), false),
        );
    }

    #[test]
    #[should_panic = "rotate: `cos` must have the type of `x`, F32, but has BF16"]
    fn tables_of_another_type_are_rejected() {
        let table = random([5, 4]).cast(DType::BF16);
        rotate(random([2, 3, 5, 8]), table.clone(), table, false);
    }
}
