//! The logits of one token: their logarithm of a sum, the largest of them, and which of them sampling keeps.

/// The logarithm of the sum of the exponentials.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum::<f64>().ln()
}

/// The `count` largest, the largest first; of equal ones the first.
pub fn top(logits: &[f32], count: usize) -> Vec<usize> {
    let mut best: Vec<usize> = Vec::with_capacity(count + 1);
    for (at, &logit) in logits.iter().enumerate() {
        if best.len() == count && best.last().is_none_or(|&last| logits[last] >= logit) {
            continue;
        }
        let place = best.partition_point(|&other| logits[other] >= logit);
        best.insert(place, at);
        best.truncate(count);
    }
    best
}

/// Which tokens sampling keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// Logits are divided by this; above 0.
    pub temperature: f64,
    /// The share of probability that is kept, of the most probable tokens.
    pub top_p: f64,
    /// So many of the most probable tokens.
    pub top_k: Option<usize>,
    /// The least probability, as a share of the largest.
    pub min_p: f64,
}

/// Picks a token: `draw`, in `0..1`, is a share of the probability of what is kept, counted in the order of the tokens where
/// all are kept, else from the most probable one on.
pub fn keep(logits: &[f32], kept: Kept, draw: f64, weights: &mut Vec<f64>) -> usize {
    let Kept { temperature, top_p, top_k, min_p } = kept;
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let scale = 1.0 / temperature;
    weights.clear();
    weights.extend(logits.iter().map(|&logit| ((f64::from(logit) - most) * scale).exp()));
    let total: f64 = weights.iter().sum();
    let cut = top_p < 1.0 || min_p > 0.0 || top_k.is_some_and(|most| most < weights.len());
    if !cut {
        return pick(weights.iter().copied().enumerate(), draw * total);
    }
    // The largest weight is 1, so `min_p` is a bound on weights. Of a tail that `top_p` cuts anyway most need not be sorted.
    let top_k = top_k.filter(|&most| most > 0 && most < weights.len());
    let tail = if top_p < 1.0 && top_k.is_none() { (1.0 - top_p) * total / weights.len() as f64 * 0.99 } else { 0.0 };
    let least = min_p.max(tail).min(1.0);
    let mut order: Vec<u32> = (0..weights.len() as u32).filter(|&at| weights[at as usize] >= least).collect();
    let larger = |a: &u32, b: &u32| weights[*b as usize].total_cmp(&weights[*a as usize]).then(a.cmp(b));
    if let Some(most) = top_k.filter(|&most| most < order.len()) {
        order.select_nth_unstable_by(most - 1, larger);
        order.truncate(most);
    }
    order.sort_unstable_by(larger);
    // As elsewhere, `top_p` is a share of what the bounds before it left.
    let sum: f64 = match top_k {
        Some(_) => order.iter().map(|&at| weights[at as usize]).sum(),
        None => weights.iter().filter(|&&weight| weight >= min_p).sum(),
    };
    let mut reached = 0.0;
    let within = order.iter().take_while(|&&at| {
        let before = reached;
        reached += weights[at as usize];
        before < top_p * sum
    });
    let count = within.count().max(1);
    order.truncate(count);
    let sum: f64 = order.iter().map(|&at| weights[at as usize]).sum();
    pick(order.iter().map(|&at| (at as usize, weights[at as usize])), draw * sum)
}

/// The first whose weights reach the aim; where rounding leaves none, the last that has any.
fn pick(weights: impl Iterator<Item = (usize, f64)>, aim: f64) -> usize {
    let (mut reached, mut last) = (0.0, 0);
    for (at, weight) in weights {
        if weight > 0.0 {
            reached += weight;
            last = at;
            if reached > aim {
                break;
            }
        }
    }
    last
}

/// True where all are numbers: not infinite, not NaN.
pub fn finite(logits: &[f32]) -> bool {
    logits.iter().all(|logit| logit.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Kept = Kept { temperature: 1.0, top_p: 1.0, top_k: None, min_p: 0.0 };

    fn shares(logits: &[f32], kept: Kept) -> Vec<u32> {
        let mut counts = vec![0; logits.len()];
        let mut weights = Vec::new();
        for at in 0..1000 {
            counts[keep(logits, kept, (f64::from(at) + 0.5) / 1000.0, &mut weights)] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits: Vec<f32> = [0.1_f32, 0.5, 0.3, 0.1].iter().map(|p| p.ln()).collect();
        assert_eq!(shares(&logits, ALL), [100, 500, 300, 100]);
        assert_eq!(shares(&logits, Kept { top_k: Some(2), ..ALL }), [0, 625, 375, 0]);
        assert_eq!(shares(&logits, Kept { top_p: 0.6, ..ALL }), [0, 625, 375, 0]);
        assert_eq!(shares(&logits, Kept { top_p: 0.5, ..ALL })[1], 1000);
        assert_eq!(shares(&logits, Kept { top_p: 0.0, ..ALL })[1], 1000);
        assert_eq!(shares(&logits, Kept { min_p: 0.5, ..ALL }), [0, 625, 375, 0]);
        assert_eq!(shares(&logits, Kept { min_p: 1.0, ..ALL })[1], 1000);
        assert_eq!(shares(&logits, Kept { temperature: 1e-9, ..ALL })[1], 1000);
        assert!(shares(&logits, Kept { temperature: 0.5, ..ALL })[1] > 650);
        let with_none = [f32::NEG_INFINITY, 0.0];
        assert_eq!(keep(&with_none, ALL, 0.0, &mut Vec::new()), 1);
    }

    #[test]
    fn the_largest_come_first() {
        assert_eq!(top(&[1.0, 3.0, 2.0, 3.0], 3), [1, 3, 2]);
        assert_eq!(top(&[1.0], 5), [0]);
        assert_eq!(top(&[1.0], 0), [0_usize; 0]);
        assert!((log_sum_exp(&[0.0, 0.0]) - 2_f64.ln()).abs() < 1e-12);
    }
}
