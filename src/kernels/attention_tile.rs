//! The inside of [`super::attention`]: some rows of one sequence against the keys they see.
//!
//! The work is a list of units, a range of keys and a key head each, in the order in which they lie
//! in the pool: unit `i` is range `i / num_kv_heads`, head `i % num_kv_heads`.

use std::ops::Range;

use super::attention::{AttentionShape, Part, Queries, num_ranges};
use super::paged_kv::Pool;
use super::scratch::{Place, Scratch};
use super::simd::{LANES, Lanes, Simd};
use super::softmax::{KeyRange, KvProducts, MAX_QUERIES, RANGE, combine, soften};

/// Rows of one sequence. Query `i` of a key head is head `i % group` of row `i / group`.
pub(super) struct Tile<'a, E> {
    pub queries: Queries<'a>,
    pub pool: Pool<'a, E>,
    pub shape: AttentionShape,
    pub block_table: &'a [u32],
    /// The rows in the batch.
    pub rows: Range<usize>,
    /// Keys that the first row sees; each further row sees one more.
    pub first_visible: usize,
}

/// Where the results of ranges go.
pub(super) enum Sink<'o> {
    /// Into those of the ranges before.
    Combined(&'o mut [Lanes]),
    /// Each unit's for itself, one behind the other.
    Apart(&'o mut [Lanes]),
}

/// What a thread works with, tile after tile.
pub(super) struct Workspace<E: KvProducts> {
    /// Prepared queries of all key heads.
    queries: Vec<E>,
    rotated: Vec<f32>,
    /// The results of some queries over a range.
    partial: Vec<Lanes>,
    /// Those of all queries over all ranges so far.
    state: Vec<Lanes>,
    buffer: E::Buffer,
}

impl<E: KvProducts> Default for Workspace<E> {
    fn default() -> Self {
        let (queries, rotated) = (Vec::new(), Vec::new());
        Self {
            queries,
            rotated,
            partial: Vec::new(),
            state: Vec::new(),
            buffer: E::Buffer::default(),
        }
    }
}

impl<E: KvProducts> Scratch for Workspace<E> {
    fn place() -> &'static Place<Self> {
        E::workspace()
    }
}

impl<'a, E> Tile<'a, E> {
    /// Queries of one key head.
    fn queries_per_head(&self) -> usize {
        self.rows.len() * self.shape.group()
    }

    /// Keys that the last row sees.
    fn context(&self) -> usize {
        self.first_visible + self.rows.len() - 1
    }

    /// Lanes of one query's result: the values, then the maximum and the sum.
    fn stride(&self) -> usize {
        self.shape.head_dim.div_ceil(LANES) + 1
    }

    /// About how many multiplications this is.
    pub(super) fn work(&self) -> usize {
        2 * self.context() * self.rows.len() * self.shape.query_width()
    }

    /// Ranges times key heads.
    fn units(&self) -> usize {
        num_ranges(self.context()) * self.shape.num_kv_heads
    }

    /// Room for the units' results one by one, if the tile is cut at all.
    pub(super) fn partials(&self, cut: bool) -> Vec<Lanes> {
        if !cut || self.units() < 2 {
            return Vec::new();
        }
        vec![Lanes::ZERO; self.units() * self.queries_per_head() * self.stride()]
    }

    /// The tile in parts of about `share` multiplications.
    pub(super) fn parts<'o>(
        &self,
        partials: &'o mut [Lanes],
        share: usize,
    ) -> impl Iterator<Item = Part<'o>> {
        let units = self.units();
        let step = (share * units / self.work().max(1)).clamp(1, units);
        let parts = partials.chunks_mut(step * self.queries_per_head() * self.stride());
        parts
            .enumerate()
            .map(move |(i, partials)| Part { units: i * step..units.min((i + 1) * step), partials })
    }
}

impl<'a, E: KvProducts> Tile<'a, E> {
    /// The whole tile.
    #[inline(always)]
    pub(super) fn run<S: Simd>(&self, simd: S, workspace: &mut Workspace<E>, out: &mut [f32]) {
        let mut state = std::mem::take(&mut workspace.state);
        self.begin(&mut state);
        let sink = Sink::Combined(&mut state);
        self.attend(simd, 0..self.units(), workspace, sink);
        self.finish(simd, &state, out);
        workspace.state = state;
    }

