//! Compaction: each delta in as few directions as it numerically has.
//!
//! A SORSA delta is the difference of two nearly equal parts and comes in twice the rank that was
//! trained; most of those directions carry next to nothing. With `up = Q_u R_u` and
//! `downᵀ = Q_d R_d`, the singular values of the small core `R_u R_dᵀ` are those of `ΔW`. Directions
//! below a tolerance are dropped, and the root of each singular value goes to either side, so that
//! both round well in half precision. All of it is float64, rounded once at the end.

use std::str::FromStr;

use candle_core::DType;
use rayon::prelude::*;

use super::delta::{AdapterId, LowRankDelta, LowRankFactors, ModuleSpec};
use super::error::AdapterError;
use super::linalg::{Matrix, Qr, svd, thin_qr};

/// Directions with a singular value of at most this times the module's largest are dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerance(f64);

impl Tolerance {
    /// A tolerance of at least 0, which drops only what float64 cannot tell from zero, and below 1.
    #[must_use]
    pub fn new(value: f64) -> Option<Self> {
        // Adding zero makes -0 the 0 that it equals, in its bits too.
        (0.0..1.0).contains(&value).then_some(Self(value + 0.0))
    }

    /// Its value.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Tolerance {
    /// What float32 factors cannot tell from nothing.
    fn default() -> Self {
        Self(1e-6)
    }
}

/// A text that is no tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tolerance is a number of at least 0 and below 1")]
pub struct InvalidTolerance;

impl FromStr for Tolerance {
    type Err = InvalidTolerance;

    fn from_str(text: &str) -> Result<Self, InvalidTolerance> {
        text.parse().ok().and_then(Self::new).ok_or(InvalidTolerance)
    }
}

/// What compaction did to one module's delta.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModuleCompaction {
    /// The module, by its index among the base model's.
    pub module: usize,
    /// Directions as loaded.
    pub rank_before: usize,
    /// Directions kept; 0 where the delta was zero.
    pub rank_after: usize,
    /// ‖ΔW‖_F before.
    pub norm: f64,
    /// ‖ΔW − ΔW_k‖_F / ‖ΔW‖_F, not counting the rounding of the factors to float32.
    pub relative_error: f64,
}

/// What compaction did to an adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Compaction {
    /// Each adapted module, in the order of the base model's.
    pub modules: Vec<ModuleCompaction>,
}

impl Compaction {
    /// Directions of all modules together, as loaded.
    #[must_use]
    pub fn directions_before(&self) -> usize {
        self.modules.iter().map(|module| module.rank_before).sum()
    }

    /// Directions of all modules together, as kept.
    #[must_use]
    pub fn directions_after(&self) -> usize {
        self.modules.iter().map(|module| module.rank_after).sum()
    }

    /// The largest relative error of a module.
    #[must_use]
    pub fn largest_error(&self) -> f64 {
        self.modules.iter().map(|module| module.relative_error).fold(0.0, f64::max)
    }
}

/// The delta in its numerical rank, float32 on the CPU, and what that took.
///
/// A module whose delta is zero is left out. The id covers what was loaded and the tolerance: two
/// tolerances are two behaviours.
///
/// # Errors
/// Where a factor cannot be read, or the result overflows float32.
pub fn compact(
    delta: &LowRankDelta,
    specs: &[ModuleSpec],
    tolerance: Tolerance,
) -> Result<(LowRankDelta, Compaction), AdapterError> {
    let touched: Vec<(usize, &LowRankFactors)> =
        (0..specs.len()).filter_map(|i| Some((i, delta.factors(i)?))).collect();
    let compacted: Vec<_> = touched
        .into_par_iter()
        .map(|(i, factors)| compact_module(i, &specs[i], factors, tolerance))
        .collect::<Result<_, AdapterError>>()?;
    let mut modules = vec![None; specs.len()];
    let mut reports = Vec::with_capacity(compacted.len());
    for (factors, report) in compacted {
        modules[report.module] = factors;
        reports.push(report);
    }
    let report = Compaction { modules: reports };
    tracing::info!(
        directions_before = report.directions_before(),
        directions_after = report.directions_after(),
        largest_relative_error = report.largest_error(),
        tolerance = tolerance.get(),
        "adapter compacted"
    );
    Ok((LowRankDelta::new(compacted_id(delta.id(), tolerance), modules), report))
}

