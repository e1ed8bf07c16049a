//! Float32 memory that goes from layer to layer, step after step: what a layer writes anew need not be
//! cleared before, nor given back to the allocator after.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};

use crate::kernels::scratch::{Place, Scratch, place};

/// Buffers that wait to be used again, and floats in all of them: more than a decode step has.
const MAX_BUFFERS: usize = 16;
const MAX_FLOATS: usize = 8 << 20;
/// How many times the floats asked for a buffer may hold.
const MAX_WASTE: usize = 4;

/// A thread's buffers that are not in use.
#[derive(Default)]
struct Spare(Vec<Vec<f32>>);

impl Scratch for Spare {
    fn place() -> &'static Place<Self> {
        place!(Spare)
    }
}

impl Spare {
    /// One that is as long, as nothing has to be written then, or else the smallest that holds so
    /// many and is not far too large: who needs that one would have to write all of it.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let sizes = len..=MAX_WASTE * len;
        let fits = self.0.iter().enumerate();
        let fits = fits.filter(|(_, buffer)| sizes.contains(&buffer.capacity()));
        let best = fits.min_by_key(|(_, buffer)| (buffer.len() != len, buffer.capacity()));
        best.map(|(index, _)| index).map(|index| self.0.swap_remove(index))
    }

    /// A smaller one gives way: else steps of few rows, or none, would leave no room for those of many.
    fn put(&mut self, buffer: Vec<f32>) {
        if self.floats() + buffer.capacity() > MAX_FLOATS {
            return;
        }
        self.0.push(buffer);
        if self.0.len() > MAX_BUFFERS {
            let smallest = self.0.iter().enumerate().min_by_key(|(_, buffer)| buffer.capacity());
            smallest.map(|(index, _)| index).map(|index| self.0.swap_remove(index));
        }
    }

    fn floats(&self) -> usize {
        self.0.iter().map(Vec::capacity).sum()
    }
}

/// `len` floats, whatever they are: for a kernel that writes each of them.
pub(super) fn buffer(len: usize) -> Vec<f32> {
    let mut spare = Spare::lend();
    let mut buffer = spare.take(len).unwrap_or_else(|| vec![0.0; len]);
    spare.give_back();
    buffer.resize(len, 0.0);
    buffer
}

/// Keeps the memory of a tensor that is nobody else's, if it is one that layers use.
pub fn recycle(tensor: Tensor) {
    // On another device, or in another type, there is nothing to keep.
    take(&tensor).into_iter().for_each(keep);
}

/// Keeps `buffer`, instead of a smaller one where there are many, unless there is enough.
pub fn keep(mut buffer: Vec<f32>) {
    if cfg!(any(test, debug_assertions)) {
        // Who reads what was never written finds no number.
        buffer.fill(f32::NAN);
    }
    let mut spare = Spare::lend();
    spare.put(buffer);
    spare.give_back();
}

/// The elements of a float32 tensor that is nobody else's: on a CPU they are not copied.
///
/// # Errors
/// Where the device fails.
pub fn into_values(tensor: &Tensor) -> Result<Vec<f32>> {
    take(tensor).map_or_else(|| tensor.flatten_all()?.to_vec1(), Ok)
}

/// A tensor's elements, where they are float32, on a CPU and all there is in its memory.
fn take(tensor: &Tensor) -> Option<Vec<f32>> {
    let taken = Take(Cell::default());
    let done = tensor.device().is_cpu() && tensor.inplace_op1(&taken).is_ok();
    done.then(|| taken.0.take())
}

/// Takes the elements out of a tensor, where they are all there is in its memory.
struct Take(Cell<Vec<f32>>);

impl InplaceOp1 for Take {
    fn name(&self) -> &'static str {
        "take"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(values), Some((0, end))) if end == values.len() => {
                self.0.set(std::mem::take(values));
                Ok(())
            }
            _ => candle_core::bail!("not the whole of a float32 tensor's memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn memory_is_used_again_and_what_was_in_it_is_gone() {
        let tensor = Tensor::from_vec(vec![1.0_f32; 600], (20, 30), &Device::Cpu).unwrap();
        recycle(tensor);
        let (large, small) = (buffer(1000), buffer(500));
        assert!(large.iter().all(|value| *value == 0.0), "nothing that fits was there");
        assert!(small.len() == 500 && small.iter().all(|value| value.is_nan()));
        assert!(small.capacity() >= 600);
        // The next of the same size gets it, and the larger of two is left for those who need it.
        keep(small);
        keep(large);
        assert!(buffer(300).capacity() < 1000);
        assert!(buffer(300).capacity() >= 1000);
    }

    #[test]
    fn of_the_right_size_nothing_is_cleared_and_of_a_far_larger_one_nothing_taken() {
        for len in [1000, 600, 600, 5000] {
            keep(vec![0.0; len]);
        }
        for len in [600, 5000, 600, 1000] {
            assert!(buffer(len).iter().all(|value| value.is_nan()), "{len}");
        }
        keep(vec![0.0; 5000]);
        assert!(buffer(600).iter().all(|value| *value == 0.0));
        assert!(buffer(5000).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn a_part_of_a_tensor_stays_where_it_is() {
        let tensor = Tensor::from_vec(vec![1.0_f32; 600], (20, 30), &Device::Cpu).unwrap();
        recycle(tensor.narrow(0, 0, 10).unwrap());
        let half = into_values(&tensor.narrow(0, 10, 10).unwrap()).unwrap();
        assert_eq!(half, vec![1.0; 300]);
        assert_eq!(tensor.sum_all().unwrap().to_scalar::<f32>().unwrap(), 600.0);
        assert_eq!(into_values(&tensor).unwrap(), vec![1.0; 600]);
    }

    #[test]
    fn no_more_is_kept_than_a_step_needs() {
        for _ in 0..3 * MAX_BUFFERS {
            keep(vec![0.0; MAX_FLOATS / 4]);
        }
        let kept = Spare::lend().floats();
        assert!(kept > 0 && kept <= MAX_FLOATS);
    }

    #[test]
    fn small_buffers_leave_room_for_large_ones() {
        for len in (0..3).cycle().take(10 * MAX_BUFFERS) {
            keep(vec![0.0; len]);
        }
        keep(vec![0.0; 500]);
        assert!(buffer(500).iter().all(|value| value.is_nan()), "it was kept");
    }
}
