//! A model's weights under the names that Hugging Face gives them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};

use super::architecture::{Architecture, Preset};
use crate::checkpoint::Checkpoint;
use crate::random::SplitMix64;
use crate::recipe::Part;
use crate::{Error, Result};

/// How a tensor begins.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beginning {
    /// Normally distributed with this standard deviation.
    Normal(f32),
    Ones,
    Zeros,
}

/// A tensor of the model.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name in the checkpoint.
    pub name: String,
    /// Its values.
    pub var: Var,
    /// What training does to it.
    pub role: Role,
}

/// What training does to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is trained.
    Trained,
    /// It stays as it is; what is added to it may be trained.
    Frozen,
    /// It is trained, and a factor of what is added to a frozen matrix: no tensor of the model.
    Factor,
}

impl Parameter {
    /// Weight decay is for matrices: neither gains nor biases.
    pub fn decays(&self) -> bool {
        self.var.rank() > 1
    }

    /// Whether steps change it.
    pub fn is_trained(&self) -> bool {
        self.role != Role::Frozen
    }

    /// Gives it other values, as many.
    ///
    /// # Errors
    /// Another number of values.
    pub fn set(&self, values: Vec<f32>) -> Result<()> {
        Ok(self.var.set(&Tensor::from_vec(values, self.var.shape(), &Device::Cpu)?)?)
    }
}

/// All tensors of a model, in a fixed order.
#[derive(Clone, Debug)]
pub struct Parameters {
    list: Vec<Parameter>,
    by_name: HashMap<String, usize>,
    /// What products of factors are multiplied by.
    scale: f64,
}

/// Changes of low rank to frozen matrices: W + (alpha/rank)·B·A, of which A and B alone are trained (LoRA: Hu et al.,
/// 2021, arXiv:2106.09685). All matrices of the blocks get them; embeddings, the head, biases and norms stay as they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LowRank {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The numerator of the factor.
    pub alpha: f32,
}

/// Standard deviation of weights at the beginning.
const DEVIATION: f32 = 0.02;

/// The tensors that an architecture has: name, shape, beginning.
fn layout(a: &Architecture) -> Vec<(String, Vec<usize>, Beginning)> {
    let normal = Beginning::Normal(DEVIATION);
    // Layers that write to the residual stream begin smaller, so that its variance does not grow with depth (GPT-2).
    let residual = Beginning::Normal(DEVIATION / (2.0 * a.layers as f32).sqrt());
    let (d, q, kv) = (a.dim, a.heads * a.head_dim, a.kv_heads * a.head_dim);
    let mut tensors = Vec::new();
    let mut push = |name: String, shape: &[usize], beginning| tensors.push((name, shape.to_vec(), beginning));
    match a.preset {
        Preset::Llama => {
            push("model.embed_tokens.weight".into(), &[a.vocab, d], normal);
            for i in 0..a.layers {
                let layer = |name: &str| format!("model.layers.{i}.{name}.weight");
                push(layer("input_layernorm"), &[d], Beginning::Ones);
                push(layer("self_attn.q_proj"), &[q, d], normal);
                push(layer("self_attn.k_proj"), &[kv, d], normal);
                push(layer("self_attn.v_proj"), &[kv, d], normal);
                push(layer("self_attn.o_proj"), &[d, q], residual);
                push(layer("post_attention_layernorm"), &[d], Beginning::Ones);
                push(layer("mlp.gate_proj"), &[a.hidden, d], normal);
                push(layer("mlp.up_proj"), &[a.hidden, d], normal);
                push(layer("mlp.down_proj"), &[d, a.hidden], residual);
            }
            push("model.norm.weight".into(), &[d], Beginning::Ones);
        }
        Preset::Gpt2 => {
            push("transformer.wte.weight".into(), &[a.vocab, d], normal);
            push("transformer.wpe.weight".into(), &[a.context, d], normal);
            for i in 0..a.layers {
                let mut both = |name: &str, weight: &[usize], bias: usize, beginning| {
                    push(format!("transformer.h.{i}.{name}.weight"), weight, beginning);
                    push(format!("transformer.h.{i}.{name}.bias"), &[bias], Beginning::Zeros);
                };
                both("ln_1", &[d], d, Beginning::Ones);
                both("attn.c_attn", &[d, 3 * d], 3 * d, normal);
                both("attn.c_proj", &[d, d], d, residual);
                both("ln_2", &[d], d, Beginning::Ones);
                both("mlp.c_fc", &[d, a.hidden], a.hidden, normal);
                both("mlp.c_proj", &[a.hidden, d], d, residual);
            }
            push("transformer.ln_f.weight".into(), &[d], Beginning::Ones);
            push("transformer.ln_f.bias".into(), &[d], Beginning::Zeros);
        }
    }
    if !a.tied {
        push("lm_head.weight".into(), &[a.vocab, d], normal);
    }
    tensors
}

