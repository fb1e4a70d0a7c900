//! Counts instructions, exactly: of matrix products, and of whole tokens of the model that was built in, by phase.
//!
//! It is made for QEMU with `-icount shift=0`, where every instruction takes one nanosecond. The SysTick timer sees only
//! multiples of [`TICK`] of them; but what is counted repeats itself exactly, so it runs `TICK` times, each time later by
//! another fraction of a tick, and the sum of the rounded counts is the true number.
#![no_std]
#![no_main]

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use cortex_m::Peripherals;
use cortex_m::asm::delay;
use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::entry;
use semihosting::println;
use semihosting::process::exit;
use static_cell::ConstStaticCell;
use thumbformer::arch::{Kind, Role};
use thumbformer::blob::header::Header;
use thumbformer::kernel::{Activations, HeadCache, Queries, Shaping, TileMut, Write};
use thumbformer::matrix::Matrix;
use thumbformer::packing::{Layout, Packing};
use thumbformer::workers::{Phase, Serial, Task, Workers};
use thumbformer::{Aligned, Backend, Digest, Limits, Model, Plan, Session, SessionError};

/// Nanoseconds of a SysTick: the clock of `mps2-an500` is 25 MHz, that of `mps2-an505` 20 MHz.
const TICK: u32 = if cfg!(board = "mps2-an500") { 40 } else { 50 };
/// Tokens of the prompt that share one pass over the weights.
const CHUNK: u32 = 8;
/// Positions to measure at, if the model has them.
const CONTEXT: u32 = if HEADER.arch.context < 264 { HEADER.arch.context } else { 264 };

const BLOB: &[u8] = include_bytes!(env!("THUMBFORMER_MODEL"));
static MODEL: Aligned<[u8; BLOB.len()]> = Aligned(*include_bytes!(env!("THUMBFORMER_MODEL")));

const HEADER: Header = match Header::read(BLOB) {
    Ok(header) => header,
    Err(_) => panic!("THUMBFORMER_MODEL is not a .thumb file of this version"),
};
const PLAN: Plan = match Plan::for_header(&HEADER, Limits::new(CONTEXT, CHUNK)) {
    Ok(plan) => plan,
    Err(_) => panic!("the model needs more memory than this chip can address"),
};
static CACHE: ConstStaticCell<Aligned<[u8; PLAN.cache_bytes()]>> =
    ConstStaticCell::new(Aligned([0; PLAN.cache_bytes()]));
static SCRATCH: ConstStaticCell<Aligned<[u8; PLAN.scratch_bytes()]>> =
    ConstStaticCell::new(Aligned([0; PLAN.scratch_bytes()]));

#[entry]
fn main() -> ! {
    let Some(peripherals) = Peripherals::take() else { exit(1) };
    let mut timer = peripherals.SYST;
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(0xFF_FFFF);
    timer.clear_current();
    timer.enable_counter();
    let delays = |timer: &mut SYST, cycles| count(timer, &mut (), |()| (), |()| delay(core::hint::black_box(cycles)));
    let (hundred, thousand) = (delays(&mut timer, 100), delays(&mut timer, 1000));
    // A loop of two instructions.
    if thousand - hundred != 2 * 900 {
        println!("{hundred} and {thousand} instructions in loops of two: is this QEMU with `-icount shift=0`?");
        exit(1);
    }
    let room = ROOM.take();
    products(&mut timer, room);
    match tokens(&mut timer, room) {
        Ok(()) => exit(0),
        Err(error) => {
            println!("{error}");
            exit(1)
        }
    }
}

/// Ticks since the timer was cleared.
fn ticks() -> u32 {
    SYST::get_current().wrapping_neg() & 0xFF_FFFF
}

/// Lets one more instruction pass than for the turn before: in `TICK` turns, every fraction of a tick.
#[inline(never)]
fn stagger(turn: u32) {
    // A loop of two instructions, and then none or one.
    delay(turn / 2);
    core::hint::black_box(&[nothing as fn(), nop])[turn as usize % 2]();
}

#[inline(never)]
fn nothing() {}

#[inline(never)]
fn nop() {
    cortex_m::asm::nop();
}