    /// From the results of all units.
    #[inline(always)]
    pub(super) fn combine<S: Simd>(&self, simd: S, partials: &[Lanes], out: &mut [f32]) {
        let mut state = Vec::lend();
        self.begin(&mut state);
        let (stride, count) = (self.stride(), self.queries_per_head());
        for (unit, partials) in partials.chunks_exact(count * stride).enumerate() {
            let (range, kv_head) = self.unit(unit);
            let first = self.first_seeing(range * RANGE);
            let state = state[(kv_head * count + first) * stride..].chunks_exact_mut(stride);
            for (state, partial) in state.zip(partials[first * stride..].chunks_exact(stride)) {
                combine(simd, state, partial);
            }
        }
        self.finish(simd, &state, out);
        state.give_back();
    }

    /// The range and the key head of a unit.
    fn unit(&self, unit: usize) -> (usize, usize) {
        (unit / self.shape.num_kv_heads, unit % self.shape.num_kv_heads)
    }

    /// All queries' results before the first range.
    fn begin(&self, state: &mut Vec<Lanes>) {
        let queries = self.shape.num_kv_heads * self.queries_per_head();
        state.clear();
        state.resize(queries * self.stride(), Lanes::ZERO);
        for query in state.chunks_exact_mut(self.stride()) {
            if let Some(last) = query.last_mut() {
                last.0[0] = f32::NEG_INFINITY;
            }
        }
    }

    /// The first query that sees more than `start` keys.
    fn first_seeing(&self, start: usize) -> usize {
        (start + 1).saturating_sub(self.first_visible) * self.shape.group()
    }

    /// The queries over `units` of their keys.
    #[inline(always)]
    pub(super) fn attend<S: Simd>(
        &self,
        simd: S,
        units: Range<usize>,
        workspace: &mut Workspace<E>,
        mut sink: Sink<'_>,
    ) {
        self.prepare(simd, &units, workspace);
        let Workspace { queries, partial, buffer, .. } = workspace;
        let (stride, count) = (self.stride(), self.queries_per_head());
        let head_len = count * E::query_len(self.shape.head_dim);
        for unit in units.clone() {
            let (range, kv_head) = self.unit(unit);
            let start = range * RANGE;
            let view = E::view(self.pool, self.keys(unit, units.end), buffer);
            let queries = &queries[kv_head * head_len..][..head_len];
            let mut query = self.first_seeing(start);
            while query < count {
                let r = together::<S>(count - query);
                let results = &mut partial[..r * stride];
                let group = Group { query, start, queries };
                match r {
                    1 => self.range::<S, 1>(simd, group, view, results),
                    2 => self.range::<S, 2>(simd, group, view, results),
                    3 => self.range::<S, 3>(simd, group, view, results),
                    4 => self.range::<S, 4>(simd, group, view, results),
                    _ => self.range::<S, 6>(simd, group, view, results),
                }
                match &mut sink {
                    Sink::Combined(state) => {
                        let place = (kv_head * count + query) * stride;
                        let state = state[place..].chunks_exact_mut(stride);
                        for (state, result) in state.zip(results.chunks_exact(stride)) {
                            combine(simd, state, result);
                        }
                    }
                    Sink::Apart(partials) => {
                        let place = ((unit - units.start) * count + query) * stride;
                        partials[place..][..results.len()].copy_from_slice(results);
                    }
                }
                query += r;
            }
        }
    }

