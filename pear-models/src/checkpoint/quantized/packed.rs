//! Integers of a few bits each, packed into 32-bit words.

/// How the integers follow each other within a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// From the lowest bits up; one that does not fit into the rest of a word goes on in the next.
    Sequential,
    /// Eight of 4 bits, first those at even places, then those at odd ones (AWQ).
    EvenOdd,
}

/// The place in a word of each of eight integers in [`Order::EvenOdd`].
const EVEN_ODD_PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A matrix of unsigned integers, packed along one of its two dimensions.
#[derive(Clone, Debug)]
pub(super) struct Packed {
    /// The tensor of words.
    pub tensor: String,
    /// Bits of an integer, at most 8.
    pub bits: usize,
    pub order: Order,
    /// Distance, in words, between words that follow each other along the packed dimension.
    pub word_stride: usize,
    /// Distance, in words, between neighbours along the other dimension.
    pub line_stride: usize,
}

impl Packed {
    /// The integer at `index` along the packed dimension and `line` along the other one. `words` are the tensor's bytes.
    pub(super) fn get(&self, words: &[u8], index: usize, line: usize) -> u32 {
        let index = match self.order {
            Order::Sequential => index,
            Order::EvenOdd => index / 8 * 8 + EVEN_ODD_PLACES[index % 8],
        };
        let bit = index * self.bits;
        let (word, shift) = (bit / 32, bit % 32);
        let position = word * self.word_stride + line * self.line_stride;
        let mut value = load(words, position) >> shift;
        if shift + self.bits > 32 {
            value |= load(words, position + self.word_stride) << (32 - shift);
        }
        value & ((1 << self.bits) - 1)
    }
}

fn load(words: &[u8], index: usize) -> u32 {
    let (words, _) = words.as_chunks();
    u32::from_le_bytes(words[index])
}

/// Words that hold `count` integers of `bits` bits, or `None` where the number overflows.
pub(super) fn words_for(count: usize, bits: usize) -> Option<usize> {
    Some(count.checked_mul(bits)?.div_ceil(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packs lines of integers, one bit after the other.
    fn pack(lines: &[Vec<u32>], bits: usize, transposed: bool) -> (Vec<u8>, Packed) {
        let width = words_for(lines[0].len(), bits).unwrap();
        let strides = if transposed {
            (lines.len(), 1)
        } else {
            (1, width)
        };
        let mut words = vec![0u32; width * lines.len()];
        for (line, integers) in lines.iter().enumerate() {
            for (index, integer) in integers.iter().enumerate() {
                for bit in 0..bits {
                    let place = index * bits + bit;
                    words[place / 32 * strides.0 + line * strides.1] |=
                        (integer >> bit & 1) << (place % 32);
                }
            }
        }
        let packed = Packed {
            tensor: String::new(),
            bits,
            order: Order::Sequential,
            word_stride: strides.0,
            line_stride: strides.1,
        };
        (
            words.into_iter().flat_map(u32::to_le_bytes).collect(),
            packed,
        )
    }

    #[test]
    fn integers_of_every_size_come_back_also_across_words() {
        for bits in 1..=8 {
            let lines: Vec<Vec<u32>> = (0..3u32)
                .map(|line| {
                    (0..70u32)
                        .map(|index| (line * 71 + index * 37) % (1 << bits))
                        .collect()
                })
                .collect();
            for transposed in [false, true] {
                let (words, packed) = pack(&lines, bits, transposed);
                for (line, integers) in lines.iter().enumerate() {
                    for (index, &integer) in integers.iter().enumerate() {
                        assert_eq!(packed.get(&words, index, line), integer);
                    }
                }
            }
        }
    }

    #[test]
    fn even_places_come_before_odd_ones() {
        // Place by place, from the lowest bits: integers 0, 2, 4, 6, 1, 3, 5, 7.
        let words = 0x7531_6420u32.to_le_bytes();
        let packed = Packed {
            tensor: String::new(),
            bits: 4,
            order: Order::EvenOdd,
            word_stride: 1,
            line_stride: 1,
        };
        let integers: Vec<u32> = (0..8).map(|index| packed.get(&words, index, 0)).collect();
        assert_eq!(integers, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
