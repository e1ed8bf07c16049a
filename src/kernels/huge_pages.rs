//! Large zeroed memory in huge pages where the system has them: a weight is read from front to
//! back at every step, and with ordinary pages the processor spends part of that on addresses.

use std::fmt;
use std::marker::PhantomData;

use bytemuck::Pod;
use memmap2::MmapMut;

/// Below this, an ordinary vector: a mapping of its own would waste the rest of its pages.
const MIN_BYTES: usize = 1 << 20;

/// A fixed number of elements.
pub(super) struct Buffer<T> {
    memory: Memory<T>,
    len: usize,
}

enum Memory<T> {
    Mapped(MmapMut, PhantomData<T>),
    Heap(Vec<T>),
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
        let mapped = (bytes >= MIN_BYTES).then(|| MmapMut::map_anon(bytes).ok()).flatten();
        let memory = match mapped {
            Some(map) => {
                // A system without huge pages refuses; ordinary ones do.
                #[cfg(target_os = "linux")]
                let _ = map.advise(memmap2::Advice::HugePage);
                Memory::Mapped(map, PhantomData)
            }
            None => Memory::Heap(vec![T::zeroed(); len]),
        };
        Self { memory, len }
    }

    #[inline(always)]
    pub(super) fn as_slice(&self) -> &[T] {
        match &self.memory {
            // A mapping starts on a page, so it is aligned for any element.
            Memory::Mapped(map, _) => bytemuck::cast_slice(&map[..self.len * size_of::<T>()]),
            Memory::Heap(elements) => elements,
        }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        match &mut self.memory {
            Memory::Mapped(map, _) => {
                bytemuck::cast_slice_mut(&mut map[..self.len * size_of::<T>()])
            }
            Memory::Heap(elements) => elements,
        }
    }
}
