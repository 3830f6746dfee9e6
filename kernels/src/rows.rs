//! Functions of one row.

/// Sums run over so many lanes: the order is fixed, and a processor can do them side by side.
const LANES: usize = 16;

/// e to the x, to within two units in the last place for what a softmax can ask for; 0 far below.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Cephes: x = n ln 2 + r, then a polynomial in r. Written without branches, so that loops over it are vectorized.
    let x = x.clamp(-87.0, 88.0);
    // Adding and taking away 1.5 * 2^23 rounds to a whole number, without a call that old processors lack.
    let n = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let r = x - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits((((n as i32) + 127) << 23) as u32)
}

/// The sum of a function of the elements, over lanes.
#[inline(always)]
fn sum(x: &[f32], each: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += each(chunk[lane]);
        }
    }
    folded(lanes) + rest.iter().map(|&value| each(value)).sum::<f32>()
}

/// The scalar product of two rows of one length.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    folded(lanes) + rest
}

/// The sum of lanes, halves upon halves.
#[inline(always)]
fn folded(lanes: [f32; LANES]) -> f32 {
    let mut eight = [0.0_f32; 8];
    for lane in 0..8 {
        eight[lane] = lanes[lane] + lanes[lane + 8];
    }
    let mut four = [0.0_f32; 4];
    for lane in 0..4 {
        four[lane] = eight[lane] + eight[lane + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// Root-mean-square normalization: `out = x / rms(x) * (weight + offset)`. Gemma's weights are stored less one.
pub fn rms_norm(x: &[f32], weight: &[f32], offset: f32, epsilon: f32, out: &mut [f32]) {
    let mean = sum(x, |value| value * value) / x.len().max(1) as f32;
    let scale = 1.0 / (mean + epsilon).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * (weight + offset);
    }
}

/// Layer normalization.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], epsilon: f32, out: &mut [f32]) {
    let count = x.len().max(1) as f32;
    let mean = sum(x, |value| value) / count;
    let variance = sum(x, |value| (value - mean) * (value - mean)) / count;
    let scale = 1.0 / (variance + epsilon).sqrt();
    for (((out, &x), &weight), &bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = (x - mean) * scale * weight + bias;
    }
}

/// Makes a row as long as is wanted; what it holds is of no use.
pub fn fit(row: &mut Vec<f32>, length: usize) {
    row.resize(length, 0.0);
}

/// Adds a bias to each of several rows.
pub fn add_to_each(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        add(row, bias);
    }
}

/// Puts the values of a strip of columns where they belong.
pub fn place(out: &mut [f32], width: usize, from: usize, strip: &[f32], count: usize) {
    for (out, strip) in out.chunks_exact_mut(width).zip(strip.chunks_exact(count)) {
        out[from..from + count].copy_from_slice(strip);
    }
}

/// One column of a matrix.
pub fn column(matrix: &[f32], width: usize, at: usize, out: &mut [f32]) {
    for (out, row) in out.iter_mut().zip(matrix.chunks_exact(width)) {
        *out = row[at];
    }
}

/// Cosines and sines of a position, for rotary frequencies. The angle is a 32-bit product, as it was where models were
/// trained.
pub fn angles(position: usize, frequencies: &[f32], cos: &mut [f32], sin: &mut [f32]) {
    for ((&frequency, cos), sin) in frequencies.iter().zip(cos).zip(sin) {
        let (s, c) = f64::from(position as f32 * frequency).sin_cos();
        (*cos, *sin) = (c as f32, s as f32);
    }
}

/// Keeps values within a cap, smoothly.
pub fn cap(row: &mut [f32], cap: f32) {
    row.iter_mut().for_each(|value| *value = (*value / cap).tanh() * cap);
}

/// Normalizes many rows: each by its root mean square, or, with a bias, to mean 0 and variance 1.
pub fn norm_rows(rows: &[f32], weight: &[f32], bias: Option<&[f32]>, offset: f32, epsilon: f32, out: &mut Vec<f32>) {
    fit(out, rows.len());
    let width = weight.len();
    for (row, out) in rows.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        match bias {
            Some(bias) => layer_norm(row, weight, bias, epsilon, out),
            None => rms_norm(row, weight, offset, epsilon, out),
        }
    }
}

/// Adds a row to another.
pub fn add(to: &mut [f32], what: &[f32]) {
    for (to, &what) in to.iter_mut().zip(what) {
        *to += what;
    }
}

