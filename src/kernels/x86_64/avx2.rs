//! AVX2 with FMA and F16C: a vector is two registers, the low eight lanes and the high.
#![allow(unsafe_code)]

use std::arch::x86_64::*;

use half::{bf16, f16};

use crate::kernels::simd::{LANES, Simd};

/// Proof that this machine has AVX2, FMA and F16C; only [`Avx2::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Avx2(());

impl Avx2 {
    /// The proof, where the machine has the features.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(Self(()))
    }
}

/// Lanes 0 to 7, and 8 to 15.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Vector(__m256, __m256);

/// The pairs of lanes 0 to 7, and of 8 to 15.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Pairs(__m256i, __m256i);

/// Lanes 0 to 7, and 8 to 15.
#[derive(Clone, Copy)]
pub(in crate::kernels) struct Integers(__m256i, __m256i);

impl Avx2 {
    /// One register's worth of [`Simd::dot_bytes`]. VPMADDUBSW would saturate: the bytes are widened
    /// to 16 bits, every other one at a time.
    #[inline(always)]
    fn dot_bytes_half(self, a: __m256i, b: __m256i, c: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe {
            let even_a = _mm256_and_si256(a, _mm256_set1_epi16(0xFF));
            let odd_a = _mm256_srli_epi16::<8>(a);
            let even_b = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(b));
            let odd_b = _mm256_srai_epi16::<8>(b);
            let even = _mm256_madd_epi16(even_a, even_b);
            let odd = _mm256_madd_epi16(odd_a, odd_b);
            _mm256_add_epi32(c, _mm256_add_epi32(even, odd))
        }
    }

    /// One register's worth of [`Simd::dot_pairs`]: a bfloat16 is the upper half of a float32.
    #[inline(always)]
    fn dot_half(self, a: __m256i, b: __m256i, c: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe {
            let first = |x| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
            let mask = _mm256_set1_epi32(-65536);
            let second = |x| _mm256_castsi256_ps(_mm256_and_si256(x, mask));
            _mm256_fmadd_ps(first(a), first(b), _mm256_fmadd_ps(second(a), second(b), c))
        }
    }

    /// Eight float32 as bfloat16 in the low halves of the lanes.
    #[inline(always)]
    fn round(self, a: __m256) -> __m256i {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe {
            let bits = _mm256_castps_si256(a);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
            let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, up));
            // Rounding could carry a NaN's payload into the sign: it is quieted instead.
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
            let quiet = _mm256_or_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(0x40));
            _mm256_blendv_epi8(rounded, quiet, nan)
        }
    }
}

impl Simd for Avx2 {
    type Vector = Vector;
    type Pairs = Pairs;
    type Bytes = Pairs;
    type Integers = Integers;
    const REGISTERS: usize = 8;