/// The instructions of `f`, which must be the same every time after `before`.
fn count<S: ?Sized>(timer: &mut SYST, state: &mut S, before: impl Fn(&mut S), f: impl Fn(&mut S)) -> u32 {
    let mut sum = |f: &dyn Fn(&mut S)| {
        // QEMU is not exact when it meets code for the first time, so the first turn does not count.
        (0..=TICK).fold(0, |sum, turn| {
            before(state);
            timer.clear_current();
            stagger(turn);
            f(state);
            let ticks = ticks();
            if turn == 0 { 0 } else { sum + ticks }
        })
    };
    let empty = sum(&|_| ());
    sum(&f) - empty
}

/// Products of random numbers: (inputs, outputs, columns of a group or 0, tokens).
const PRODUCTS: [(usize, usize, u32, usize); 8] = [
    (768, 288, 64, 1),
    (288, 288, 64, 1),
    (64, 172, 32, 1),
    (172, 64, 32, 1),
    (96, 256, 32, 1),
    (96, 256, 0, 1),
    (96, 256, 32, 8),
    (64, 172, 32, 8),
];
const MAX_WEIGHTS: usize = 768 * 288;
const MAX_TOKENS: usize = 8;
const MAX_COLS: usize = 768;
const MAX_ROWS: usize = 288;
const MAX_GROUPS: usize = 12;
/// Heads that share keys, of which softmax is counted.
const MAX_GROUP: usize = 8;

/// Room for a product.
struct Room {
    weights: Aligned<[u8; MAX_WEIGHTS]>,
    scales: Aligned<[u16; MAX_ROWS * MAX_GROUPS]>,
    values: Aligned<[i8; Layout::Dsp.vector_bytes(MAX_COLS) * MAX_TOKENS]>,
    x_scales: [f32; MAX_GROUPS * MAX_TOKENS],
    out: [[f32; MAX_ROWS * MAX_TOKENS]; 2],
}
static ROOM: ConstStaticCell<Room> = ConstStaticCell::new(Room {
    weights: Aligned([0; MAX_WEIGHTS]),
    scales: Aligned([0; MAX_ROWS * MAX_GROUPS]),
    values: Aligned([0; Layout::Dsp.vector_bytes(MAX_COLS) * MAX_TOKENS]),
    x_scales: [0.0; MAX_GROUPS * MAX_TOKENS],
    out: [[0.0; MAX_ROWS * MAX_TOKENS]; 2],
});

/// The next of a series of random numbers.
fn random(state: &mut u32) -> u32 {
    *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    *state >> 16
}

fn weight(state: &mut u32) -> i8 {
    (random(state) % 255) as i8 - 127
}

fn products(timer: &mut SYST, room: &mut Room) {
    let Room { weights, scales, values, x_scales, out: [out, expected] } = room;
    let seed = &mut 1;
    let backend = Backend::detect();
    println!("\ninstructions for each multiply-add of a product, scales included, backend {}:", backend.name());
    for (cols, rows, group, tokens) in PRODUCTS {
        let packing = Packing { layout: Layout::Dsp, group };
        let (groups, stride) = (packing.groups(cols), Layout::Dsp.vector_bytes(cols));
        let weights = &mut weights.0[..packing.weight_bytes(rows, cols).unwrap_or(0)];
        for quad in weights.as_chunks_mut().0 {
            *quad = Layout::Dsp.encode(core::array::from_fn(|_| weight(seed)));
        }
        let scales = &mut scales.0[..packing.scale_count(rows, cols).unwrap_or(0)];
        scales.fill_with(|| 0x2000 + (random(seed) % 0x1000) as u16);
        let values = &mut values.0[..tokens * stride];
        for quad in values.as_chunks_mut().0 {
            *quad = Layout::expand(core::array::from_fn(|_| weight(seed)));
        }
        let x_scales = &mut x_scales[..tokens * groups];
        x_scales.fill_with(|| random(seed) as f32 / 65_536.0);
        let Some(m) = Matrix::new(rows, cols, packing, weights, scales, 1.0) else { return };
        let x = Activations { values, stride, scales: x_scales, starts: &[], groups };
        let (out, expected) = (&mut out[..tokens * rows], &mut expected[..tokens * rows]);
        let multiply = |backend: Backend, out: &mut [f32]| {
            backend.linear(&m, 0, &x, None, Write::Store, TileMut::new(out, rows, rows));
        };
        multiply(Backend::PORTABLE, expected);
        let counted = count(timer, &mut *out, |_| (), |out| multiply(backend, out));
        let same = out.iter().zip(&*expected).all(|(a, b)| a.to_bits() == b.to_bits());
        let each = counted as f32 / (rows * cols * tokens) as f32;
        let group = if group == 0 { cols } else { group as usize };
        println!(
            "  {cols:4} x {rows:4}, group {group:3}, {tokens} tokens {each:8.3}{}",
            if same { "" } else { "   WRONG" }
        );
    }
}

