//! What a study came to, for people and for other programs: the table and the answer on standard output, `ranking.csv`,
//! `report.html`, plots, the observations, and exports. Reads a study and changes nothing.
//!
//! Start with [`run::Run`], which is a run read back from its folder, ended or not: [`page`] makes `report.html` of it,
//! [`plots`] draw it, [`exports`] give it to other programs.

pub mod exports;
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