/// Rotary positions, first half against second half (GPT-NeoX, Llama in Hugging Face's form). Only the first
/// `2 * cos.len()` elements turn.
pub fn rotate_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    let Some((first, rest)) = head.split_at_mut_checked(half) else { return };
    for (((a, b), &cos), &sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// Rotary positions, neighbour against neighbour (Llama in GGUF's form).
pub fn rotate_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, &cos), &sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[1] * cos + pair[0] * sin);
    }
}

/// What the inner layer of a block does to its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x times the logistic function of x.
    Silu,
    /// x times the normal distribution's function of x, by the tanh approximation.
    GeluTanh,
    /// The same, exactly.
    Gelu,
    /// Nothing below zero.
    Relu,
}

#[inline(always)]
fn gelu_tanh(x: f32) -> f32 {
    let inner = 0.797_884_6 * (x + 0.044_715 * x * x * x);
    // tanh(y) = 1 - 2 / (exp(2y) + 1)
    0.5 * x * (2.0 - 2.0 / (exp(2.0 * inner) + 1.0))
}

/// Abramowitz and Stegun 7.1.26: within 1.5e-7.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = t * (0.254_829_6 + t * (-0.284_496_74 + t * (1.421_413_7 + t * (-1.453_152 + t * 1.061_405_4))));
    let erf = (1.0 - p * exp(-z * z)).copysign(x);
    0.5 * x * (1.0 + erf)
}

#[inline(always)]
fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// Activates a row.
pub fn activate(kind: Activation, row: &mut [f32]) {
    fn each(row: &mut [f32], function: impl Fn(f32) -> f32) {
        row.iter_mut().for_each(|value| *value = function(*value));
    }
    match kind {
        Activation::Silu => each(row, silu),
        Activation::GeluTanh => each(row, gelu_tanh),
        Activation::Gelu => each(row, gelu),
        Activation::Relu => each(row, |x| x.max(0.0)),
    }
}

/// `out = activation(gate) * up`, where a row holds the gate's values and then the others.
pub fn gate(kind: Activation, row: &[f32], out: &mut [f32]) {
    fn each(row: &[f32], out: &mut [f32], function: impl Fn(f32) -> f32) {
        let (gate, up) = row.split_at(row.len() / 2);
        for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
            *out = function(gate) * up;
        }
    }
    match kind {
        Activation::Silu => each(row, out, silu),
        Activation::GeluTanh => each(row, out, gelu_tanh),
        Activation::Gelu => each(row, out, gelu),
        Activation::Relu => each(row, out, |x| x.max(0.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_near() {
        for at in -8700..8800 {
            let x = at as f32 / 100.0;
            let right = f64::from(x).exp();
            assert!((f64::from(exp(x)) - right).abs() <= right * 3e-7, "{x}: {} {right}", exp(x));
        }
        assert!(exp(-1000.0) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37 && exp(0.0) == 1.0);
    }

    #[test]
    fn activations_are_near() {
        let near = |kind, x: f32, right: f32| {
            let mut row = [x];
            activate(kind, &mut row);
            assert!((row[0] - right).abs() < 1e-6, "{kind:?} {x}: {} {right}", row[0]);
        };
        near(Activation::Gelu, 1.0, 0.841_344_7);
        near(Activation::Gelu, -2.0, -0.045_500_26);
        near(Activation::GeluTanh, 1.0, 0.841_192);
        near(Activation::GeluTanh, -3.0, -0.003_637_392);
        near(Activation::Silu, -1.5, -0.273_638_23);
        near(Activation::Relu, -1.5, 0.0);
    }

    #[test]
    fn norms_and_rotations() {
        let x: Vec<f32> = (0..21).map(|at| at as f32 - 3.0).collect();
        let mut out = vec![0.0; 21];
        rms_norm(&x, &[1.0; 21], 1.0, 0.0, &mut out);
        let rms = (x.iter().map(|x| x * x).sum::<f32>() / 21.0).sqrt();
        assert!((out[20] - 2.0 * 17.0 / rms).abs() < 1e-5);
        layer_norm(&x, &[1.0; 21], &[0.5; 21], 0.0, &mut out);
        assert!((out.iter().sum::<f32>() - 10.5).abs() < 1e-4);
        let (mut halves, mut pairs) = ([1.0, 2.0, 3.0, 4.0, 9.0], [1.0, 3.0, 2.0, 4.0]);
        let (cos, sin) = ([0.5, 0.25], [0.75, 0.5]);
        rotate_halves(&mut halves, &cos, &sin);
        rotate_pairs(&mut pairs, &cos, &sin);
        assert_eq!(halves[..4], [pairs[0], pairs[2], pairs[1], pairs[3]]);
        assert_eq!(halves[4], 9.0);
    }
}