/// Instructions of one KV head's attention that do not depend on the width of a head: softmax, and the loops around it. What
/// heads of 16 and of 32 dimensions take differs by their products alone. None, if there is no room for so many tokens.
fn softmax(timer: &mut SYST, room: &mut Room, position: usize, tokens: usize, group: usize) -> Option<u32> {
    let Room { weights, values, out: [scales, out], .. } = room;
    let positions = (position + tokens).next_multiple_of(32);
    let seed = &mut 1;
    for quad in weights.0.as_chunks_mut().0 {
        *quad = Layout::Dsp.encode(core::array::from_fn(|_| weight(seed)));
    }
    for quad in values.0.as_chunks_mut().0 {
        *quad = Layout::expand(core::array::from_fn(|_| weight(seed)));
    }
    scales.fill_with(|| random(seed) as f32 / 65_536.0);
    let (key_scales, value_scales) = (scales.get(..positions)?, scales.get(positions..2 * positions)?);
    let mut attend = |dim: usize| {
        let (keys, rest) = weights.0.split_at_checked(positions * dim)?;
        let cache = HeadCache::new(Layout::Dsp, dim, keys, rest.get(..positions * dim)?, key_scales, value_scales)?;
        let width = group * Layout::Dsp.vector_bytes(dim);
        let values = values.0.get_mut(..tokens * width)?;
        let (scales, starts) = (&mut [1e-3; MAX_TOKENS * MAX_GROUP], &mut [0; MAX_TOKENS * MAX_GROUP]);
        let (scales, starts) = (scales.get_mut(..tokens * group)?, starts.get_mut(..tokens * group)?);
        let out = out.get_mut(..tokens * group * dim)?;
        let all = |state: &mut (&mut [i8], &mut [f32], &mut [i32], &mut [f32])| {
            let values = &mut TileMut::new(state.0, width, width);
            let (scales, starts) = (&mut TileMut::new(state.1, group, group), &mut TileMut::new(state.2, group, group));
            let queries = Queries { values, scales, starts, position, causal: true, shaping: Shaping::default() };
            Backend::detect().attend(&cache, queries, &mut TileMut::new(state.3, group * dim, group * dim));
        };
        Some(count(timer, &mut (values, scales, starts, out), |_| (), all))
    };
    Some(2 * attend(16)? - attend(32)?)
}

const PHASES: [(Phase, &str); 9] = [
    (Phase::Embed, "embed"),
    (Phase::Norm, "norm"),
    (Phase::Quantize, "quantize"),
    (Phase::Linear, "linear"),
    (Phase::Rope, "rope"),
    (Phase::Cache, "cache"),
    (Phase::Attention, "attention"),
    (Phase::Activation, "activation"),
    (Phase::Head, "head"),
];

/// Adds up ticks by phase.
struct Meter {
    phase: AtomicU32,
    since: AtomicU32,
    ticks: [AtomicU32; PHASES.len()],
}

impl Meter {
    const fn new() -> Self {
        Self { phase: AtomicU32::new(0), since: AtomicU32::new(0), ticks: [const { AtomicU32::new(0) }; PHASES.len()] }
    }

    fn turn_to(&self, phase: u32) {
        let now = ticks();
        if let Some(ticks) = self.ticks.get(self.phase.load(Relaxed) as usize) {
            ticks.store(ticks.load(Relaxed) + now - self.since.load(Relaxed), Relaxed);
        }
        self.phase.store(phase, Relaxed);
        // What went on here belongs to nobody.
        self.since.store(ticks(), Relaxed);
    }
}