/// Names and shapes of the tensors that an architecture has.
pub fn shapes(architecture: &Architecture) -> impl Iterator<Item = (String, Vec<usize>)> {
    layout(architecture).into_iter().map(|(name, shape, _)| (name, shape))
}

impl Parameters {
    fn collect(tensors: impl IntoIterator<Item = Result<Parameter>>) -> Result<Self> {
        let list = tensors.into_iter().collect::<Result<Vec<_>>>()?;
        let by_name = list.iter().enumerate().map(|(i, parameter)| (parameter.name.clone(), i)).collect();
        Ok(Self { list, by_name, scale: 0.0 })
    }

    /// Freezes all of them, and adds changes of low rank to the blocks' matrices: none at first, for B is zero.
    ///
    /// # Errors
    /// None but candle's own.
    pub fn adapt(self, LowRank { rank, alpha }: LowRank, seed: u64) -> Result<Self> {
        let mut list = Vec::with_capacity(3 * self.list.len());
        for (i, parameter) in self.list.into_iter().enumerate() {
            let (name, shape) = (parameter.name.clone(), parameter.var.dims().to_vec());
            list.push(Parameter { role: Role::Frozen, ..parameter });
            let in_block = name.split('.').any(|part| part.parse::<u32>().is_ok());
            if let (true, &[rows, cols]) = (in_block, shape.as_slice()) {
                let deviation = (1.0 / cols as f32).sqrt();
                let mut random = SplitMix64(SplitMix64(!seed.wrapping_add(i as u64)).next_u64());
                let a = (0..rank * cols).map(|_| normal(&mut random) * deviation).collect();
                list.push(factor(format!("{name}{A}"), a, (rank, cols))?);
                list.push(factor(format!("{name}{B}"), vec![0.0; rows * rank], (rows, rank))?);
            }
        }
        Ok(Self { scale: f64::from(alpha) / rank.max(1) as f64, ..Self::collect(list.into_iter().map(Ok))? })
    }

    /// A model that has learned nothing yet.
    ///
    /// # Errors
    /// None but candle's own.
    pub fn new(architecture: &Architecture, seed: u64) -> Result<Self> {
        let begin = |(i, (name, shape, beginning)): (usize, (String, Vec<usize>, Beginning))| -> Result<Parameter> {
            let count = shape.iter().product();
            let values = match beginning {
                Beginning::Ones => vec![1.0; count],
                Beginning::Zeros => vec![0.0; count],
                Beginning::Normal(deviation) => {
                    let mut random = SplitMix64(SplitMix64(seed.wrapping_add(i as u64)).next_u64());
                    (0..count).map(|_| normal(&mut random) * deviation).collect()
                }
            };
            Ok(Parameter { name, var: Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?, role: Role::Trained })
        };
        Self::collect(layout(architecture).into_iter().enumerate().map(begin))
    }

