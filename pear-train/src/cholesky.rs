//! Linear equations of a few hundred unknowns with a symmetric, positive definite matrix.

/// The lower triangle `L` of `A = L Lᵀ`.
#[derive(Clone, Debug)]
pub(crate) struct Cholesky {
    /// `[size, size]`; what is above the diagonal is not looked at.
    lower: Vec<f64>,
    size: usize,
}

impl Cholesky {
    /// Of a matrix `[size, size]`, of which the lower triangle is read; `None` if it is not positive definite, up to rounding.
    pub(crate) fn new(mut matrix: Vec<f64>, size: usize) -> Option<Self> {
        let largest = (0..size).fold(0.0, |max, i| matrix[i * size + i].max(max));
        for row in 0..size {
            for column in 0..=row {
                let (above, own) = matrix.split_at_mut(row * size);
                let other = if column == row {
                    &own[..column]
                } else {
                    &above[column * size..column * size + column]
                };
                let dot: f64 = other.iter().zip(&own[..column]).map(|(a, b)| a * b).sum();
                let rest = own[column] - dot;
                own[column] = if column == row {
                    if !(rest.is_finite() && rest > largest * size as f64 * f64::EPSILON) {
                        return None;
                    }
                    rest.sqrt()
                } else {
                    rest / above[column * size + column]
                };
            }
        }
        Some(Self {
            lower: matrix,
            size,
        })
    }

    /// The solution of `A x = b`.
    pub(crate) fn solve(&self, b: &[f64]) -> Vec<f64> {
        let (lower, size) = (&self.lower, self.size);
        let mut x = b.to_vec();
        for row in 0..size {
            let line = &lower[row * size..];
            let dot: f64 = line[..row].iter().zip(&x).map(|(a, b)| a * b).sum();
            x[row] = (x[row] - dot) / line[row];
        }
        for row in (0..size).rev() {
            let below = row + 1..size;
            let dot: f64 = below
                .map(|other| lower[other * size + row] * x[other])
                .sum();
            x[row] = (x[row] - dot) / lower[row * size + row];
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn solutions_solve_their_equations() {
        // B Bᵀ + I for an arbitrary B.
        let size = 30;
        let b: Vec<f64> = (0..size * size)
            .map(|i| ((i * i * 7 + i * 3) % 101) as f64 / 50.0 - 1.0)
            .collect();
        let entry = |row: usize, column: usize| {
            let products = (0..size).map(|k| b[row * size + k] * b[column * size + k]);
            products.sum::<f64>() + f64::from(u8::from(row == column))
        };
        let matrix: Vec<f64> = (0..size * size)
            .map(|i| entry(i / size, i % size))
            .collect();
        let expected: Vec<f64> = (0..size).map(|i| (i as f64).sin()).collect();
        let right: Vec<f64> = matrix
            .chunks(size)
            .map(|row| row.iter().zip(&expected).map(|(a, x)| a * x).sum())
            .collect();
        let found = Cholesky::new(matrix, size).unwrap().solve(&right);
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-9, "{found}, {expected}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_definite_has_no_factor() {
        assert!(Cholesky::new(vec![1.0, 2.0, 2.0, 1.0], 2).is_none());
        assert!(Cholesky::new(vec![1.0, 1.0, 1.0, 1.0], 2).is_none());
        assert!(Cholesky::new(vec![0.0], 1).is_none());
        assert!(Cholesky::new(vec![f64::NAN], 1).is_none());
        let identity = Cholesky::new(vec![1.0, 0.0, 0.0, 1.0], 2).unwrap();
        assert_eq!(identity.solve(&[3.0, -4.0]), [3.0, -4.0]);
    }
}
