//! Flags and environment, parsed and checked once. The only reader of the environment.
//!
//! Every flag of `sorsa serve` is an environment variable too: `--max-model-len` is
//! `SORSA_MAX_MODEL_LEN`. A flag wins over its variable.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use candle_core::{DType, Device};
use clap::{Args, ValueEnum};

use crate::adapter::compact::Tolerance;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// What to log: a level, or directives such as `sorsa=debug,tower_http=info`
    #[arg(long, env = "SORSA_LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// How log lines look
    #[arg(long, env = "SORSA_LOG_FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
}

/// `sorsa serve`.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// A Hugging Face model directory (safetensors) or a .gguf file, or with --base a SORSA
    /// checkpoint
    #[arg(env = "SORSA_MODEL", value_name = "MODEL")]
    pub model: PathBuf,
    /// MODEL is an un-merged SORSA checkpoint of the reference library, and this the model it was
    /// trained from: its tokenizer, chat template and configuration are used. Each --adapter is
    /// then another such checkpoint on the same residual weights
    #[arg(long, env = "SORSA_BASE", value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// The base model's name in requests; may be repeated, the first is its id [default: the
    /// file's or directory's name]
    #[arg(long, env = "SORSA_SERVED_MODEL_NAME", value_delimiter = ',', value_name = "NAME")]
    pub served_model_name: Vec<String>,
    /// Serve a SORSA or PEFT LoRA adapter directory under a name of its own; may be repeated
    #[arg(long, env = "SORSA_ADAPTER", value_delimiter = ',', value_name = "NAME=PATH")]
    pub adapter: Vec<AdapterArg>,
    /// Serve adapters that record another base model than the one served, with a warning
    #[arg(long, env = "SORSA_ALLOW_BASE_MISMATCH")]
    pub allow_base_mismatch: bool,
    /// Drop an adapter's directions whose singular value is at most this times the largest one of
    /// its module; 0 keeps all. A merged adapter is never cut
    #[arg(long, env = "SORSA_ADAPTER_TOLERANCE", default_value = "1e-6", value_name = "T")]
    pub adapter_tolerance: Tolerance,
    /// Fold this adapter into the weights at start and serve only the result, under its name; with
    /// --base, the checkpoint's own name folds its own factors
    #[arg(long, env = "SORSA_MERGE", value_name = "NAME")]
    pub merge: Option<String>,
    /// Where the weights live: cpu, cuda or cuda:N
    #[arg(long, env = "SORSA_DEVICE", default_value = "cpu")]
    pub device: DeviceArg,
    /// How the weights are held; auto takes the checkpoint's own (float32 for a GGUF whose blocks
    /// are not kept, and for a SORSA checkpoint). Beside quantised weights, how all others and the
    /// adapters are held: f32 or bf16
    #[arg(long, env = "SORSA_DTYPE", default_value = "auto")]
    pub dtype: DTypeArg,
    /// Hold the weights of linear layers in fewer bits, on a CPU. q8 and q4 round any checkpoint's;
    /// auto keeps the blocks of a quantised GGUF file, unless --dtype or --merge asks for
    /// floats
    #[arg(long, env = "SORSA_QUANTIZE", default_value = "auto", value_name = "BITS")]
    pub quantize: QuantizeArg,
    /// Longest sequence, prompt and answer together, in tokens [default: the model's own]
    #[arg(long, env = "SORSA_MAX_MODEL_LEN", value_name = "TOKENS")]
    pub max_model_len: Option<NonZeroUsize>,
    /// Address to listen on; 0.0.0.0 for every interface
    #[arg(long, env = "SORSA_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 for a free one
    #[arg(long, env = "SORSA_PORT", default_value_t = 8000)]
    pub port: u16,
    /// Limits of the engine
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Seconds that running requests get to finish after SIGTERM
    #[arg(long, env = "SORSA_SHUTDOWN_TIMEOUT", default_value_t = 30, value_name = "SECONDS")]
    pub shutdown_timeout: u64,
    /// Read special tokens written in chat messages as text, so that no message can pretend to be
    /// another; otherwise they are tokens, as transformers reads a rendered chat
    #[arg(long, env = "SORSA_ESCAPE_SPECIAL_TOKENS")]
    pub escape_special_tokens: bool,
    /// Largest request body
    #[arg(long, env = "SORSA_MAX_BODY_SIZE", default_value = "8MiB", value_name = "BYTES")]
    pub max_body_size: ByteSize,
}

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
    #[arg(long, env = "SORSA_MAX_WAITING_REQUESTS", default_value = "256", value_name = "N")]
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
    /// Instructions to compute with: portable, avx2, avx512 or avx512-bf16 [default: the best there are]
    #[arg(long, env = "SORSA_CPU", value_name = "LEVEL")]
    pub cpu: Option<String>,
}

/// Where this program may keep what it can compute again: `sorsa` in the user's cache directory
/// (XDG Base Directory specification), where there is one.
#[must_use]
// This is the one module that may.
#[allow(clippy::disallowed_methods)]
pub fn user_cache() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    Some(cache?.join("sorsa"))
}

