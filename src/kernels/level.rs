//! Which instructions to use: detected once at start, passed along as a [`Kernels`] value.

use std::fmt;
use std::str::FromStr;

use super::pool::{self, Pool};
use super::portable::Portable;
use super::simd::{Simd, Task};
#[cfg(target_arch = "x86_64")]
use super::x86_64::{Amx, Avx2, Avx512};

/// A set of instructions that kernels are compiled for, slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// What every machine has.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// AVX-512 with BF16 and VNNI as well.
    Avx512Bf16,
    /// The same with AMX: for products of weights in bfloat16, whose last bits are its own, and for
    /// those of quantised ones, which are the same.
    Amx,
}

/// A level by a name that does not exist.
#[derive(Debug, thiserror::Error)]
#[error(
    "no instruction level is named {0:?}; the names are portable, avx2, avx512, avx512-bf16, amx"
)]
pub struct UnknownLevel(String);

/// A level that this machine cannot run.
#[derive(Debug, thiserror::Error)]
#[error("this machine cannot run {0}; the best it can run is {best}", best = Level::best())]
pub struct UnsupportedLevel(Level);

impl Level {
    const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// The fastest level of this machine.
    #[must_use]
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Self::Portable)
    }

    /// The levels of this machine, slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|level| Isa::detect(*level).is_some())
    }

    fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|level| level.name() == name);
        found.ok_or_else(|| UnknownLevel(name.to_owned()))
    }
}

/// A level together with the proof that this machine has it.
#[derive(Debug, Clone, Copy)]
enum Isa {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512<true>),
    #[cfg(target_arch = "x86_64")]
    Amx(Avx512<true>, Amx),
}

impl Isa {
    fn detect(level: Level) -> Option<Self> {
        match level {
            Level::Portable => Some(Self::Portable(Portable)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Avx2::detect().map(Self::Avx2),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Avx512::detect().map(Self::Avx512),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => Avx512::detect().map(Self::Avx512Bf16),
            #[cfg(target_arch = "x86_64")]
            Level::Amx => Some(Self::Amx(Avx512::detect()?, Amx::detect()?)),
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 | Level::Amx => None,
        }
    }
}

/// The kernels at one level; its methods are in the file of each kernel.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    level: Level,
    isa: Isa,
    pool: &'static Pool,
}

impl Kernels {
    /// The kernels compiled for `level`.
    ///
    /// # Errors
    /// Where this machine lacks its instructions.
    pub fn new(level: Level) -> Result<Self, UnsupportedLevel> {
        let isa = Isa::detect(level).ok_or(UnsupportedLevel(level))?;
        Ok(Self { level, isa, pool: pool::global() })
    }

    /// The kernels for the fastest level of this machine.
    #[must_use]
    pub fn best() -> Self {
        Self::new(Level::best()).unwrap_or(Self {
            level: Level::Portable,
            isa: Isa::Portable(Portable),
            pool: pool::global(),
        })
    }

    /// The same on `threads` threads of its own, which stay for the rest of the process.
    #[cfg(test)]
    pub(super) fn on_threads(self, threads: std::num::NonZeroUsize) -> Self {
        Self { pool: Box::leak(Box::new(Pool::new(threads, Vec::new()))), ..self }
    }

    /// How many threads share the work, the caller's included.
    #[must_use]
    pub fn threads(self) -> usize {
        self.pool.threads()
    }

    pub(super) fn pool(self) -> &'static Pool {
        self.pool
    }

    /// The level in use.
    #[must_use]
    pub fn level(self) -> Level {
        self.level
    }

    /// The proof of AMX, at that level.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn amx(self) -> Option<Amx> {
        if let Isa::Amx(_, amx) = self.isa { Some(amx) } else { None }
    }

    /// Runs a task compiled for the level in use.
    pub(super) fn run<T: Task>(self, task: T) -> T::Output {
        match self.isa {
            Isa::Portable(simd) => simd.vectorize(
                #[inline(always)]
                || task.run(simd),
            ),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(simd) => simd.vectorize(
                #[inline(always)]
                || task.run(simd),
            ),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(simd) => simd.vectorize(
                #[inline(always)]
                || task.run(simd),
            ),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16(simd) | Isa::Amx(simd, ..) => simd.vectorize(
                #[inline(always)]
                || task.run(simd),
            ),
        }
    }
}
