//! The level that every machine has: plain arrays, whose fused multiply-add is one instruction
//! where the target's baseline has it (aarch64) and a slow library call where not (x86-64).
//!
//! It defines what the vector levels must reproduce bit for bit.

use half::{bf16, f16};

use super::simd::{LANES, Simd};

/// No requirement, hence no check.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

type Vector = [f32; LANES];

#[inline(always)]
fn zip(a: Vector, b: Vector, f: impl Fn(f32, f32) -> f32) -> Vector {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Simd for Portable {
    type Vector = Vector;
    type Pairs = [[bf16; 2]; LANES];
    type Bytes = [[u8; 4]; LANES];
    type Integers = [i32; LANES];
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn vectorize<R>(self, body: impl FnOnce() -> R) -> R {
        body()
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Vector {
        *from
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Vector {
        from.map(bf16::to_f32)
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Vector {
        from.map(f16::to_f32)
    }

    #[inline(always)]
    fn load_pairs(self, from: &[bf16; 2 * LANES]) -> Self::Pairs {
        std::array::from_fn(|i| [from[2 * i], from[2 * i + 1]])
    }

    #[inline(always)]
    fn splat_pair(self, pair: [bf16; 2]) -> Self::Pairs {
        [pair; LANES]
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> Self::Bytes {
        std::array::from_fn(|i| std::array::from_fn(|j| from[4 * i + j]))
    }

    #[inline(always)]
    fn splat_quad(self, quad: [i8; 4]) -> Self::Bytes {
        [quad.map(i8::cast_unsigned); LANES]
    }

    #[inline(always)]
    fn nibbles(self, bytes: Self::Bytes) -> [Self::Bytes; 2] {
        [
            bytes.map(|quad| quad.map(|byte| byte & 0xF)),
            bytes.map(|quad| quad.map(|byte| byte >> 4)),
        ]
    }

    #[inline(always)]
    fn store_bytes(self, bytes: Self::Bytes, to: &mut [u8; 4 * LANES]) {
        to.as_chunks_mut::<4>().0.copy_from_slice(&bytes);
    }

    #[inline(always)]
    fn splat_integer(self, value: i32) -> Self::Integers {
        [value; LANES]
    }

    #[inline(always)]
    fn dot_bytes(self, a: Self::Bytes, b: Self::Bytes, mut c: Self::Integers) -> Self::Integers {
        for i in 0..LANES {
            for j in 0..4 {
                c[i] += i32::from(a[i][j]) * i32::from(b[i][j].cast_signed());
            }
        }
        c
    }

    #[inline(always)]
    fn to_float(self, integers: Self::Integers) -> Vector {
        integers.map(|integer| integer as f32)
    }

    #[inline(always)]
    fn load_u8(self, from: &[u8; LANES]) -> Vector {
        from.map(f32::from)
    }

    #[inline(always)]
    fn store_i8(self, vector: Vector, to: &mut [i8; LANES]) {
        *to = vector.map(|value| value.round_ties_even() as i8);
    }

    #[inline(always)]
    fn store_bf16(self, vector: Vector, to: &mut [bf16; LANES]) {
        *to = vector.map(bf16::from_f32);
    }

    #[inline(always)]
    fn dot_pairs(self, a: Self::Pairs, b: Self::Pairs, c: Vector) -> Vector {
        std::array::from_fn(|i| {
            let [a, b] = [a[i].map(bf16::to_f32), b[i].map(bf16::to_f32)];
            a[0].mul_add(b[0], a[1].mul_add(b[1], c[i]))
        })
    }

    #[inline(always)]
    fn prefetch<T>(self, _address: *const T) {}

    #[inline(always)]
    fn store(self, vector: Vector, to: &mut [f32; LANES]) {
        *to = vector;
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn mul_add(self, a: Vector, b: Vector, c: Vector) -> Vector {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn min(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn scale_exponent(self, a: Vector, n: Vector) -> Vector {
        zip(a, n, |a, n| f32::from_bits(a.to_bits().wrapping_add(n.to_bits() << 23)))
    }

    #[inline(always)]
    fn sum(self, mut a: Vector) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                a[i] += a[i + half];
            }
        }
        a[0]
    }

    #[inline(always)]
    fn sum4(self, a: [Vector; 4]) -> [f32; 4] {
        a.map(|vector| self.sum(vector))
    }
}
