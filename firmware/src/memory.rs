//! How much of the memory is in use. The addresses are the linker's.
#![allow(unsafe_code)]

use cortex_m_rt::STACK_PAINT_VALUE;

unsafe extern "C" {
    /// All of them are symbols of linker scripts, and only their addresses mean something.
    static _stack_start: u32;
    static _stack_end: u32;
    static __sdata: u32;
    static __edata: u32;
    static __sbss: u32;
    static __ebss: u32;
    static __suninit: u32;
    static __euninit: u32;
    #[cfg(feature = "alloc")]
    static __sheap: u32;
    #[cfg(feature = "alloc")]
    static _ram_end: u32;
}

/// Bytes of all statics: session buffers too, unless they are on the heap.
pub fn statics() -> usize {
    let bytes = |start: *const u32, end: *const u32| end.addr() - start.addr();
    bytes(&raw const __sdata, &raw const __edata)
        + bytes(&raw const __sbss, &raw const __ebss)
        + bytes(&raw const __suninit, &raw const __euninit)
}

/// Bytes of the stack that have ever been in use, and bytes there are.
pub fn stack() -> (usize, usize) {
    // Named the wrong way round by cortex-m-rt: the stack starts at its upper end.
    let (top, bottom) = (&raw const _stack_start, &raw const _stack_end);
    let words = (top.addr() - bottom.addr()) / size_of::<u32>();
    // SAFETY: every word lies in the stack's memory, which the start-up code has painted. Those in use may change at any
    // time, which a volatile read allows.
    let is_painted = |word: &usize| unsafe { bottom.add(*word).read_volatile() } == STACK_PAINT_VALUE;
    let unused = (0..words).take_while(is_painted).count();
    ((words - unused) * size_of::<u32>(), words * size_of::<u32>())
}

/// Gives a heap all RAM behind the statics and returns how many bytes those are. To be called once.
#[cfg(feature = "alloc")]
pub(crate) fn give_to(heap: &embedded_alloc::LlffHeap) -> usize {
    let (start, end) = ((&raw const __sheap).addr(), (&raw const _ram_end).addr());
    // SAFETY: nothing but the heap uses this memory, since the stack lies elsewhere. The only caller runs once: it takes
    // what can be taken once.
    unsafe { heap.init(start, end - start) };
    end - start
}
