//! Random values by a counter: any part of any tensor without the ones before it.

use half::bf16;
use rayon::prelude::*;

/// Values generated at a time by one thread.
const BLOCK: usize = 1 << 15;
/// A sum of four uniform numbers of 0 to 1 has this deviation.
const DEVIATION: f32 = 0.577_350_3;

/// The values of one tensor.
#[derive(Debug, Clone, Copy)]
pub struct Stream(u64);

impl Stream {
    /// Another stream for every seed and name.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a.
        let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        Self(mixed(hash ^ mixed(seed)))
    }

    /// 64 random bits.
    pub fn bits(self, index: usize) -> u64 {
        mixed(self.0.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// `count` values, near enough to a normal distribution of this standard deviation.
    pub fn normal(self, count: usize, deviation: f32) -> Vec<f32> {
        self.filled(count, deviation, |value| value)
    }

    /// [`Stream::normal`] rounded to bfloat16.
    pub fn normal_bf16(self, count: usize, deviation: f32) -> Vec<bf16> {
        self.filled(count, deviation, bf16::from_f32)
    }

    fn filled<T: Clone + Default + Send>(
        self,
        count: usize,
        deviation: f32,
        rounded: impl Fn(f32) -> T + Sync,
    ) -> Vec<T> {
        let scale = deviation / DEVIATION / 65_536.0;
        let mut values = vec![T::default(); count];
        values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
            for (i, value) in values.iter_mut().enumerate() {
                let bits = self.bits(block * BLOCK + i);
                let sum = (0..4).map(|part| (bits >> (16 * part)) & 0xFFFF).sum::<u64>();
                *value = rounded((sum as f32 - 131_070.0) * scale);
            }
        });
        values
    }
}

/// SplitMix64's last step.
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}
