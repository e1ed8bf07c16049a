//! A linear layer: a dense base weight, plus each row's own adapter.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::backend::{Backend, CpuSlice};
use crate::adapter::delta::{LowRankDelta, LowRankFactors};
use crate::adapter::segments::Segments;
use crate::kernels::{Kernels, LinearShape, LowRankShape};

/// `y = x Wᵀ + b`, and for the rows of a segment `y += (x downᵀ) upᵀ`.
#[derive(Debug)]
pub struct Linear {
    /// `out_features x in_features`.
    weight: Tensor,
    /// `out_features`: float32 on the CPU path, else in the weight's dtype.
    bias: Option<Tensor>,
    /// Index of this module in an adapter; `None` where adapters cannot touch it.
    module: Option<usize>,
    backend: Backend,
}

impl Linear {
    /// A layer of `weight` (`out x in`) and `bias` (`out`), which is module number `module` of the
    /// model for adapters.
    ///
    /// # Errors
    /// Where the shapes disagree, or candle has no product for them on this device.
    pub fn new(
        weight: Tensor,
        bias: Option<Tensor>,
        module: Option<usize>,
        backend: Backend,
    ) -> Result<Self> {
        let (out_features, _) = weight.dims2()?;
        if let Some(bias) = &bias
            && bias.dims() != [out_features]
        {
            bail!("a bias of {:?} for a weight of {:?}", bias.shape(), weight.shape())
        }
        if backend.is_candle() && weight.device().is_cpu() && weight.dtype() == DType::BF16 {
            bail!("candle has no bfloat16 matrix product on a CPU")
        }
        Ok(Self { weight, bias, module, backend })
    }

    /// Columns of the weight.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.weight.dims()[1]
    }

    /// Rows of the weight.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.weight.dims()[0]
    }

    /// The dense weight, `out x in`.
    #[must_use]
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// `x` is `rows x in`, the result `rows x out`, both float32 on the CPU path and else in the
    /// weight's dtype.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub fn forward(&self, x: &Tensor, segments: &Segments) -> Result<Tensor> {
        let (rows, width) = x.dims2()?;
        if width != self.in_features() {
            bail!("rows of {width} for a weight of {:?}", self.weight.shape())
        }
        if let Some(last) = segments.iter().last().filter(|last| last.rows.end > rows) {
            bail!("an adapter's rows {:?} in a batch of {rows}", last.rows)
        }
        match self.backend {
            Backend::Candle => self.forward_candle(x, segments),
            Backend::Cpu(kernels) => self.forward_cpu(x, segments, kernels),
        }
    }

    /// Folds an adapter's factors for this module into the weight: float32 sum, one rounding.
    ///
    /// # Errors
    /// Where [`Linear::check`] finds fault or the device fails; the weight is then as it was.
    pub fn merge(&mut self, factors: &LowRankFactors) -> Result<()> {
        self.check(factors)?;
        let wide = |tensor: &Tensor| tensor.to_device(self.weight.device())?.to_dtype(DType::F32);
        let delta = wide(&factors.up)?.matmul(&wide(&factors.down)?)?;
        self.weight = (wide(&self.weight)? + delta)?.to_dtype(self.weight.dtype())?;
        Ok(())
    }

    /// Compares the factors' shapes with the weight's.
    ///
    /// # Errors
    /// Where they do not fit.
    pub fn check(&self, factors: &LowRankFactors) -> Result<()> {
        let (rank, in_features) = factors.down.dims2()?;
        if in_features != self.in_features() || factors.up.dims() != [self.out_features(), rank] {
            bail!(
                "factors of {:?} and {:?} for a weight of {:?}",
                factors.up.shape(),
                factors.down.shape(),
                self.weight.shape()
            )
        }
        Ok(())
    }

    /// The rows that this module has factors for.
    fn adapted<'a>(
        &self,
        segments: &'a Segments,
    ) -> impl Iterator<Item = (std::ops::Range<usize>, &'a LowRankFactors)> {
        let module = self.module;
        let factors = move |delta: &'a LowRankDelta| delta.factors(module?);
        segments.iter().filter_map(move |segment| {
            factors(&segment.delta).map(|factors| (segment.rows.clone(), factors))
        })
    }

    fn forward_candle(&self, x: &Tensor, segments: &Segments) -> Result<Tensor> {
        let mut y = x.matmul(&self.weight.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        for (rows, factors) in self.adapted(segments) {
            self.check(factors)?;
            let own = x.narrow(0, rows.start, rows.len())?;
            let (down, up) = (factors.down.to_dtype(x.dtype())?, factors.up.to_dtype(x.dtype())?);
            let delta = own.matmul(&down.t()?)?.matmul(&up.t()?)?;
            // `y` is this call's own, so it may be written in place.
            y.slice_set(&(y.narrow(0, rows.start, rows.len())? + delta)?, 0, rows.start)?;
        }
        Ok(y)
    }

    fn forward_cpu(&self, x: &Tensor, segments: &Segments, kernels: Kernels) -> Result<Tensor> {
        let (in_features, out_features) = (self.in_features(), self.out_features());
        let rows = x.dims()[0];
        let mut y = vec![0.0; rows * out_features];
        let (x, weight) = (CpuSlice::new(x)?, CpuSlice::new(&self.weight)?);
        let x = x.f32()?;
        let bias = self.bias.as_ref().map(CpuSlice::new).transpose()?;
        let bias = bias.as_ref().map(CpuSlice::f32).transpose()?;
        let shape = LinearShape { rows, in_features, out_features };
        kernels.linear(x, weight.weights()?, bias, &mut y, shape);
        for (rows, factors) in self.adapted(segments) {
            self.check(factors)?;
            let (down, up) = (CpuSlice::new(&factors.down)?, CpuSlice::new(&factors.up)?);
            let own_x = &x[rows.start * in_features..rows.end * in_features];
            let own_y = &mut y[rows.start * out_features..rows.end * out_features];
            let rank = factors.rank();
            let shape = LowRankShape { rows: rows.len(), in_features, rank, out_features };
            kernels.low_rank_add(own_x, down.weights()?, up.weights()?, own_y, shape);
        }
        Tensor::from_vec(y, (rows, out_features), &Device::Cpu)
    }
}
