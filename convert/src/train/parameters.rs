//! A model's weights under the names that Hugging Face gives them.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};

use super::architecture::Architecture;
use super::family;
use crate::checkpoint::Checkpoint;
use crate::random::SplitMix64;
use crate::recipe::Part;
use crate::{Error, Result};

/// How a tensor begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Beginning {
    /// Normally distributed with this standard deviation.
    Normal(f32),
    /// Gains.
    Ones,
    /// Biases.
    Zeros,
}

impl Beginning {
    /// Of most weights (GPT-2, BERT).
    pub const NORMAL: Beginning = Beginning::Normal(0.02);

    /// Of layers that write to a residual stream of so many of them: smaller, so that its variance does not grow with
    /// depth (GPT-2).
    pub fn residual(layers: usize) -> Self {
        Beginning::Normal(0.02 / (layers as f32).sqrt())
    }
}

/// The tensors that an architecture has, in a fixed order.
#[derive(Clone, Debug, Default)]
pub struct Layout(Vec<Planned>);

/// A tensor to be: its name, shape, and beginning.
type Planned = (String, Vec<usize>, Beginning);

impl Layout {
    /// Names and shapes.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.0.iter().map(|(name, shape, _)| (name.as_str(), shape.as_slice()))
    }

    /// Adds a tensor.
    pub fn push(&mut self, name: impl Into<String>, shape: &[usize], beginning: Beginning) {
        self.0.push((name.into(), shape.to_vec(), beginning));
    }

    /// Adds a linear layer's weight, of that shape, and its bias for each of `outputs`.
    pub fn linear(&mut self, name: &str, shape: [usize; 2], outputs: usize, beginning: Beginning) {
        self.push(format!("{name}.weight"), &shape, beginning);
        self.push(format!("{name}.bias"), &[outputs], Beginning::Zeros);
    }

    /// Adds a layer normalization's gain and bias.
    pub fn layer_norm(&mut self, name: &str, dim: usize) {
        self.push(format!("{name}.weight"), &[dim], Beginning::Ones);
        self.push(format!("{name}.bias"), &[dim], Beginning::Zeros);
    }
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
    fn new(name: String, shape: Vec<usize>, values: Vec<f32>, role: Role) -> Result<Self> {
        Ok(Self { name, var: Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)?, role })
    }

    /// Whether steps change it.
    pub fn is_trained(&self) -> bool {
        self.role != Role::Frozen
    }

    /// Weight decay is for matrices: neither gains nor biases, such as Marian's of one row.
    pub fn decays(&self) -> bool {
        self.var.dims().iter().filter(|&&n| n > 1).count() > 1
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

/// Endings of a matrix's name: its factors.
const A: &str = ".lora_A";
const B: &str = ".lora_B";

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
                list.push(Parameter::new(format!("{name}{A}"), vec![rank, cols], a, Role::Factor)?);
                list.push(Parameter::new(
                    format!("{name}{B}"),
                    vec![rows, rank],
                    vec![0.0; rows * rank],
                    Role::Factor,
                )?);
            }
        }
        Ok(Self { scale: f64::from(alpha) / rank.max(1) as f64, ..Self::collect(list.into_iter().map(Ok))? })
    }

    /// A model that has learned nothing yet.
    ///
    /// # Errors
    /// None but candle's own.
    pub fn new(architecture: &Architecture, seed: u64) -> Result<Self> {
        let begin = |(i, (name, shape, beginning)): (usize, Planned)| -> Result<Parameter> {
            let count = shape.iter().product();
            let values = match beginning {
                Beginning::Ones => vec![1.0; count],
                Beginning::Zeros => vec![0.0; count],
                Beginning::Normal(deviation) => {
                    let mut random = SplitMix64(SplitMix64(seed.wrapping_add(i as u64)).next_u64());
                    (0..count).map(|_| normal(&mut random) * deviation).collect()
                }
            };
            Parameter::new(name, shape, values, Role::Trained)
        };
        Self::collect(family::layout(architecture).0.into_iter().enumerate().map(begin))
    }

    /// The weights of a checkpoint: Hugging Face's, or nanoGPT's own, whose matrices are stored the other way around
    /// and which may lack biases.
    ///
    /// # Errors
    /// A tensor is missing, or of another shape.
    pub fn read(architecture: &Architecture, path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let stored = |name: &str| {
            // As torch.compile's wrapper spells them.
            let names = [name.to_owned(), format!("_orig_mod.{name}")].into_iter();
            names.chain(family::aliases(architecture.preset, name)).find(|name| checkpoint.shape(name).is_some())
        };
        let first = stored("transformer.h.0.attn.c_attn.weight").and_then(|name| checkpoint.shape(&name));
        let is_nanogpt = first == Some(&[3 * architecture.dim, architecture.dim]);
        let read = |(name, shape, _): Planned| -> Result<Parameter> {
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
            Parameter::new(name, shape, values, Role::Trained)
        };
        Self::collect(family::layout(architecture).0.into_iter().map(read))
    }

    /// All of them, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter()
    }

    /// Those that are trained.
    pub fn trained(&self) -> impl Iterator<Item = &Parameter> {
        self.list.iter().filter(|parameter| parameter.is_trained())
    }

    /// Those that the model consists of, with what is added to them: name and values.
    pub fn merged(&self) -> impl Iterator<Item = candle_core::Result<(&str, Tensor)>> {
        let own = self.list.iter().filter(|parameter| parameter.role != Role::Factor);
        own.map(|parameter| Ok((parameter.name.as_str(), self.get(&parameter.name)?)))
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

/// A normally distributed number (Box and Muller).
fn normal(random: &mut SplitMix64) -> f32 {
    let radius = (-2.0 * (1.0 - f64::from(random.next_f32())).ln()).sqrt();
    (radius * (std::f64::consts::TAU * f64::from(random.next_f32())).cos()) as f32
}
