//! What a model must implement to be located, trained and re-weighted.
//!
//! A decoder is cut where attention heads are still separate. Per layer, with `x` the residual stream:
//!
//! ```text
//! input  = layer.attention_input(x)                       the norm before attention, if there is one
//! heads  = softmax(q kᵀ) v,  q, k, v = project_qkv(input) [batch, heads, seq, head_dim]
//!          ← edits act here: capture, ablate, re-weight
//! output = output_projection(heads)                       W_O and its bias
//! x      = layer.output(x, output)                        residual sum, MLP, norms: serial or parallel
//! ```
//!
//! [`DecoderModel`] hands out layers, [`DecoderLayer`] is one of them and [`HeadAttention`] its attention. Everything else
//! (the [forward pass](crate::forward), caches, edits, sweeps over heads, training) is written once on top of them.
//!
//! A layer is the unit: it is asked for when it is visited and dropped before the next one, so that a model whose layers are
//! built or loaded on demand is an implementation like any other.

use std::ops::{Deref, Range};
use std::rc::Rc;
use std::sync::Arc;

use burn::prelude::*;

use crate::Result;
use crate::coefficients::LayerCoefficients;
use crate::head::ModelShape;
use crate::kernels::inner_product;
use crate::position::Positions;
use crate::score_config::AttentionScoreConfig;

/// Queries, keys and values, with rotary positions (if any) already applied.
#[derive(Clone, Debug)]
pub struct Qkv {
    /// `[batch, heads, seq, head_dim]`.
    pub query: Tensor<4>,
    /// `[batch, key_value_heads, seq, head_dim]`; query head `h` reads key/value head `h / (heads / key_value_heads)`.
    pub key: Tensor<4>,
    /// `[batch, key_value_heads, seq, head_dim]`.
    pub value: Tensor<4>,
}

/// One layer's attention in two halves, with separate heads in between.
///
/// [`Attention`](crate::Attention) is one. A model of your own needs [`project_qkv`](Self::project_qkv) and
/// [`output_projection`](Self::output_projection); the other methods have defaults for plain `q kᵀ / √head_dim` scores.
/// burn's own [`MultiHeadAttention`](burn::nn::attention::MultiHeadAttention) is another.
///
/// ```
/// use burn::nn::{Linear, LinearConfig};
/// use burn::prelude::*;
/// use pear_core::{HeadAttention, Positions, Qkv};
///
/// /// Two heads of four channels without positions.
/// struct TwoHeads { qkv: [Linear; 3], o_proj: Linear }
///
/// impl HeadAttention for TwoHeads {
///     fn project_qkv(&self, input: Tensor<3>, _: Positions) -> Qkv {
///         let [query, key, value] = self.qkv.each_ref().map(|linear| {
///             let [batch, seq, _] = input.dims();
///             linear.forward(input.clone()).reshape([batch, seq, 2, 4]).swap_dims(1, 2)
///         });
///         Qkv { query, key, value }
///     }
///     fn output_projection(&self, heads: Tensor<4>) -> Tensor<3> {
///         let [batch, _, seq, _] = heads.dims();
///         self.o_proj.forward(heads.swap_dims(1, 2).reshape([batch, seq, 8]))
///     }
/// }
///
/// let device = Device::flex();
/// let linear = || LinearConfig::new(8, 8).init(&device);
/// let attention = TwoHeads { qkv: [linear(), linear(), linear()], o_proj: linear() };
/// let qkv = attention.project_qkv(Tensor::ones([1, 3, 8], &device), Positions::first(3));
/// assert_eq!(qkv.query.dims(), [1, 2, 3, 4]);
/// ```
pub trait HeadAttention {
    /// The attention's input, `[batch, seq, hidden]`, to queries, keys and values, rotated if the model has rotary positions.
    ///
    /// `positions.padding` says how many columns at the start of each row are padding: position 0 of a padded row is its first
    /// token. Attention without positions of its own may ignore `positions`; masking is done by the caller.
    fn project_qkv(&self, input: Tensor<3>, positions: Positions) -> Qkv;

    /// Head outputs `[batch, heads, seq, head_dim]` through the output projection W_O and its bias to `[batch, seq, hidden]`.
    fn output_projection(&self, heads: Tensor<4>) -> Tensor<3>;

    /// Scale, soft cap and window of the scores.
    fn score_config(&self) -> AttentionScoreConfig {
        AttentionScoreConfig::default()
    }

    /// What is added to the scores of query positions against key positions, `[1, heads, queries, keys]`, f32 and broadcastable to the
    /// scores: ALiBi and its like.
    fn score_bias(&self, queries: Range<usize>, keys: Range<usize>) -> Option<Tensor<4>> {
        let _ = (queries, keys);
        None
    }

