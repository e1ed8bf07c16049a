//! How weights are held: in which floats, or in how many bits.

use candle_core::DType;
use clap::ValueEnum;

/// Whether weights are held in fewer bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizeArg {
    /// Keep the blocks of a quantised GGUF file.
    Auto,
    /// Do not quantise.
    None,
    /// 8 bits.
    Q8,
    /// 4 bits; 8 for the output head.
    Q4,
}

/// How the factors of adapters are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AdapterDTypeArg {
    /// The type that --dtype says.
    Auto,
    /// 8 bits.
    Q8,
}

/// How weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DTypeArg {
    /// The checkpoint's own type.
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl DTypeArg {
    /// The dtype, where `checkpoint` is the model's own.
    #[must_use]
    pub fn resolve(self, checkpoint: DType) -> DType {
        match self {
            Self::Auto => checkpoint,
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}
