//! One parameter of a decoder, read out of the tensor that holds it.

use std::ops::Range;
use std::path::Path;

use burn::prelude::*;
use burn::tensor::DType;
use half::{bf16, f16};

use super::convert::Float;
use super::tensor_source::TensorSource;
use crate::error::Error;
use crate::tensor_part::{MatrixLayout, TensorPart};

/// Rows that are read at once to be transposed.
const BAND: usize = 32;
/// Edge of the squares in which a matrix is transposed: their rows and columns stay in the first-level cache.
const SQUARE: usize = 32;

/// A parameter, and where its numbers are.
pub(super) struct Parameter<'a> {
    /// The model, for errors.
    pub path: &'a Path,
    pub tensors: &'a dyn TensorSource,
    pub part: &'a TensorPart,
    /// Its shape in the decoder.
    pub shape: &'a [usize],
    /// Whether each row is divided by its length.
    pub normalize: bool,
}

impl Parameter<'_> {
    /// Its numbers in f32, f16 or bf16, in the layout of the decoder.
    ///
    /// Beside them, no more than a few rows of the tensor are in memory.
    ///
    /// # Errors
    /// As [`TensorSource::read`]; [`Error::Tensor`] for a number that is not finite, as it is stored or in `dtype`.
    pub(super) fn read(&self, dtype: DType) -> Result<TensorData, Error> {
        match dtype {
            DType::F16 => self.read_as::<f16>(),
            DType::BF16 => self.read_as::<bf16>(),
            _ => self.read_as::<f32>(),
        }
    }

    fn read_as<T: Float>(&self) -> Result<TensorData, Error> {
        let mut values = T::zeros(self.shape.iter().product());
        match (self.shape, self.part.layout) {
            (&[_, width], _) if self.normalize => self.read_normalized(width, &mut values)?,
            (&[input, output], MatrixLayout::OutIn) => {
                self.read_transposed(input, output, &mut values)?;
            }
            (&[input, output], MatrixLayout::InOut) => {
                self.read_columns(input, output, &mut values)?;
            }
            _ => self.read_rows(&mut values)?,
        }
        Ok(TensorData::new(values, self.shape.to_vec()))
    }

    /// Channels that are rows in the file as in the decoder: vectors, and tables that begin with unused rows.
    fn read_rows<T: Float>(&self, values: &mut [T]) -> Result<(), Error> {
        let width: usize = self.shape.iter().skip(1).product();
        let mut rest = values;
        for rows in &self.part.channels {
            let numbers = rows.start * width..rows.end * width;
            let (target, after) = rest.split_at_mut(numbers.len());
            self.numbers(numbers, target)?;
            rest = after;
        }
        Ok(())
    }

    /// Channels that are columns in the file as in the decoder: `[input, all channels]` to `[input, output]`.
    fn read_columns<T: Float>(
        &self,
        input: usize,
        output: usize,
        values: &mut [T],
    ) -> Result<(), Error> {
        let total = self.part.total;
        if total == output {
            return self.numbers(0..input * output, values);
        }
        let mut rest = values;
        for row in 0..input {
            for columns in &self.part.channels {
                let numbers = row * total + columns.start..row * total + columns.end;
                let (target, after) = rest.split_at_mut(numbers.len());
                self.numbers(numbers, target)?;
                rest = after;
            }
        }
        Ok(())
    }

    /// Channels that are rows in the file and columns in the decoder: `[all channels, input]` to `[input, output]`.
    fn read_transposed<T: Float>(
        &self,
        input: usize,
        output: usize,
        values: &mut [T],
    ) -> Result<(), Error> {
        let mut band = T::zeros(BAND.min(output) * input);
        let (mut column, mut filled) = (0, 0);
        for rows in self.part.channels.iter().cloned().flat_map(bands) {
            let numbers = rows.start * input..rows.end * input;
            if filled + numbers.len() > band.len() {
                transpose(&band[..filled], input, &mut values[column..], output);
                column += filled / input;
                filled = 0;
            }
            let target = filled..filled + numbers.len();
            filled = target.end;
            self.numbers(numbers, &mut band[target])?;
        }
        transpose(&band[..filled], input, &mut values[column..], output);
        Ok(())
    }

    /// Rows divided by their Euclidean lengths, in f32, and rounded once.
    fn read_normalized<T: Float>(&self, width: usize, values: &mut [T]) -> Result<(), Error> {
        let mut numbers = vec![0f32; width];
        for (row, target) in values.chunks_mut(width).enumerate() {
            self.numbers(row * width..(row + 1) * width, &mut numbers)?;
            let length = numbers.iter().map(|x| x.powi(2)).sum::<f32>().sqrt();
            let length = length.max(1e-12);
            for (value, x) in target.iter_mut().zip(&numbers) {
                *value = T::from_f32(x / length);
            }
        }
        Ok(())
    }

    /// Reads a range of the numbers, in row-major order, of the matrix that the parameter is in.
    fn numbers<T: Float>(&self, range: Range<usize>, into: &mut [T]) -> Result<(), Error> {
        let before = self.part.numbers_before(self.shape);
        let range = before + range.start..before + range.end;
        let name = &self.part.name;
        self.tensors.read(name, range.clone(), T::floats(into))?;
        match T::floats(into).first_not_finite() {
            None => Ok(()),
            Some(at) => Err(Error::Tensor {
                path: self.path.into(),
                name: name.clone(),
                problem: format!(
                    "number {} is {:?}: expected finite weights",
                    range.start + at,
                    into[at]
                ),
            }),
        }
    }
}

