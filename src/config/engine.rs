//! The engine's limits: what runs at once, how long it may get, and where it is cached.

use std::num::NonZeroUsize;

use candle_core::DType;
use clap::{Args, ValueEnum};

use super::ByteSize;
use super::count::{threads, up_to};

/// Limits of the engine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Maximum number of sequences that run at once
    #[arg(long, env = "SORSA_MAX_NUM_SEQS", default_value = "64", value_name = "N")]
    pub max_num_seqs: NonZeroUsize,
    /// Maximum number of tokens per step; longer prompts run in chunks
    #[arg(long, env = "SORSA_MAX_NUM_BATCHED_TOKENS", default_value = "512", value_name = "N")]
    pub max_num_batched_tokens: NonZeroUsize,
    /// Maximum number of prompt tokens per step while other requests decode [default: adaptive; one
    /// long prompt makes a step 1.7 times as long]
    #[arg(long, env = "SORSA_LONG_PREFILL_TOKEN_THRESHOLD", value_name = "N")]
    pub long_prefill_token_threshold: Option<NonZeroUsize>,
    /// Cache keys and values of past texts for requests that begin with the same tokens; this is
    /// the default
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub enable_prefix_caching: bool,
    /// Disable prefix caching
    #[arg(long, env = "SORSA_NO_ENABLE_PREFIX_CACHING", overrides_with = "enable_prefix_caching")]
    pub no_enable_prefix_caching: bool,
    /// Draft up to N tokens per step for greedy requests by looking them up in the text so far,
    /// unless a request sets `num_speculative_tokens`. Answers that repeat their prompt are
    /// generated faster; no token changes
    #[arg(
        long,
        env = "SORSA_SPECULATIVE_LOOKUP",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=16),
        value_name = "N"
    )]
    pub speculative_lookup: u8,
    /// Maximum number of queued requests; beyond it new ones get 429
    #[arg(
        long,
        env = "SORSA_MAX_WAITING_REQUESTS",
        default_value = "256",
        value_parser = up_to::<1_000_000>,
        value_name = "N"
    )]
    pub max_waiting_requests: NonZeroUsize,
    /// Memory for the key-value cache, for example 4GiB [default: 1GiB, or what one sequence of
    /// maximum length needs]
    #[arg(long, env = "SORSA_KV_CACHE_MEMORY", value_name = "BYTES")]
    pub kv_cache_memory: Option<ByteSize>,
    /// Type of cached keys and values; auto takes bfloat16 if the weights are bfloat16, otherwise
    /// float32; on a GPU it takes the type of the weights
    #[arg(long, env = "SORSA_KV_CACHE_DTYPE", default_value = "auto")]
    pub kv_cache_dtype: KvCacheDTypeArg,
    /// Compute threads [default: one per core]
    #[arg(long, env = "SORSA_THREADS", value_parser = threads, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Pin each compute thread to a core of its own; only if nothing else runs on these cores, not
    /// even a second server
    #[arg(long, env = "SORSA_PIN_THREADS")]
    pub pin_threads: bool,
    /// Instruction set to use: portable, avx2, avx512, avx512-bf16 or amx [default: the best
    /// available]
    #[arg(long, env = "SORSA_CPU", value_name = "LEVEL")]
    pub cpu: Option<String>,
}

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvCacheDTypeArg {
    /// The type that goes with the weights.
    Auto,
    /// 32-bit floats.
    #[value(alias = "f32")]
    Float32,
    /// bfloat16.
    #[value(alias = "bf16")]
    Bfloat16,
}

impl KvCacheDTypeArg {
    /// The dtype, where the model takes those of `possible`, the usual one first.
    ///
    /// # Errors
    /// Where it takes no such cache.
    pub fn resolve(self, possible: &[DType]) -> anyhow::Result<DType> {
        let wanted = match self {
            Self::Auto => possible.first().copied(),
            Self::Float32 => Some(DType::F32),
            Self::Bfloat16 => Some(DType::BF16),
        };
        let found = possible.iter().copied().find(|dtype| Some(*dtype) == wanted);
        found.ok_or_else(|| {
            let names: Vec<_> = possible.iter().map(|dtype| dtype.as_str()).collect();
            let names = names.join(" or ");
            anyhow::anyhow!("--kv-cache-dtype: with this device and --dtype it can be {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_of_a_type_that_the_model_takes() {
        let both = [DType::BF16, DType::F32];
        assert_eq!(KvCacheDTypeArg::Auto.resolve(&both).unwrap(), DType::BF16);
        assert_eq!(KvCacheDTypeArg::Float32.resolve(&both).unwrap(), DType::F32);
        let error = KvCacheDTypeArg::Bfloat16.resolve(&[DType::F16]).unwrap_err().to_string();
        assert!(error.ends_with("it can be f16"), "{error}");
    }
}
