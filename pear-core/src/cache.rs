//! Keys and values of the tokens that a model has read so far.

use burn::prelude::*;

/// Keys and values of every layer, in buffers allocated once: appending copies the new positions and nothing else.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::KvCache;
///
/// let mut cache = KvCache::new(1, 16);
/// let new = Tensor::<4>::ones([1, 2, 3, 4], &Device::flex());
/// let (keys, _values) = cache.append(0, new.clone(), new);
/// assert_eq!(keys.dims(), [1, 2, 3, 4]);
/// cache.advance(3);
/// assert_eq!(cache.len(), 3);
/// ```
#[derive(Clone, Debug)]
pub struct KvCache {
    layers: Vec<Option<(Tensor<4>, Tensor<4>)>>,
    len: usize,
    capacity: usize,
    padding: Vec<usize>,
}

impl KvCache {
    /// An empty cache for `num_layers` layers with room for `capacity` positions; it grows when more come.
    pub fn new(num_layers: usize, capacity: usize) -> Self {
        Self {
            layers: vec![None; num_layers],
            len: 0,
            capacity,
            padding: Vec::new(),
        }
    }

    /// For a batch of sequences of different lengths: `padding[row]` columns of padding stand before each, so that all end together.
    pub fn padded(mut self, padding: Vec<usize>) -> Self {
        self.padding = padding;
        if self.padding.iter().all(|&empty| empty == 0) {
            self.padding.clear();
        }
        self
    }

    /// Columns of padding before each sequence; empty where all have one length.
    pub fn padding(&self) -> &[usize] {
        &self.padding
    }

    /// Keeps only these rows of the batch, in this order.
    ///
    /// # Panics
    /// If one of them is out of bounds.
    pub fn keep_rows(&mut self, rows: &[usize]) {
        if !self.padding.is_empty() {
            self.padding = rows.iter().map(|&row| self.padding[row]).collect();
        }
        let indices: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        for (keys, values) in self.layers.iter_mut().flatten() {
            let indices = Tensor::<1, Int>::from_data(
                TensorData::new(indices.clone(), [rows.len()]),
                &keys.device(),
            );
            (*keys, *values) = (
                keys.clone().select(0, indices.clone()),
                values.clone().select(0, indices),
            );
        }
    }

    /// What is held of one row's first positions, once for each of `lengths`: a cache with a row of so many positions for each, the
    /// shorter ones after padding, and with room for `capacity` positions.
    ///
    /// # Panics
    /// If the row is out of bounds or holds fewer positions.
    pub fn prefixes(&self, row: usize, lengths: &[usize], capacity: usize) -> Self {
        let len = lengths.iter().copied().max().unwrap_or(0);
        let padding: Vec<usize> = lengths.iter().map(|length| len - length).collect();
        let first = self.padding_of(row);
        assert!(
            first + len <= self.len,
            "prefixes: {len} of {} positions",
            self.len - first
        );
        let mut cache = Self::new(self.layers.len(), capacity.max(len));
        cache.len = len;
        let of_rows = |held: &Tensor<4>| {
            let [_, heads, _, head_dim] = held.dims();
            let mut buffer = cache.zeros(lengths.len(), held);
            for (to, &length) in lengths.iter().enumerate() {
                let from = [row..row + 1, 0..heads, first..first + length, 0..head_dim];
                if length > 0 {
                    buffer = write(buffer, held.clone().slice(from), to, len - length);
                }
            }
            buffer
        };
        let layers = self.layers.iter().map(|layer| {
            let (keys, values) = layer.as_ref()?;
            Some((of_rows(keys), of_rows(values)))
        });
        cache.layers = layers.collect();
        cache.padded(padding)
    }

