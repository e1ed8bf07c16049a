//! Time of paged attention for one layer: `cargo bench --bench attention`.
//!
//! Prints one line a case, the median of several runs and in brackets the best.

mod support;

use std::io::{self, Write};

use sorsa::kernels::{AttentionShape, AttentionSpan, Kernels, Level, PagedKv};
use support::{measure, values};

const BLOCK_SIZE: usize = 16;

fn main() -> anyhow::Result<()> {
    writeln!(io::stdout(), "{} threads", Kernels::best().threads())?;
    for (num_heads, num_kv_heads, head_dim) in [(9, 3, 64), (32, 4, 64)] {
        let shape = AttentionShape { num_heads, num_kv_heads, head_dim, scale: 0.125 };
        for (sequences, rows, context_len) in
            [(1, 1, 512), (32, 1, 512), (1, 1, 8192), (1, 512, 512)]
        {
            compare(shape, sequences, rows, context_len)?;
        }
    }
    Ok(())
}

/// Prints the time for `sequences` that bring `rows` each.
fn compare(
    shape: AttentionShape,
    sequences: usize,
    rows: usize,
    context_len: usize,
) -> anyhow::Result<()> {
    let blocks = context_len / BLOCK_SIZE;
    let pool = values(sequences * context_len * shape.num_kv_heads * shape.head_dim);
    let q = values(sequences * rows * shape.num_heads * shape.head_dim);
    let tables: Vec<u32> = (0..(sequences * blocks) as u32).rev().collect();
    let spans: Vec<AttentionSpan<'_>> = (0..sequences)
        .zip(tables.chunks(blocks))
        .map(|(i, block_table)| AttentionSpan {
            rows: i * rows..(i + 1) * rows,
            context_len,
            block_table,
        })
        .collect();
    let kv = PagedKv { keys: &pool, values: &pool, block_size: BLOCK_SIZE };
    let mut out = vec![0.0; q.len()];
    let mut line = format!(
        "{sequences} x {rows} rows, context {context_len}, {} over {} heads of {}:",
        shape.num_heads, shape.num_kv_heads, shape.head_dim
    );
    for level in Level::available().filter(|level| *level > Level::Portable) {
        let kernels = Kernels::new(level)?;
        let times = measure(|| kernels.paged_attention(&q, kv, &spans, shape, &mut out));
        line += &format!("  {level} {:.0?} ({:.0?})", times[times.len() / 2], times[0]);
    }
    writeln!(io::stdout(), "{line}")?;
    Ok(())
}
