//! The engine's limits: what runs at once, how long it may get, and where it is cached.

use std::num::NonZeroUsize;

use candle_core::DType;
use clap::{Args, ValueEnum};

use super::ByteSize;
use super::count::up_to;

/// Limits of the engine.
#[derive(Debug, Clone, Args)]
pub struct EngineArgs {
    /// Sequences that run at once
    #[arg(long, env = "SORSA_MAX_NUM_SEQS", default_value = "64", value_name = "N")]
    pub max_num_seqs: NonZeroUsize,
    /// Tokens per step: long prompts run in chunks of at most this many
    #[arg(long, env = "SORSA_MAX_NUM_BATCHED_TOKENS", default_value = "512", value_name = "N")]
    pub max_num_batched_tokens: NonZeroUsize,
    /// Prompt tokens per step while other requests are being answered [default: as many as leave
    /// those their pace, learned from the times of past steps]
    #[arg(long, env = "SORSA_LONG_PREFILL_TOKEN_THRESHOLD", value_name = "N")]
    pub long_prefill_token_threshold: Option<NonZeroUsize>,
    /// Keep the keys and values of past texts while there is room, for texts that begin alike;
    /// this is the default
    #[arg(long, overrides_with = "no_enable_prefix_caching")]
    pub enable_prefix_caching: bool,
    /// Keep nothing of past texts
    #[arg(long, env = "SORSA_NO_ENABLE_PREFIX_CACHING", overrides_with = "enable_prefix_caching")]
    pub no_enable_prefix_caching: bool,
    /// Guess up to N tokens ahead from what the text has already said, where a request does not
    /// say `num_speculative_tokens` itself: greedy answers that repeat their prompt come sooner, no
    /// token changes
    #[arg(
        long,
        env = "SORSA_SPECULATIVE_LOOKUP",
        default_value_t = 0,
        value_parser = clap::value_parser!(u8).range(0..=16),
        value_name = "N"
    )]
    pub speculative_lookup: u8,
    /// Requests that may wait before new ones get 429
    #[arg(
        long,
        env = "SORSA_MAX_WAITING_REQUESTS",
        default_value = "256",
        value_parser = up_to::<1_000_000>,
        value_name = "N"
    )]
    pub max_waiting_requests: NonZeroUsize,
    /// Memory of the key-value cache, e.g. 4GiB [default: 1GiB, or what one longest sequence needs]
    #[arg(long, env = "SORSA_KV_CACHE_MEMORY", value_name = "BYTES")]
    pub kv_cache_memory: Option<ByteSize>,
    /// How keys and values are held; auto takes bfloat16 with weights in bfloat16 and otherwise
    /// float32, and on a GPU always the type of the weights
    #[arg(long, env = "SORSA_KV_CACHE_DTYPE", default_value = "auto")]
    pub kv_cache_dtype: KvCacheDTypeArg,
    /// Compute threads [default: one per core]
    #[arg(long, env = "SORSA_THREADS", value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Keep each compute thread on a processor of its own: where nobody else uses them, not even a
    /// second server
    #[arg(long, env = "SORSA_PIN_THREADS")]
    pub pin_threads: bool,
    /// Instructions to compute with: portable, avx2, avx512, avx512-bf16 or amx [default: the best there are]
    #[arg(long, env = "SORSA_CPU", value_name = "LEVEL")]
    pub cpu: Option<String>,
}

/// How keys and values are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KvCacheDTypeArg {
    /// What goes with the weights.
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
