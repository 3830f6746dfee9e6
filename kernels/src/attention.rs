//! Attention of one token.

use crate::rows::{dot, exp};

/// Elements of a head that are summed up at a time.
const BLOCK: usize = 16;

/// How a layer's heads lie.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Heads of the question.
    pub queries: usize,
    /// Heads of keys and values; each serves equally many questions.
    pub keys: usize,
    /// Elements of a head.
    pub size: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Scores are bent to stay within this.
    pub cap: Option<f32>,
}

/// Keys and values of some tokens: a row of `keys * size` elements each.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
}

/// What a token's heads see of the tokens before it and of itself. `scores` is scratch.
pub fn attend(heads: Heads, query: &[f32], spans: &[Span<'_>], scores: &mut Vec<f32>, out: &mut [f32]) {
    let Heads { queries, keys, size, scale, cap } = heads;
    let width = keys * size;
    let shared = queries / keys.max(1);
    for head in 0..queries {
        let at = head / shared.max(1) * size;
        let query = &query[head * size..][..size];
        scores.clear();
        for span in spans {
            scores.extend(span.keys.chunks_exact(width).map(|row| dot(query, &row[at..at + size]) * scale));
        }
        if let Some(cap) = cap {
            scores.iter_mut().for_each(|score| *score = (*score / cap).tanh() * cap);
        }
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        scores.iter_mut().for_each(|score| *score = exp(*score - most));
        let total: f32 = scores.iter().sum();
        let scale = 1.0 / total;
        let out = &mut out[head * size..][..size];
        let mut from = 0;
        // Sums in registers, a few elements at a time; what is left one by one.
        while from + BLOCK <= size {
            let mut sums = [0.0_f32; BLOCK];
            let mut score = scores.iter();
            for span in spans {
                for (row, &score) in span.values.chunks_exact(width).zip(&mut score) {
                    let values = &row[at + from..][..BLOCK];
                    for lane in 0..BLOCK {
                        sums[lane] += score * values[lane];
                    }
                }
            }
            for lane in 0..BLOCK {
                out[from + lane] = sums[lane] * scale;
            }
            from += BLOCK;
        }
        for (element, out) in out.iter_mut().enumerate().skip(from) {
            let rows = spans.iter().flat_map(|span| span.values.chunks_exact(width));
            *out = rows.zip(scores.iter()).map(|(row, &score)| score * row[at + element]).sum::<f32>() * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_between_spans_changes_nothing() {
        let heads = Heads { queries: 4, keys: 2, size: 3, scale: 0.5, cap: Some(3.0) };
        let row = |seed: usize, count: usize| -> Vec<f32> {
            (0..count).map(|at| ((at * 7 + seed * 13) % 11) as f32 / 5.0 - 1.0).collect()
        };
        let (query, keys, values) = (row(1, 12), row(2, 30), row(3, 30));
        let mut scores = Vec::new();
        let mut whole = vec![0.0; 12];
        attend(heads, &query, &[Span { keys: &keys, values: &values }], &mut scores, &mut whole);
        let mut parts = vec![0.0; 12];
        let (first, second) =
            (Span { keys: &keys[..12], values: &values[..12] }, Span { keys: &keys[12..], values: &values[12..] });
        attend(heads, &query, &[first, second], &mut scores, &mut parts);
        assert_eq!(whole, parts);
        // By hand, for the last head.
        let score = |at: usize| {
            let dot: f32 = (0..3).map(|e| query[9 + e] * keys[at * 6 + 3 + e]).sum();
            f64::from((dot * 0.5 / 3.0).tanh() * 3.0).exp()
        };
        let total: f64 = (0..5).map(score).sum();
        let mean: f64 = (0..5).map(|at| score(at) * f64::from(values[at * 6 + 3])).sum::<f64>() / total;
        assert!((f64::from(whole[9]) - mean).abs() < 1e-5);
    }
}