    /// The keys of a unit; those of the one behind it are wanted next, unless it is the last.
    fn keys(&self, unit: usize, end: usize) -> KeyRange<'a> {
        let (range, kv_head) = self.unit(unit);
        let (next_range, next_kv_head) = self.unit(if unit + 1 < end { unit + 1 } else { unit });
        KeyRange {
            block_table: self.block_table,
            num_kv_heads: self.shape.num_kv_heads,
            head_dim: self.shape.head_dim,
            kv_head,
            start: range * RANGE,
            len: (self.context() - range * RANGE).min(RANGE),
            next_kv_head,
            next_start: next_range * RANGE,
        }
    }

    /// The queries of the units' key heads: rotated, scaled, in the products' type.
    #[inline(always)]
    fn prepare<S: Simd>(&self, simd: S, units: &Range<usize>, workspace: &mut Workspace<E>) {
        let AttentionShape { head_dim, num_kv_heads, scale, .. } = self.shape;
        let group = self.shape.group();
        let len = E::query_len(head_dim);
        let head_len = self.queries_per_head() * len;
        let Workspace { queries, rotated, partial, .. } = workspace;
        queries.clear();
        queries.resize(num_kv_heads * head_len, E::ZERO);
        rotated.resize(head_dim, 0.0);
        partial.clear();
        partial.resize(MAX_QUERIES * self.stride(), Lanes::ZERO);
        for unit in units.clone().take(num_kv_heads) {
            let (_, kv_head) = self.unit(unit);
            let mut outs = queries[kv_head * head_len..][..head_len].chunks_exact_mut(len);
            for row in self.rows.clone() {
                let heads = self.queries.rows.row(row, self.shape.query_width());
                let heads = &heads[kv_head * group * head_dim..][..group * head_dim];
                let angles = self.queries.rotation.map(|rotation| rotation.angles(row));
                for (head, out) in heads.chunks_exact(head_dim).zip(&mut outs) {
                    match angles {
                        Some(angles) => angles.rotate(head, rotated),
                        None => rotated.copy_from_slice(head),
                    }
                    rotated.iter_mut().for_each(|x| *x *= scale);
                    E::prepare(simd, rotated, out);
                }
            }
        }
    }

    /// The results of `R` queries over one range.
    #[inline(always)]
    fn range<S: Simd, const R: usize>(
        &self,
        simd: S,
        group: Group<'_, E>,
        view: E::View<'_>,
        results: &mut [Lanes],
    ) {
        let len = E::query_len(self.shape.head_dim);
        let mut queries = [&[] as &[E]; R];
        let mut seen = [0; R];
        for r in 0..R {
            let query = group.query + r;
            queries[r] = &group.queries[query * len..][..len];
            let visible = self.first_visible + query / self.shape.group();
            seen[r] = (visible - group.start).min(RANGE);
        }
        let most = seen[R - 1];
        let mut weights = [[0.0; RANGE]; R];
        E::scores(simd, queries, view, most, &mut weights);
        let stride = self.stride();
        for r in 0..R {
            let (max, sum) = soften(simd, &mut weights[r], seen[r]);
            let head = &mut results[(r + 1) * stride - 1];
            (head.0[0], head.0[1]) = (max, sum);
        }
        E::weigh(simd, &weights, view, most, results);
    }

    /// Divides the weighted values by the sums of their weights.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, state: &[Lanes], out: &mut [f32]) {
        let AttentionShape { head_dim, .. } = self.shape;
        let group = self.shape.group();
        for (i, row) in out.chunks_exact_mut(self.shape.query_width()).enumerate() {
            for (head, out) in row.chunks_exact_mut(head_dim).enumerate() {
                let place = head / group * self.queries_per_head() + i * group + head % group;
                let state = &state[place * self.stride()..][..self.stride()];
                let Some((last, values)) = state.split_last() else { continue };
                let sum = simd.splat(last.0[1]);
                let (full, tail) = out.as_chunks_mut::<LANES>();
                let mut mean = [0.0; LANES];
                for (i, value) in values.iter().enumerate() {
                    simd.store(simd.div(simd.load(&value.0), sum), &mut mean);
                    match full.get_mut(i) {
                        Some(out) => *out = mean,
                        None => tail.copy_from_slice(&mean[..tail.len()]),
                    }
                }
            }
        }
    }
}

/// Which queries, from which key on.
#[derive(Clone, Copy)]
struct Group<'q, E> {
    query: usize,
    start: usize,
    queries: &'q [E],
}

/// How many of `left` queries to take at once.
#[inline(always)]
fn together<S: Simd>(left: usize) -> usize {
    if S::REGISTERS < 32 {
        return left.min(2);
    }
    match left {
        0..=4 => left,
        5 => 3,
        7 | 8 => 4,
        _ => MAX_QUERIES,
    }
}
