//! One number for each re-weighted head, multiplying its output at every position.

use burn::module::{Module, Param, ParamId};
use burn::prelude::*;
use burn::tensor::{DType, Gradients};

use crate::head::{HeadId, ModelShape};
use crate::{Error, Result};

/// The coefficients of one layer; every head that is not listed keeps exactly 1.
///
/// The numbers stay f32 whatever the dtype of the model. Which heads they belong to is part of the module's state: saving and
/// loading it with burn keeps them together.
#[derive(Module, Debug)]
pub struct LayerCoefficients {
    /// `[reweighted]`, in the order of [`heads`](Self::heads).
    values: Param<Tensor<1>>,
    /// `[reweighted]`, ascending.
    heads: Param<Tensor<1, Int>>,
    layer: usize,
    num_heads: usize,
}

impl LayerCoefficients {
    fn new(
        layer: usize,
        num_heads: usize,
        coefficients: &[(HeadId, f32)],
        device: &Device,
    ) -> Self {
        let device = device.clone().inner();
        let count = [coefficients.len()];
        let values: Vec<f32> = coefficients.iter().map(|&(_, value)| value).collect();
        let heads: Vec<i32> = coefficients
            .iter()
            .map(|(head, _)| head.head as i32)
            .collect();
        let values = Tensor::from_data(TensorData::new(values, count), (&device, DType::F32));
        let heads = Tensor::from_data(TensorData::new(heads, count), &device);
        Self {
            values: fixed_param(ParamId::new(), values),
            heads: Param::initialized(ParamId::new(), heads),
            layer,
            num_heads,
        }
    }

    /// The layer these belong to.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Number of query heads of the layer.
    pub fn num_heads(&self) -> usize {
        self.num_heads
    }

    /// The re-weighted heads, ascending.
    pub fn heads(&self) -> Vec<usize> {
        self.heads
            .val()
            .into_data()
            .iter::<i64>()
            .map(|head| head as usize)
            .collect()
    }

    /// The coefficients as numbers, in the order of [`heads`](Self::heads).
    pub fn values(&self) -> Vec<f32> {
        to_f32(self.values.val())
    }

    /// Whether a backward pass can reach them.
    pub fn is_tracked(&self) -> bool {
        self.values.val().is_tracked()
    }

    /// One coefficient for every head of the layer, 1 where none was given: `[num_heads]`, f32, tracked if they are trainable.
    pub fn per_head(&self) -> Tensor<1> {
        let values = self.values.val();
        let heads = self.heads.val();
        let heads = if values.is_autodiff() {
            heads.autodiff()
        } else {
            plain_int(heads)
        };
        let reweighted = values.dims()[0];
        // Slot `reweighted` holds the 1 of every other head.
        let slots = Tensor::<1, Int>::full([self.num_heads], reweighted as i64, &heads.device());
        let offsets = Tensor::<1, Int>::arange(-(reweighted as i64)..0, &heads.device());
        let slots = slots.select_assign(0, heads, offsets, burn::tensor::IndexingUpdateOp::Add);
        let one = Tensor::ones([1], &values.device());
        Tensor::cat(vec![values, one], 0).select(0, slots)
    }

    /// Scales head outputs `[batch, heads, seq, head_dim]`, of any float dtype. Coefficients and their gradients stay in f32;
    /// the product is rounded once.
    ///
    /// # Panics
    /// If there are not [`num_heads`](Self::num_heads) heads.
    pub fn scale(&self, heads: Tensor<4>) -> Tensor<4> {
        let dims = heads.dims();
        assert_eq!(
            dims[1], self.num_heads,
            "LayerCoefficients::scale: head outputs of shape {dims:?}, coefficients for {} heads",
            self.num_heads
        );
        let dtype = heads.dtype();
        (heads.cast(DType::F32) * self.per_head().reshape([1, self.num_heads, 1, 1])).cast(dtype)
    }

