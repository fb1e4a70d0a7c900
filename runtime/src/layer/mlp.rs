//! The position-wise MLP: `x = x + down(act(up(norm(x))))`, or gated, `down(act(gate) · up)`. In a parallel layer it norms
//! what attention was given instead of what attention left; with norms behind sublayers it is `x = norm(x + mlp(x))`.

use super::Chunk;
use super::linear::{Source, Target};
use crate::blob::Layer;
use crate::kernel::Write;
use crate::workers::{Phase, Workers};

impl<W: Workers + Sync> Chunk<'_, '_, '_, W> {
    pub(super) fn mlp(&mut self, layer: &Layer<'_>) {
        let arch = self.model.arch();
        let norm = match layer.mlp_norm {
            Some(norm) => (norm, layer.mlp_norm_bias),
            None => (layer.attention_norm, layer.attention_norm_bias),
        };
        let source = if arch.is_parallel() { Source::Input } else { Source::Residual };
        self.input(source, norm);
        self.linear(&layer.mlp_up, layer.mlp_up_bias, Write::Store, self.count, Target::Wide);
        self.prepare(Source::Residual, Phase::Activation, 0, self.count, arch.hidden as usize, &|backend, _, row| {
            backend.activate(arch.activation, arch.gated, arch.hidden as usize, row);
        });
        self.add(&layer.mlp_down, layer.mlp_down_bias, layer.mlp_out_norm);
        if arch.norms_behind() {
            self.norm(norm);
        }
    }
}
