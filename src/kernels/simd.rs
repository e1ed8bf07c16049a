//! The sixteen float32 lanes in which every kernel is written, whatever the machine's registers.
//!
//! A kernel is generic over [`Simd`] and contains no `unsafe`; only the implementations of this
//! trait do. Each operation is defined per lane by an IEEE formula, so a kernel gives the same bits
//! at every level. Nothing here knows what a kernel computes.

use half::{bf16, f16};

/// Lanes of a vector at every level: one AVX-512 register, two of AVX2.
pub(super) const LANES: usize = 16;

/// One vector in memory, aligned so that no load straddles two cache lines.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Lanes(pub [f32; LANES]);

impl Lanes {
    pub(super) const ZERO: Self = Self([0.0; LANES]);
}

/// A level's vector operations; a value of the type proves that the machine has them.
///
/// Every method is inlined into the closure of [`Simd::vectorize`], outside of which it is correct
/// but slow.
pub(super) trait Simd: Copy + Send + Sync {
    /// Sixteen float32 lanes.
    type Vector: Copy;
    /// Thirty-two bfloat16, two neighbours in each of the sixteen lanes.
    type Pairs: Copy;
    /// Sixty-four bytes, four neighbours in each of the sixteen lanes.
    type Bytes: Copy;
    /// Sixteen lanes of 32-bit integers.
    type Integers: Copy;

    /// How many [`Simd::Vector`]s the register file holds: what tile sizes are chosen by.
    const REGISTERS: usize;

    /// Runs `body` compiled for this level; `body` and all it calls must be inlined.
    fn vectorize<R>(self, body: impl FnOnce() -> R) -> R;

