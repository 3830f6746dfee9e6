//! The tables as CSV, for comparisons with other programs.

use std::fmt::Write;
use std::path::Path;

use farthing::Usd;

use super::tables::Case;

/// Writes three files a table: `NAME.scores.csv`, `NAME.costs.csv` (dollars; what an evaluation costs if nothing of it was
/// bought before) and `NAME.prompts.csv` (the part of it that is the prompt; absent where samples are not shared). A line
/// is a configuration as JSON and a value an instance; a missing score is empty. Unseen instances are `NAME.unseen.*`.
/// The number is that of the files.
pub fn write(cases: &[Case], folder: &Path) -> std::io::Result<usize> {
    std::fs::create_dir_all(folder)?;
    let mut files = 0;
    let dollars = |cells: &Vec<Usd>| cells.iter().map(Usd::to_string).collect::<Vec<_>>();
    for case in cases.iter().filter(|case| case.inference.is_none()) {
        let name =
            if case.group.starts_with("held-out") { format!("held-out-{}", case.name) } else { case.name.clone() };
        let tables = [(name.clone(), Some(&case.tune)), (format!("{name}.unseen"), case.unseen.as_ref())];
        for (name, table) in tables.into_iter().filter_map(|(name, table)| Some((name, table?))) {
            let score = |cell: &Option<f64>| cell.map_or(String::new(), |score| score.to_string());
            let scores = table.scores.iter().map(|line| line.iter().map(score).collect()).collect();
            let mut kinds: Vec<(&str, Vec<Vec<String>>)> =
                vec![("scores", scores), ("costs", table.costs.iter().map(dollars).collect())];
            kinds.extend(table.prompts.as_ref().map(|prompts| ("prompts", prompts.iter().map(dollars).collect())));
            for (kind, cells) in kinds {
                let mut text = String::from("configuration");
                (0..table.instances()).for_each(|at| _ = write!(text, ",i{at}"));
                for (configuration, line) in table.configurations.iter().zip(cells) {
                    let json = serde_json::to_string(configuration)?.replace('"', "\"\"");
                    _ = write!(text, "\n\"{json}\",{}", line.join(","));
                }
                std::fs::write(folder.join(format!("{name}.{kind}.csv")), text + "\n")?;
                files += 1;
            }
        }
    }
    Ok(files)
}
