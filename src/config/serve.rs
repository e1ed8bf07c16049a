//! The arguments of `sorsa serve`. Whether they contradict each other is `cli/load.rs`'s to say.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{
    AccessArgs, AdapterArg, AdaptersArgs, ByteSize, ChatArgs, DTypeArg, DeviceArg, EngineArgs,
    QuantizeArg,
};
use crate::adapter::compact::Tolerance;
use crate::engine::request::Pooling;

/// How prompts become embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolingArg {
    /// The mean of all hidden states.
    Mean,
    /// The last one.
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
    /// its module; 0 keeps all. A merged adapter is never cut [default: 1e-6 for adapters that are a
    /// difference of two parts, such as SORSA's; a LoRA is served as it was trained]
    #[arg(long, env = "SORSA_ADAPTER_TOLERANCE", value_name = "T")]
    pub adapter_tolerance: Option<Tolerance>,
    /// Adapters beside those of --adapter
    #[command(flatten)]
    pub adapters: AdaptersArgs,
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
    /// Threads that read and pack the weights at start; more than there are cores help where the
    /// files lie on slow storage [default: as many as compute]
    #[arg(long, env = "SORSA_LOAD_PARALLELISM", value_name = "N")]
    pub load_parallelism: Option<NonZeroUsize>,
    /// Longest sequence, prompt and answer together, in tokens [default: the model's own]
    #[arg(long, env = "SORSA_MAX_MODEL_LEN", value_name = "TOKENS")]
    pub max_model_len: Option<NonZeroUsize>,
    /// Address to listen on; 0.0.0.0 for every interface
    #[arg(long, env = "SORSA_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 for a free one
    #[arg(long, env = "SORSA_PORT", default_value_t = 8000)]
    pub port: u16,
    /// Who may call
    #[command(flatten)]
    pub access: AccessArgs,
    /// Limits of the engine
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Seconds that running requests get to finish after SIGTERM
    #[arg(
        long,
        env = "SORSA_SHUTDOWN_TIMEOUT",
        default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(..=86_400),
        value_name = "SECONDS"
    )]
    pub shutdown_timeout: u64,
    /// Chat templates, function calls, thoughts
    #[command(flatten)]
    pub chat: ChatArgs,
    /// Which hidden states become an embedding where a request does not say: the mean over its
    /// tokens, or the last one
    #[arg(long, env = "SORSA_POOLING", default_value = "mean")]
    pub pooling: PoolingArg,
    /// Largest request body
    #[arg(
        long,
        env = "SORSA_MAX_BODY_SIZE",
        default_value = "8MiB",
        value_parser = ByteSize::not_zero,
        value_name = "BYTES"
    )]
    pub max_body_size: ByteSize,
}
