//! AMX: sixteen rows by sixteen outputs in one register, with bfloat16 products and float32 sums.
//!
//! The intrinsics are not stable yet, so the instructions stand in inline assembly. A process asks the
//! kernel for the registers once; a thread configures them for each piece of its work, as others in the
//! process may use them differently in between.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::marker::PhantomData;

use crate::kernels::panels::Line;
use crate::kernels::simd::LANES;

/// Rows of a register, and sums in each of them.
pub(in crate::kernels) const TILE: usize = 16;

/// The sums of some rows for the outputs of a panel.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(in crate::kernels) struct Sums(pub [[f32; LANES]; TILE]);

impl Sums {
    pub(in crate::kernels) const ZERO: Self = Self([[0.0; LANES]; TILE]);
}

/// Proof that this machine has AMX with bfloat16 and that this process may use it; only
/// [`Amx::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Amx(());

impl Amx {
    /// The proof, where there is AMX and the kernel grants it.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        const BF16: u32 = 1 << 22;
        const TILES: u32 = 1 << 24;
        let features = __cpuid_count(7, 0).edx;
        (features & (BF16 | TILES) == BF16 | TILES && linux::grants_tiles()).then_some(Self(()))
    }

    /// This thread's registers, of `rows` rows, 1 to [`TILE`], for rows and sums. A thread has them
    /// once at a time.
    ///
    /// # Panics
    /// Where there are no or more rows.
    pub(in crate::kernels) fn tiles(self, rows: usize) -> Tiles {
        assert!((1..=TILE).contains(&rows), "bug: {rows} rows of a tile");
        let config = Config::new(rows as u8);
        // SAFETY: `self` proves AMX and the right to use it; `config` is a valid palette of 64 bytes.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly));
        }
        Tiles { rows, thread: PhantomData }
    }
}

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// Registers 0 to 3 are sums, 4 and 5 rows, 6 and 7 lines of panels.
    fn new(own: u8) -> Self {
        let (mut bytes, mut rows) = ([0; 16], [0; 16]);
        bytes[..8].fill(64);
        rows[..6].fill(own);
        rows[6..8].fill(TILE as u8);
        Self { palette: 1, start_row: 0, reserved: [0; 14], bytes, rows }
    }
}