/// A range in pieces of at most [`BAND`].
fn bands(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range
        .step_by(BAND)
        .map(move |start| start..end.min(start + BAND))
}

/// Writes `band`, rows of `width` numbers, as columns into rows of `stride` numbers, beginning at the first number of `values`.
fn transpose<T: Copy>(band: &[T], width: usize, values: &mut [T], stride: usize) {
    let height = band.len() / width;
    for start in (0..width).step_by(SQUARE) {
        for index in start..width.min(start + SQUARE) {
            let column = &mut values[index * stride..][..height];
            for (value, row) in column.iter_mut().zip(band.chunks_exact(width)) {
                *value = row[index];
            }
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges, some of which hold one"
)]
mod tests {
    use super::super::tensor_source::{FloatsMut, StoredDtype, TensorInfo};
    use super::*;
    use crate::tensor_part::Stacked;

    /// Signed bytes, each row of them with a scale.
    #[derive(Clone, Debug)]
    struct Quantized {
        info: TensorInfo,
        codes: Vec<i8>,
        scales: Vec<f32>,
    }

    impl Quantized {
        fn new(rows: usize, width: usize) -> Self {
            let codes: Vec<i8> = (0..rows * width).map(|i| (i * 37 % 255) as i8).collect();
            Self {
                info: TensorInfo {
                    shape: vec![rows, width],
                    dtype: StoredDtype::Quantized("ROW_I8".into()),
                    num_bytes: codes.len() as u64,
                },
                codes,
                scales: (0..rows).map(|row| 0.1 + row as f32 / 7.0).collect(),
            }
        }

        /// The rows divided into matrices.
        fn stacked(&self, count: usize) -> Self {
            let mut stack = self.clone();
            let [rows, width] = [self.info.shape[0], self.info.shape[1]];
            stack.info.shape = vec![count, rows / count, width];
            stack
        }

        fn number(&self, row: usize, column: usize) -> f32 {
            f32::from(self.codes[row * self.info.row_len() + column]) * self.scales[row]
        }
    }

    impl TensorSource for Quantized {
        fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
            Box::new(["weight"].into_iter())
        }

        fn info(&self, name: &str) -> Option<&TensorInfo> {
            (name == "weight").then_some(&self.info)
        }

        fn read(&self, name: &str, range: Range<usize>, into: FloatsMut<'_>) -> Result<(), Error> {
            let fail = |problem: String| Error::Tensor {
                path: "memory".into(),
                name: name.into(),
                problem,
            };
            self.info(name)
                .ok_or_else(|| fail("is missing".into()))?
                .check_range(&range, into.len())
                .map_err(fail)?;
            let width = self.info.row_len();
            let numbers = range.map(|i| self.number(i / width, i % width));
            match into {
                FloatsMut::F32(into) => into.iter_mut().zip(numbers).for_each(|(to, x)| *to = x),
                FloatsMut::F16(into) => into
                    .iter_mut()
                    .zip(numbers)
                    .for_each(|(to, x)| *to = f16::from_f32(x)),
                FloatsMut::BF16(into) => into
                    .iter_mut()
                    .zip(numbers)
                    .for_each(|(to, x)| *to = bf16::from_f32(x)),
            }
            Ok(())
        }

        fn raw(&self, _name: &str) -> Vec<&[u8]> {
            Vec::new()
        }
    }

    fn part(layout: MatrixLayout, total: usize, channels: &[Range<usize>]) -> TensorPart {
        TensorPart {
            name: "weight".into(),
            layout,
            total,
            channels: channels.to_vec(),
            stacked: None,
        }
    }

    /// Reads a parameter of this shape, and compares each number with that of the file which `place` names by row and column.
    fn check(
        tensors: &Quantized,
        part: TensorPart,
        shape: [usize; 2],
        place: impl Fn(usize, usize) -> (usize, usize),
    ) {
        assert_eq!(part.file_shape(&shape), tensors.info.shape);
        let parameter = Parameter {
            path: Path::new("model"),
            tensors,
            part: &part,
            shape: &shape,
            normalize: false,
        };
        let expected: Vec<f32> = (0..shape[0] * shape[1])
            .map(|i| {
                let (row, column) = place(i / shape[1], i % shape[1]);
                tensors.number(row, column)
            })
            .collect();
        let wide = parameter.read(DType::F32).unwrap();
        assert_eq!(wide.as_slice::<f32>().unwrap(), expected);
        let half: Vec<_> = expected.iter().map(|&x| f16::from_f32(x)).collect();
        let data = parameter.read(DType::F16).unwrap();
        assert_eq!(data.as_slice::<f16>().unwrap(), half);
        let brain: Vec<_> = expected.iter().map(|&x| bf16::from_f32(x)).collect();
        let data = parameter.read(DType::BF16).unwrap();
        assert_eq!(data.as_slice::<bf16>().unwrap(), brain);
    }

    #[test]
    fn parameters_are_read_in_every_layout_from_a_quantized_format_too() {
        use MatrixLayout::{InOut, OutIn, Table};
        // Sizes on both sides of the bands and squares.
        let tensors = Quantized::new(75, 70);
        let whole = |layout, channels| part(layout, channels, &[0..channels]);
        check(&tensors, whole(Table, 75), [75, 70], |row, column| {
            (row, column)
        });
        check(&tensors, whole(InOut, 70), [75, 70], |row, column| {
            (row, column)
        });
        check(&tensors, whole(OutIn, 75), [70, 75], |row, column| {
            (column, row)
        });
        let after_two_rows = part(Table, 75, &[2..75]);
        check(&tensors, after_two_rows, [73, 70], |row, column| {
            (row + 2, column)
        });
        let packed_rows = part(OutIn, 75, &[25..50]);
        check(&tensors, packed_rows, [70, 25], |row, column| {
            (25 + column, row)
        });
        let packed_columns = part(InOut, 70, &[35..70]);
        check(&tensors, packed_columns, [75, 35], |row, column| {
            (row, 35 + column)
        });
        let second_of_three = |layout, total, channels: &[Range<usize>]| TensorPart {
            stacked: Some(Stacked { index: 1, count: 3 }),
            ..part(layout, total, channels)
        };
        let stack = tensors.stacked(3);
        let matrix = second_of_three(OutIn, 25, &[5..25]);
        check(&stack, matrix, [70, 20], |row, column| {
            (25 + 5 + column, row)
        });
        let matrix = second_of_three(InOut, 70, &[35..70]);
        check(&stack, matrix, [25, 35], |row, column| {
            (25 + row, 35 + column)
        });
        let groups = |stride: usize| -> Vec<_> {
            (0..5)
                .map(|group| group * stride + 4..group * stride + 14)
                .collect()
        };
        let grouped_rows = part(OutIn, 75, &groups(15));
        check(&tensors, grouped_rows, [70, 50], |row, column| {
            (column / 10 * 15 + 4 + column % 10, row)
        });
        let grouped_columns = part(InOut, 70, &groups(14));
        check(&tensors, grouped_columns, [75, 50], |row, column| {
            (row, column / 10 * 14 + 4 + column % 10)
        });
    }

    #[test]
    fn normalized_rows_have_length_one() {
        let tensors = Quantized::new(3, 70);
        let parameter = Parameter {
            path: Path::new("model"),
            tensors: &tensors,
            part: &part(MatrixLayout::Table, 3, &[0..3]),
            shape: &[3, 70],
            normalize: true,
        };
        let data = parameter.read(DType::F32).unwrap();
        for (row, numbers) in data.as_slice::<f32>().unwrap().chunks(70).enumerate() {
            let length: f32 = numbers.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5, "{length}");
            let ratio = numbers[1] / tensors.number(row, 1);
            assert!((numbers[69] / tensors.number(row, 69) - ratio).abs() < 1e-6);
        }
    }

    #[test]
    fn a_tensor_that_is_not_there_is_an_error() {
        let parameter = Parameter {
            path: Path::new("model"),
            tensors: &Quantized::new(3, 70),
            part: &TensorPart {
                name: "other".into(),
                ..part(MatrixLayout::OutIn, 3, &[0..3])
            },
            shape: &[70, 3],
            normalize: false,
        };
        let error = parameter.read(DType::F32).unwrap_err().to_string();
        assert_eq!(error, "memory: tensor `other`: is missing");
    }
}
