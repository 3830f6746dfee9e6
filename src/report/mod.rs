//! What a study came to, for people and for other programs: the table and the answer on standard output, `ranking.csv`,
//! `report.html` with its plot, and the observations. Reads a finished study and changes nothing.
//!
//! Start with [`rows()`]: everything but the observations is made from its [`RankingRow`]s and a
//! [`Summary`](crate::study::Summary), so that it can be made again from a run's folder.

pub mod matters;
pub mod observations;
pub mod page;
pub mod plots;
pub mod rows;
pub mod run;
pub mod table;
pub mod words;

pub use rows::{RankingRow, read_csv, rows, write_csv};

#[cfg(test)]
pub(crate) mod testing;
