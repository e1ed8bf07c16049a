//! Random Llama checkpoints of real shapes, and SORSA and LoRA adapters for them, to measure with:
//! speed and memory do not depend on the values. The same seed writes the same bytes.
//!
//! ```sh
//! cargo run --release --example random_checkpoint -- --shape llama-1.1b base \
//!     --sorsa 16 checkpoint --lora 4 16 adapters
//! ```

mod lora;
mod model;
mod shape;
mod sorsa;
mod tensor_file;
mod tokenizer;
mod values;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;
use serde_json::Value;

use model::Model;
use shape::ShapeName;

/// Writes a random model, and adapters relative to it, in the formats of Hugging Face, of the SORSA
/// reference library and of PEFT.
#[derive(Debug, Parser)]
struct Args {
    /// The model directory to write.
    dir: PathBuf,
    /// What it is to be as large as.
    #[arg(long, value_enum, default_value = "tiny")]
    shape: ShapeName,
    /// Also writes an un-merged SORSA checkpoint of this rank, relative to the model.
    #[arg(long, num_args = 2, value_names = ["RANK", "DIR"])]
    sorsa: Option<Vec<String>>,
    /// Also writes COUNT LoRA adapters of this rank on every linear layer: DIR/a0, DIR/a1, ...
    #[arg(long, num_args = 3, value_names = ["COUNT", "RANK", "DIR"])]
    lora: Option<Vec<String>>,
    /// Another seed, other values.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let model = Model { shape: args.shape.shape(), seed: args.seed };
    model.write(&args.dir)?;
    if let Some([rank, dir]) = args.sorsa.as_deref() {
        sorsa::write(Path::new(dir), &model, model.rank(rank)?, &args.dir)?;
    }
    if let Some([count, rank, dir]) = args.lora.as_deref() {
        let count: usize = count.parse().with_context(|| format!("no count: {count:?}"))?;
        let rank = model.rank(rank)?;
        for index in 0..count {
            lora::write(&Path::new(dir).join(format!("a{index}")), &model, rank, index, &args.dir)?;
        }
    }
    Ok(())
}

fn create_dir(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

fn write_json(path: &Path, json: &Value) -> anyhow::Result<()> {
    fs::write(path, format!("{json:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}
