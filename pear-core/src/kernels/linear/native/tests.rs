use burn::tensor::bf16;

use super::super::few_rows;
use super::*;

/// Numbers between -1 and 1 that look random.
fn numbers(len: usize, seed: u32) -> Vec<bf16> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| bf16::from_f32(next())).collect()
}

/// What this processor offers, and what every one does.
fn all() -> impl Iterator<Item = Instructions> {
    Instructions::available().chain([Instructions::Portable])
}

#[test]
fn products_by_each_kind_of_instruction_are_sums_in_single_precision_rounded_once() {
    for instructions in all() {
        for [rows, inputs, outputs] in [
            [1, 1, 1],
            [9, 33, 5],
            [40, 64, 64],
            [33, 31, 17],
            [300, 100, 65],
            [17, 2000, 200],
        ] {
            let x = numbers(rows * inputs, 1);
            let bias: Vec<f32> = (0..outputs).map(|column| column as f32 / 8.0).collect();
            // Contiguous inputs, contiguous outputs, neither.
            for (strides, len) in [
                ([1, inputs + 3], (inputs + 3) * outputs),
                ([outputs + 1, 1], (outputs + 1) * inputs),
                ([2, 2 * inputs], 2 * inputs * outputs),
            ] {
                let stored = numbers(len, 2);
                let weight = Matrix {
                    numbers: &stored,
                    inputs,
                    outputs,
                    strides,
                };
                let plain = multiply(instructions, &x, weight, None);
                let biased = multiply(instructions, &x, weight, Some(&bias));
                for (index, (plain, biased)) in plain.iter().zip(biased).enumerate() {
                    let (row, column) = (index / outputs, index % outputs);
                    let terms = (0..inputs).map(|input| {
                        let number = stored[input * strides[0] + column * strides[1]];
                        x[row * inputs + input].to_f64() * number.to_f64()
                    });
                    let sum: f64 = terms.sum();
                    for (ours, expected) in [(*plain, sum), (biased, sum + f64::from(bias[column]))]
                    {
                        let error = (ours.to_f64() - expected).abs();
                        // Half a unit in the last of 8 bits, and what f32 loses.
                        assert!(
                            error <= expected.abs() / 256.0 + 1e-5 * inputs as f64,
                            "{instructions:?}, {rows} x {inputs} x {outputs}, {strides:?}: {ours}, not {expected}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_is_the_same_however_many_there_are() {
    for instructions in all() {
        let (inputs, outputs) = (70, 90);
        let (x, stored) = (numbers(500 * inputs, 3), numbers(inputs * outputs, 4));
        let weight = Matrix {
            numbers: &stored,
            inputs,
            outputs,
            strides: [1, inputs],
        };
        let all = multiply(instructions, &x, weight, None);
        for rows in [1, 20, 100, 499] {
            let some = multiply(instructions, &x[..rows * inputs], weight, None);
            assert_eq!(some, all[..rows * outputs], "{instructions:?}, {rows} rows");
        }
    }
}

#[test]
#[ignore = "prints the speed of products, which is for a quiet machine"]
fn speed() {
    for [rows, inputs, outputs] in [
        [4, 576, 1536],
        [8, 576, 1536],
        [12, 576, 1536],
        [16, 576, 1536],
        [24, 576, 1536],
        [32, 576, 1536],
        [8, 576, 49_152],
        [16, 576, 49_152],
        [32, 576, 49_152],
        [64, 4096, 4096],
        [1280, 576, 1536],
        [4096, 1536, 576],
        [2048, 4096, 11_008],
    ] {
        let (x, stored) = (numbers(rows * inputs, 5), numbers(inputs * outputs, 6));
        let single: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        let flops = 2.0 * (rows * inputs * outputs) as f64;
        for strides in [[1, inputs], [outputs, 1]] {
            let weight = Matrix {
                numbers: &stored,
                inputs,
                outputs,
                strides,
            };
            let time = |product: &dyn Fn()| {
                let repeats = (4e9 / flops).ceil() as usize;
                let start = std::time::Instant::now();
                (0..repeats).for_each(|_| product());
                flops * repeats as f64 / start.elapsed().as_secs_f64() / 1e9
            };
            let mut line = format!("{rows} x {inputs} x {outputs}, strides {strides:?}: GFLOP/s");
            for instructions in Instructions::available() {
                let speed = time(&|| {
                    std::hint::black_box(multiply(instructions, &x, weight, None));
                });
                line += &format!(" {instructions:?} {speed:.0}");
            }
            if rows <= 32 {
                let speed = time(&|| {
                    std::hint::black_box(few_rows::multiply(&single, weight, None));
                });
                line += &format!(" few rows {speed:.0}");
            }
            println!("{line}");
        }
    }
}
