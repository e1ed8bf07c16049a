//! The one shape every adapter has after loading: a low-rank delta per adapted linear module.
//!
//! A delta is relative to the *untouched* base weight: `y = x Wᵀ + (x downᵀ) upᵀ`. It knows no
//! file format and no name; [`crate::adapter::registry`] holds names.

use std::fmt;

use candle_core::{DType, Device, Result, Tensor};
use half::bf16;

use crate::kernels::{Factor, Kernels};

/// A linear module of the base model that adapters may target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleSpec {
    /// The module's path in the checkpoint, e.g. `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
}

/// The content digest (BLAKE3) of an adapter: its identity everywhere but in a user's request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdapterId(pub [u8; 32]);

impl AdapterId {
    /// The digest of `modules[i]` being the factors of the module `specs[i]`.
    ///
    /// It covers, for each touched module in the order of the paths: the path, both shapes, and
    /// the values as little-endian float32 (down first), each behind its length. File names,
    /// dtypes and spellings of tensor names play no part.
    ///
    /// # Errors
    /// Where a factor cannot be read back as float32.
    pub fn of_content(specs: &[ModuleSpec], modules: &[Option<LowRankFactors>]) -> Result<Self> {
        let mut touched: Vec<(&str, &LowRankFactors)> = specs
            .iter()
            .zip(modules)
            .filter_map(|(spec, factors)| Some((spec.path.as_str(), factors.as_ref()?)))
            .collect();
        touched.sort_unstable_by_key(|(path, _)| *path);
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"sorsa low-rank delta 1");
        update_number(&mut hasher, touched.len());
        for (path, factors) in touched {
            update_number(&mut hasher, path.len());
            hasher.update(path.as_bytes());
            update_matrix(&mut hasher, &factors.down)?;
            update_matrix(&mut hasher, &factors.up)?;
        }
        Ok(Self(*hasher.finalize().as_bytes()))
    }
}

fn update_number(hasher: &mut blake3::Hasher, number: usize) {
    hasher.update(&(number as u64).to_le_bytes());
}

fn update_matrix(hasher: &mut blake3::Hasher, matrix: &Tensor) -> Result<()> {
    let (rows, columns) = matrix.dims2()?;
    update_number(hasher, rows);
    update_number(hasher, columns);
    let values = matrix.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let bits: Vec<u32> = values.into_iter().map(|value| value.to_bits().to_le()).collect();
    hasher.update(bytemuck::cast_slice(&bits));
    Ok(())
}

impl fmt::Display for AdapterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AdapterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdapterId({self})")
    }
}

/// The two factors of one module's delta, `ΔW = up · down`.
#[derive(Debug, Clone)]
pub struct LowRankFactors {
    /// `rank x in_features`, contiguous.
    pub down: Tensor,
    /// `out_features x rank`, contiguous; every scale is already folded in.
    pub up: Tensor,
}

impl LowRankFactors {
    /// The number of directions, the length of the inner dimension.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.down.dims()[0]
    }

    /// The same factors elsewhere, rounded to `dtype`, contiguous.
    fn to(&self, device: &Device, dtype: DType) -> Result<Self> {
        let place = |factor: &Tensor| {
            let rounded = factor.to_dtype(dtype)?;
            let largest = rounded.to_dtype(DType::F32)?.abs()?.flatten_all()?.max(0)?;
            if !largest.to_scalar::<f32>()?.is_finite() {
                candle_core::bail!("an adapter's factors overflow {dtype:?}")
            }
            rounded.to_device(device)?.contiguous()
        };
        Ok(Self { down: place(&self.down)?, up: place(&self.up)? })
    }
}

/// In what factors are held where weights are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FactorDType {
    /// In bfloat16.
    #[default]
    Bf16,
    /// In 8 bits with a scale in float32 per 32 values, where that is smaller.
    Q8,
}

/// [`LowRankFactors`] rounded and laid out for the CPU's products.
#[derive(Debug)]
pub struct PackedFactors {
    /// `rank x in_features`.
    pub down: Factor,
    /// `out_features x rank`.
    pub up: Factor,
}

