//! A product of matrices, by the crate gemm on the calling thread.
//!
//! candle's own product asks the system how many processors it has each time, by reading `/proc/cpuinfo`: for a small model
//! a fifth of all its work.

use gemm::{Parallelism, gemm};

/// A matrix, or a part of one: rows of numbers that begin `stride` apart.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    stride: usize,
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// From its first number on.
    ///
    /// # Panics
    /// Where `values` end before the last row does, or rows overlap.
    pub fn new(values: &'a [f32], stride: usize, rows: usize, columns: usize) -> Matrix<'a> {
        let end = rows.saturating_sub(1).checked_mul(stride).and_then(|last| last.checked_add(columns));
        let whole = rows == 0 || end.is_some_and(|end| end <= values.len());
        assert!(whole, "a matrix ends before its last row does");
        assert!(columns <= stride, "rows of a matrix overlap");
        Matrix { values, stride, rows, columns }
    }

    /// Numbers of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// Two matrices' product into `out`, row after row, or added to what is there.
///
/// # Panics
/// Where the matrices do not fit each other or `out`.
pub fn product(left: Matrix, right: Matrix, out: &mut [f32], more: bool) {
    assert_eq!(left.columns, right.rows, "matrices that do not fit each other");
    assert_eq!(Some(out.len()), left.rows.checked_mul(right.columns), "room that does not fit a product");
    // SAFETY: gemm reads the cells of both matrices and, where `more`, of `out`, and writes those of `out`, each at
    // row × its stride + column × 1. `Matrix::new` and the assertions hold these within their slices; `out` is borrowed
    // alone, so it overlaps neither matrix.
    #[allow(unsafe_code)]
    unsafe {
        gemm(
            left.rows,
            right.columns,
            left.columns,
            out.as_mut_ptr(),
            1,
            right.columns as isize,
            more,
            left.values.as_ptr(),
            1,
            left.stride as isize,
            right.values.as_ptr(),
            1,
            right.stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_matrices_are_multiplied_and_added_up() {
        // 2 × 3 within rows of 4, times 3 × 2 within rows of 5.
        let left = [1.0, 2.0, 3.0, 99.0, 4.0, 5.0, 6.0];
        let right = [1.0, 10.0, 99.0, 99.0, 99.0, 2.0, 20.0, 99.0, 99.0, 99.0, 3.0, 30.0];
        let (left, right) = (Matrix::new(&left, 4, 2, 3), Matrix::new(&right, 5, 3, 2));
        let mut out = [7.0; 4];
        product(left, right, &mut out, false);
        assert_eq!(out, [14.0, 140.0, 32.0, 320.0]);
        product(left, right, &mut out, true);
        assert_eq!(out, [28.0, 280.0, 64.0, 640.0]);
    }

    #[test]
    fn what_does_not_fit_is_not_read() {
        let refused = |made: fn()| assert!(std::panic::catch_unwind(made).is_err());
        refused(|| _ = Matrix::new(&[0.0; 6], 4, 2, 3));
        refused(|| _ = Matrix::new(&[0.0; 6], 2, 2, 3));
        refused(|| _ = Matrix::new(&[0.0; 6], usize::MAX / 2 + 2, 3, 2));
        refused(|| product(Matrix::new(&[0.0; 4], 2, 2, 2), Matrix::new(&[0.0; 6], 2, 3, 2), &mut [0.0; 4], false));
        refused(|| product(Matrix::new(&[0.0; 4], 2, 2, 2), Matrix::new(&[0.0; 4], 2, 2, 2), &mut [0.0; 3], false));
    }
}
