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
    pub fn padded(self, padding: Vec<usize>) -> Self {
        Self { padding, ..self }
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
        let keys = write(keys, key, self.len);
        let values = write(values, value, self.len);
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

    fn buffer(&self, like: &Tensor<4>) -> Tensor<4> {
        let [batch, heads, _, head_dim] = like.dims();
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
        write(larger, buffer, 0)
    }
}

fn write(buffer: Tensor<4>, new: Tensor<4>, at: usize) -> Tensor<4> {
    let [batch, heads, len, head_dim] = new.dims();
    buffer.slice_assign([0..batch, 0..heads, at..at + len, 0..head_dim], new)
}
