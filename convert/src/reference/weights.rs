//! The weights in f32, as a recipe reads them, and both ends of the network.

use std::collections::HashMap;
use std::sync::Arc;

use rayon::prelude::*;
use thumbformer::arch::{Arch, HeadNorm, Position, Role, TensorSpec};

use super::layers::{Linear, Scale, activate, add, cap};
use crate::checkpoint::Checkpoint;
use crate::recipe::Recipe;
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Weights {
    pub(super) arch: Arch,
    /// `vocab × dim`; also the head, if tied, and the encoder's, if it shares it
    pub(super) token_embedding: Arc<Linear>,
    /// `context × dim`, empty without learned positions
    pub(super) position_embedding: Vec<f32>,
    /// `rotary_dim / 2` radians per position, empty without RoPE
    pub(super) rope_frequencies: Vec<f32>,
    /// The same for layers with a window, empty if they have none of their own.
    pub(super) window_rope_frequencies: Vec<f32>,
    /// One for each head, empty without ALiBi.
    pub(super) alibi_slopes: Vec<f32>,
    /// `heads × distances`, empty without relative positions.
    pub(super) relative_bias: Vec<f32>,
    /// `token_types × dim`, empty without token types
    pub(super) token_type_embedding: Vec<f32>,
    pub(super) embedding_norm: Option<Scale>,
    pub(super) layers: Vec<Layer>,
    /// `None` where every layer ends with a norm, and in some others
    pub(super) final_norm: Option<Scale>,
    pub(super) head_transform: Option<(Linear, Scale)>,
    /// `None` if tied
    pub(super) head: Option<Linear>,
    pub(super) head_bias: Option<Vec<f32>>,
}

#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Scale,
    pub(super) qkv: Linear,
    /// Of the query heads and of the key heads: for one, or for all one behind the other.
    pub(super) head_norms: Option<[Scale; 2]>,
    pub(super) attention_out: Linear,
    pub(super) attention_out_norm: Option<Scale>,
    pub(super) cross: Option<Cross>,
    /// `None` if it is attention's.
    pub(super) mlp_norm: Option<Scale>,
    /// Gate, then up, if gated.
    pub(super) mlp_up: Linear,
    pub(super) mlp_down: Linear,
    pub(super) mlp_out_norm: Option<Scale>,
}

/// Attention to a source.
#[derive(Debug)]
pub(super) struct Cross {
    pub(super) norm: Scale,
    pub(super) query: Linear,
    pub(super) key_value: Linear,
    pub(super) out: Linear,
}

impl Weights {
    /// `shared` is the decoder's token embedding, for an encoder that has none.
    pub(super) fn load(recipe: &Recipe, checkpoint: &Checkpoint, shared: Option<&Arc<Linear>>) -> Result<Self> {
        let arch = recipe.arch;
        arch.validate().map_err(|e| Error::Usage(e.to_string()))?;
        let mut tensors = Tensors::read(recipe, checkpoint)?;
        let layers = (0..arch.layers).map(|l| Layer::take(&mut tensors, l)).collect::<Result<_>>()?;
        Ok(Self {
            arch,
            token_embedding: match shared.filter(|_| arch.shared_embedding) {
                Some(shared) => Arc::clone(shared),
                None => Arc::new(tensors.linear(Role::TokenEmbedding, None, 0)?),
            },
            relative_bias: tensors.take(Role::RelativeBias, 0)?.unwrap_or_default(),
            head_bias: tensors.take(Role::HeadBias, 0)?,
            position_embedding: tensors.take(Role::PositionEmbedding, 0)?.unwrap_or_default(),
            rope_frequencies: tensors.take(Role::RopeFrequencies, 0)?.unwrap_or_default(),
            window_rope_frequencies: tensors.take(Role::WindowRopeFrequencies, 0)?.unwrap_or_default(),
            alibi_slopes: tensors.take(Role::AlibiSlopes, 0)?.unwrap_or_default(),
            token_type_embedding: tensors.take(Role::TokenTypeEmbedding, 0)?.unwrap_or_default(),
            embedding_norm: tensors.scale_if(Role::EmbeddingNorm, Role::EmbeddingNormBias)?,
            layers,
            final_norm: tensors.scale_if(Role::FinalNorm, Role::FinalNormBias)?,
            head_transform: match tensors.scale_if(Role::HeadTransformNorm, Role::HeadTransformNormBias)? {
                Some(norm) => Some((tensors.linear(Role::HeadTransform, Some(Role::HeadTransformBias), 0)?, norm)),
                None => None,
            },
            head: if arch.tied_head { None } else { Some(tensors.linear(Role::Head, None, 0)?) },
        })
    }