/// The id of what [`compact`] makes of a delta: the digest of its own, the tolerance, and this
/// method's version.
#[must_use]
pub fn compacted_id(content: AdapterId, tolerance: Tolerance) -> AdapterId {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"sorsa compacted delta 1");
    hasher.update(&content.0);
    hasher.update(&tolerance.get().to_le_bytes());
    AdapterId(*hasher.finalize().as_bytes())
}

fn compact_module(
    module: usize,
    spec: &ModuleSpec,
    factors: &LowRankFactors,
    tolerance: Tolerance,
) -> Result<(Option<LowRankFactors>, ModuleCompaction), AdapterError> {
    let left = thin_qr(&Matrix::from_tensor(&factors.up)?);
    let right = thin_qr(&Matrix::from_tensor_transposed(&factors.down)?);
    let core = svd(&left.r.times(&right.r.transposed()));
    // Where large parts cancel, what float64 leaves of them is no direction.
    let rounding = f64::EPSILON * factors.rank() as f64 * left.r.norm() * right.r.norm();
    let spectrum = &core.s[..core.s.partition_point(|s| *s > rounding)];
    let floor = tolerance.get() * spectrum.first().copied().unwrap_or(0.0);
    let rank = spectrum.partition_point(|s| *s > floor);
    let norm = root_of_squares(spectrum);
    let report = ModuleCompaction {
        module,
        rank_before: factors.rank(),
        rank_after: rank,
        norm,
        relative_error: if rank > 0 { root_of_squares(&spectrum[rank..]) / norm } else { 0.0 },
    };
    if rank == 0 {
        return Ok((None, report));
    }
    let roots: Vec<f64> = spectrum[..rank].iter().map(|s| s.sqrt()).collect();
    let side = |basis: Qr, vectors: Matrix| {
        let mut vectors = vectors.first_columns(rank);
        vectors.scale_columns(&roots);
        let side = basis.q.times(&vectors);
        // The largest value of either side is at most the root of a singular value.
        let fits = roots[0] <= f64::from(f32::MAX);
        fits.then_some(side)
            .ok_or_else(|| AdapterError::DeltaOverflow { module: spec.path.clone() })
    };
    let factors = LowRankFactors {
        down: side(right, core.v)?.to_tensor_transposed(DType::F32)?,
        up: side(left, core.u)?.to_tensor(DType::F32)?,
    };
    Ok((Some(factors), report))
}