    fn splat(self, value: f32) -> Self::Vector;
    fn load(self, from: &[f32; LANES]) -> Self::Vector;
    /// Widens exactly.
    fn load_bf16(self, from: &[bf16; LANES]) -> Self::Vector;
    /// Widens exactly.
    fn load_f16(self, from: &[f16; LANES]) -> Self::Vector;
    fn load_pairs(self, from: &[bf16; 2 * LANES]) -> Self::Pairs;
    /// The same pair in every lane.
    fn splat_pair(self, pair: [bf16; 2]) -> Self::Pairs;
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> Self::Bytes;
    /// The same four signed bytes in every lane.
    fn splat_quad(self, quad: [i8; 4]) -> Self::Bytes;
    /// The low and the high half of each byte.
    fn nibbles(self, bytes: Self::Bytes) -> [Self::Bytes; 2];
    fn store_bytes(self, bytes: Self::Bytes, to: &mut [u8; 4 * LANES]);
    /// Each byte, taken as unsigned, times its lane's `scale` plus its `offset`, as
    /// [`Simd::mul_add`] and then [`Simd::store_bf16`] round: the first two of each lane, and the
    /// last two.
    #[inline(always)]
    fn widen(
        self,
        bytes: Self::Bytes,
        scale: Self::Vector,
        offset: Self::Vector,
        to: [&mut [bf16; 2 * LANES]; 2],
    ) {
        let (mut numbers, mut floats) = ([0; 4 * LANES], [[0.0; LANES]; 2]);
        self.store_bytes(bytes, &mut numbers);
        self.store(scale, &mut floats[0]);
        self.store(offset, &mut floats[1]);
        for (half, to) in to.into_iter().enumerate() {
            for (i, to) in to.iter_mut().enumerate() {
                let lane = i / 2;
                let number = f32::from(numbers[4 * lane + 2 * half + i % 2]);
                *to = bf16::from_f32(number.mul_add(floats[0][lane], floats[1][lane]));
            }
        }
    }
    fn splat_integer(self, value: i32) -> Self::Integers;
    /// The sum per lane of `c` and the four products of `a`'s unsigned bytes with `b`'s signed
    /// ones: what VPDPBUSD computes.
    fn dot_bytes(self, a: Self::Bytes, b: Self::Bytes, c: Self::Integers) -> Self::Integers;
    /// Rounds to the nearest, ties to even.
    fn to_float(self, integers: Self::Integers) -> Self::Vector;
    /// Widens exactly.
    fn load_u8(self, from: &[u8; LANES]) -> Self::Vector;
    /// Rounds numbers between -128 and 127 to the nearest, ties to even; others become anything.
    fn store_i8(self, vector: Self::Vector, to: &mut [i8; LANES]);
    /// Rounds to the nearest, ties to even; a NaN stays one.
    fn store_bf16(self, vector: Self::Vector, to: &mut [bf16; LANES]);
    /// Asks for the cache line at `address`, which need not be readable: nothing depends on it.
    fn prefetch<T>(self, address: *const T);
    fn store(self, vector: Self::Vector, to: &mut [f32; LANES]);

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn sub(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn mul(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn div(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c` with one rounding.
    fn mul_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a[0] * b[0] + (a[1] * b[1] + c)` per lane, rounded to float32 after each of the two
    /// products: what VDPBF16PS computes. Its treatment of subnormal numbers, which it takes for
    /// zero, is left to the level.
    fn dot_pairs(self, a: Self::Pairs, b: Self::Pairs, c: Self::Vector) -> Self::Vector;
    /// `a < b ? a : b`, so that a NaN in `b` survives.
    fn min(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a > b ? a : b`, so that a NaN in `b` survives.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a` with the low bits of `n`'s pattern added to its exponent: `a * 2^k` where `n` is
    /// `1.5 * 2^23 + k`, as long as the result is a normal number.
    fn scale_exponent(self, a: Self::Vector, n: Self::Vector) -> Self::Vector;

    /// The sum of the lanes: each lane `i` plus `i + 8`, of these `i + 4`, then `i + 2`, `i + 1`.
    fn sum(self, a: Self::Vector) -> f32;
    /// [`Simd::sum`] of each of the four, bit for bit.
    fn sum4(self, a: [Self::Vector; 4]) -> [f32; 4];
}

/// Something to run at whichever level is chosen at run time.
pub(super) trait Task {
    /// What it gives back.
    type Output;

    /// The body; implementations are `#[inline(always)]`.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// A storage type of weights that widens exactly to float32.
pub(super) trait Element: Copy + Send + Sync {
    /// What pads a vector that is not full.
    const ZERO: Self;

    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector;
}

impl Element for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector {
        simd.load(from)
    }
}

impl Element for bf16 {
    const ZERO: Self = bf16::ZERO;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector {
        simd.load_bf16(from)
    }
}

impl Element for f16 {
    const ZERO: Self = f16::ZERO;

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector {
        simd.load_f16(from)
    }
}

/// The first lanes from `from` (at most sixteen of them), zeros behind.
#[inline(always)]
pub(super) fn load_padded<S: Simd, E: Element>(simd: S, from: &[E]) -> S::Vector {
    let mut lanes = [E::ZERO; LANES];
    lanes[..from.len()].copy_from_slice(from);
    E::load(simd, &lanes)
}

/// At most sixteen floats rounded, zeros behind.
#[inline(always)]
pub(super) fn round<S: Simd>(simd: S, from: &[f32]) -> [bf16; LANES] {
    let vector = match <&[f32; LANES]>::try_from(from) {
        Ok(full) => simd.load(full),
        Err(_) => load_padded(simd, from),
    };
    let mut out = [bf16::ZERO; LANES];
    simd.store_bf16(vector, &mut out);
    out
}

/// The sums of `C` vectors, each as [`Simd::sum`] defines it.
#[inline(always)]
pub(super) fn sums<S: Simd, const C: usize>(simd: S, vectors: [S::Vector; C]) -> [f32; C] {
    let mut out = [0.0; C];
    let (quads, rest) = vectors.as_chunks::<4>();
    let (quads_out, rest_out) = out.as_chunks_mut::<4>();
    for (quad, out) in quads.iter().zip(quads_out) {
        *out = simd.sum4(*quad);
    }
    for (vector, out) in rest.iter().zip(rest_out) {
        *out = simd.sum(*vector);
    }
    out
}

/// `e^x` per lane within 2e-7 relative, for `x` in -87 to 88; beyond, the value at the bound.
/// `exp(0)` is exactly 1; a NaN stays one.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    // Adding this rounds to an integer, which is left in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23
    // ln 2 in two parts; the first has so few bits that k * LN_2_HIGH is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Taylor's coefficients from x^7 down: the rest is below 6e-9 for |x| <= ln(2) / 2.
    const COEFFICIENTS: [f32; 7] =
        [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0, 1.0, 1.0];

    let x = simd.min(simd.splat(88.0), simd.max(simd.splat(-87.0), x));
    let rounded = simd.mul_add(x, simd.splat(std::f32::consts::LOG2_E), simd.splat(ROUND));
    let k = simd.sub(rounded, simd.splat(ROUND));
    let rest = simd.mul_add(k, simd.splat(-LN_2_HIGH), x);
    let rest = simd.mul_add(k, simd.splat(-LN_2_LOW), rest);
    let mut sum = simd.splat(1.0 / 5040.0);
    for coefficient in COEFFICIENTS {
        sum = simd.mul_add(sum, rest, simd.splat(coefficient));
    }
    simd.scale_exponent(sum, rounded)
}