/// This program's own file, to start it once more.
///
/// # Errors
/// Where the system does not say.
pub fn own_executable() -> std::io::Result<PathBuf> {
    std::env::current_exe()
}

/// `NAME=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterArg {
    /// What requests call it.
    pub name: String,
    /// Its directory.
    pub path: PathBuf,
}

/// A value of the command line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// An adapter without a name or a path.
    #[error("{0:?} is not NAME=PATH")]
    Adapter(String),
    /// A name that cannot stand in a URL or a metric.
    #[error(
        "{0:?} is no name for a model: use 1 to 128 letters, digits, '.', '_', '-', ':' or '/'"
    )]
    Name(String),
    /// An unknown device.
    #[error("{0:?} is no device: use cpu, cuda or cuda:N")]
    Device(String),
    /// A size that is no number of bytes.
    #[error("{0:?} is no size: use bytes, or a number with KiB, MiB, GiB, KB, MB or GB")]
    Size(String),
}

/// True for names that may stand in requests, URLs and metrics as they are.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
    (1..=128).contains(&name.len()) && name.chars().all(allowed)
}

impl FromStr for AdapterArg {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (name, path) =
            text.split_once('=').ok_or_else(|| ConfigError::Adapter(text.to_owned()))?;
        if path.is_empty() {
            return Err(ConfigError::Adapter(text.to_owned()));
        }
        if !is_valid_name(name) {
            return Err(ConfigError::Name(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), path: PathBuf::from(path) })
    }
}

/// Where to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceArg {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this number.
    Cuda(usize),
}

impl FromStr for DeviceArg {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let unknown = || ConfigError::Device(text.to_owned());
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => index.parse().map(Self::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl DeviceArg {
    /// Opens the device.
    ///
    /// # Errors
    /// Where this build has no CUDA support, or the machine no such GPU: never another device.
    pub fn open(self) -> anyhow::Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !candle_core::utils::cuda_is_available() => anyhow::bail!(
                "--device cuda: this build of sorsa has no CUDA support; build it with \
                 `cargo build --release --features cuda`"
            ),
            Self::Cuda(index) => Device::new_cuda(index).map_err(|error| {
                anyhow::anyhow!("--device cuda:{index}: the GPU cannot be used: {error}")
            }),
        }
    }
}

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

/// A number of bytes, written as `512MiB`, `4GB` or `1048576`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl FromStr for ByteSize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let invalid = || ConfigError::Size(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor: usize = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "kib" | "k" => 1 << 10,
            "mib" | "m" => 1 << 20,
            "gib" | "g" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(invalid()),
        };
        let number: usize = number.parse().map_err(|_| invalid())?;
        number.checked_mul(factor).map(Self).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        assert_eq!(size("3 MB"), Ok(3_000_000));
        for bad in
            ["", "GiB", "-1", "1.5GiB", "4 parsecs", "99999999999999999999", "99999999999GiB"]
        {
            assert_eq!(size(bad), Err(ConfigError::Size(bad.into())), "{bad}");
        }
    }

    #[test]
    fn a_cache_is_of_a_type_that_the_model_takes() {
        let both = [DType::BF16, DType::F32];
        assert_eq!(KvCacheDTypeArg::Auto.resolve(&both).unwrap(), DType::BF16);
        assert_eq!(KvCacheDTypeArg::Float32.resolve(&both).unwrap(), DType::F32);
        let error = KvCacheDTypeArg::Bfloat16.resolve(&[DType::F16]).unwrap_err().to_string();
        assert!(error.ends_with("it can be f16"), "{error}");
    }

    #[test]
    fn devices_are_named_or_refused() {
        let device = |text: &str| text.parse::<DeviceArg>();
        assert_eq!(device("cpu"), Ok(DeviceArg::Cpu));
        assert_eq!(device("cuda"), Ok(DeviceArg::Cuda(0)));
        assert_eq!(device("cuda:3"), Ok(DeviceArg::Cuda(3)));
        for bad in ["gpu", "cuda:", "cuda:x", "cpu:0", ""] {
            assert_eq!(device(bad), Err(ConfigError::Device(bad.into())));
        }
    }

    #[test]
    fn an_adapter_needs_a_name_and_a_path() {
        let adapter = |text: &str| text.parse::<AdapterArg>();
        let expected = AdapterArg { name: "acme".into(), path: "a/b=c".into() };
        assert_eq!(adapter("acme=a/b=c"), Ok(expected));
        assert_eq!(adapter("acme"), Err(ConfigError::Adapter("acme".into())));
        assert_eq!(adapter("acme="), Err(ConfigError::Adapter("acme=".into())));
        assert_eq!(adapter("a b=x"), Err(ConfigError::Name("a b".into())));
        assert_eq!(adapter("=x"), Err(ConfigError::Name(String::new())));
    }
}