    /// Scales the input rows of an output projection `[heads * head_dim, hidden]` as burn's `Linear` holds it, so that the
    /// coefficients need not be applied any more. Rounds once, in the dtype of the weight.
    ///
    /// # Panics
    /// If the rows are not a multiple of [`num_heads`](Self::num_heads).
    pub fn fold(&self, weight: Tensor<2>) -> Tensor<2> {
        let [rows, hidden] = weight.dims();
        assert!(
            rows.is_multiple_of(self.num_heads),
            "LayerCoefficients::fold: an output projection of shape [{rows}, {hidden}], coefficients for {} heads",
            self.num_heads
        );
        let dtype = weight.dtype();
        let head_dim = rows / self.num_heads;
        let per_row = self
            .per_head()
            .reshape([self.num_heads, 1])
            .repeat_dim(1, head_dim)
            .reshape([rows, 1]);
        (weight.cast(DType::F32) * per_row).cast(dtype)
    }

    /// The same numbers off the autodiff side.
    pub fn fixed(&self) -> Self {
        self.clone()
            .map_values(|id, values| fixed_param(id, plain(values)))
    }

    fn map_values(self, change: impl FnOnce(ParamId, Tensor<1>) -> Param<Tensor<1>>) -> Self {
        // The id stays: optimizers know their state by it.
        let values = change(self.values.id, self.values.val());
        Self { values, ..self }
    }
}

/// The coefficients of a model: [`LayerCoefficients`] for each layer that has a re-weighted head, none for the others.
///
/// One parameter a layer, so that layers below the first re-weighted one are computed without any autodiff graph.
///
/// As a [`HeadEdit`](crate::HeadEdit) they act as fixed numbers, whether trainable or not, and leave no graph behind;
/// [`tracked`](Self::tracked) is the edit whose outcome can be differentiated.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::{HeadCoefficients, HeadId, ModelShape};
///
/// let (device, shape) = (Device::flex(), ModelShape::new("llama", 4, 6));
/// let heads = [(HeadId::new(3, 1), 1.0), (HeadId::new(2, 0), 1.0)];
/// let learn = HeadCoefficients::new(&heads, &shape, &device)?.trainable();
/// assert_eq!(learn.heads(), [HeadId::new(2, 0), HeadId::new(3, 1)]);
/// assert!(learn.layer(0).is_none());
/// assert!(HeadCoefficients::new(&[(HeadId::new(4, 0), 0.5)], &shape, &device).is_err());
/// # Ok::<(), pear_core::Error>(())
/// ```
#[derive(Module, Debug)]
pub struct HeadCoefficients {
    layers: Vec<LayerCoefficients>,
    #[module(skip)]
    shape: ModelShape,
}

impl HeadCoefficients {
    /// Fixed coefficients for these heads of a model of this shape, on `device`.
    ///
    /// # Errors
    /// A head listed twice or that the model does not have, or a value that is not finite.
    pub fn new(
        coefficients: &[(HeadId, f32)],
        shape: &ModelShape,
        device: &Device,
    ) -> Result<Self> {
        shape.check_heads(coefficients.iter().map(|&(head, _)| head))?;
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
            .map(|group| LayerCoefficients::new(group[0].0.layer, shape.num_heads, group, device))
            .collect();
        Ok(Self {
            layers,
            shape: shape.clone(),
        })
    }

