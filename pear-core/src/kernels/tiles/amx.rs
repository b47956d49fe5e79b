//! AMX: products of whole tiles (`tdpbf16ps`). The compiler offers no stable functions for it, so the instructions are written out.

use super::{Factors, Sums};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) fn is_available() -> bool {
    false
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) unsafe fn with_blocks<R>(_: impl FnOnce(&mut dyn FnMut(Factors, &mut Sums)) -> R) -> R {
    unreachable!("not available");
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use x86::{is_available, with_blocks};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

    use super::super::SIDE;
    use super::{Factors, Sums};

    /// Whether the processor has AMX for bf16 and Linux lets this process use it.
    pub(in super::super) fn is_available() -> bool {
        has_instructions() && may_use_tiles()
    }

    fn has_instructions() -> bool {
        const XSAVE_IN_USE: u32 = 1 << 27;
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        const STATE_OF_TILES: u64 = 3 << 17;
        let has = |register: u32, bits: u32| register & bits == bits;
        __cpuid(0).eax >= 7
            && has(__cpuid(1).ecx, XSAVE_IN_USE)
            && has(__cpuid_count(7, 0).edx, BF16_AND_TILES)
            // SAFETY: the system uses XSAVE, so this register can be read.
            && unsafe { enabled_state() } & STATE_OF_TILES == STATE_OF_TILES
    }

    /// # Safety
    /// The system must use XSAVE.
    #[target_feature(enable = "xsave")]
    unsafe fn enabled_state() -> u64 {
        // SAFETY: as this function's.
        unsafe { _xgetbv(0) }
    }

    /// Asks Linux to keep the contents of tiles for this process, which it does only for those that ask (`arch_prctl`, since 5.16).
    fn may_use_tiles() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let mut result = ARCH_PRCTL;
        // SAFETY: this call changes nothing but what this process may use.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    /// `ldtilecfg`'s operand: eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Configuration([u8; 64]);

    impl Configuration {
        const fn new() -> Self {
            let mut bytes = [0; 64];
            bytes[0] = 1;
            let mut tile = 0;
            while tile < 8 {
                bytes[16 + 2 * tile] = 64;
                bytes[48 + tile] = SIDE as u8;
                tile += 1;
            }
            Self(bytes)
        }
    }

    /// Calls `f` with a function that computes a block of the output.
    ///
    /// # Safety
    /// AMX must be available; `f` must not lead here again.
    pub(in super::super) unsafe fn with_blocks<R>(
        f: impl FnOnce(&mut dyn FnMut(Factors, &mut Sums)) -> R,
    ) -> R {
        /// Lets go of the tiles, also after a panic.
        struct Release;
        impl Drop for Release {
            fn drop(&mut self) {
                // SAFETY: tiles are in use.
                unsafe { asm!("tilerelease", options(nostack, nomem)) };
            }
        }
        static CONFIGURATION: Configuration = Configuration::new();
        // SAFETY: AMX is available; no other code uses tiles.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly));
        }
        let _release = Release;
        // SAFETY: AMX is available, and the tiles are configured.
        f(&mut |factors, sums| unsafe { multiply(factors, sums) })
    }

    /// A block of the output.
    ///
    /// # Safety
    /// AMX must be available, the tiles configured.
    unsafe fn multiply(factors: Factors, sums: &mut Sums) {
        // SAFETY: a tile is 16 rows of 64 bytes; the sums are 32 rows of 128 bytes.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nostack, nomem),
            );
            for ([above, below], [left, right]) in factors.depths() {
                asm!(
                    "tileloadd tmm4, [{above} + {stride}]",
                    "tileloadd tmm6, [{left} + {stride}]",
                    "tileloadd tmm7, [{right} + {stride}]",
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm5, [{below} + {stride}]",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    above = in(reg) above,
                    below = in(reg) below,
                    left = in(reg) left,
                    right = in(reg) right,
                    stride = in(reg) 64usize,
                    options(nostack, readonly),
                );
            }
            asm!(
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                "tilestored [{below} + {stride}], tmm2",
                "tilestored [{below} + {stride} + 64], tmm3",
                sums = in(reg) sums.as_mut_ptr(),
                below = in(reg) sums[SIDE..].as_mut_ptr(),
                stride = in(reg) size_of_val(&sums[0]),
                options(nostack),
            );
        }
    }
}
