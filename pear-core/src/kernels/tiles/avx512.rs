//! AVX-512's dot products of pairs of bf16 (`vdpbf16ps`).

use super::{Factors, Sums};

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn is_available() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn multiply(_: Factors, _: &mut Sums) {
    unreachable!("not available");
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{is_available, multiply};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::SIDE;
    use super::{Factors, Sums};

    /// Rows whose sums stay in registers, two of them a row.
    const ROWS: usize = 8;

    pub(in super::super) fn is_available() -> bool {
        is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16")
    }

    /// A block of the output.
    ///
    /// # Safety
    /// The instructions must be available.
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(in super::super) unsafe fn multiply(factors: Factors, sums: &mut Sums) {
        for (index, sums) in sums.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            let (tile, first) = (index * ROWS / SIDE, index * ROWS % SIDE);
            let mut registers = [[_mm512_setzero_ps(); 2]; ROWS];
            for (inputs, [left, right]) in factors.depths() {
                let rows = &inputs[tile].0[first..first + ROWS];
                for pair in 0..SIDE {
                    // SAFETY: rows of 64 bytes.
                    let weight = unsafe {
                        [left, right].map(|tile| _mm512_load_si512(tile.0[pair].as_ptr().cast()))
                    };
                    for (registers, row) in registers.iter_mut().zip(rows) {
                        let input = _mm512_set1_epi32(row[pair].cast_signed());
                        for (register, weight) in registers.iter_mut().zip(weight) {
                            // SAFETY: both are 64 bytes of any bits.
                            let [input, weight] = unsafe {
                                [
                                    std::mem::transmute::<__m512i, __m512bh>(input),
                                    std::mem::transmute::<__m512i, __m512bh>(weight),
                                ]
                            };
                            *register = _mm512_dpbf16_ps(*register, input, weight);
                        }
                    }
                }
            }
            for (sums, registers) in sums.iter_mut().zip(registers) {
                for (sums, register) in sums.as_chunks_mut::<SIDE>().0.iter_mut().zip(registers) {
                    // SAFETY: 16 numbers.
                    unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), register) };
                }
            }
        }
    }
}