    /// Coefficients of 1, the start of training.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn ones(heads: &[HeadId], shape: &ModelShape, device: &Device) -> Result<Self> {
        let ones: Vec<_> = heads.iter().map(|&head| (head, 1.0)).collect();
        Self::new(&ones, shape, device)
    }

    /// The shape of the models that these are for.
    pub fn shape(&self) -> &ModelShape {
        &self.shape
    }

    /// # Errors
    /// [`Error::ShapeMismatch`] if these were made for a model of another shape.
    pub fn check_shape(&self, model: &ModelShape) -> Result<()> {
        model.check_same(&self.shape)
    }

    /// The same numbers on the autodiff side of their device, ready to be learned.
    pub fn trainable(self) -> Self {
        self.map_values(|id, values| {
            Param::initialized(id, plain(values).autodiff().require_grad())
        })
    }

    /// The same numbers off the autodiff side, where no later `train()` of a module makes them trainable: what evaluation and
    /// inference want.
    pub fn fixed(&self) -> Self {
        Self {
            layers: self.layers.iter().map(LayerCoefficients::fixed).collect(),
            shape: self.shape.clone(),
        }
    }

    fn map_values(self, mut change: impl FnMut(ParamId, Tensor<1>) -> Param<Tensor<1>>) -> Self {
        let layers = self
            .layers
            .into_iter()
            .map(|layer| layer.map_values(&mut change))
            .collect();
        Self { layers, ..self }
    }

    /// Other numbers for the same heads, fixed; in the order of [`heads`](Self::heads).
    ///
    /// # Panics
    /// If there are not as many as heads.
    pub fn with_values(&self, values: &[f32]) -> Self {
        let mut rest = values;
        let changed = self.clone().map_values(|id, old| {
            let (own, others) = rest.split_at(old.dims()[0]);
            rest = others;
            let data = TensorData::new(own.to_vec(), [own.len()]);
            fixed_param(
                id,
                Tensor::from_data(data, (&old.device().inner(), DType::F32)),
            )
        });
        assert!(
            rest.is_empty(),
            "HeadCoefficients::with_values: {} coefficients too many",
            rest.len()
        );
        changed
    }

    /// The gradient for each coefficient, in the order of [`heads`](Self::heads); 0 for those that the loss does not depend on.
    pub fn gradients(&self, gradients: &Gradients) -> Vec<f32> {
        let of_layer = |layer: &LayerCoefficients| match layer.values.val().grad(gradients) {
            Some(gradient) => to_f32(gradient),
            None => vec![0.0; layer.values.val().dims()[0]],
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
        let of_layer = |l: &LayerCoefficients| {
            let layer = l.layer;
            l.heads()
                .into_iter()
                .map(move |head| HeadId::new(layer, head))
        };
        self.layers.iter().flat_map(of_layer).collect()
    }

    /// Every coefficient, in the order of [`heads`](Self::heads).
    pub fn values(&self) -> Vec<f32> {
        self.layers
            .iter()
            .flat_map(LayerCoefficients::values)
            .collect()
    }

    /// Whether a backward pass can reach them.
    pub fn is_tracked(&self) -> bool {
        self.layers.iter().any(LayerCoefficients::is_tracked)
    }

    /// `Σ weight · coefficient`, weights in the order of [`heads`](Self::heads): `[1]`, tracked if they are trainable.
    ///
    /// # Panics
    /// If there are not as many weights as heads.
    pub fn weighted_sum(&self, weights: &[f32]) -> Tensor<1> {
        let mut rest = weights;
        let mut sums = Vec::new();
        for layer in &self.layers {
            let values = layer.values.val();
            let (own, others) = rest.split_at(values.dims()[0]);
            rest = others;
            let weights =
                Tensor::from_data(TensorData::new(own.to_vec(), [own.len()]), &values.device());
            sums.push((values * weights).sum());
        }
        assert!(
            rest.is_empty(),
            "HeadCoefficients::weighted_sum: {} weights too many",
            rest.len()
        );
        Tensor::cat(sums, 0).sum()
    }

    /// The coefficients of each layer that has any.
    pub(crate) fn layers(&self) -> &[LayerCoefficients] {
        &self.layers
    }
}

/// A parameter that stays untrained when the module it stands in is switched to training.
fn fixed_param(id: ParamId, values: Tensor<1>) -> Param<Tensor<1>> {
    Param::initialized(id, values).set_require_grad(false)
}

/// Off the autodiff side.
fn plain(tensor: Tensor<1>) -> Tensor<1> {
    if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    }
}

fn plain_int(tensor: Tensor<1, Int>) -> Tensor<1, Int> {
    if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    }
}

pub(crate) fn to_f32<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
