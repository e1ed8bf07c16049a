//! Large zeroed memory in huge pages where the system has them: a weight is read from front to
//! back at every step, and with ordinary pages the processor spends part of that on addresses.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::Pod;
use memmap2::MmapMut;

/// Below this, an ordinary vector: a mapping of its own would waste the rest of its pages.
const MIN_BYTES: usize = 1 << 20;
/// What every gathered buffer starts at a multiple of: a cache line.
const ALIGNMENT: usize = 64;

/// A fixed number of elements.
pub(super) struct Buffer<T> {
    memory: Memory<T>,
    len: usize,
}

enum Memory<T> {
    Mapped(MmapMut, PhantomData<T>),
    Heap(Vec<T>),
    /// From this byte on of what [`gather`] made.
    Gathered(Arc<MmapMut>, usize),
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({})", self.len)
    }
}

impl<T: Pod> Buffer<T> {
    /// `len` zeros.
    pub(super) fn zeroed(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        let memory = match map(bytes) {
            Some(map) => Memory::Mapped(map, PhantomData),
            None => Memory::Heap(vec![T::zeroed(); len]),
        };
        Self { memory, len }
    }

    #[inline(always)]
    pub(super) fn as_slice(&self) -> &[T] {
        match &self.memory {
            // A mapping starts on a page, so it is aligned for any element.
            Memory::Mapped(map, _) => bytemuck::cast_slice(&map[..self.len * size_of::<T>()]),
            Memory::Gathered(map, start) => {
                bytemuck::cast_slice(&map[*start..][..self.len * size_of::<T>()])
            }
            Memory::Heap(elements) => elements,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        match &mut self.memory {
            Memory::Mapped(map, _) => {
                bytemuck::cast_slice_mut(&mut map[..self.len * size_of::<T>()])
            }
            Memory::Heap(elements) => elements,
            Memory::Gathered(..) => panic!("bug: writing to what is gathered"),
        }
    }
}

/// A mapping of its own for so many bytes, where there are enough of them.
fn map(bytes: usize) -> Option<MmapMut> {
    let map = (bytes >= MIN_BYTES).then(|| MmapMut::map_anon(bytes).ok()).flatten()?;
    // A system without huge pages refuses; ordinary ones do.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Some(map)
}

/// A buffer of any type.
pub(super) trait Gathered {
    fn bytes(&self) -> &[u8];
    /// Takes its content from byte `start` of `map` on.
    fn move_to(&mut self, map: &Arc<MmapMut>, start: usize);
}

impl<T: Pod> Gathered for Buffer<T> {
    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self.as_slice())
    }

    fn move_to(&mut self, map: &Arc<MmapMut>, start: usize) {
        self.memory = Memory::Gathered(Arc::clone(map), start);
    }
}

/// Moves buffers into one piece of memory, one behind the other: what is too small for huge pages
/// by itself then lies in them, in the order in which it is read. Nobody can write to them any more.
pub(super) fn gather(mut buffers: Vec<&mut dyn Gathered>) {
    let room = |buffer: &dyn Gathered| buffer.bytes().len().next_multiple_of(ALIGNMENT);
    let Some(mut map) = map(buffers.iter().map(|buffer| room(&**buffer)).sum()) else { return };
    let mut places = Vec::with_capacity(buffers.len());
    let mut start = 0;
    for buffer in &buffers {
        let bytes = buffer.bytes();
        map[start..start + bytes.len()].copy_from_slice(bytes);
        places.push(start);
        start += room(&**buffer);
    }
    let map = Arc::new(map);
    for (buffer, start) in buffers.iter_mut().zip(places) {
        buffer.move_to(&map, start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathered_buffers_hold_what_they_held() {
        for lens in [vec![3, 0, 1], vec![70_001, 5, 0, 200_000, 1]] {
            let filled = |(seed, len): (usize, &usize)| {
                let mut buffer = Buffer::<u64>::zeroed(*len);
                let elements = buffer.as_mut_slice().iter_mut().enumerate();
                elements.for_each(|(i, element)| *element = (i * 31 + seed) as u64);
                buffer
            };
            let originals: Vec<_> = lens.iter().enumerate().map(filled).collect();
            let mut gathered: Vec<_> = lens.iter().enumerate().map(filled).collect();
            gather(gathered.iter_mut().map(|buffer| buffer as &mut dyn Gathered).collect());
            for (was, is) in originals.iter().zip(&gathered) {
                assert_eq!(was.as_slice(), is.as_slice());
                let moved = matches!(is.memory, Memory::Gathered(..));
                assert_eq!(moved, lens.len() > 3, "only much memory is moved");
            }
        }
    }
}
