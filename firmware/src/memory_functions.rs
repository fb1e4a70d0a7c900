//! What the compiler calls to copy, fill and compare memory, in a hundred bytes.
//!
//! Those that come with it take 1.9 KB, to be fast at any length and alignment. Here only what runs once copies much: the time
//! of a token goes into kernels, which move their data themselves.
#![allow(unsafe_code)]

use core::arch::global_asm;

// The names are those of the run-time ABI for the Arm architecture, and C's. A word at a time, aligned or not: these
// processors load and store words at any address of ordinary memory.
global_asm!(
    r#"
    .syntax unified
    .thumb

    .section .text.memcpy, "ax", %progbits
    .global memcpy, __aeabi_memcpy, __aeabi_memcpy4, __aeabi_memcpy8
    .thumb_func
memcpy:
    .thumb_func
__aeabi_memcpy:
    .thumb_func
__aeabi_memcpy4:
    .thumb_func
__aeabi_memcpy8:
    mov     r12, r0
1:  subs    r2, #4
    itt     hs
    ldrhs   r3, [r1], #4
    strhs   r3, [r12], #4
    bhs     1b
    adds    r2, #4
2:  subs    r2, #1
    itt     hs
    ldrbhs  r3, [r1], #1
    strbhs  r3, [r12], #1
    bhs     2b
    bx      lr

    .section .text.memset, "ax", %progbits
    .global memset, __aeabi_memset, __aeabi_memset4, __aeabi_memset8
    .global __aeabi_memclr, __aeabi_memclr4, __aeabi_memclr8
    .thumb_func
memset:
    mov     r3, r1
    mov     r1, r2
    mov     r2, r3
    b       __aeabi_memset
    .thumb_func
__aeabi_memclr:
    .thumb_func
__aeabi_memclr4:
    .thumb_func
__aeabi_memclr8:
    movs    r2, #0
    .thumb_func
__aeabi_memset:
    .thumb_func
__aeabi_memset4:
    .thumb_func
__aeabi_memset8:
    mov     r12, r0
    and     r2, r2, #255
    orr     r2, r2, r2, lsl #8
    orr     r2, r2, r2, lsl #16
1:  subs    r1, #4
    it      hs
    strhs   r2, [r12], #4
    bhs     1b
    adds    r1, #4
2:  subs    r1, #1
    it      hs
    strbhs  r2, [r12], #1
    bhs     2b
    bx      lr

    .section .text.memcmp, "ax", %progbits
    .global memcmp
    .thumb_func
memcmp:
    mov     r12, r0
    movs    r0, #0
1:  subs    r2, #1
    blo     2f
    ldrb    r0, [r12], #1
    ldrb    r3, [r1], #1
    subs    r0, r3
    beq     1b
2:  bx      lr
    "#
);
