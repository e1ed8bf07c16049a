//! The vector levels of x86-64 processors, one file each; with `portable`, all there is to write
//! for another architecture.

mod amx;
mod avx2;
mod avx512;

pub(super) use amx::{Amx, Sums, TILE, Tiles};
pub(super) use avx2::Avx2;
pub(super) use avx512::Avx512;
