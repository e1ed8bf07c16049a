//! The order in which memory is read: a product asks for the lines that come after its own.
//! Nothing but time depends on it.

/// Panels of one size, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    first: *const u8,
    /// Bytes of a panel.
    stride: usize,
}

impl Places {
    /// Panels of `length` elements each.
    pub(super) fn new<T>(elements: &[T], length: usize) -> Self {
        Self { first: elements.as_ptr().cast(), stride: length * size_of::<T>() }
    }

    #[inline(always)]
    fn at(self, panel: usize) -> *const u8 {
        self.first.wrapping_add(panel * self.stride)
    }
}

/// Some panels that are read in order, and what is read after them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    own: Places,
    /// The number of the first panel that is not read.
    end: usize,
    next: Places,
}

impl Reading {
    /// Panels up to number `end`, then those of `next` from the first on; without any, what lies
    /// behind.
    pub(super) fn new(own: Places, end: usize, next: Option<Places>) -> Self {
        let behind = Places { first: own.at(end), ..own };
        Self { own, end, next: next.unwrap_or(behind) }
    }

    /// Where what is read as panels `panel`, `panel + 1`, ... lies: perhaps behind the end of all.
    #[inline(always)]
    pub(super) fn panels<const C: usize>(&self, panel: usize) -> [*const u8; C] {
        let mut addresses = [self.own.first; C];
        for (c, address) in addresses.iter_mut().enumerate() {
            let panel = panel + c;
            *address =
                if panel < self.end { self.own.at(panel) } else { self.next.at(panel - self.end) };
        }
        addresses
    }
}