fn root_of_squares(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |sum, value| sum + value * value).sqrt()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use proptest::prelude::*;

    use super::*;

    fn tensor(rows: usize, values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (rows, values.len() / rows), &Device::Cpu).unwrap()
    }

    fn delta(out: usize, rank: usize, up: &[f32], down: &[f32]) -> (LowRankDelta, ModuleSpec) {
        let factors = LowRankFactors { down: tensor(rank, down), up: tensor(out, up) };
        let in_features = down.len() / rank;
        let spec = ModuleSpec { path: "q".into(), in_features, out_features: out };
        let specs = std::slice::from_ref(&spec);
        (LowRankDelta::from_content(specs, vec![Some(factors)]).unwrap(), spec)
    }

    fn run(
        (delta, spec): &(LowRankDelta, ModuleSpec),
        tolerance: f64,
    ) -> (LowRankDelta, ModuleCompaction) {
        let tolerance = Tolerance::new(tolerance).unwrap();
        let (compacted, report) = compact(delta, std::slice::from_ref(spec), tolerance).unwrap();
        assert_eq!(report.modules.len(), 1);
        (compacted, report.modules[0])
    }

    fn product(delta: &LowRankDelta) -> Option<Tensor> {
        let factors = delta.factors(0)?;
        assert!(factors.up.is_contiguous() && factors.down.is_contiguous());
        let wide = |factor: &Tensor| factor.to_dtype(DType::F64).unwrap();
        Some(wide(&factors.up).matmul(&wide(&factors.down)).unwrap())
    }

    fn norm(tensor: &Tensor) -> f64 {
        tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
    }

    fn case() -> impl Strategy<Value = (usize, usize, Vec<f32>, Vec<f32>)> {
        (1_usize..12, 1_usize..9, 1_usize..12).prop_flat_map(|(out, rank, columns)| {
            let values = |count| prop::collection::vec(-2.0_f32..2.0, count);
            (Just(out), Just(rank), values(out * rank), values(rank * columns))
        })
    }

    proptest! {
        #[test]
        fn the_product_stays_within_the_reported_error(
            (out, rank, up, down) in case(),
            tolerance in prop::sample::select(vec![0.0, 1e-6, 0.1, 0.5, 0.99]),
        ) {
            let original = delta(out, rank, &up, &down);
            let (compacted, report) = run(&original, tolerance);
            let exact = product(&original.0).unwrap();
            let size = norm(&exact);
            prop_assert!(report.rank_after <= rank.min(out).min(down.len() / rank));
            prop_assert_eq!(report.rank_after, compacted.max_rank());
            prop_assert!((report.norm - size).abs() <= 1e-12 * size);
            let error = product(&compacted).map_or(size, |kept| norm(&(&exact - kept).unwrap()));
            prop_assert!((error - report.relative_error * size).abs() <= 1e-6 * size + 1e-12);
            // At most `rank` directions of at most T times the largest are gone.
            prop_assert!(report.relative_error <= tolerance * (rank as f64).sqrt() + 1e-12);
        }
    }

    #[test]
    fn parts_that_cancel_leave_no_directions() {
        let up = [1.0, 2.0, -1.0, 2.0, 4.0, -2.0, 0.5, 1.0, -0.5];
        let down = [1.0, 2.0, 3.0, 4.0, 0.0, 1.0, 0.0, 1.0, 1.0, 2.0, 3.0, 4.0];
        let (compacted, report) = run(&delta(3, 3, &up, &down), 0.0);
        assert_eq!((report.rank_before, report.rank_after), (3, 1));
        assert_eq!(compacted.num_modules(), 1);
        let down = [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0];
        let (compacted, report) = run(&delta(3, 3, &up, &down), 0.0);
        assert_eq!((report.rank_after, report.relative_error), (0, 0.0));
        assert_eq!((compacted.num_modules(), report.norm), (0, 0.0));
    }

    #[test]
    fn both_sides_share_the_singular_value() {
        let (compacted, _) = run(&delta(2, 1, &[3e4, 4e4], &[0.0, 2e-5]), 1e-6);
        let factors = compacted.factors(0).unwrap();
        let length = |tensor: &Tensor| norm(&tensor.to_dtype(DType::F64).unwrap());
        assert!((length(&factors.up) - 1.0).abs() < 1e-6);
        assert!((length(&factors.down) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_id_covers_the_content_and_the_tolerance() {
        let [one, other] = [2.0, 2.5].map(|value| delta(1, 1, &[1.0], &[1.0, value]));
        let id = |case, tolerance| run(case, tolerance).0.id();
        assert_eq!(id(&one, 1e-6), id(&one, 1e-6));
        assert_eq!(id(&one, 0.0), id(&one, -0.0));
        assert_ne!(id(&one, 1e-6), id(&one, 1e-5));
        assert_ne!(id(&one, 1e-6), id(&other, 1e-6));
        assert_ne!(id(&one, 0.0), one.0.id());
    }

    #[test]
    fn a_delta_beyond_float32_is_refused() {
        let (delta, spec) = delta(1, 2, &[3e38, 3e38], &[3e38, 3e38]);
        let error = compact(&delta, &[spec], Tolerance::default()).unwrap_err();
        assert!(matches!(error, AdapterError::DeltaOverflow { .. }), "{error}");
    }

    #[test]
    fn a_tolerance_is_below_one() {
        for good in ["0", "1e-6", "0.999", "-0"] {
            assert!(good.parse::<Tolerance>().is_ok(), "{good}");
        }
        for bad in ["1", "-1e-9", "nan", "inf", "", "1e-6x"] {
            assert_eq!(bad.parse::<Tolerance>(), Err(InvalidTolerance), "{bad}");
        }
    }
}
