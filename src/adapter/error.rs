//! Every way an adapter can fail to load, one variant each.
//!
//! Names and texts that come out of a file are quoted and shortened: a message is one line of
//! bounded length whatever the file says.

use std::io;
use std::path::PathBuf;

use super::base::BaseDigest;

/// What is said of trained SORSA factors that are alone.
pub const WITHOUT_INITIAL: &str = "there are trained SORSA factors without the initial ones, and so nobody can tell what training \
     took out of the base weights; put the factors that were saved before training began beside \
     them, as init.safetensors, or give `sorsa extract` the whole un-merged checkpoint that they \
     come from: the residual weights in it tell the initial factors";

/// Why a directory is no adapter for this base model.
///
/// After an error nothing of the adapter remains: a load gives a whole adapter or none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The path names no directory.
    #[error(
        "{path:?} is not a directory; an adapter is one, holding adapter_config.json and \
         adapter_model.safetensors"
    )]
    NotADirectory {
        /// The path as given.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot read {path:?}: {source}")]
    Io {
        /// What was being read.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The operating system refused, while an adapter was being written.
    #[error("cannot write {path:?}: {source}")]
    Write {
        /// What was being written.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The directory lacks a file that every adapter has.
    #[error("{dir:?} holds no {file}")]
    MissingFile {
        /// The adapter's directory.
        dir: PathBuf,
        /// The file that should be there.
        file: &'static str,
    },
    /// A symlink leads out of the adapter's directory.
    #[error("{path:?} is a link to a file outside the adapter's directory; copy the file instead")]
    LeavesDirectory {
        /// The link.
        path: PathBuf,
    },
    /// A directory, a pipe or a device stands where a file should be.
    #[error("{path:?} is not a regular file")]
    NotAFile {
        /// What stands there.
        path: PathBuf,
    },
    /// The weights are a pickle, which runs code when read.
    #[error("{path:?} is a pickle and is never read; save the weights as safetensors")]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A file is larger than allowed.
    #[error("{path:?} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, or the size at which reading stopped.
        bytes: u64,
        /// The most that is read.
        limit: u64,
    },

    /// The configuration is not a JSON object.
    #[error("the adapter's configuration is not a JSON object: {problem}")]
    ConfigSyntax {
        /// The parser's words.
        problem: String,
    },
    /// A field of the configuration is missing or has a value that cannot be.
    #[error("{field} in the adapter's configuration {problem}")]
    ConfigField {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A method of adaptation that is neither SORSA nor LoRA.
    #[error("peft_type {peft_type} is not supported; SORSA and LORA are")]
    UnsupportedType {
        /// Its name, quoted.
        peft_type: String,
    },
    /// A feature on top of LoRA or SORSA that is no low-rank sum on the base weights.
    #[error("{feature} is not supported: {reason}")]
    UnsupportedFeature {
        /// The field or the tensor that asks for it.
        feature: String,
        /// Why it cannot be served.
        reason: &'static str,
    },
    /// The factors are relative to a base weight that training had changed first.
    #[error(
        "init_lora_weights {init} changed the base weights before training, so these factors are \
         no difference to the base model; put the adapter as it was saved before training into a \
         directory adapter_init inside this one, or save it converted to plain LoRA (PEFT's \
         path_initial_model_for_weight_conversion)"
    )]
    ChangedBase {
        /// The initialisation, quoted.
        init: String,
    },
    /// Several directories may hold the factors that training began with.
    #[error("{dir:?} holds both {} and {}: which one did training begin with?", .found[0], .found[1])]
    AmbiguousInitial {
        /// The adapter's directory.
        dir: PathBuf,
        /// Two of them.
        found: [&'static str; 2],
    },
    /// The directory holds an ordinary model.
    #[error("config.json has model_type {model_type}: this is a model, not an adapter")]
    NotAnAdapter {
        /// The type, quoted.
        model_type: String,
    },
    /// The directory holds the reference library's whole-model checkpoint.
    #[error(
        "this is a whole SORSA checkpoint ({evidence}), not an adapter: serve it with `sorsa serve \
         CHECKPOINT --base BASE`, or make an adapter of it with `sorsa extract`"
    )]
    WholeModel {
        /// How it was told from an adapter.
        evidence: String,
    },

    /// Trained SORSA factors and nothing else.
    #[error("{}", WITHOUT_INITIAL)]
    NoInitial,
    /// The file's name for Git, instead of what it holds.
    #[error(
        "the file of weights is a pointer of Git LFS and not the file itself: `git lfs pull` fetches \
         it"
    )]
    LfsPointer,

    /// The safetensors header is longer than allowed.
    #[error("the safetensors header has {bytes} bytes, the limit is {limit}")]
    HeaderTooLarge {
        /// What the file claims.
        bytes: u64,
        /// The most that is parsed.
        limit: u64,
    },
    /// The file ends before its header does.
    #[error("the safetensors file ends after {bytes} bytes, inside its header")]
    Truncated {
        /// Its length.
        bytes: usize,
    },
    /// The header is not what the format demands.
    #[error("the safetensors header is malformed: {problem}")]
    Header {
        /// The parser's words.
        problem: String,
    },
    /// A tensor's bytes lie outside the file.
    #[error("tensor {tensor} ends at byte {end} of {available} bytes of data")]
    OutOfBounds {
        /// The tensor, quoted.
        tensor: String,
        /// The end it claims.
        end: u64,
        /// What the file has.
        available: u64,
    },
    /// The header has one name twice.
    #[error("tensor {tensor} is in the file twice")]
    RepeatedTensor {
        /// The tensor, quoted.
        tensor: String,
    },
    /// More tensors than the base model has room for.
    #[error("the file holds {count} tensors, the limit for this base model is {limit}")]
    TooManyTensors {
        /// How many.
        count: usize,
        /// The most allowed.
        limit: usize,
    },
    /// A type other than float32, float16 or bfloat16.
    #[error("tensor {tensor} has dtype {dtype}; F32, F16 and BF16 are supported")]
    UnsupportedDtype {
        /// The tensor, quoted.
        tensor: String,
        /// Its type.
        dtype: String,
    },
    /// A NaN or an infinity in the file.
    #[error("tensor {tensor} holds {value} at element {element}")]
    NotFinite {
        /// The tensor, quoted.
        tensor: String,
        /// The value.
        value: f32,
        /// Its position in row-major order.
        element: usize,
    },

    /// A tensor that belongs to no known factor.
    #[error("tensor {tensor} is no factor of a {kind} adapter; every tensor must be used")]
    UnknownTensor {
        /// The tensor, quoted.
        tensor: String,
        /// The kind of adapter that the configuration declares.
        kind: &'static str,
    },
    /// A factor of a module that the base model does not have.
    #[error("tensor {tensor} adapts {module}, which is no linear module of the base model")]
    UnknownModule {
        /// The tensor, quoted.
        tensor: String,
        /// The module's path in it, quoted.
        module: String,
    },
    /// Two tensors for one factor, under different spellings.
    #[error("tensor {tensor} gives {factor} of {module} a second time")]
    RepeatedFactor {
        /// The second tensor, quoted.
        tensor: String,
        /// The module.
        module: String,
        /// The factor.
        factor: &'static str,
    },
    /// A module lacks one of its factors.
    #[error("{module} has no {factor}")]
    MissingFactor {
        /// The module.
        module: String,
        /// The factor.
        factor: &'static str,
    },
    /// SORSA factors without the ones training began with.
    #[error(
        "{module} has no {factor}: without the initial factors, which were saved before training \
         began, nobody knows what training took out of the base weight, so the difference to it is \
         unknown"
    )]
    MissingInitial {
        /// The module.
        module: String,
        /// The factor.
        factor: &'static str,
    },
    /// A factor that does not fit its module or its partner.
    #[error("tensor {tensor} has shape {shape:?}, expected {expected}")]
    WrongShape {
        /// The tensor, quoted.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The shape that fits, in words.
        expected: String,
    },
    /// A factor pair of no directions.
    #[error("{module} has rank 0")]
    ZeroRank {
        /// The module.
        module: String,
    },
    /// SORSA factors of more directions than a singular value decomposition gives.
    #[error("{module} has SORSA factors of rank {rank}; its weight has at most {most} directions")]
    RankBeyond {
        /// The module.
        module: String,
        /// The rank of the tensors.
        rank: usize,
        /// The smaller side of the weight.
        most: usize,
    },
    /// LoRA factors whose rank is not the configured one, so that their scale is unknown.
    #[error("{module} has rank {tensors} by its tensors and {config} by the configuration")]
    RankMismatch {
        /// The module.
        module: String,
        /// The rank of the tensors.
        tensors: usize,
        /// The rank that the configuration gives this module.
        config: usize,
    },
    /// SORSA factors from before training that are not the trained ones' counterparts.
    #[error("{module} has rank {tensors} and initial factors of rank {initial}")]
    InitialRank {
        /// The module.
        module: String,
        /// The rank of the trained factors.
        tensors: usize,
        /// The rank of the initial factors.
        initial: usize,
    },
    /// The adapter says that it is relative to other weights.
    #[error(
        "the adapter is relative to the base model {name} of digest {recorded}, and the model served \
         has {served}; serve it with that model, or say --allow-base-mismatch"
    )]
    BaseMismatch {
        /// The base by the adapter's account, quoted.
        name: String,
        /// Its digest, likewise.
        recorded: BaseDigest,
        /// The digest of the weights at hand.
        served: BaseDigest,
    },
    /// The adapter's modules are those of another model.
    #[error("the adapter was made for another base model, which it calls {name}: {evidence}")]
    OtherBase {
        /// The base by the adapter's account, quoted.
        name: String,
        /// What shows it.
        evidence: String,
    },
    /// Scaling carried a finite factor beyond float32.
    #[error("{module} has factors that overflow float32 once scaled by {scale}")]
    Overflow {
        /// The module.
        module: String,
        /// Alpha over rank, or 1.
        scale: f64,
    },
    /// The delta itself is beyond float32, however its factors are scaled.
    #[error("{module} has a delta that overflows float32")]
    DeltaOverflow {
        /// The module.
        module: String,
    },
    /// A file without any factor: it would silently be the base model.
    #[error("the adapter holds no factors")]
    Empty,

    /// The tensor library failed.
    #[error("tensor library: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// A text from outside as it may appear in a message: quoted, escaped and at most 120 characters.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut shown: String = text.chars().take(LONGEST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn foreign_text_is_escaped_and_short() {
        assert_eq!(quoted("a\n\u{1b}[31mb"), r#""a\n\u{1b}[31mb""#);
        assert_eq!(quoted(&"x".repeat(5000)).chars().count(), 123);
    }
}
