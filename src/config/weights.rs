//! How weights are held: in which floats, or in how many bits.

use candle_core::DType;
use clap::ValueEnum;

/// Whether weights are held in fewer bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantizeArg {
    /// Those that a GGUF file holds so.
    Auto,
    /// None.
    None,
    /// All, in 8 bits.
    Q8,
    /// All, in 4 bits; the output head's in 8.
    Q4,
}

/// How the factors of adapters are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AdapterDTypeArg {
    /// As the weights' dtype says.
    Auto,
    /// In 8 bits.
    Q8,
}

/// How weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DTypeArg {
    /// As the checkpoint holds them.
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
