//! Who does the work: one caller, or several threads.
//!
//! Work is cut by output rows, heads or tokens, never along a sum, so no result depends on who did it.

use heapless::Vec;

/// A piece of work that one worker runs once.
pub type Task<'t> = &'t mut (dyn FnMut() + Send);

/// The most workers that are ever given work.
pub const MAX_WORKERS: usize = 64;

/// What a worker is doing; see [`Workers::enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Rows of the embedding, and the rotary angles of each position.
    Embed,
    /// LayerNorm or RMSNorm.
    Norm,
    /// Floats to int8: inputs of products, and queries.
    Quantize,
    /// Products with the weights of a layer.
    Linear,
    /// Rotation of queries and keys.
    Rope,
    /// Keys and values to int8, into the cache.
    Cache,
    /// Scores, softmax, and the sum of values.
    Attention,
    /// The MLP's middle.
    Activation,
    /// The product with the output matrix.
    Head,
}

/// Something that can run a few tasks at once.
///
/// ```
/// use thumbformer::workers::{Task, Workers};
///
/// struct Scoped;
/// impl Workers for Scoped {
///     fn count(&self) -> usize {
///         2
///     }
///     fn run(&self, tasks: &mut [Task<'_>]) {
///         std::thread::scope(|s| tasks.iter_mut().for_each(|task| drop(s.spawn(|| task()))));
///     }
/// }
/// ```
pub trait Workers {
    /// True if there is never more than one worker; lets the compiler drop all hand-over code.
    const SERIAL: bool = false;

    /// How many tasks are worth making: at least 1.
    fn count(&self) -> usize;

    /// Runs every task once and returns when all are done.
    fn run(&self, tasks: &mut [Task<'_>]);

    /// Told, by whoever does the work, that it turns to another phase. For those who measure; does nothing by itself.
    #[inline(always)]
    fn enter(&self, _: Phase) {}
}

/// The caller does everything itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Workers for Serial {
    const SERIAL: bool = true;

    fn count(&self) -> usize {
        1
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        for task in tasks {
            task();
        }
    }
}

impl<W: Workers> Workers for &W {
    const SERIAL: bool = W::SERIAL;

    fn count(&self) -> usize {
        W::count(self)
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        W::run(self, tasks);
    }

    #[inline(always)]
    fn enter(&self, phase: Phase) {
        W::enter(self, phase);
    }
}

/// How many of `pieces` each worker takes: as even as it gets.
pub(crate) fn share<W: Workers>(workers: &W, pieces: usize) -> usize {
    if W::SERIAL { pieces.max(1) } else { pieces.div_ceil(workers.count().clamp(1, MAX_WORKERS)).max(1) }
}

/// Calls `f` with every part, on as many workers as there are parts. Parts beyond [`MAX_WORKERS`] run on the caller.
pub(crate) fn for_each<W: Workers, P: Send>(workers: &W, parts: impl Iterator<Item = P>, f: impl Fn(P) + Sync) {
    if W::SERIAL {
        return parts.for_each(f);
    }
    let f = &f;
    let mut calls: Vec<_, MAX_WORKERS> = Vec::new();
    for part in parts {
        let mut part = Some(part);
        let call = move || {
            if let Some(part) = part.take() {
                f(part);
            }
        };
        if let Err(mut call) = calls.push(call) {
            call();
        }
    }
    if let [only] = &mut calls[..] {
        return only();
    }
    let mut tasks: Vec<Task<'_>, MAX_WORKERS> = calls.iter_mut().map(|call| call as Task<'_>).collect();
    workers.run(&mut tasks);
}
