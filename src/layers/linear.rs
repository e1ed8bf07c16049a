//! A linear layer: a dense base weight, plus each row's own adapter.
//!
//! On a CPU a [`PackedWeight`] is computed in its own precision with float32 sums, together with the
//! other layers of the same input; one held as a tensor with float32 activations.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::backend::{Backend, CpuSlice, write_in_place};
use super::buffer::buffer;
use super::merge::merge_into;
use super::packed_weight::PackedWeight;
use crate::adapter::delta::{LowRankDelta, LowRankFactors};
use crate::adapter::segments::Segments;
use crate::kernels::{Kernels, LinearShape, LowRankShape, Projection, RowsDelta};

/// `y = x Wᵀ + b`, and for the rows of a segment `y += (x downᵀ) upᵀ`.
#[derive(Debug)]
pub struct Linear {
    weight: Weight,
    /// `out_features`: float32 on the CPU path, else in the weight's dtype.
    bias: Option<Tensor>,
    /// Index of this module in an adapter; `None` where adapters cannot touch it.
    module: Option<usize>,
    backend: Backend,
}

/// `out_features x in_features`.
#[derive(Debug)]
enum Weight {
    Tensor(Tensor),
    /// For [`Backend::Cpu`] only.
    Packed(PackedWeight),
}

impl Weight {
    /// Rows and columns.
    fn dims(&self) -> (usize, usize) {
        match self {
            Self::Tensor(weight) => (weight.dims()[0], weight.dims()[1]),
            Self::Packed(weight) => (weight.out_features(), weight.in_features()),
        }
    }
}

