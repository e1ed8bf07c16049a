//! The gate of a SwiGLU feed-forward layer (Shazeer 2020).

use super::level::Kernels;
use super::simd::{LANES, Simd, Task, exp, load_padded};

/// What an element costs, in multiplications, for deciding on threads.
const WORK: usize = 16;

impl Kernels {
    /// `out = gate * sigmoid(gate) * up`, element by element.
    ///
    /// # Panics
    /// Where the three are not of one length.
    pub fn silu_mul(self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        assert_eq!(gate.len(), up.len(), "bug: length of up");
        assert_eq!(gate.len(), out.len(), "bug: length of the output");
        let work = gate.len() * WORK;
        let part = gate.len().div_ceil(self.parts(work)).next_multiple_of(LANES).max(LANES);
        let items = gate.chunks(part).zip(up.chunks(part)).zip(out.chunks_mut(part)).collect();
        self.for_each(work, items, |((gate, up), out)| {
            self.run(SiluMul { gate, up, out });
        });
    }
}

struct SiluMul<'a, 'o> {
    gate: &'a [f32],
    up: &'a [f32],
    out: &'o mut [f32],
}

impl Task for SiluMul<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (gates, gate_tail) = self.gate.as_chunks::<LANES>();
        let (ups, up_tail) = self.up.as_chunks::<LANES>();
        let (outs, out_tail) = self.out.as_chunks_mut::<LANES>();
        for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
            simd.store(silu_mul(simd, simd.load(gate), simd.load(up)), out);
        }
        let mut last = [0.0; LANES];
        let (gate, up) = (load_padded(simd, gate_tail), load_padded(simd, up_tail));
        simd.store(silu_mul(simd, gate, up), &mut last);
        out_tail.copy_from_slice(&last[..out_tail.len()]);
    }
}

#[inline(always)]
fn silu_mul<S: Simd>(simd: S, gate: S::Vector, up: S::Vector) -> S::Vector {
    let one = simd.splat(1.0);
    let exp = exp(simd, simd.sub(simd.splat(0.0), gate));
    simd.mul(simd.div(gate, simd.add(one, exp)), up)
}
