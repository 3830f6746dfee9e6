//! A matrix of weights, and its product with rows: what takes a model's time.
//!
//! The product of a row must not hang on which rows are beside it, or a sample's text would depend on what else is asked at
//! the same time. The products of the crate gemm sum over the inner dimension in one fixed order as long as it is at most [`INNER`] and there are at least two rows; so longer sums are cut into such pieces here, which are added up in
//! their order, and a row that is alone gets a companion of zeros. A test holds this to account.

use candle_core::{CpuStorage, DType, Storage, Tensor};
use farthing_kernels::{Matrix, add_to_each, column, fit, place, product};
use rayon::prelude::*;

/// Longest sum that one product makes.
const INNER: usize = 512;
/// Weights kept in 16 bits are widened in pieces of so many.
const WIDENED: usize = 1 << 21;

/// Weights by input and output element, and a bias.
pub struct Linear {
    /// `[inputs, outputs]`, of 32-bit floats or bf16.
    weight: Tensor,
    bias: Option<Vec<f32>>,
    /// Elements of a row that goes in.
    pub inputs: usize,
    /// Elements of one that comes out.
    pub outputs: usize,
}

impl Linear {
    /// From weights by output and input element, as most files have them.
    pub fn new(weight: &Tensor, bias: Option<Vec<f32>>, dtype: DType) -> candle_core::Result<Linear> {
        Linear::transposed(&weight.t()?.contiguous()?, bias, dtype)
    }

    /// From weights by input and output element.
    pub fn transposed(weight: &Tensor, bias: Option<Vec<f32>>, dtype: DType) -> candle_core::Result<Linear> {
        let (inputs, outputs) = weight.dims2()?;
        Ok(Linear { weight: weight.to_dtype(dtype)?.contiguous()?, bias, inputs, outputs })
    }

    /// Rows times the weights, into `out`. `spread` shares the outputs out over all threads.
    pub fn product(&self, rows: &[f32], out: &mut Vec<f32>, spread: bool) -> candle_core::Result<()> {
        let count = rows.len() / self.inputs;
        fit(out, count * self.outputs);
        if count == 0 {
            return Ok(());
        }
        // A product of one row is made in another order than those of several.
        let companion: Vec<f32>;
        let (rows, rows_in) = if count == 1 {
            companion = [rows, &vec![0.0; self.inputs]].concat();
            (&companion[..], 2)
        } else {
            (rows, count)
        };
        let share = || self.outputs.div_ceil(rayon::current_num_threads().max(1)).next_multiple_of(64);
        let narrow = match (spread, self.weight.dtype()) {
            (true, DType::F32) => share(),
            (false, DType::F32) => self.outputs,
            _ => (WIDENED / INNER).min(share()),
        };
        let strip = |from: usize| -> candle_core::Result<Vec<f32>> {
            let width = narrow.min(self.outputs - from);
            let mut strip = vec![0.0; rows_in * width];
            for at in (0..self.inputs).step_by(INNER) {
                let piece = Matrix::new(&rows[at..], self.inputs, rows_in, INNER.min(self.inputs - at));
                self.weights(at, piece.columns(), from, width, |weights| product(piece, weights, &mut strip, at > 0))?;
            }
            Ok(strip)
        };
        let starts: Vec<usize> = (0..self.outputs).step_by(narrow.max(1)).collect();
        let strips: Vec<Vec<f32>> = match starts.len() {
            2.. if spread => starts.par_iter().map(|&from| strip(from)).collect::<candle_core::Result<_>>()?,
            _ => starts.iter().map(|&from| strip(from)).collect::<candle_core::Result<_>>()?,
        };
        for (from, strip) in starts.into_iter().zip(strips) {
            place(out, self.outputs, from, &strip, narrow.min(self.outputs - from));
        }
        if let Some(bias) = &self.bias {
            add_to_each(out, bias);
        }
        Ok(())
    }

    /// Looks at the weights of `depth` inputs from `at` on and `width` outputs from `from` on, as 32-bit floats.
    fn weights(
        &self,
        at: usize,
        depth: usize,
        from: usize,
        width: usize,
        look: impl FnOnce(Matrix),
    ) -> candle_core::Result<()> {
        if self.weight.dtype() == DType::F32 {
            let start = at * self.outputs + from;
            return with(&self.weight, |values| look(Matrix::new(&values[start..], self.outputs, depth, width)));
        }
        let part = self.weight.narrow(0, at, depth)?.narrow(1, from, width)?.contiguous()?.to_dtype(DType::F32)?;
        with(&part, |values| look(Matrix::new(values, width, depth, width)))
    }

    /// The weights of one output element: what an embedding is where it serves as the last layer too.
    pub fn column(&self, output: usize, out: &mut [f32]) -> candle_core::Result<()> {
        let (storage, _) = self.weight.storage_and_layout();
        match &*storage {
            Storage::Cpu(CpuStorage::F32(values)) => {
                column(values, self.outputs, output, out);
            }
            Storage::Cpu(CpuStorage::BF16(values)) => {
                let column = values.iter().skip(output).step_by(self.outputs);
                out.iter_mut().zip(column).for_each(|(out, value)| *out = value.to_f32());
            }
            _ => candle_core::bail!("weights are of a type that is not known here"),
        }
        Ok(())
    }
}

/// Looks at a tensor's values; it must be contiguous.
pub fn with<T>(tensor: &Tensor, look: impl FnOnce(&[f32]) -> T) -> candle_core::Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(values)), Some((from, to))) => Ok(look(&values[from..to])),
        _ => candle_core::bail!("a tensor that should be contiguous 32-bit floats is not"),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn a_row_does_not_know_who_is_beside_it() {
        for (inputs, outputs) in [(3, 5), (16, 48), (64, 64), (128, 384), (512, 96), (1100, 130)] {
            let weights = numbers(inputs * outputs, 1);
            let weight = Tensor::from_vec(weights.clone(), (inputs, outputs), &Device::Cpu).unwrap();
            for dtype in [DType::F32, DType::BF16] {
                let bias = numbers(outputs, 2);
                let linear = Linear::transposed(&weight, Some(bias.clone()), dtype).unwrap();
                let rows = numbers(70 * inputs, 3);
                let (mut all, mut one) = (Vec::new(), Vec::new());
                linear.product(&rows, &mut all, false).unwrap();
                let terms = (0..inputs).map(|at| f64::from(rows[at]) * f64::from(weights[at * outputs + 1]));
                let right = terms.sum::<f64>() + f64::from(bias[1]);
                let within = if dtype == DType::F32 { 1e-3 } else { 0.5 };
                assert!((f64::from(all[1]) - right).abs() < within, "{inputs} {outputs} {dtype:?}");
                for (count, spread) in
                    [1, 2, 3, 8, 16, 17, 33, 64, 69].into_iter().flat_map(|n| [(n, false), (n, true)])
                {
                    for from in [0, 1] {
                        let mine = &rows[from * inputs..(from + count) * inputs];
                        linear.product(mine, &mut one, spread).unwrap();
                        let same = one.iter().zip(&all[from * outputs..]).all(|(a, b)| a.to_bits() == b.to_bits());
                        assert!(same, "{inputs} {outputs} {dtype:?}: {count} rows from {from}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_column_is_an_embedding() {
        let weight = Tensor::from_vec(numbers(12, 1), (4, 3), &Device::Cpu).unwrap();
        let linear = Linear::new(&weight, None, DType::F32).unwrap();
        let mut out = [0.0; 3];
        linear.column(2, &mut out).unwrap();
        assert_eq!(out[..], numbers(12, 1)[6..9]);
    }
}
