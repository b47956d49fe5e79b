//! Sequences of different lengths, put together with those of similar length.

/// A sequence that is this much shorter than the longest of a batch is never kept out of it: tokens of padding that cost little.
const SLACK: usize = 8;

/// Indices of sequences, the longest first, in batches that hold at most `batch_tokens` tokens with their padding, or one sequence
/// where that is longer. Sequences of a batch are at least three quarters as long as its longest, or nearly as long.
pub(crate) fn length_batches(lengths: &[usize], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match batches.last_mut() {
            Some(batch) if fits(batch.len(), lengths[batch[0]], lengths[index], batch_tokens) => {
                batch.push(index);
            }
            _ => batches.push(vec![index]),
        }
    }
    batches
}

/// Whether a sequence of `length` joins `rows` others, padded to `longest`.
fn fits(rows: usize, longest: usize, length: usize, batch_tokens: usize) -> bool {
    let is_similar = length + (longest / 4).max(SLACK) >= longest;
    is_similar && (rows + 1).saturating_mul(longest) <= batch_tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_hold_similar_lengths_within_the_bound_and_equal_ones_in_order() {
        let lengths = [5, 100, 6, 90, 5, 300, 74];
        assert_eq!(
            length_batches(&lengths, 200),
            [vec![5], vec![1, 3], vec![6], vec![2, 0, 4]]
        );
        // 75 of 100 is similar, 74 is not.
        assert_eq!(length_batches(&[100, 75, 74], 1000), [vec![0, 1], vec![2]]);
        assert_eq!(length_batches(&[4, 4, 4], 8), [vec![0, 1], vec![2]]);
        assert_eq!(length_batches(&[4, 4], 0), [[0], [1]]);
        assert!(length_batches(&[], 8).is_empty());
    }
}