    /// The weights of a checkpoint: Hugging Face's, or nanoGPT's own, whose matrices are stored the other way around and
    /// which may lack biases.
    ///
    /// # Errors
    /// A tensor is missing, or of another shape.
    pub fn read(architecture: &Architecture, path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        // As torch.compile's wrapper spells them.
        let stored = |name: &str| {
            let names = [name.to_owned(), format!("_orig_mod.{name}")].into_iter();
            // The published gpt2 has no prefix before its names.
            let bare = name.strip_prefix("transformer.").map(str::to_owned);
            names.chain(bare).find(|name| checkpoint.shape(name).is_some())
        };
        let first = stored("transformer.h.0.attn.c_attn.weight").and_then(|name| checkpoint.shape(&name));
        let is_nanogpt = first == Some(&[3 * architecture.dim, architecture.dim]);
        let read = |(name, shape, _): (String, Vec<usize>, Beginning)| -> Result<Parameter> {
            let (rows, cols) = (shape[0], shape.get(1).copied().unwrap_or(1));
            let mut values = vec![0.0; rows * cols];
            let transposed = is_nanogpt && name.contains(".h.") && shape.len() == 2;
            let expected = if transposed { vec![cols, rows] } else { shape.clone() };
            match stored(&name) {
                Some(stored) if checkpoint.shape(&stored) == Some(&expected) => {
                    let part = Part { transposed, ..Part::whole(&stored, rows) };
                    checkpoint.read_part(&part, 0..rows, cols, &mut values)?;
                }
                None if is_nanogpt && name.ends_with(".bias") => {}
                other => {
                    let tensor = other.unwrap_or_else(|| name.clone());
                    return Err(Error::Tensor {
                        path: checkpoint.file_of(&tensor).into(),
                        found: checkpoint.shape(&tensor).map_or("nothing".into(), |found| format!("{found:?}")),
                        expected: format!("{expected:?}"),
                        tensor,
                    });
                }
            }
            Ok(Parameter { name, var: Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?, role: Role::Trained })
        };
        Self::collect(layout(architecture).into_iter().map(read))
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    /// Those that the model consists of, with what was added to them: name and values.
    pub fn merged(&self) -> impl Iterator<Item = candle_core::Result<(&str, Tensor)>> {
        let own = self.list.iter().filter(|parameter| parameter.role != Role::Factor);
        own.map(|parameter| Ok((parameter.name.as_str(), self.get(&parameter.name)?)))
    }

    /// Those that are trained.
    pub fn trained(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter().filter(|parameter| parameter.is_trained())
    }

    /// How many numbers they are: the model's, and those that are trained.
    pub fn counts(&self) -> (usize, usize) {
        let count = |counts: fn(&Parameter) -> bool| {
            self.list.iter().filter(|parameter| counts(parameter)).map(|parameter| parameter.var.elem_count()).sum()
        };
        (count(|parameter| parameter.role != Role::Factor), count(Parameter::is_trained))
    }

    /// The tensor of that name, with what is added to it.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> candle_core::Result<Tensor> {
        match self.find(name)? {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("no parameter {name}"),
        }
    }

    /// The same, where it may be absent.
    ///
    /// # Errors
    /// None but candle's own.
    pub fn find(&self, name: &str) -> candle_core::Result<Option<Tensor>> {
        let own = |name: &str| self.by_name.get(name).and_then(|&i| self.list.get(i));
        let Some(parameter) = own(name) else { return Ok(None) };
        if parameter.role == Role::Trained {
            return Ok(Some(parameter.var.as_tensor().clone()));
        }
        let tensor = parameter.var.as_detached_tensor();
        Ok(Some(match (own(&format!("{name}{A}")), own(&format!("{name}{B}"))) {
            (Some(a), Some(b)) => (tensor + (b.var.matmul(&a.var)? * self.scale)?)?,
            _ => tensor,
        }))
    }
}

/// Endings of a matrix's name: its factors.
const A: &str = ".lora_A";
const B: &str = ".lora_B";

fn factor(name: String, values: Vec<f32>, shape: (usize, usize)) -> Result<Parameter> {
    let var = Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
    Ok(Parameter { name, var, role: Role::Factor })
}

/// A normally distributed number (Box and Muller).
fn normal(random: &mut SplitMix64) -> f32 {
    let radius = (-2.0 * (1.0 - f64::from(random.next_f32())).ln()).sqrt();
    (radius * (std::f64::consts::TAU * f64::from(random.next_f32())).cos()) as f32
}