/// Registers that this thread has configured; they are free again when it goes.
pub(in crate::kernels) struct Tiles {
    rows: usize,
    /// They are the thread's own.
    thread: PhantomData<*const ()>,
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: only `Amx::tiles` makes one, where there is AMX; nothing is in use any more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// Where a loop has got to; asks for lines 4 KiB ahead.
macro_rules! ahead {
    ($panel:literal) => {
        concat!(
            "prefetcht0 [{",
            $panel,
            "} + 4096]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4160]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4224]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4288]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4352]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4416]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4480]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4544]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4608]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4672]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4736]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4800]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4864]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4928]\n",
            "prefetcht0 [{",
            $panel,
            "} + 4992]\n",
            "prefetcht0 [{",
            $panel,
            "} + 5056]\n",
        )
    };
}

impl Tiles {
    /// Adds to `sums` the products of the rows from `x` on, `stride` lines of 32 features from one to
    /// the next, with as many whole sixteens of two panels' lines as there are.
    ///
    /// What is added for sixteen lines is one number: the sum of the products of their first features
    /// plus that of their second ones, each in order (TDPBF16PS).
    ///
    /// # Panics
    /// Where the panels differ in length, or there are fewer rows.
    pub(in crate::kernels) fn add_one(
        &self,
        x: &[Line],
        stride: usize,
        panels: [&[Line]; 2],
        sums: &mut [Sums; 2],
    ) {
        let steps = self.check(x, self.rows, stride, panels);
        if steps == 0 {
            return;
        }
        // SAFETY: `self` proves AMX, configured by this thread for `self.rows` rows. `check` has seen
        // that all rows have `steps` lines and the panels 16 times as many; sums are 16 rows of 64
        // bytes. Prefetching reads nothing.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {line}*1]",
                "tileloadd tmm1, [{sums} + {line}*1 + 1024]",
                "2:",
                "tileloadd tmm4, [{x} + {stride}*1]",
                "tileloadd tmm6, [{first} + {line}*1]",
                "tileloadd tmm7, [{second} + {line}*1]",
                ahead!("first"),
                "tdpbf16ps tmm0, tmm4, tmm6",
                ahead!("second"),
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {x}, 64",
                "add {first}, 1024",
                "add {second}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 1024], tmm1",
                x = inout(reg) x.as_ptr() => _,
                stride = in(reg) stride * size_of::<Line>(),
                first = inout(reg) panels[0].as_ptr() => _,
                second = inout(reg) panels[1].as_ptr() => _,
                steps = inout(reg) steps => _,
                line = in(reg) size_of::<Line>(),
                sums = in(reg) sums.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// The same for twice [`TILE`] rows, the second sixteen behind the first.
    ///
    /// # Panics
    /// As above, and where registers have fewer rows.
    pub(in crate::kernels) fn add_two(
        &self,
        x: &[Line],
        stride: usize,
        panels: [&[Line]; 2],
        sums: &mut [[Sums; 2]; 2],
    ) {
        assert_eq!(self.rows, TILE, "bug: rows of a tile");
        let steps = self.check(x, 2 * TILE, stride, panels);
        if steps == 0 {
            return;
        }
        // SAFETY: as in `add_one`, with 32 rows of `steps` lines.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {line}*1]",
                "tileloadd tmm1, [{sums} + {line}*1 + 1024]",
                "tileloadd tmm2, [{sums} + {line}*1 + 2048]",
                "tileloadd tmm3, [{sums} + {line}*1 + 3072]",
                "2:",
                "tileloadd tmm6, [{first} + {line}*1]",
                "tileloadd tmm4, [{x} + {stride}*1]",
                "tileloadd tmm7, [{second} + {line}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{below} + {stride}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                ahead!("first"),
                "tdpbf16ps tmm2, tmm5, tmm6",
                ahead!("second"),
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {x}, 64",
                "add {below}, 64",
                "add {first}, 1024",
                "add {second}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}*1], tmm0",
                "tilestored [{sums} + {line}*1 + 1024], tmm1",
                "tilestored [{sums} + {line}*1 + 2048], tmm2",
                "tilestored [{sums} + {line}*1 + 3072], tmm3",
                x = inout(reg) x.as_ptr() => _,
                below = inout(reg) x[TILE * stride..].as_ptr() => _,
                stride = in(reg) stride * size_of::<Line>(),
                first = inout(reg) panels[0].as_ptr() => _,
                second = inout(reg) panels[1].as_ptr() => _,
                steps = inout(reg) steps => _,
                line = in(reg) size_of::<Line>(),
                sums = in(reg) sums.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// How many sixteens of lines the panels have, where all that is read is there.
    fn check(&self, x: &[Line], rows: usize, stride: usize, panels: [&[Line]; 2]) -> usize {
        let steps = panels[0].len() / TILE;
        assert_eq!(panels[0].len(), panels[1].len(), "bug: panels of two lengths");
        assert!(steps <= stride && (rows - 1) * stride + steps <= x.len(), "bug: too few rows");
        steps
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::c_long;

    /// Asks for the registers for this process, which may have been done before.
    pub(super) fn grants_tiles() -> bool {
        const ARCH_PRCTL: c_long = 158;
        const REQUEST_PERMISSION: c_long = 0x1023;
        const TILE_DATA: c_long = 18;
        // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, feature) touches no memory of this process; an older
        // kernel answers that it does not know the request.
        unsafe { syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA) == 0 }
    }

    unsafe extern "C" {
        /// syscall(2).
        fn syscall(number: c_long, ...) -> c_long;
    }
}

#[cfg(not(target_os = "linux"))]
mod linux {
    /// Other systems are not asked.
    pub(super) fn grants_tiles() -> bool {
        false
    }
}