    /// The coefficients that [`output_projection`](Self::output_projection) already applies, if it does: applying others on top
    /// of them is then refused.
    fn coefficients(&self) -> Option<&LayerCoefficients> {
        None
    }
}

/// One layer of a decoder (see the [module](self) for the three steps).
///
/// ```
/// use burn::prelude::*;
/// use pear_core::{Attention, AttentionConfig, DecoderLayer, Positions};
///
/// /// Attention alone, added to the residual stream.
/// struct Layer { attention: Attention }
///
/// impl DecoderLayer for Layer {
///     type Attention = Attention;
///     fn attention(&self) -> &Attention {
///         &self.attention
///     }
///     fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
///         residual
///     }
///     fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
///         residual + attention_output
///     }
/// }
///
/// let layer = Layer { attention: AttentionConfig::new(8, 2).init(&Device::flex())? };
/// let residual = Tensor::<3>::ones([1, 3, 8], &Device::flex());
/// let attended = layer.attention().forward(layer.attention_input(residual.clone()), Positions::first(3));
/// assert_eq!(layer.output(residual, attended).dims(), [1, 3, 8]);
/// # Ok::<(), pear_core::Error>(())
/// ```
pub trait DecoderLayer {
    /// Its attention.
    type Attention: HeadAttention;

    /// The attention.
    fn attention(&self) -> &Self::Attention;

    /// What attention reads from the residual stream: usually a norm. Both are `[batch, seq, hidden]`.
    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3>;

    /// The residual stream after the layer, from the one before it and the attention's output, all `[batch, seq, hidden]`.
    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3>;

    /// What a backward pass through the layer alone starts from, `gradient` being that of [`output`](Self::output), `[batch, seq, hidden]`: a
    /// number, `[1]` in f32, whose own gradients are those that the inner product of both has.
    ///
    /// Its value has no meaning, so that a layer may leave out its last product ([`linear_start`](crate::kernels::linear_start)). The default
    /// computes the output and the inner product.
    fn backward_start(
        &self,
        residual: Tensor<3>,
        attention_output: Tensor<3>,
        gradient: Tensor<3>,
    ) -> Tensor<1> {
        inner_product(self.output(residual, attention_output), gradient)
    }
}

/// A decoder-only language model that hands out its layers (see the [module](self)).
///
/// The weights stay on the plain (not autodiff) side of their device; only coefficients are ever tracked.
///
/// ```
/// use burn::prelude::*;
/// use pear_core::{Attention, AttentionConfig, DecoderLayer, DecoderModel, ModelShape, Positions, Result};
/// # struct Layer { attention: Attention }
/// # impl DecoderLayer for Layer {
/// #     type Attention = Attention;
/// #     fn attention(&self) -> &Attention { &self.attention }
/// #     fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> { residual }
/// #     fn output(&self, residual: Tensor<3>, attention: Tensor<3>) -> Tensor<3> { residual + attention }
/// # }
///
/// struct Model { layers: Vec<Layer>, embedding: Tensor<2> }
///
/// impl DecoderModel for Model {
///     // Layers in memory are handed out by reference; `type Layer<'a> = Layer` would hand out layers made on demand.
///     type Layer<'a> = &'a Layer;
///     fn shape(&self) -> ModelShape {
///         ModelShape::new("my-model", self.layers.len(), 2)
///     }
///     fn hidden_size(&self) -> usize {
///         8
///     }
///     fn vocab_size(&self) -> usize {
///         100
///     }
///     fn device(&self) -> Device {
///         self.embedding.device()
///     }
///     fn embed(&self, tokens: Tensor<2, Int>, _: Positions) -> Tensor<3> {
///         burn::tensor::module::embedding(self.embedding.clone(), tokens)
///     }
///     fn layer(&self, index: usize) -> Result<&Layer> {
///         Ok(&self.layers[index])
///     }
///     fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
///         residual.matmul(self.embedding.clone().transpose().unsqueeze())
///     }
/// }
///
/// let device = Device::flex();
/// let layers = vec![Layer { attention: AttentionConfig::new(8, 2).init(&device)? }];
/// let model = Model { layers, embedding: Tensor::ones([100, 8], &device) };
/// let tokens = Tensor::<2, Int>::from_data([[1, 2, 3]], &device);
/// assert_eq!(pear_core::forward::logits(&model, tokens, &mut pear_core::NoEdit)?.dims(), [1, 3, 100]);
/// # Ok::<(), pear_core::Error>(())
/// ```
pub trait DecoderModel {
    /// A layer as it is handed out: `&'a Layer` for a model in memory, an owned layer (freed when it is dropped) for one whose
    /// layers are made on demand.
    type Layer<'a>: DecoderLayer
    where
        Self: 'a;

