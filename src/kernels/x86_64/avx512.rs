//! AVX-512, with its bfloat16 instructions or without: a vector is one register.
#![allow(unsafe_code)]

use std::arch::x86_64::*;
use std::mem::transmute;

use half::{bf16, f16};

use crate::kernels::simd::{LANES, Simd};

/// Proof that this machine has AVX-512 F, BW, DQ and VL, and where `BF16` is set, BF16 and VNNI
/// too; only [`Avx512::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(in crate::kernels) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    /// The proof, where the machine has the features.
    pub(in crate::kernels) fn detect() -> Option<Self> {
        let base = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let more = is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512vnni");
        (base && (more || !BF16)).then_some(Self(()))
    }
}

impl<const BF16: bool> Avx512<BF16> {
    /// [`Simd::widen`] of the two bytes at those bits of each lane.
    // A closure over vectors would not be compiled for this level.
    #[inline(always)]
    fn widen_two<const EVEN: u32, const ODD: u32>(
        self,
        bytes: __m512i,
        scale: __m512,
        offset: __m512,
        to: &mut [bf16; 2 * LANES],
    ) {
        let (mut even, mut odd) = ([bf16::ZERO; LANES], [bf16::ZERO; LANES]);
        // SAFETY: `self` proves AVX-512. Both halves are 32 readable bytes and `to` is 64 writable
        // ones; neither needs alignment.
        unsafe {
            let mask = _mm512_set1_epi32(0xFF);
            let first =
                _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<EVEN>(bytes), mask));
            let second =
                _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32::<ODD>(bytes), mask));
            self.store_bf16(_mm512_fmadd_ps(first, scale, offset), &mut even);
            self.store_bf16(_mm512_fmadd_ps(second, scale, offset), &mut odd);
            let even = _mm512_cvtepu16_epi32(_mm256_loadu_si256(even.as_ptr().cast()));
            let odd = _mm512_cvtepu16_epi32(_mm256_loadu_si256(odd.as_ptr().cast()));
            let pairs = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
            _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs);
        }
    }
}

