//! The arguments of `sorsa serve`. Whether they contradict each other is `cli/load.rs`'s to say.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    AccessArgs, AdapterArg, AdaptersArgs, ByteSize, ChatArgs, DTypeArg, DeviceArg, EngineArgs,
    QuantizeArg, count, seconds,
};
use crate::adapter::compact::Tolerance;
use crate::engine::request::Pooling;

/// How prompts become embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolingArg {
    /// The mean of all hidden states.
    Mean,
    /// The last hidden state.
    Last,
}

impl From<PoolingArg> for Pooling {
    fn from(pooling: PoolingArg) -> Self {
        match pooling {
            PoolingArg::Mean => Self::Mean,
            PoolingArg::Last => Self::Last,
        }
    }
}

/// `sorsa serve`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub struct ServeArgs {
    /// Hugging Face model directory (safetensors), .gguf file, or with --base a SORSA checkpoint
    #[arg(env = "SORSA_MODEL", value_name = "MODEL", help_heading = None::<&str>)]
    pub model: PathBuf,
    /// Base model of MODEL, which is then an un-merged checkpoint of SORSA's reference library. The
    /// base's tokenizer, chat template and configuration are used, and each --adapter is another
    /// such checkpoint on the same residual weights
    #[arg(long, env = "SORSA_BASE", value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// Name of the base model in requests (repeatable); the first is its id [default: the name of
    /// the file or directory]
    #[arg(long, env = "SORSA_SERVED_MODEL_NAME", value_delimiter = ',', value_name = "NAME")]
    pub served_model_name: Vec<String>,
    /// Maximum length of a sequence, prompt and answer together, in tokens [default: the model's]
    #[arg(long, env = "SORSA_MAX_MODEL_LEN", value_name = "TOKENS")]
    pub max_model_len: Option<NonZeroUsize>,
    /// Type of the weights; auto takes the checkpoint's own (float32 for a GGUF file whose blocks
    /// are not kept, and for a SORSA checkpoint). With quantised weights, the type of all other
    /// weights and of adapters: f32 or bf16
    #[arg(long, env = "SORSA_DTYPE", default_value = "auto")]
    pub dtype: DTypeArg,
    /// Quantise the weights of linear layers, on a CPU: q8 and q4 round those of any checkpoint;
    /// auto keeps the blocks of a quantised GGUF file, unless --dtype or --merge requires floats
    #[arg(long, env = "SORSA_QUANTIZE", default_value = "auto", value_name = "BITS")]
    pub quantize: QuantizeArg,
    /// Merge this adapter into the weights at start-up, and serve only the result, under its name.
    /// With --base, the checkpoint's own name merges its own factors
    #[arg(long, env = "SORSA_MERGE", value_name = "NAME")]
    pub merge: Option<String>,
    /// Device to compute on: cpu, cuda or cuda:N
    #[arg(long, env = "SORSA_DEVICE", default_value = "cpu")]
    pub device: DeviceArg,
    /// Threads that read and pack the weights at start-up; more than there are cores help with slow
    /// storage [default: the number of compute threads]
    #[arg(
        long,
        env = "SORSA_LOAD_PARALLELISM",
        value_parser = count::threads,
        value_name = "N"
    )]
    pub load_parallelism: Option<NonZeroUsize>,
    /// Pooling of hidden states into an embedding, unless a request sets it: mean over all tokens,
    /// or last token
    #[arg(long, env = "SORSA_POOLING", default_value = "mean")]
    pub pooling: PoolingArg,
    /// Serve a SORSA or PEFT LoRA adapter directory under this name (repeatable)
    #[arg(
        help_heading = "Adapters",
        long,
        env = "SORSA_ADAPTER",
        value_delimiter = ',',
        value_name = "NAME=PATH"
    )]
    pub adapter: Vec<AdapterArg>,
    /// Serve adapters that record another base model than the one served, with a warning
    #[arg(help_heading = "Adapters", long, env = "SORSA_ALLOW_BASE_MISMATCH")]
    pub allow_base_mismatch: bool,
    /// Drop the directions of an adapter whose singular value is at most T times the largest one of
    /// the module; 0 keeps all. Merged adapters are not truncated [default: 1e-6 for adapters that
    /// are a difference of two parts, such as SORSA's; LoRA is served as trained]
    #[arg(help_heading = "Adapters", long, env = "SORSA_ADAPTER_TOLERANCE", value_name = "T")]
    pub adapter_tolerance: Option<Tolerance>,
    /// Adapters beside those of --adapter
    #[command(flatten)]
    pub adapters: AdaptersArgs,
    /// Limits of the engine
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Chat templates, function calls, thoughts
    #[command(flatten)]
    pub chat: ChatArgs,
    /// Who may call
    #[command(flatten)]
    pub access: AccessArgs,
    /// Address to listen on; 0.0.0.0 for all interfaces
    #[arg(help_heading = "HTTP", long, env = "SORSA_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(help_heading = "HTTP", long, env = "SORSA_PORT", default_value_t = 8000)]
    pub port: u16,
    /// Largest request body
    #[arg(
        help_heading = "HTTP",
        long,
        env = "SORSA_MAX_BODY_SIZE",
        default_value = "8MiB",
        value_parser = ByteSize::not_zero,
        value_name = "BYTES"
    )]
    pub max_body_size: ByteSize,
    /// Time that running requests get to finish after SIGTERM, in seconds
    #[arg(
        help_heading = "HTTP",
        long,
        env = "SORSA_SHUTDOWN_TIMEOUT",
        default_value_t = 30,
        value_parser = seconds::from(0),
        value_name = "SECONDS"
    )]
    pub shutdown_timeout: u64,
}
