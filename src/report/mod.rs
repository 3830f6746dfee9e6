//! stub
#![allow(missing_docs)]
pub mod rows {
    use crate::study::Outcome;
    pub struct RankingRow;
    pub fn rows(_: &Outcome) -> Vec<RankingRow> {
        vec![]
    }
    pub fn write_csv(_: &[RankingRow]) -> String {
        String::new()
    }
    pub fn read_csv(_: &str) -> crate::Result<Vec<RankingRow>> {
        Ok(vec![])
    }
}
pub mod page {
    use super::rows::RankingRow;
    pub fn page(_: &crate::study::Summary, _: &[RankingRow]) -> crate::Result<String> {
        Ok(String::new())
    }
}
pub mod observations {
    pub fn write(_: &std::path::Path, _: &crate::study::Outcome) -> crate::Result<String> {
        Ok(String::new())
    }
}
pub mod table {
    use super::rows::RankingRow;
    pub fn ranking(_: &[RankingRow], _: &[String], _: usize, _: bool) -> String {
        String::new()
    }
    pub fn answer(s: &crate::study::Summary, _: &std::path::Path) -> String {
        format!("{s:#?}")
    }
    pub fn holdout_text(h: &crate::study::Holdout, _: &str) -> String {
        format!("{h:#?}")
    }
}