impl<const BF16: bool> Simd for Avx512<BF16> {
    type Vector = __m512;
    type Pairs = __m512i;
    type Bytes = __m512i;
    type Integers = __m512i;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn vectorize<R>(self, body: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn base<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")]
        fn more<R>(body: impl FnOnce() -> R) -> R {
            body()
        }
        // SAFETY: `self` proves the features that either enables.
        unsafe { if BF16 { more(body) } else { base(body) } }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512. `from` is 16 readable floats; the load needs no alignment.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_bf16(self, from: &[bf16; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512. `from` is 32 readable bytes; the load needs no alignment.
        unsafe {
            let bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512. `from` is 32 readable bytes; the load needs no alignment.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_pairs(self, from: &[bf16; 2 * LANES]) -> __m512i {
        // SAFETY: `self` proves AVX-512. `from` is 64 readable bytes; the load needs no alignment.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn splat_pair(self, pair: [bf16; 2]) -> __m512i {
        let bits = u32::from(pair[0].to_bits()) | u32::from(pair[1].to_bits()) << 16;
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_epi32(bits.cast_signed()) }
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> __m512i {
        // SAFETY: `self` proves AVX-512. `from` is 64 readable bytes; the load needs no alignment.
        unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn splat_quad(self, quad: [i8; 4]) -> __m512i {
        let bits = i32::from_le_bytes(quad.map(i8::cast_unsigned));
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_epi32(bits) }
    }

    #[inline(always)]
    fn nibbles(self, bytes: __m512i) -> [__m512i; 2] {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let mask = _mm512_set1_epi8(0xF);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), mask);
            [_mm512_and_si512(bytes, mask), high]
        }
    }

    #[inline(always)]
    fn store_bytes(self, bytes: __m512i, to: &mut [u8; 4 * LANES]) {
        // SAFETY: `self` proves AVX-512. `to` is 64 writable bytes; the store needs no alignment.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), bytes) }
    }

    #[inline(always)]
    fn widen(self, bytes: __m512i, scale: __m512, offset: __m512, to: [&mut [bf16; 2 * LANES]; 2]) {
        let [first, last] = to;
        self.widen_two::<0, 8>(bytes, scale, offset, first);
        self.widen_two::<16, 24>(bytes, scale, offset, last);
    }

    #[inline(always)]
    fn splat_integer(self, value: i32) -> __m512i {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    fn dot_bytes(self, a: __m512i, b: __m512i, c: __m512i) -> __m512i {
        // SAFETY: `self` proves AVX-512 and, where `BF16` is set, VNNI.
        unsafe {
            if BF16 {
                return _mm512_dpbusd_epi32(c, a, b);
            }
            let even_a = _mm512_and_si512(a, _mm512_set1_epi16(0xFF));
            let odd_a = _mm512_srli_epi16::<8>(a);
            let even_b = _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(b));
            let odd_b = _mm512_srai_epi16::<8>(b);
            let even = _mm512_madd_epi16(even_a, even_b);
            let odd = _mm512_madd_epi16(odd_a, odd_b);
            _mm512_add_epi32(c, _mm512_add_epi32(even, odd))
        }
    }

    #[inline(always)]
    fn to_float(self, integers: __m512i) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_cvtepi32_ps(integers) }
    }

    #[inline(always)]
    fn load_u8(self, from: &[u8; LANES]) -> __m512 {
        // SAFETY: `self` proves AVX-512. `from` is 16 readable bytes; the load needs no alignment.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn store_i8(self, vector: __m512, to: &mut [i8; LANES]) {
        // SAFETY: `self` proves AVX-512. `to` is 16 writable bytes; the store needs no alignment.
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(vector));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn store_bf16(self, vector: __m512, to: &mut [bf16; LANES]) {
        // SAFETY: `self` proves AVX-512 and, where `BF16` is set, its bfloat16 instructions. `to`
        // is 32 writable bytes; the store needs no alignment.
        unsafe {
            let rounded = if BF16 {
                transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(vector))
            } else {
                let bits = _mm512_castps_si512(vector);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
                let rounded = _mm512_add_epi32(bits, up);
                // Rounding could carry a NaN's payload into the sign: it is quieted instead.
                let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(vector, vector);
                let quiet = _mm512_set1_epi32(0x40_0000);
                let rounded = _mm512_mask_or_epi32(rounded, nan, bits, quiet);
                _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
            };
            _mm256_storeu_si256(to.as_mut_ptr().cast(), rounded);
        }
    }

    #[inline(always)]
    fn dot_pairs(self, a: __m512i, b: __m512i, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512 and, where `BF16` is set, its bfloat16 instructions; the
        // transmuted types are all 64 bytes without invalid values.
        unsafe {
            if BF16 {
                let (a, b) = (transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b));
                return _mm512_dpbf16_ps(c, a, b);
            }
            let first = |x| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x));
            let mask = _mm512_set1_epi32(-65536);
            let second = |x| _mm512_castsi512_ps(_mm512_and_si512(x, mask));
            _mm512_fmadd_ps(first(a), first(b), _mm512_fmadd_ps(second(a), second(b), c))
        }
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        // SAFETY: a prefetch is a hint: it reads no memory and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }

    #[inline(always)]
    fn store(self, vector: __m512, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX-512. `to` is 16 writable floats; the store needs no alignment.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn scale_exponent(self, a: __m512, n: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), shifted))
        }
    }

    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        }
    }

    #[inline(always)]
    fn sum4(self, a: [__m512; 4]) -> [f32; 4] {
        // SAFETY: `self` proves AVX-512. `out` has room for the four floats stored.
        unsafe {
            // Two vectors share each addition: their low halves beside each other, plus the high.
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0x44>(a[0], a[1]),
                _mm512_shuffle_f32x4::<0xEE>(a[0], a[1]),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0x44>(a[2], a[3]),
                _mm512_shuffle_f32x4::<0xEE>(a[2], a[3]),
            );
            let quarters = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0x88>(ab, cd),
                _mm512_shuffle_f32x4::<0xDD>(ab, cd),
            );
            let pairs = _mm512_add_ps(quarters, _mm512_permute_ps::<0x4E>(quarters));
            let sums = _mm512_add_ps(pairs, _mm512_permute_ps::<0xB1>(pairs));
            // Each sum fills its quarter; one lane of each goes to the front.
            let order = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
            let front = _mm512_castps512_ps128(_mm512_permutexvar_ps(order, sums));
            let mut out = [0.0; 4];
            _mm_storeu_ps(out.as_mut_ptr(), front);
            out
        }
    }
}
