//! karpathy's nanoGPT: GPT-2 with matrices `[out, in]`, the exact GELU, and biases everywhere or nowhere.
//!
//! Its `ckpt.pt` carries `model_args`; a bare state dict needs a JSON file with the same fields, of which only `n_head`
//! cannot be seen in the shapes.

use thumbformer::arch::{Activation, Arch, Biases, TensorSpec};

use super::gpt2::{Fused, Layout};
use super::{Names, Plan, inverse_sqrt, validated};
use crate::config::Config;
use crate::recipe::Recipe;
use crate::{Error, Result};

/// The family as summaries name it; no configuration does.
pub(super) const NAME: &str = "nanogpt";

/// Fields of `model_args`, and of the training configuration where a file holds all of it.
const FIELDS: [&str; 37] = [
    "n_layer",
    "n_head",
    "n_embd",
    "block_size",
    "bias",
    "vocab_size",
    // train.py's other variables, which do not concern the model.
    "always_save_checkpoint",
    "backend",
    "batch_size",
    "beta1",
    "beta2",
    "compile",
    "dataset",
    "decay_lr",
    "device",
    "eval_interval",
    "eval_iters",
    "eval_only",
    "grad_clip",
    "gradient_accumulation_steps",
    "init_from",
    "learning_rate",
    "log_interval",
    "lr_decay_iters",
    "max_iters",
    "min_lr",
    "out_dir",
    "wandb_log",
    "wandb_project",
    "wandb_run_name",
    "warmup_iters",
    "weight_decay",
    "seed",
    "iter_num",
    "best_val_loss",
    "init_std",
    "meta_vocab_size",
];

const WTE: &str = "transformer.wte.weight";
const WPE: &str = "transformer.wpe.weight";

/// Whether these are nanoGPT's tensors: transformers' GPT-2 has the same names, but `c_attn` the other way around.
pub(super) fn recognise(names: &Names<'_>) -> bool {
    let conv1d = match names.shape("transformer.h.0.attn.c_attn.weight") {
        Some(&[rows, cols]) => rows.checked_mul(3) == Some(cols),
        _ => false,
    };
    names.has(WTE) && !conv1d
}

pub(super) fn recipe(names: &Names<'_>, config: Option<&Config>) -> Result<Recipe> {
    let nothing = Config::new(names.checkpoint.path(), "", serde_json::Map::new());
    let config = config.unwrap_or(&nothing);
    config.refuse_unknown(&FIELDS)?;
    // What the configuration leaves out is seen in the shapes, which are checked again in any case.
    let size = |tensor: &str, dimension: usize| {
        names.shape(tensor).and_then(|shape| shape.get(dimension)).and_then(|&size| u32::try_from(size).ok())
    };
    let field = |name: &str, seen: Option<u32>| match config.integer(name)?.or(seen) {
        Some(value) => Ok::<u32, Error>(value),
        None => Err(config.error(name, "an integer")),
    };
    let stored_layers = (0..).take_while(|i| names.has(&format!("transformer.h.{i}.ln_1.weight"))).count();
    let heads = config.integer("n_head")?.ok_or_else(|| {
        config.error("n_head", "the number of attention heads: shapes do not show it, so write it into config.json")
    })?;
    let dim = field("n_embd", size(WTE, 1))?;
    if heads == 0 || dim % heads != 0 {
        return Err(config.error("n_head", format!("a divisor of n_embd, {dim}")));
    }
    let bias = config.boolean("bias")?.unwrap_or_else(|| names.has("transformer.ln_f.bias"));
    let mut notes = Vec::new();
    // nanoGPT always ties; both copies are stored.
    let head = names.head(WTE, "lm_head.weight", true, &mut notes);
    let arch = validated(
        Arch {
            vocab: field("vocab_size", size(WTE, 0))?,
            dim,
            layers: field("n_layer", u32::try_from(stored_layers).ok())?,
            heads,
            kv_heads: heads,
            head_dim: dim / heads,
            hidden: dim.saturating_mul(4),
            context: field("block_size", size(WPE, 0))?,
            norm_eps: 1e-5,
            activation: Activation::Gelu,
            biases: Biases { norm: bias, qkv: bias, attention_out: bias, mlp: bias, head: false },
            tied_head: head != super::Head::Own,
            attention_scale: inverse_sqrt(dim / heads),
            ..Arch::PLAIN
        },
        config.path(),
    )?;
    let layout = Layout { prefix: "transformer.", transposed: false, scale_by_layer: false, fused: Fused::Whole, head };
    let pieces = |spec: TensorSpec| layout.pieces(&arch, names, spec);
    let ignorable = |name: &str| layout.ignorable(name);
    Plan { family: NAME, arch, computed: Vec::new(), pieces: &pieces, ignorable: &ignorable, notes }.assemble(names)
}
