//! One number for each re-weighted head, multiplying its output at every position.

use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::{DType, Gradients};

use crate::head::{HeadId, ModelShape};
use crate::{Error, Result};

/// The coefficients of one layer; every head that is not listed keeps exactly 1.
///
/// The numbers stay f32 whatever the dtype of the model.
#[derive(Module, Debug)]
pub struct LayerCoefficients {
    /// `[heads.len()]`, in the order of [`heads`](Self::heads).
    values: Param<Tensor<1>>,
    #[module(skip)]
    heads: Vec<usize>,
    layer: usize,
    num_heads: usize,
}

impl LayerCoefficients {
    /// The layer these belong to.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// The re-weighted heads, ascending.
    pub fn heads(&self) -> &[usize] {
        &self.heads
    }

    /// The coefficients as numbers, in the order of [`heads`](Self::heads).
    pub fn values(&self) -> Vec<f32> {
        to_f32(self.values.val())
    }

    /// One coefficient for every head of the layer, 1 where none was given: `[num_heads]`, f32, tracked if they are trainable.
    pub fn per_head(&self) -> Tensor<1> {
        let values = self.values.val();
        let one = Tensor::ones([1], &values.device());
        let slots: Vec<i32> = (0..self.num_heads)
            .map(|head| {
                self.heads
                    .iter()
                    .position(|&h| h == head)
                    .unwrap_or(self.heads.len()) as i32
            })
            .collect();
        let slots =
            Tensor::<1, Int>::from_data(TensorData::new(slots, [self.num_heads]), &values.device());
        Tensor::cat(vec![values, one], 0).select(0, slots)
    }

    /// Scales head outputs `[batch, heads, seq, head_dim]`, of any float dtype. Coefficients and their gradients stay in f32; the product is
    /// rounded once.
    pub fn scale(&self, heads: Tensor<4>) -> Tensor<4> {
        let dtype = heads.dtype();
        (heads.cast(DType::F32) * self.per_head().reshape([1, self.num_heads, 1, 1])).cast(dtype)
    }

    /// Scales the input rows of an output projection `[heads * head_dim, hidden]` as burn's `Linear` holds it, so that the
    /// coefficients need not be applied any more. Rounds once, in the dtype of the weight.
    pub fn fold(&self, weight: Tensor<2>) -> Tensor<2> {
        let [rows, _] = weight.dims();
        let dtype = weight.dtype();
        let per_row = self
            .per_head()
            .reshape([self.num_heads, 1])
            .repeat_dim(1, rows / self.num_heads)
            .reshape([rows, 1]);
        (weight.cast(per_row.dtype()) * per_row).cast(dtype)
    }
}

/// The coefficients of a model: [`LayerCoefficients`] for each layer that has a re-weighted head, none for the others.
///
/// One parameter a layer, so that layers below the first re-weighted one are computed without any autodiff graph.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::{HeadCoefficients, HeadId};
///
/// let device = Device::flex();
/// let learn = HeadCoefficients::new(&[(HeadId::new(3, 1), 1.0), (HeadId::new(2, 0), 1.0)], 4, &device)?.trainable();
/// assert_eq!(learn.heads(), [HeadId::new(2, 0), HeadId::new(3, 1)]);
/// assert!(learn.layer(0).is_none());
/// # Ok::<(), pear_core::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct HeadCoefficients {
    layers: Vec<LayerCoefficients>,
}

