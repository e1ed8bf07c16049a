//! Putting new keys or values into the paged pool.

/// Copies row `i` of `rows` to slot `slot_mapping[i]` of `pool`; `width` is
/// `num_kv_heads * head_dim`, and slots are rows of that width.
///
/// # Panics
/// Where lengths disagree or a slot lies outside of the pool.
pub fn write_kv(rows: &[f32], slot_mapping: &[u32], pool: &mut [f32], width: usize) {
    assert_eq!(rows.len(), slot_mapping.len() * width, "bug: rows and slots differ in number");
    for (row, slot) in rows.chunks_exact(width.max(1)).zip(slot_mapping) {
        pool[*slot as usize * width..][..width].copy_from_slice(row);
    }
}