    /// The rows of all caches, one cache after the other, with room for `capacity` positions. All end together: those with fewer positions
    /// stand after padding. Padding that all rows have is left out. The caches are freed a layer at a time.
    ///
    /// # Panics
    /// If there is no cache, or they are of different models.
    pub fn stacked(mut caches: Vec<Self>, capacity: usize) -> Self {
        // Columns that are padding in all rows of a cache.
        let empty: Vec<usize> = caches
            .iter()
            .map(|cache| cache.padding.iter().copied().min().unwrap_or(0))
            .collect();
        let held = caches
            .iter()
            .zip(&empty)
            .map(|(cache, empty)| cache.len - empty);
        let len = held.max().unwrap_or(0);
        let mut stacked = Self::new(caches[0].layers.len(), capacity.max(len));
        stacked.len = len;
        let mut all_padding = Vec::new();
        for layer in 0..stacked.layers.len() {
            let parts: Vec<(Tensor<4>, Tensor<4>)> = caches
                .iter_mut()
                .map(|cache| {
                    cache.layers[layer]
                        .take()
                        .expect("a cache with something in it")
                })
                .collect();
            let rows: usize = parts.iter().map(|(keys, _)| keys.dims()[0]).sum();
            let mut keys = stacked.zeros(rows, &parts[0].0);
            let mut values = stacked.zeros(rows, &parts[0].1);
            let mut row = 0;
            for ((part, cache), &empty) in parts.into_iter().zip(&caches).zip(&empty) {
                let columns = |held: Tensor<4>| held.narrow(2, empty, cache.len - empty);
                let at = len - (cache.len - empty);
                let (part_keys, part_values) = (columns(part.0), columns(part.1));
                let rows = part_keys.dims()[0];
                keys = write(keys, part_keys, row, at);
                values = write(values, part_values, row, at);
                if layer == 0 {
                    let padding = |row| cache.padding_of(row) + at - empty;
                    all_padding.extend((0..rows).map(padding));
                }
                row += rows;
            }
            stacked.layers[layer] = Some((keys, values));
        }
        stacked.padded(all_padding)
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the keys and values of new positions, `[batch, key_value_heads, new, head_dim]`, to one layer and returns those of
    /// all positions, `[batch, key_value_heads, len + new, head_dim]`. The length moves on with [`advance`](Self::advance), once
    /// every layer has been given its share.
    ///
    /// # Panics
    /// If `layer` is not one of the layers or the shapes differ from those appended before.
    pub fn append(
        &mut self,
        layer: usize,
        key: Tensor<4>,
        value: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        let new_len = self.len + key.dims()[2];
        if new_len > self.capacity {
            self.capacity = new_len.max(2 * self.capacity);
        }
        let (keys, values) = match self.layers[layer].take() {
            Some((keys, values)) => (self.with_room(keys), self.with_room(values)),
            None => (self.buffer(&key), self.buffer(&value)),
        };
        let keys = write(keys, key, 0, self.len);
        let values = write(values, value, 0, self.len);
        let held = (
            keys.clone().narrow(2, 0, new_len),
            values.clone().narrow(2, 0, new_len),
        );
        self.layers[layer] = Some((keys, values));
        held
    }

    /// Moves on by `positions`, after all layers have appended theirs.
    pub fn advance(&mut self, positions: usize) {
        self.len += positions;
    }

    /// Positions before those of a row.
    fn padding_of(&self, row: usize) -> usize {
        self.padding.get(row).copied().unwrap_or(0)
    }

    fn buffer(&self, like: &Tensor<4>) -> Tensor<4> {
        self.zeros(like.dims()[0], like)
    }

    fn zeros(&self, batch: usize, like: &Tensor<4>) -> Tensor<4> {
        let [_, heads, _, head_dim] = like.dims();
        Tensor::zeros(
            [batch, heads, self.capacity, head_dim],
            (&like.device(), like.dtype()),
        )
    }

    fn with_room(&self, buffer: Tensor<4>) -> Tensor<4> {
        if buffer.dims()[2] >= self.capacity {
            return buffer;
        }
        let larger = self.buffer(&buffer);
        write(larger, buffer, 0, 0)
    }
}

/// Puts `new` into some rows and positions of a buffer.
fn write(buffer: Tensor<4>, new: Tensor<4>, row: usize, at: usize) -> Tensor<4> {
    let [batch, heads, len, head_dim] = new.dims();
    let place = [row..row + batch, 0..heads, at..at + len, 0..head_dim];
    buffer.slice_assign(place, new)
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;

    /// Keys and values of two layers, told apart by their numbers; `first` is that of the first position.
    fn cache(first: f32, rows: usize, len: usize) -> KvCache {
        let mut cache = KvCache::new(2, len);
        for layer in 0..2 {
            let of = |start: f32| {
                let count = rows * len;
                let numbers: Vec<f32> = (0..count).map(|i| start + i as f32).collect();
                Tensor::from_data(TensorData::new(numbers, [rows, 1, len, 1]), &Device::flex())
            };
            let start = first + 100.0 * layer as f32;
            cache.append(layer, of(start), of(start + 1000.0));
        }
        cache.advance(len);
        cache
    }

    /// The keys and values of a layer, row after row, without padding.
    fn held(cache: &KvCache, layer: usize) -> Vec<[Vec<f32>; 2]> {
        let (keys, values) = cache.layers[layer].clone().unwrap();
        let row = |row: usize| {
            let empty = cache.padding_of(row);
            [&keys, &values].map(|held| {
                if empty == cache.len {
                    return Vec::new();
                }
                let columns = held
                    .clone()
                    .narrow(0, row, 1)
                    .narrow(2, empty, cache.len - empty);
                columns.into_data().iter::<f32>().collect()
            })
        };
        (0..keys.dims()[0]).map(row).collect()
    }

    fn numbers(first: f32, len: usize) -> [Vec<f32>; 2] {
        let from = |first: f32| (0..len).map(|i| first + i as f32).collect();
        [from(first), from(first + 1000.0)]
    }

    #[test]
    fn prefixes_are_the_first_positions_of_one_row() {
        let whole = cache(0.0, 3, 6).padded(vec![0, 2, 1]);
        let prefixes = whole.prefixes(1, &[3, 0, 4], 9);
        assert_eq!((prefixes.len(), prefixes.padding()), (4, &[1, 4, 0][..]));
        for layer in 0..2 {
            // The second row, after its padding.
            let first = 8.0 + 100.0 * layer as f32;
            let expected = [3, 0, 4].map(|len| numbers(first, len));
            assert_eq!(held(&prefixes, layer), expected);
        }
        assert!(whole.prefixes(0, &[6, 6], 6).padding().is_empty());
        assert_eq!(whole.prefixes(2, &[0], 6).len(), 0);
    }

    #[test]
    #[should_panic = "prefixes: 5 of 4 positions"]
    fn prefixes_longer_than_the_row_are_rejected() {
        cache(0.0, 2, 6).padded(vec![0, 2]).prefixes(1, &[5], 6);
    }

    #[test]
    fn stacked_rows_end_together_without_common_padding() {
        let long = cache(0.0, 2, 7).padded(vec![2, 4]);
        let short = cache(50.0, 1, 3);
        let mut stacked = KvCache::stacked(vec![long, short], 9);
        assert_eq!((stacked.len(), stacked.padding()), (5, &[0, 2, 2][..]));
        for layer in 0..2 {
            let of = |first: f32, len| numbers(first + 100.0 * layer as f32, len);
            assert_eq!(
                held(&stacked, layer),
                [of(2.0, 5), of(11.0, 3), of(50.0, 3)]
            );
        }
        // There is room for more.
        let new = Tensor::<4>::ones([3, 1, 1, 1], &Device::flex());
        let (keys, _) = stacked.append(1, new.clone(), new);
        assert_eq!(keys.dims(), [3, 1, 6, 1]);
    }
}