    /// Ids below the vocabulary's size, positions below the context's; token types below theirs, 0 where there are none.
    pub(super) fn embed(&self, ids: &[u32], token_types: &[u8], first: usize) -> Vec<f32> {
        let dim = self.arch.dim as usize;
        let row = |matrix: &[f32], row: usize| matrix[row * dim..(row + 1) * dim].to_vec();
        let mut x: Vec<f32> = ids.iter().flat_map(|&id| row(&self.token_embedding.weight, id as usize)).collect();
        if self.arch.embedding_scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= self.arch.embedding_scale);
        }
        if self.arch.position == Position::Learned {
            let positions = &self.position_embedding[first * dim..(first + ids.len()) * dim];
            add(&mut x, positions);
        }
        if !self.token_type_embedding.is_empty() {
            let types = token_types.iter().copied().chain(std::iter::repeat(0));
            for (x, token_type) in x.chunks_mut(dim).zip(types) {
                add(x, &row(&self.token_type_embedding, token_type.into()));
            }
        }
        self.embedding_norm.as_ref().map_or_else(|| x.clone(), |norm| norm.apply(&self.arch, &x))
    }

    /// `tokens × vocab` of `tokens × dim`.
    pub(super) fn logits(&self, x: &[f32]) -> Vec<f32> {
        let head = self.head.as_ref().unwrap_or(self.token_embedding.as_ref());
        let mut logits = match &self.head_transform {
            Some((transform, norm)) => {
                head.apply(&norm.apply(&self.arch, &activate(&self.arch, false, transform.apply(x))))
            }
            None => head.apply(x),
        };
        if let Some(bias) = &self.head_bias {
            logits.chunks_mut(bias.len()).for_each(|logits| add(logits, bias));
        }
        if self.arch.logit_cap != 0.0 {
            logits.iter_mut().for_each(|x| *x = cap(*x, self.arch.logit_cap));
        }
        logits
    }
}

impl Layer {
    fn take(tensors: &mut Tensors, layer: u32) -> Result<Self> {
        Ok(Self {
            attention_norm: tensors.scale(Role::AttentionNorm, Role::AttentionNormBias, layer)?,
            qkv: tensors.linear(Role::Qkv, Some(Role::QkvBias), layer)?,
            head_norms: match tensors.arch.head_norm {
                HeadNorm::None => None,
                _ => Some([
                    tensors.scale(Role::QueryNorm, Role::QueryNormBias, layer)?,
                    tensors.scale(Role::KeyNorm, Role::KeyNormBias, layer)?,
                ]),
            },
            attention_out: tensors.linear(Role::AttentionOut, Some(Role::AttentionOutBias), layer)?,
            attention_out_norm: tensors.weight(Role::AttentionOutNorm, layer)?,
            mlp_out_norm: tensors.weight(Role::MlpOutNorm, layer)?,
            cross: match tensors.arch.cross {
                true => Some(Cross {
                    norm: tensors.scale(Role::CrossNorm, Role::CrossNormBias, layer)?,
                    query: tensors.linear(Role::CrossQuery, Some(Role::CrossQueryBias), layer)?,
                    key_value: tensors.linear(Role::CrossKeyValue, Some(Role::CrossKeyValueBias), layer)?,
                    out: tensors.linear(Role::CrossOut, Some(Role::CrossOutBias), layer)?,
                }),
                false => None,
            },
            mlp_norm: match tensors.take(Role::MlpNorm, layer)? {
                Some(weight) => Some(Scale { weight, bias: tensors.take(Role::MlpNormBias, layer)? }),
                None => None,
            },
            mlp_up: tensors.linear(Role::MlpUp, Some(Role::MlpUpBias), layer)?,
            mlp_down: tensors.linear(Role::MlpDown, Some(Role::MlpDownBias), layer)?,
        })
    }
}

/// The recipe's tensors, to be taken one by one.
struct Tensors {
    arch: Arch,
    values: HashMap<(Role, u32), Vec<f32>>,
}

impl Tensors {
    fn read(recipe: &Recipe, checkpoint: &Checkpoint) -> Result<Self> {
        let used = recipe.tensors.par_iter().filter(|tensor| !tensor.spec.role.is_key_mean());
        let values = used.map(|tensor| {
            let TensorSpec { role, layer, rows, cols, .. } = tensor.spec;
            let mut values = vec![0f32; rows as usize * cols as usize];
            recipe.read_rows(checkpoint, tensor, 0..rows as usize, &mut values)?;
            Ok(((role, layer), values))
        });
        Ok(Self { arch: recipe.arch, values: values.collect::<Result<_>>()? })
    }

    /// `None` where the record calls for no such tensor.
    fn take(&mut self, role: Role, layer: u32) -> Result<Option<Vec<f32>>> {
        let Some(spec) = self.arch.tensor(role, layer) else { return Ok(None) };
        let expected = spec.rows as usize * spec.cols as usize;
        match self.values.remove(&(role, layer)) {
            Some(values) if values.len() == expected => Ok(Some(values)),
            found => Err(Error::Usage(format!(
                "recipe: {} of layer {layer}: found {} values, expected {expected}",
                role.name(),
                found.map_or(0, |v| v.len())
            ))),
        }
    }

    fn linear(&mut self, weight: Role, bias: Option<Role>, layer: u32) -> Result<Linear> {
        let inputs = self.arch.tensor(weight, layer).map_or(1, |spec| spec.cols as usize);
        let bias = bias.map_or(Ok(None), |bias| self.take(bias, layer))?;
        Ok(Linear { weight: self.take(weight, layer)?.unwrap_or_default(), bias, inputs })
    }

    /// A norm without a shift, if the record has it.
    fn weight(&mut self, role: Role, layer: u32) -> Result<Option<Scale>> {
        Ok(self.take(role, layer)?.map(|weight| Scale { weight, bias: None }))
    }

    /// A norm outside the layers, `None` if the record calls for none.
    fn scale_if(&mut self, weight: Role, bias: Role) -> Result<Option<Scale>> {
        if self.arch.tensor(weight, 0).is_some() { self.scale(weight, bias, 0).map(Some) } else { Ok(None) }
    }

    fn scale(&mut self, weight: Role, bias: Role, layer: u32) -> Result<Scale> {
        Ok(Scale { weight: self.take(weight, layer)?.unwrap_or_default(), bias: self.take(bias, layer)? })
    }
}
