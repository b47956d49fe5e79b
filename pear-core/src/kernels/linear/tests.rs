use burn::nn::LinearConfig;
use burn::tensor::DType;

use super::super::testing::{assert_rejected, check, distance, random, seed};
use super::*;

#[test]
fn products_and_their_gradients_are_those_of_the_backend() {
    seed(6);
    let composed = burn::tensor::module::linear::<3>;
    let bias = random([33]);
    // Views: a table of embeddings is read as its transpose, heads are merged by a swap.
    for weight in [
        random([40, 33]),
        random([33, 40]).transpose(),
        random([33, 50]).narrow(1, 5, 40).transpose(),
        random([40, 33]).flip([0, 1]),
        random([40, 1]).expand([40, 33]),
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
    seed(7);
    let bias = random::<1>([333]).cast(DType::BF16);
    for weight in [
        random([300, 333]),
        random([333, 300]).transpose(),
        random([300, 400]).narrow(1, 5, 333),
        random([300, 333]).flip([0]),
        random([1, 333]).expand([300, 333]),
        random([1, 1]).expand([300, 333]),
    ] {
        let weight = weight.cast(DType::BF16);
        for x in [
            random([1, 1, 300]),
            random([2, 3, 300]),
            random([5, 20, 300]),
            random([3, 100, 300]),
        ] {
            let x = x.cast(DType::BF16);
            let expected = product_in_f32(x.clone(), weight.clone());
            let ours = linear(x.clone(), weight.clone(), None);
            assert_eq!(ours.dtype(), DType::BF16);
            // Half a unit in the last of 8 bits.
            let error =
                (ours.cast(DType::F32) - expected.clone()).abs() - expected.clone().abs() * 0.00391;
            assert!(error.max().into_scalar::<f32>() < 1e-4);
            let ours = linear(x, weight.clone(), Some(bias.clone())).cast(DType::F32);
            let expected = expected + bias.clone().cast(DType::F32).unsqueeze::<3>();
            assert!(distance(ours, expected) < 4e-3);
        }
    }
}

#[test]
fn few_rows_times_a_weight_that_is_read_in_parts_are_those_of_the_backend() {
    seed(10);
    // Parts of the inputs, of more outputs than are read as one stream, and of the outputs.
    for shape in [[1003, 333], [1003, 2100], [40, 17_000]] {
        let weight = random(shape);
        let x = random([1, 1, shape[0]]);
        let expected = burn::tensor::module::linear(x.clone(), weight.clone(), None);
        let ours = linear(x, weight.clone(), None);
        assert!(distance(ours, expected) < 2e-6, "{shape:?}");
        let x = random([1, 3, shape[0]]).cast(DType::BF16);
        let weight = weight.cast(DType::BF16);
        let expected = product_in_f32(x.clone(), weight.clone());
        let ours = linear(x, weight, None).cast(DType::F32);
        assert!(distance(ours, expected) < 4e-3, "{shape:?}");
    }
}

#[test]
fn several_rows_in_single_precision_are_summed_in_one_order_however_many_they_are() {
    seed(16);
    let numbers = |x: Tensor<3>| x.into_data().try_to_vec::<f32>().unwrap();
    // Two pieces of columns, more of them, and one.
    for (inputs, outputs) in [(700, 600), (40, 9000), (1100, 200)] {
        let x = random([1, 600, inputs]);
        for weight in [
            random([inputs, outputs]),
            random([outputs, inputs]).transpose(),
        ] {
            let all = numbers(linear(x.clone(), weight.clone(), None));
            for rows in [2, 3, 16, 65, 255, 256, 300] {
                let some = linear(x.clone().narrow(1, 0, rows), weight.clone(), None);
                assert!(
                    numbers(some) == all[..rows * outputs],
                    "{rows} rows of {inputs} × {outputs}"
                );
            }
        }
    }
}

#[test]
fn a_backward_pass_starts_from_the_gradient_of_the_product() {
    seed(13);
    for (dtype, tolerance) in [(DType::F32, 5e-6), (DType::BF16, 1e-2)] {
        for rows in [1, 3, 300] {
            let [x, gradient] = [random([1, rows, 40]), random([1, rows, 70])];
            let weight = random([40, 70]).cast(dtype);
            let (x, gradient) = (
                x.cast(dtype).autodiff().require_grad(),
                gradient.cast(dtype),
            );
            let found = |start: Tensor<1>| x.grad(&start.backward()).unwrap().cast(DType::F32);
            let start = || linear_start(x.clone(), weight.clone(), gradient.clone());
            let product = product_in_f32(x.clone(), weight.clone());
            let expected = found((product * gradient.clone().cast(DType::F32)).sum());
            assert_eq!(start().dims(), [1]);
            assert!(
                distance(found(start()), expected.clone()) < tolerance,
                "{rows} rows"
            );
            assert!(
                distance(found(start() * -3.0), expected * -3.0) < tolerance,
                "{rows} rows"
            );
        }
    }
}

fn product_in_f32(x: Tensor<3>, weight: Tensor<2>) -> Tensor<3> {
    x.cast(DType::F32)
        .matmul(weight.cast(DType::F32).unsqueeze::<3>())
}

#[test]
fn a_weight_on_an_autodiff_device_leaves_the_output_there() {
    let weight = random([4, 5]).autodiff();
    assert!(linear(random([1, 1, 4]), weight, None).is_autodiff());
}

#[test]
fn a_tracked_weight_has_a_gradient() {
    let weight = random([4, 5]).autodiff().require_grad();
    let gradients = linear(random([1, 1, 4]), weight.clone(), None)
        .sum()
        .backward();
    assert!(weight.grad(&gradients).is_some());
}

#[test]
fn arguments_that_do_not_fit_are_rejected() {
    for inputs in [1, 3, 5] {
        let message = format!(
            "linear: `weight` must have shape [4, 6] where `x` has shape [2, 3, 4], but has [{inputs}, 6]"
        );
        assert_rejected(&message, |new| {
            linear(new.ones([2, 3, 4]), new.ones([inputs, 6]), None)
        });
        assert_rejected(&message, |new| {
            let mut layer = LinearConfig::new(4, 6).init(&Device::flex());
            layer.weight = layer.weight.map(|_| new.ones([inputs, 6]));
            linear_forward(&layer, new.ones([2, 3, 4]))
        });
    }
    // One row goes another way than several or many.
    for rows in [1, 3, 300] {
        for outputs in [1, 5, 7] {
            let message = format!(
                "linear: `bias` must have shape [6] where `weight` has shape [4, 6], but has [{outputs}]"
            );
            assert_rejected(&message, |new| {
                let bias = Some(new.ones([outputs]));
                linear(new.ones([1, rows, 4]), new.ones([4, 6]), bias)
            });
        }
    }
}

#[test]
#[should_panic = "linear: `weight` must have the type of `x`, F32, but has BF16"]
fn a_weight_of_another_type_is_rejected() {
    let weight = random([4, 6]).cast(DType::BF16);
    linear(random([2, 3, 4]), weight, None);
}

#[test]
#[should_panic = "linear: `bias` must have the type of `x`, BF16, but has F32"]
fn a_bias_of_another_type_is_rejected() {
    let [x, weight] = [random([1, 3, 4]), random([1, 4, 6])].map(|x| x.cast(DType::BF16));
    linear(x, weight.squeeze_dim(0), Some(random([6])));
}
