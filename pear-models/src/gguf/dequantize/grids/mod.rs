//! The codebooks of the IQ types, unpacked from tables of a few bits a number when the crate is compiled.

mod iq1;
mod iq2;
mod iq3;

/// The vectors of IQ1_S and IQ1_M.
pub(super) static IQ1_S: [[i8; 8]; 2048] = unpack(&iq1::IQ1_S, 2, &[-1, 0, 1, 0]);
/// The vectors of IQ2_XXS.
pub(super) static IQ2_XXS: [[i8; 8]; 256] = unpack(&iq2::IQ2_XXS, 2, &IQ2_VALUES);
/// The vectors of IQ2_XS.
pub(super) static IQ2_XS: [[i8; 8]; 512] = unpack(&iq2::IQ2_XS, 2, &IQ2_VALUES);
/// The vectors of IQ2_S.
pub(super) static IQ2_S: [[i8; 8]; 1024] = unpack(&iq2::IQ2_S, 2, &IQ2_VALUES);
/// The vectors of IQ3_XXS.
pub(super) static IQ3_XXS: [[i8; 4]; 256] =
    unpack(&iq3::IQ3_XXS, 4, &[4, 12, 20, 28, 36, 44, 52, 62]);
/// The vectors of IQ3_S.
pub(super) static IQ3_S: [[i8; 4]; 512] = unpack(&iq3::IQ3_S, 4, &[1, 3, 5, 7, 9, 11, 13, 15]);

/// The signs of eight numbers that seven bits stand for, one bit each: the eighth makes the number of negative ones even.
pub(super) static EVEN_SIGNS: [u8; 128] = {
    let mut signs = [0; 128];
    let mut index = 0;
    while index < signs.len() {
        signs[index] = index as u8 | ((index.count_ones() as u8 & 1) << 7);
        index += 1;
    }
    signs
};

const IQ2_VALUES: [i8; 4] = [8, 25, 43, 0];

/// Unpacks vectors of digits, `bits` bits each from the lowest on, that stand for `values`.
const fn unpack<const DIM: usize, const LEN: usize, const VALUES: usize>(
    packed: &[u16; LEN],
    bits: u32,
    values: &[i8; VALUES],
) -> [[i8; DIM]; LEN] {
    let mut grid = [[0; DIM]; LEN];
    let mut index = 0;
    while index < LEN {
        let mut digits = packed[index] as usize;
        let mut at = 0;
        while at < DIM {
            grid[index][at] = values[digits % (1 << bits)];
            digits >>= bits;
            at += 1;
        }
        index += 1;
    }
    grid
}