impl PackedFactors {
    fn new(factors: &LowRankFactors, kernels: Kernels, dtype: FactorDType) -> Result<Self> {
        let rounded = factors.to(&Device::Cpu, DType::BF16)?;
        let pack = |exact: &Tensor, rounded: &Tensor| {
            let shape = exact.dims2()?;
            if dtype == FactorDType::Q8 && Factor::gains_by_8_bits(shape) {
                let values = exact.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
                return Factor::q8(kernels, &values, shape).map_err(candle_core::Error::wrap);
            }
            Ok(Factor::bf16(kernels, &rounded.flatten_all()?.to_vec1::<bf16>()?, shape))
        };
        Ok(Self { down: pack(&factors.down, &rounded.down)?, up: pack(&factors.up, &rounded.up)? })
    }
}

/// A module's factors in one of their two forms.
#[derive(Debug)]
enum Factors {
    Plain(LowRankFactors),
    Packed(PackedFactors),
}

/// A whole adapter: factors for the modules it touches, indexed as [`ModuleSpec`]s are.
#[derive(Debug)]
pub struct LowRankDelta {
    id: AdapterId,
    modules: Vec<Option<Factors>>,
    /// Whether all factors are packed: asked for by each layer of each step.
    packed: bool,
}

impl LowRankDelta {
    /// `modules[i]` belongs to the `i`-th [`ModuleSpec`] of the base model; `None` leaves it as it is.
    #[must_use]
    pub fn new(id: AdapterId, modules: Vec<Option<LowRankFactors>>) -> Self {
        let plain = |factors: Option<LowRankFactors>| factors.map(Factors::Plain);
        Self::of(id, modules.into_iter().map(plain).collect())
    }

    /// The delta of `modules`, with the digest of its content for an id.
    ///
    /// # Errors
    /// Where a factor cannot be read back as float32.
    pub fn from_content(
        specs: &[ModuleSpec],
        modules: Vec<Option<LowRankFactors>>,
    ) -> Result<Self> {
        Ok(Self::new(AdapterId::of_content(specs, &modules)?, modules))
    }

