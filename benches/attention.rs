//! Time of one layer's attention with all that belongs to it (rotation, writing the new keys and
//! values): `cargo bench --bench attention [f32]`.
//!
//! Prints one line a case, the median of several runs and in brackets the best; for decoding, the
//! bandwidth at which cached keys and values are read, for prompts the arithmetic of visible keys.

mod support;

use std::io::{self, Write};

use half::bf16;
use sorsa::kernels::{
    AttentionShape, AttentionSpan, Kernels, NewKv, PagedKv, PagedKvMut, Pool, PoolMut, Queries,
    RotaryTables, Rotation, Rows, SlotMapping,
};
use support::{measure, values};

const BLOCK_SIZE: usize = 16;
/// Queries of this many contexts are decoded; beyond, they are prompts.
const CASES: [(usize, usize, usize); 11] = [
    (1, 1, 128),
    (1, 1, 1024),
    (1, 1, 4096),
    (8, 1, 128),
    (8, 1, 1024),
    (8, 1, 4096),
    (32, 1, 128),
    (32, 1, 1024),
    (32, 1, 4096),
    (1, 512, 512),
    (1, 2048, 2048),
];

fn main() -> anyhow::Result<()> {
    let wide = std::env::args().any(|arg| arg == "f32");
    let kernels = Kernels::best();
    let held = if wide { "float32" } else { "bfloat16" };
    writeln!(io::stdout(), "{} threads, {held} keys and values", kernels.threads())?;
    for (num_heads, num_kv_heads, head_dim) in [(9, 3, 64), (32, 4, 64)] {
        let shape = AttentionShape { num_heads, num_kv_heads, head_dim, scale: 0.125 };
        for (sequences, rows, context_len) in CASES {
            let case = Case { shape, sequences, rows, context_len };
            if wide {
                let pool = values(case.pool_len());
                case.time(
                    kernels,
                    [pool.clone(), pool],
                    |keys, values, block_size| {
                        PagedKvMut::F32(PoolMut { keys, values, block_size })
                    },
                    |keys, values, block_size| PagedKv::F32(Pool { keys, values, block_size }),
                )?;
            } else {
                let pool: Vec<bf16> =
                    values(case.pool_len()).into_iter().map(bf16::from_f32).collect();
                case.time(
                    kernels,
                    [pool.clone(), pool],
                    |keys, values, block_size| {
                        PagedKvMut::Bf16(PoolMut { keys, values, block_size })
                    },
                    |keys, values, block_size| PagedKv::Bf16(Pool { keys, values, block_size }),
                )?;
            }
        }
    }
    Ok(())
}

/// `sequences` that bring `rows` each.
struct Case {
    shape: AttentionShape,
    sequences: usize,
    rows: usize,
    context_len: usize,
}

impl Case {
    fn pool_len(&self) -> usize {
        self.sequences * self.context_len * self.shape.num_kv_heads * self.shape.head_dim
    }

    fn time<E>(
        &self,
        kernels: Kernels,
        [mut keys, mut values_pool]: [Vec<E>; 2],
        write: impl for<'a> Fn(&'a mut [E], &'a mut [E], usize) -> PagedKvMut<'a>,
        read: impl for<'a> Fn(&'a [E], &'a [E], usize) -> PagedKv<'a>,
    ) -> io::Result<()> {
        let Self { shape, sequences, rows, context_len } = *self;
        let AttentionShape { num_heads, num_kv_heads, head_dim, .. } = shape;
        let (q_width, kv_width) = (num_heads * head_dim, num_kv_heads * head_dim);
        let q = values(sequences * rows * q_width);
        let new = values(sequences * rows * kv_width);
        let blocks = context_len / BLOCK_SIZE;
        let tables: Vec<u32> = (0..(sequences * blocks) as u32).rev().collect();
        let spans: Vec<AttentionSpan<'_>> = (0..sequences)
            .zip(tables.chunks(blocks))
            .map(|(i, block_table)| AttentionSpan {
                rows: i * rows..(i + 1) * rows,
                context_len,
                block_table,
            })
            .collect();
        let position = |row: usize| context_len - rows + row % rows;
        let positions: Vec<u32> = (0..sequences * rows).map(|row| position(row) as u32).collect();
        let slots = (0..sequences * rows).map(|row| {
            let block = tables[row / rows * blocks + position(row) / BLOCK_SIZE];
            block * BLOCK_SIZE as u32 + (position(row) % BLOCK_SIZE) as u32
        });
        let slots = SlotMapping::new(&slots.collect::<Vec<_>>(), BLOCK_SIZE);
        let angles = values(context_len * head_dim / 2);
        let tables = RotaryTables { cos: &angles, sin: &angles, head_dim };
        let rotation = Some(Rotation { tables, positions: &positions });
        let mut out = vec![0.0; q.len()];
        let new = Rows::new(&new, kv_width);
        let times = measure(|| {
            let pool = write(&mut keys, &mut values_pool, BLOCK_SIZE);
            kernels.write_kv(NewKv { keys: new, values: new, rotation }, &slots, pool, shape);
            let pool = read(&keys, &values_pool, BLOCK_SIZE);
            let queries = Queries { rows: Rows::new(&q, q_width), rotation };
            kernels.paged_attention(queries, pool, &spans, shape, &mut out);
        });
        let (median, best) = (times[times.len() / 2], times[0]);
        let seconds = median.as_secs_f64();
        let rate = if rows == 1 {
            let bytes = 2 * self.pool_len() * size_of::<E>();
            format!("{:.1} GB/s", bytes as f64 / seconds / 1e9)
        } else {
            let flops = 2 * sequences * rows * (context_len + 1) * q_width;
            format!("{:.0} GFLOP/s", flops as f64 / seconds / 1e9)
        };
        writeln!(
            io::stdout(),
            "{num_heads} over {num_kv_heads} heads of {head_dim}, {sequences} x {rows} rows, \
             context {context_len}: {median:.1?} ({best:.1?}), {rate}"
        )
    }
}