    #[inline(always)]
    fn vectorize<R>(self, body: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn inner<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        // SAFETY: `self` proves the features that `inner` enables.
        unsafe { inner(body) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe {
            let half = _mm256_set1_ps(value);
            Vector(half, half)
        }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C. `from` is 16 readable floats; the loads need no alignment.
        unsafe {
            let from = from.as_ptr();
            Vector(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8)))
        }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C. `from` is 32 readable bytes; the load needs no alignment.
        unsafe {
            let bits = _mm256_loadu_si256(from.as_ptr().cast());
            let low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(bits));
            let high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(bits));
            Vector(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            )
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C. `from` is 32 readable bytes; the load needs no alignment.
        unsafe {
            let bits = _mm256_loadu_si256(from.as_ptr().cast());
            Vector(
                _mm256_cvtph_ps(_mm256_castsi256_si128(bits)),
                _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(bits)),
            )
        }
    }

    #[inline(always)]
    fn load_pairs(self, from: &[bf16; 2 * LANES]) -> Pairs {
        // SAFETY: `self` proves AVX2, FMA and F16C. `from` is 64 readable bytes; the loads need no alignment.
        unsafe {
            let from = from.as_ptr().cast::<__m256i>();
            Pairs(_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1)))
        }
    }

    #[inline(always)]
    fn splat_pair(self, pair: [bf16; 2]) -> Pairs {
        let bits = u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16;
        // SAFETY: `self` proves AVX2, FMA and F16C.
        let half = unsafe { _mm256_set1_epi32(bits.cast_signed()) };
        Pairs(half, half)
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> Pairs {
        // SAFETY: `self` proves AVX2, FMA and F16C. `from` is 64 readable bytes; the loads need no alignment.
        unsafe {
            let from = from.as_ptr().cast::<__m256i>();
            Pairs(_mm256_loadu_si256(from), _mm256_loadu_si256(from.add(1)))
        }
    }

    #[inline(always)]
    fn splat_quad(self, quad: [i8; 4]) -> Pairs {
        let bits = i32::from_le_bytes(quad.map(i8::cast_unsigned));
        // SAFETY: `self` proves AVX2, FMA and F16C.
        let half = unsafe { _mm256_set1_epi32(bits) };
        Pairs(half, half)
    }

    #[inline(always)]
    fn nibbles(self, bytes: Pairs) -> [Pairs; 2] {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe {
            let mask = _mm256_set1_epi8(0xF);
            let low = |x| _mm256_and_si256(x, mask);
            let high = |x| _mm256_and_si256(_mm256_srli_epi16::<4>(x), mask);
            [Pairs(low(bytes.0), low(bytes.1)), Pairs(high(bytes.0), high(bytes.1))]
        }
    }

    #[inline(always)]
    fn store_bytes(self, bytes: Pairs, to: &mut [u8; 4 * LANES]) {
        // SAFETY: `self` proves AVX2, FMA and F16C. `to` is 64 writable bytes; stores need no alignment.
        unsafe {
            _mm256_storeu_si256(to.as_mut_ptr().cast(), bytes.0);
            _mm256_storeu_si256(to[32..].as_mut_ptr().cast(), bytes.1);
        }
    }

    #[inline(always)]
    fn splat_integer(self, value: i32) -> Integers {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        let half = unsafe { _mm256_set1_epi32(value) };
        Integers(half, half)
    }

    #[inline(always)]
    fn dot_bytes(self, a: Pairs, b: Pairs, c: Integers) -> Integers {
        Integers(self.dot_bytes_half(a.0, b.0, c.0), self.dot_bytes_half(a.1, b.1, c.1))
    }

    #[inline(always)]
    fn to_float(self, integers: Integers) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { Vector(_mm256_cvtepi32_ps(integers.0), _mm256_cvtepi32_ps(integers.1)) }
    }

    #[inline(always)]
    fn load_u8(self, from: &[u8; LANES]) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C. `from` is 16 readable bytes; the load needs no alignment.
        unsafe {
            let bytes = _mm_loadu_si128(from.as_ptr().cast());
            let widen = |bytes| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
            Vector(widen(bytes), widen(_mm_srli_si128::<8>(bytes)))
        }
    }

    #[inline(always)]
    fn store_i8(self, vector: Vector, to: &mut [i8; LANES]) {
        // SAFETY: `self` proves AVX2, FMA and F16C. `to` is 16 writable bytes; the store needs no alignment.
        unsafe {
            let (low, high) = (_mm256_cvtps_epi32(vector.0), _mm256_cvtps_epi32(vector.1));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let low = _mm256_castsi256_si128(words);
            let bytes = _mm_packs_epi16(low, _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn store_bf16(self, vector: Vector, to: &mut [bf16; LANES]) {
        let (low, high) = (self.round(vector.0), self.round(vector.1));
        // SAFETY: `self` proves AVX2, FMA and F16C. `to` is 32 writable bytes; the store needs no alignment.
        unsafe {
            let packed = _mm256_packus_epi32(low, high);
            let ordered = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), ordered);
        }
    }

    #[inline(always)]
    fn dot_pairs(self, a: Pairs, b: Pairs, c: Vector) -> Vector {
        Vector(self.dot_half(a.0, b.0, c.0), self.dot_half(a.1, b.1, c.1))
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch is a hint: it reads no memory and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn store(self, vector: Vector, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX2, FMA and F16C. `to` is 16 writable floats; the stores need no alignment.
        unsafe {
            let to = to.as_mut_ptr();
            _mm256_storeu_ps(to, vector.0);
            _mm256_storeu_ps(to.add(8), vector.1)
        }
    }

    #[inline(always)]
    fn add(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { Vector(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn sub(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { Vector(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { Vector(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn div(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { Vector(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn min(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { Vector(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn max(self, a: Vector, b: Vector) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { Vector(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul_add(self, a: Vector, b: Vector, c: Vector) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe { Vector(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1)) }
    }

    #[inline(always)]
    fn scale_exponent(self, a: Vector, n: Vector) -> Vector {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe {
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(n.0));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(n.1));
            Vector(
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.0), low)),
                _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.1), high)),
            )
        }
    }

    #[inline(always)]
    fn sum(self, a: Vector) -> f32 {
        // SAFETY: `self` proves AVX2, FMA and F16C.
        unsafe {
            let a = _mm256_add_ps(a.0, a.1);
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        }
    }

    #[inline(always)]
    fn sum4(self, a: [Vector; 4]) -> [f32; 4] {
        // SAFETY: `self` proves AVX2, FMA and F16C. `out` has room for the four floats stored.
        unsafe {
            // Each vector is first folded to four lanes; then all four are folded together.
            let a = [
                _mm256_add_ps(a[0].0, a[0].1),
                _mm256_add_ps(a[1].0, a[1].1),
                _mm256_add_ps(a[2].0, a[2].1),
                _mm256_add_ps(a[3].0, a[3].1),
            ];
            let ac = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(a[0], a[2]),
                _mm256_permute2f128_ps::<0x31>(a[0], a[2]),
            );
            let bd = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(a[1], a[3]),
                _mm256_permute2f128_ps::<0x31>(a[1], a[3]),
            );
            let pairs =
                _mm256_add_ps(_mm256_shuffle_ps::<0x44>(ac, bd), _mm256_shuffle_ps::<0xEE>(ac, bd));
            let sums = _mm256_add_ps(pairs, _mm256_permute_ps::<0xB1>(pairs));
            // Now a a b b | c c d d.
            let low = _mm256_castps256_ps128(sums);
            let high = _mm256_extractf128_ps::<1>(sums);
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), _mm_shuffle_ps::<0x88>(low, high));
            out
        }
    }
}