    /// The same delta on `device`, its factors rounded to the float type `dtype`. The id stays:
    /// it says what was loaded, not how it is held.
    ///
    /// # Errors
    /// Where the device fails or a factor overflows `dtype`.
    pub fn to(&self, device: &Device, dtype: DType) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            candle_core::bail!("an adapter's factors cannot be held as {dtype:?}")
        }
        self.map(|factors| Ok(Factors::Plain(factors.to(device, dtype)?)))
    }

    /// The same delta rounded to `dtype`, in the form that [`LowRankDelta::packed_factors`] gives.
    ///
    /// # Errors
    /// Where a factor overflows.
    pub fn pack(&self, kernels: Kernels, dtype: FactorDType) -> Result<Self> {
        let pack = |factors: &LowRankFactors| PackedFactors::new(factors, kernels, dtype);
        let mut packed = self.map(|factors| Ok(Factors::Packed(pack(factors)?)))?;
        let factors = packed.modules.iter_mut().flatten().filter_map(|factors| match factors {
            Factors::Packed(factors) => Some([&mut factors.down, &mut factors.up]),
            Factors::Plain(_) => None,
        });
        Factor::gather(factors.flatten());
        Ok(packed)
    }

    fn map(&self, form: impl Fn(&LowRankFactors) -> Result<Factors>) -> Result<Self> {
        let modules = (0..self.modules.len()).map(|index| self.factors(index).map(&form));
        let modules = modules.map(Option::transpose).collect::<Result<_>>()?;
        Ok(Self::of(self.id, modules))
    }

    fn of(id: AdapterId, modules: Vec<Option<Factors>>) -> Self {
        let packed = modules.iter().flatten().all(|it| matches!(it, Factors::Packed(_)));
        Self { id, modules, packed }
    }

    /// The content digest.
    #[must_use]
    pub fn id(&self) -> AdapterId {
        self.id
    }

    /// The factors for module `index`, where the adapter touches it.
    ///
    /// # Panics
    /// Where the delta is packed: its exact values are gone.
    #[must_use]
    pub fn factors(&self, index: usize) -> Option<&LowRankFactors> {
        self.modules.get(index).and_then(Option::as_ref).map(|factors| match factors {
            Factors::Plain(factors) => factors,
            Factors::Packed(_) => panic!("bug: a packed delta where a plain one belongs"),
        })
    }

    /// Whether all factors are in the form that [`LowRankDelta::pack`] gives.
    #[must_use]
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// The factors for module `index`, where the adapter touches it, of a packed delta.
    ///
    /// # Errors
    /// Where the delta is not packed.
    pub fn packed_factors(&self, index: usize) -> Result<Option<&PackedFactors>> {
        match self.modules.get(index).and_then(Option::as_ref) {
            None => Ok(None),
            Some(Factors::Packed(factors)) => Ok(Some(factors)),
            Some(Factors::Plain(_)) => candle_core::bail!("bug: a delta that is not packed"),
        }
    }

    /// The largest rank over the modules.
    #[must_use]
    pub fn max_rank(&self) -> usize {
        let rank = |factors: &Factors| match factors {
            Factors::Plain(factors) => factors.rank(),
            Factors::Packed(factors) => factors.down.out_features(),
        };
        self.touched().map(rank).max().unwrap_or(0)
    }

    /// How many modules the adapter touches.
    #[must_use]
    pub fn num_modules(&self) -> usize {
        self.touched().count()
    }

    /// Bytes of all factors.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let tensor = |t: &Tensor| t.elem_count() * t.dtype().size_in_bytes();
        let bytes = |factors: &Factors| match factors {
            Factors::Plain(factors) => tensor(&factors.down) + tensor(&factors.up),
            Factors::Packed(factors) => factors.down.bytes() + factors.up.bytes(),
        };
        self.touched().map(bytes).sum()
    }

    /// True where every module's delta is zero, as after a training that never ran: served, it
    /// would be the base model under another name.
    ///
    /// # Errors
    /// Where the device fails.
    ///
    /// # Panics
    /// Where the delta is packed.
    pub fn is_zero(&self) -> Result<bool> {
        let zero = |factor: &Tensor| -> Result<bool> {
            let largest = factor.to_dtype(DType::F32)?.abs()?.flatten_all()?.max(0)?;
            Ok(largest.to_scalar::<f32>()? == 0.0)
        };
        for factors in (0..self.modules.len()).filter_map(|index| self.factors(index)) {
            if !zero(&factors.up)? && !zero(&factors.down)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn touched(&self) -> impl Iterator<Item = &Factors> {
        self.modules.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(paths: &[&str]) -> Vec<ModuleSpec> {
        let spec =
            |path: &&str| ModuleSpec { path: (*path).into(), in_features: 3, out_features: 2 };
        paths.iter().map(spec).collect()
    }

    fn factors(seed: f32, rank: usize) -> Option<LowRankFactors> {
        let matrix = |rows: usize, columns: usize| {
            let values = (0..rows * columns).map(|i| seed + i as f32).collect::<Vec<f32>>();
            Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
        };
        Some(LowRankFactors { down: matrix(rank, 3), up: matrix(2, rank) })
    }

    fn id(paths: &[&str], modules: &[Option<LowRankFactors>]) -> AdapterId {
        AdapterId::of_content(&specs(paths), modules).unwrap()
    }

    #[test]
    fn the_id_is_of_the_content_and_not_of_the_order() {
        let (a, b) = (factors(1.0, 2), factors(2.0, 1));
        let whole = id(&["q", "v"], &[a.clone(), b.clone()]);
        assert_eq!(whole, id(&["v", "q"], &[b.clone(), a.clone()]));
        assert_eq!(whole, id(&["k", "q", "v"], &[None, a.clone(), b.clone()]));
        assert_ne!(whole, id(&["q", "v"], &[b.clone(), a.clone()]));
        assert_ne!(whole, id(&["q", "v"], &[a.clone(), None]));
        assert_ne!(whole, id(&["q", "w"], &[a, b]));
    }

    #[test]
    fn one_bit_of_one_value_changes_the_id() {
        let original = factors(1.0, 2);
        let mut changed = original.clone().unwrap();
        let mut values = changed.up.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[3] = f32::from_bits(values[3].to_bits() ^ 1);
        changed.up = Tensor::from_vec(values, (2, 2), &Device::Cpu).unwrap();
        assert_ne!(id(&["q"], &[original]), id(&["q"], &[Some(changed)]));
    }

    #[test]
    fn a_path_cannot_run_into_its_neighbour() {
        let (a, b) = (factors(1.0, 1), factors(1.0, 1));
        assert_ne!(id(&["ab", "c"], &[a.clone(), b.clone()]), id(&["a", "bc"], &[a, b]));
    }

    #[test]
    fn moving_rounds_and_keeps_the_id() {
        let modules = vec![None, factors(0.1, 2)];
        let delta = LowRankDelta::from_content(&specs(&["q", "v"]), modules).unwrap();
        let half = delta.to(&Device::Cpu, DType::BF16).unwrap();
        assert_eq!(half.id(), delta.id());
        assert_eq!(half.size_bytes() * 2, delta.size_bytes());
        assert_eq!((half.num_modules(), half.max_rank()), (1, 2));
        assert!(half.factors(0).is_none());
        let (was, is) = (&delta.factors(1).unwrap().down, &half.factors(1).unwrap().down);
        let rounded = was.to_dtype(DType::BF16).unwrap().to_dtype(DType::F32).unwrap();
        let is = is.to_dtype(DType::F32).unwrap();
        assert_eq!(is.to_vec2::<f32>().unwrap(), rounded.to_vec2::<f32>().unwrap());
    }

    #[test]
    fn eight_bits_hold_what_they_make_smaller() {
        let wide = |rank: usize| {
            let matrix = |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu);
            Some(LowRankFactors {
                down: matrix((rank, 640)).unwrap(),
                up: matrix((320, rank)).unwrap(),
            })
        };
        let delta = LowRankDelta::new(AdapterId([1; 32]), vec![wide(32), None, wide(16)]);
        let bytes = |dtype| {
            let packed = delta.pack(Kernels::best(), dtype).unwrap();
            assert!(packed.is_packed() && packed.id() == delta.id());
            assert_eq!((packed.num_modules(), packed.max_rank()), (2, 32));
            packed.size_bytes()
        };
        // Panels of 16 outputs: 2 bytes a value, or 9 bits in groups of 32.
        let (down, up) = (|rank: usize| rank * 640, |rank: usize| 320 * rank);
        let plain = 2 * (down(32) + up(32) + down(16) + up(16));
        assert_eq!(bytes(FactorDType::Bf16), plain);
        assert_eq!(bytes(FactorDType::Q8), 9 * (down(32) + up(32) + down(16)) / 8 + 2 * up(16));
    }

    #[test]
    fn a_delta_with_a_zero_side_everywhere_is_zero() {
        let half_zero = |seed: f32| {
            let mut factors = factors(seed, 1).unwrap();
            factors.up = factors.up.zeros_like().unwrap();
            Some(factors)
        };
        let is_zero = |modules| {
            LowRankDelta::from_content(&specs(&["q", "v"]), modules).unwrap().is_zero().unwrap()
        };
        assert!(is_zero(vec![half_zero(1.0), half_zero(2.0)]));
        assert!(!is_zero(vec![half_zero(1.0), factors(2.0, 1)]));
    }

    #[test]
    fn moving_refuses_overflow_and_types_that_are_no_floats() {
        let delta = LowRankDelta::from_content(&specs(&["q"]), vec![factors(7e4, 1)]).unwrap();
        assert!(delta.to(&Device::Cpu, DType::F16).is_err());
        assert!(delta.to(&Device::Cpu, DType::BF16).is_ok());
        assert!(delta.to(&Device::Cpu, DType::U8).is_err());
    }
}