impl Linear {
    /// A layer of a weight that was packed for `backend`; `bias` is float32.
    ///
    /// # Errors
    /// Where the shapes disagree.
    pub fn packed(
        weight: PackedWeight,
        bias: Option<Tensor>,
        module: Option<usize>,
        backend: Backend,
    ) -> Result<Self> {
        if let Some(bias) = &bias
            && bias.dims() != [weight.out_features()]
        {
            bail!("a bias of {:?} for {weight:?}", bias.shape())
        }
        Ok(Self { weight: Weight::Packed(weight), bias, module, backend })
    }

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
        Ok(Self { weight: Weight::Tensor(weight), bias, module, backend })
    }

    /// Columns of the weight.
    #[must_use]
    pub fn in_features(&self) -> usize {
        self.weight.dims().1
    }

    /// Rows of the weight.
    #[must_use]
    pub fn out_features(&self) -> usize {
        self.weight.dims().0
    }

    /// `x` is `rows x in`, the result `rows x out`, both float32 on the CPU path and else in the
    /// weight's dtype.
    ///
    /// # Errors
    /// Where shapes disagree or the device fails.
    pub fn forward(&self, x: &Tensor, segments: &Segments) -> Result<Tensor> {
        let [y] = Self::forward_all([self], x, segments)?;
        Ok(y)
    }

    /// [`Linear::forward`] of several layers with the same input.
    ///
    /// # Errors
    /// As there.
    pub fn forward_all<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
        segments: &Segments,
    ) -> Result<[Tensor; N]> {
        let mut out = Vec::with_capacity(N);
        for layer in layers {
            layer.check_input(x, segments)?;
        }
        if let Some(kernels) = layers[0].projects()
            && layers.iter().all(|layer| layer.projects().is_some())
        {
            return Self::project_all(layers, x, segments, kernels);
        }
        for layer in layers {
            out.push(match (layer.backend, layer.projects()) {
                (_, Some(kernels)) => {
                    let [y] = Self::project_all([layer], x, segments, kernels)?;
                    y
                }
                (Backend::Candle, None) => layer.forward_candle(x, segments)?,
                (Backend::Cpu(kernels), None) => layer.forward_cpu(x, segments, kernels)?,
            });
        }
        out.try_into().map_err(|_| candle_core::Error::msg("bug: a layer without a result"))
    }

    fn project_all<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
        segments: &Segments,
        kernels: Kernels,
    ) -> Result<[Tensor; N]> {
        let (rows, width) = x.dims2()?;
        let x = CpuSlice::new(x)?;
        let x = x.f32()?;
        let mut outs = layers.map(|layer| buffer(rows * layer.out_features()));
        let biases = layers.map(|layer| layer.bias.as_ref().map(CpuSlice::new).transpose());
        let mut projections = Vec::with_capacity(N);
        for ((layer, out), bias) in layers.iter().zip(&mut outs).zip(&biases) {
            let bias = bias.as_ref().map_err(candle_core::Error::msg)?;
            let bias = bias.as_ref().map(CpuSlice::f32).transpose()?;
            projections.push(layer.projection(segments, bias, out, false)?);
        }
        kernels.project(x, width, projections);
        let mut out = Vec::with_capacity(N);
        for (layer, mut y) in layers.iter().zip(outs) {
            layer.add_plain_deltas(x, segments, &mut y, kernels)?;
            out.push(Tensor::from_vec(y, (rows, layer.out_features()), &Device::Cpu)?);
        }
        out.try_into().map_err(|_| candle_core::Error::msg("bug: a layer without a result"))
    }

    /// `residual + forward(x)`. A CPU may work in place: `residual` must be nobody else's.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_add(&self, x: &Tensor, segments: &Segments, residual: Tensor) -> Result<Tensor> {
        let in_place = self.bias.is_none() && segments.iter().all(|it| it.delta.is_packed());
        let Some(kernels) = self.projects().filter(|_| in_place) else {
            return residual + self.forward(x, segments)?;
        };
        self.check_input(x, segments)?;
        let (rows, width) = x.dims2()?;
        if residual.dims() != [rows, self.out_features()] {
            bail!("a residual of {:?} for {rows} rows of {:?}", residual.shape(), self.weight)
        }
        let x = CpuSlice::new(x)?;
        let x = x.f32()?;
        // Whatever can fail does so before anything is written.
        let deltas = self.deltas(segments)?;
        let Weight::Packed(weight) = &self.weight else { bail!("bug: a weight not packed") };
        let weight = weight.weight();
        write_in_place(&residual, |out| {
            let deltas = deltas.clone();
            let projection = Projection { weight, bias: None, deltas, out, accumulate: true };
            kernels.project(x, width, vec![projection]);
            Ok(())
        })?;
        Ok(residual)
    }

    fn check_input(&self, x: &Tensor, segments: &Segments) -> Result<()> {
        let (rows, width) = x.dims2()?;
        if width != self.in_features() {
            bail!("rows of {width} for a weight of {:?}", self.weight.dims())
        }
        if let Some(last) = segments.iter().last().filter(|last| last.rows.end > rows) {
            bail!("an adapter's rows {:?} in a batch of {rows}", last.rows)
        }
        Ok(())
    }

    /// The kernels, where the weight is packed for them.
    fn projects(&self) -> Option<Kernels> {
        match (&self.weight, self.backend) {
            (Weight::Packed(_), Backend::Cpu(kernels)) => Some(kernels),
            _ => None,
        }
    }

    fn projection<'a, 'o>(
        &'a self,
        segments: &'a Segments,
        bias: Option<&'a [f32]>,
        out: &'o mut [f32],
        accumulate: bool,
    ) -> Result<Projection<'a, 'o>> {
        let Weight::Packed(weight) = &self.weight else { bail!("bug: a weight not packed") };
        let weight = weight.weight();
        Ok(Projection { weight, bias, deltas: self.deltas(segments)?, out, accumulate })
    }

    /// The packed factors of the rows that this module has any for. Others are float32, for
    /// [`Linear::add_plain_deltas`].
    fn deltas<'a>(&self, segments: &'a Segments) -> Result<Vec<RowsDelta<'a>>> {
        let Some(module) = self.module else { return Ok(Vec::new()) };
        let (out_features, in_features) = self.weight.dims();
        let mut deltas = Vec::new();
        for segment in segments.iter().filter(|segment| segment.delta.is_packed()) {
            let Some(factors) = segment.delta.packed_factors(module)? else { continue };
            let (down, up) = (&factors.down, &factors.up);
            if down.in_features() != in_features || up.out_features() != out_features {
                bail!("factors of {up:?} and {down:?} for {:?}", self.weight)
            }
            let (down, up) = (down.weight(), up.weight());
            deltas.push(RowsDelta { rows: segment.rows.clone(), down, up });
        }
        Ok(deltas)
    }

    /// Folds an adapter's factors for this module into the weight: float32 sum, one rounding.
    ///
    /// # Errors
    /// Where [`Linear::check`] finds fault or the device fails; the weight is then as it was.
    pub fn merge(&mut self, factors: &LowRankFactors) -> Result<()> {
        self.check(factors)?;
        let shape = self.weight.dims();
        match &mut self.weight {
            Weight::Tensor(weight) => *weight = merge_into(weight, factors)?,
            Weight::Packed(PackedWeight::Bf16(panels)) => {
                let plain = Tensor::from_vec(panels.unpack(), shape, &Device::Cpu)?;
                let merged = merge_into(&plain, factors)?;
                self.weight = Weight::Packed(PackedWeight::bf16(&merged, self.backend)?);
            }
            Weight::Packed(quantized @ PackedWeight::Quantized(_)) => {
                bail!("{quantized:?} has lost what merging needs: merge before quantising")
            }
        }
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
                self.weight.dims()
            )
        }
        Ok(())
    }

    /// The rows that this module has factors for, less those that a packed weight's product adds.
    fn adapted<'a>(
        &self,
        segments: &'a Segments,
    ) -> impl Iterator<Item = (std::ops::Range<usize>, &'a LowRankFactors)> {
        let module = self.module;
        let factors = move |delta: &'a LowRankDelta| delta.factors(module?);
        let packed = matches!(self.weight, Weight::Packed(_));
        let own = segments.iter().filter(move |segment| !(packed && segment.delta.is_packed()));
        own.filter_map(move |segment| {
            factors(&segment.delta).map(|factors| (segment.rows.clone(), factors))
        })
    }

    fn forward_candle(&self, x: &Tensor, segments: &Segments) -> Result<Tensor> {
        let Weight::Tensor(weight) = &self.weight else { bail!("bug: a packed weight for candle") };
        let mut y = x.matmul(&weight.t()?)?;
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
        let mut y = buffer(rows * out_features);
        let Weight::Tensor(weight) = &self.weight else { bail!("bug: a packed weight") };
        let (x, weight) = (CpuSlice::new(x)?, CpuSlice::new(weight)?);
        let x = x.f32()?;
        let bias = self.bias.as_ref().map(CpuSlice::new).transpose()?;
        let bias = bias.as_ref().map(CpuSlice::f32).transpose()?;
        let shape = LinearShape { rows, in_features, out_features };
        kernels.linear(x, weight.weights()?, bias, &mut y, shape);
        self.add_plain_deltas(x, segments, &mut y, kernels)?;
        Tensor::from_vec(y, (rows, out_features), &Device::Cpu)
    }

    /// Adds what the adapters whose factors are not packed make of their rows.
    fn add_plain_deltas(
        &self,
        x: &[f32],
        segments: &Segments,
        y: &mut [f32],
        kernels: Kernels,
    ) -> Result<()> {
        let (in_features, out_features) = (self.in_features(), self.out_features());
        for (rows, factors) in self.adapted(segments) {
            self.check(factors)?;
            let (down, up) = (CpuSlice::new(&factors.down)?, CpuSlice::new(&factors.up)?);
            let own_x = &x[rows.start * in_features..rows.end * in_features];
            let own_y = &mut y[rows.start * out_features..rows.end * out_features];
            let rank = factors.rank();
            let shape = LowRankShape { rows: rows.len(), in_features, rank, out_features };
            kernels.low_rank_add(own_x, down.weights()?, up.weights()?, own_y, shape);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
