use std::time::Instant;
use thumbformer::packing::*;
use thumbformer::*;
use thumbformer_convert::{memory::AlignedBytes, synthetic::*};
fn main() {
    let big = std::env::args().nth(1).is_some_and(|a| a == "110");
    let arch = if big { llama(32000, 768, 12, 12, 12, 2048, 1024) } else { llama(32000, 288, 6, 6, 6, 768, 512) };
    for group in [32u32, 64, 0] {
        let packing = Packing { layout: Layout::Rows8, group };
        let t = Instant::now();
        let blob = Synthetic { arch, seed: 1 }.blob(packing).unwrap();
        println!("group {group} made {} MB in {:?}", blob.len() / 1000000, t.elapsed());
        let t = Instant::now();
        let model = Model::new(&blob).unwrap();
        println!("validated in {:?}", t.elapsed());
        for b in Backend::available() {
            for chunk in [64u32, 128] {
                let plan = Plan::new(model.arch(), packing, Limits::new(arch.context, chunk)).unwrap();
                let mut c = AlignedBytes::zeroed(plan.cache_bytes());
                let mut s = AlignedBytes::zeroed(plan.scratch_bytes());
                let mut ses = Session::with(model, &plan, &mut c, &mut s, b, workers::Serial).unwrap();
                let n = if b == Backend::PORTABLE {
                    64
                } else if big {
                    512
                } else {
                    256
                };
                let ids: Vec<u32> = (0..n).map(|i| (i * 7919) % 32000).collect();
                let mut d = Digest::new();
                let t = Instant::now();
                d.update(ses.prefill(&ids).unwrap());
                let pre = n as f64 / t.elapsed().as_secs_f64();
                let t = Instant::now();
                let m = if b == Backend::PORTABLE { 4 } else { 32 };
                for i in 0..m {
                    d.update(ses.step(i * 31).unwrap());
                }
                let dec = m as f64 / t.elapsed().as_secs_f64();
                println!(
                    "{:12} chunk {chunk} prefill {pre:8.1} decode {dec:8.1} tok/s ({:.1} GB/s) digest {:016x}",
                    b.name(),
                    dec * blob.len() as f64 / 1e9,
                    d.value()
                );
            }
        }
    }
}