impl Workers for Meter {
    const SERIAL: bool = true;

    fn count(&self) -> usize {
        1
    }

    fn run(&self, tasks: &mut [Task<'_>]) {
        tasks.iter_mut().for_each(|task| task());
    }

    fn enter(&self, phase: Phase) {
        self.turn_to(phase as u32);
    }
}

/// What is measured of the model: (position, tokens).
const STRETCHES: [(usize, usize); 5] = [(0, 8), (16, 8), (16, 1), (64, 1), (256, 1)];

fn tokens(timer: &mut SYST, room: &mut Room) -> Result<(), SessionError> {
    let Ok(model) = Model::new(&MODEL.0) else {
        println!("the model that is built in is damaged");
        exit(1)
    };
    let arch = model.arch();
    let weights = |tensors: &dyn Fn(Role) -> bool| -> u64 {
        let matrices = arch.tensors().filter(|t| t.kind == Kind::Matrix && tensors(t.role));
        matrices.map(|t| u64::from(t.rows) * u64::from(t.cols)).sum()
    };
    let head = if arch.tied_head { Role::TokenEmbedding } else { Role::Head };
    let in_head = weights(&|role| role == head);
    let in_layers = weights(&|role| !matches!(role, Role::TokenEmbedding | Role::PositionEmbedding | Role::Head));
    println!("\ninstructions for whole tokens, {} weights in layers and {in_head} in the head:", in_layers);
    let (cache, scratch) = (&mut CACHE.take().0, &mut SCRATCH.take().0);
    let ids: [u32; CONTEXT as usize] = core::array::from_fn(|i| (i * 7 + i / 5 + 1) as u32 % arch.vocab);

    for (position, tokens) in STRETCHES {
        let Some(ids) = ids.get(..position + tokens) else { continue };
        let (before, ids) = ids.split_at(position);
        let mut session = Session::new(model, &PLAN, cache, scratch)?;
        if position > 0 {
            session.prefill(before)?;
        }
        let total =
            count(timer, &mut session, |session| _ = session.rewind(position), |session| _ = session.prefill(ids));
        let products = in_layers * tokens as u64 + in_head;
        println!(
            "  positions {position}..{}: {total} instructions, {:.3} for each weight multiply-add",
            position + tokens,
            total as f32 / products as f32
        );

        let meter = Meter::new();
        let mut session = Session::with(model, &PLAN, cache, scratch, Backend::detect(), &meter)?;
        if position > 0 {
            session.prefill(before)?;
        }
        for turn in 0..=TICK {
            if turn <= 1 {
                // As above, the first turn does not count.
                meter.ticks.iter().for_each(|ticks| ticks.store(0, Relaxed));
            }
            session.rewind(position)?;
            timer.clear_current();
            stagger(turn);
            meter.phase.store(PHASES.len() as u32, Relaxed);
            let _ = session.prefill(ids)?;
            meter.turn_to(PHASES.len() as u32);
        }
        let group = (arch.heads / arch.kv_heads) as usize;
        let softmax =
            softmax(timer, room, position, tokens, group).map_or(0, |each| each * arch.kv_heads * arch.layers);
        let row = |name, counted| println!("    {name:12}{counted:9}{:7.3}", counted as f32 / products as f32);
        for (phase, name) in PHASES {
            let counted = meter.ticks.get(phase as usize).map_or(0, |ticks| ticks.load(Relaxed));
            if phase == Phase::Attention {
                row(name, counted - softmax);
                row("softmax", softmax);
            } else {
                row(name, counted);
            }
        }
    }

    // Three tiles of the cache, the last one in part.
    let few = ids.get(..70).unwrap_or(&ids);
    let mut digests = [Digest::new(); 2];
    for (digest, backend) in digests.iter_mut().zip([Backend::PORTABLE, Backend::detect()]) {
        let mut session = Session::with(model, &PLAN, cache, scratch, backend, Serial)?;
        session.score(few, |_, logits| digest.update(logits))?;
        println!("  digest of the logits of {} tokens, {}: {:016x}", few.len(), backend.name(), digest.value());
    }
    if digests[0] != digests[1] {
        println!("  WRONG");
    }
    Ok(())
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    println!("{info}");
    exit(101)
}