    /// Number of layers and query heads.
    fn shape(&self) -> ModelShape;

    /// Width of the residual stream (`hidden_size`).
    fn hidden_size(&self) -> usize;

    /// Number of tokens that logits are given for.
    fn vocab_size(&self) -> usize;

    /// Where the weights are.
    fn device(&self) -> Device;

    /// The longest sequence the model can read, if there is a limit: learned positions end somewhere.
    fn max_positions(&self) -> Option<usize> {
        None
    }

    /// Whether the keys and values of a token depend on how long the whole text is, as with rotary frequencies that do. What was read of one
    /// text is of no use for another one then that begins with the same tokens.
    fn positions_depend_on_length(&self) -> bool {
        false
    }

    /// Token ids `[batch, seq]` to the residual stream before the first layer, `[batch, seq, hidden]`.
    fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3>;

    /// Layer `index`, counted from 0 and below `shape().num_layers`.
    ///
    /// Callers visit layers one after the other and drop each before they ask for the next.
    ///
    /// # Errors
    /// Whatever keeps a layer that is made on demand from being made, as [`Error::layer`](crate::Error::layer) wraps it.
    fn layer(&self, index: usize) -> Result<Self::Layer<'_>>;

    /// Whether [`layer`](Self::layer) makes a layer each time, at the price of reading its weights.
    ///
    /// Locating then takes as many sequences as fit into memory through a layer before it asks for the next one, and training runs each
    /// layer once more for its gradient, instead of keeping the weights of all of them in one graph.
    fn layers_on_demand(&self) -> bool {
        false
    }

    /// The residual stream after the last layer, `[batch, seq, hidden]`, to logits `[batch, seq, vocab]`: final norm and
    /// unembedding.
    fn logits(&self, residual: Tensor<3>) -> Tensor<3>;

    /// The logit of one chosen token for each row: `residual` is `[rows, hidden]`, `targets` and the result are `[rows]`.
    ///
    /// The default computes all logits; a model with a large vocabulary should read one row of its unembedding instead.
    fn target_logits(&self, residual: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        let [rows, _] = residual.dims();
        let logits = self
            .logits(residual.unsqueeze_dim(1))
            .reshape([rows, self.vocab_size()]);
        logits.gather(1, targets.reshape([rows, 1])).reshape([rows])
    }
}

/// A pointer to a layer is a layer.
impl<P> DecoderLayer for P
where
    P: Deref,
    P::Target: DecoderLayer,
{
    type Attention = <P::Target as DecoderLayer>::Attention;

    fn attention(&self) -> &Self::Attention {
        (**self).attention()
    }

    fn attention_input(&self, residual: Tensor<3>) -> Tensor<3> {
        (**self).attention_input(residual)
    }

    fn output(&self, residual: Tensor<3>, attention_output: Tensor<3>) -> Tensor<3> {
        (**self).output(residual, attention_output)
    }

    fn backward_start(
        &self,
        residual: Tensor<3>,
        attention_output: Tensor<3>,
        gradient: Tensor<3>,
    ) -> Tensor<1> {
        (**self).backward_start(residual, attention_output, gradient)
    }
}

/// A pointer to a model is a model: what takes a model by value also takes a reference or an `Arc`.
macro_rules! model_through_pointer {
    ($($pointer:ty),*) => {$(
        impl<M: DecoderModel> DecoderModel for $pointer {
            type Layer<'a> = M::Layer<'a> where Self: 'a;

            fn shape(&self) -> ModelShape {
                (**self).shape()
            }

            fn hidden_size(&self) -> usize {
                (**self).hidden_size()
            }

            fn vocab_size(&self) -> usize {
                (**self).vocab_size()
            }

            fn device(&self) -> Device {
                (**self).device()
            }

            fn max_positions(&self) -> Option<usize> {
                (**self).max_positions()
            }

            fn positions_depend_on_length(&self) -> bool {
                (**self).positions_depend_on_length()
            }

            fn embed(&self, tokens: Tensor<2, Int>, positions: Positions) -> Tensor<3> {
                (**self).embed(tokens, positions)
            }

            fn layer(&self, index: usize) -> Result<Self::Layer<'_>> {
                (**self).layer(index)
            }

            fn layers_on_demand(&self) -> bool {
                (**self).layers_on_demand()
            }

            fn logits(&self, residual: Tensor<3>) -> Tensor<3> {
                (**self).logits(residual)
            }

            fn target_logits(&self, residual: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
                (**self).target_logits(residual, targets)
            }
        }
    )*};
}

model_through_pointer!(&M, Box<M>, Rc<M>, Arc<M>);
