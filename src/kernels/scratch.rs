//! Memory that a thread works in and keeps for its next job. It is the only thing in this program that
//! outlives its owner: whoever lends it writes before reading.
//!
//! Within a job nothing is allocated step after step: there, all threads would meet in the
//! allocator and wait for each other.

use std::cell::Cell;
use std::thread::LocalKey;

/// Where a thread keeps it.
pub type Place<T> = LocalKey<Cell<Option<T>>>;

/// A value that a thread keeps for the sake of its memory. What is in it, its last user left there.
pub trait Scratch: Default + 'static {
    /// Its place, which the macro of that name makes.
    fn place() -> &'static Place<Self>;

    /// This thread's; a new one where it is in use already.
    fn lend() -> Self {
        Self::place().take().unwrap_or_default()
    }

    /// For the next one.
    fn give_back(self) {
        Self::place().set(Some(self));
    }
}

/// The place of a type.
macro_rules! place {
    ($type:ty) => {{
        thread_local! {
            static PLACE: std::cell::Cell<Option<$type>> = const { std::cell::Cell::new(None) };
        }
        &PLACE
    }};
}
pub(crate) use place;

impl Scratch for Vec<f32> {
    fn place() -> &'static Place<Self> {
        place!(Vec<f32>)
    }
}

impl Scratch for Vec<super::panels::Line> {
    fn place() -> &'static Place<Self> {
        place!(Vec<super::panels::Line>)
    }
}

impl Scratch for Vec<super::simd::Lanes> {
    fn place() -> &'static Place<Self> {
        place!(Vec<super::simd::Lanes>)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_and_nobody_gets_what_another_has() {
        let mut numbers = Vec::<f32>::lend();
        numbers.resize(1000, 1.0);
        let (place, other) = (numbers.as_ptr(), Vec::<f32>::lend());
        assert!(other.is_empty());
        other.give_back();
        numbers.give_back();
        let again = Vec::<f32>::lend();
        assert_eq!(again.as_ptr(), place);
        assert!(Vec::<f32>::lend().is_empty(), "it is lent out");
    }
}