impl HeadCoefficients {
    /// Fixed coefficients for these heads of a model with `num_heads` query heads a layer, on `device`.
    ///
    /// # Errors
    /// A head listed twice or beyond `num_heads`, or a value that is not finite.
    pub fn new(coefficients: &[(HeadId, f32)], num_heads: usize, device: &Device) -> Result<Self> {
        let num_layers = coefficients
            .iter()
            .map(|(head, _)| head.layer.saturating_add(1))
            .max()
            .unwrap_or(0);
        ModelShape::new("", num_layers, num_heads)
            .check_heads(coefficients.iter().map(|&(head, _)| head))?;
        if let Some(&(head, value)) = coefficients.iter().find(|(_, value)| !value.is_finite()) {
            return Err(Error::CoefficientNotFinite {
                head,
                value: f64::from(value),
            });
        }
        let mut sorted = coefficients.to_vec();
        sorted.sort_by_key(|&(head, _)| head);
        let layers = sorted
            .chunk_by(|a, b| a.0.layer == b.0.layer)
            .map(|group| {
                let values: Vec<f32> = group.iter().map(|&(_, value)| value).collect();
                let data = TensorData::new(values, [group.len()]);
                let values = Tensor::from_data(data, (&device.clone().inner(), DType::F32));
                LayerCoefficients {
                    values: Param::from_tensor(values),
                    heads: group.iter().map(|(head, _)| head.head).collect(),
                    layer: group[0].0.layer,
                    num_heads,
                }
            })
            .collect();
        Ok(Self { layers })
    }

    /// Coefficients of 1, the start of training.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn ones(heads: &[HeadId], num_heads: usize, device: &Device) -> Result<Self> {
        let ones: Vec<_> = heads.iter().map(|&head| (head, 1.0)).collect();
        Self::new(&ones, num_heads, device)
    }

    /// The same numbers on the autodiff side of their device, ready to be learned.
    pub fn trainable(self) -> Self {
        self.map_values(|values| plain(values).autodiff().require_grad())
    }

    /// The same numbers off the autodiff side: what evaluation and inference want.
    pub fn fixed(&self) -> Self {
        self.clone().map_values(plain)
    }

    fn map_values(self, mut change: impl FnMut(Tensor<1>) -> Tensor<1>) -> Self {
        let change = |layer: LayerCoefficients| {
            // The id stays: optimizers know their state by it.
            let values = Param::initialized(layer.values.id, change(layer.values.val()));
            LayerCoefficients { values, ..layer }
        };
        Self {
            layers: self.layers.into_iter().map(change).collect(),
        }
    }

    /// Other numbers for the same heads, fixed; in the order of [`heads`](Self::heads).
    ///
    /// # Panics
    /// If there are not as many as heads.
    pub fn with_values(&self, values: &[f32]) -> Self {
        let mut rest = values;
        let changed = self.clone().map_values(|old| {
            let (own, others) = rest.split_at(old.dims()[0]);
            rest = others;
            Tensor::from_data(
                TensorData::new(own.to_vec(), [own.len()]),
                (&old.device().inner(), DType::F32),
            )
        });
        assert!(rest.is_empty(), "{} coefficients too many", rest.len());
        changed
    }

    /// The gradient for each coefficient, in the order of [`heads`](Self::heads); 0 for those that the loss does not depend on.
    pub fn gradients(&self, gradients: &Gradients) -> Vec<f32> {
        let of_layer = |layer: &LayerCoefficients| match layer.values.val().grad(gradients) {
            Some(gradient) => to_f32(gradient),
            None => vec![0.0; layer.heads.len()],
        };
        self.layers.iter().flat_map(of_layer).collect()
    }

    /// The coefficients of a layer, if it has any.
    pub fn layer(&self, layer: usize) -> Option<&LayerCoefficients> {
        self.layers.iter().find(|l| l.layer == layer)
    }

    /// The first layer with a re-weighted head.
    pub fn first_layer(&self) -> Option<usize> {
        self.layers.first().map(|l| l.layer)
    }

    /// Every re-weighted head, by layer and head.
    pub fn heads(&self) -> Vec<HeadId> {
        self.layers
            .iter()
            .flat_map(|l| l.heads.iter().map(|&head| HeadId::new(l.layer, head)))
            .collect()
    }

    /// Every coefficient, in the order of [`heads`](Self::heads).
    pub fn values(&self) -> Vec<f32> {
        self.layers
            .iter()
            .flat_map(LayerCoefficients::values)
            .collect()
    }
}

/// Off the autodiff side.
fn plain(tensor: Tensor<1>) -> Tensor<1> {
    if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    }
}

pub(crate) fn to_f32<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
