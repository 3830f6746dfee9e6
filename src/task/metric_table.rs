//! The `[metrics.NAME]` tables of a task, as written: room `metric` reads what is in them.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::diagnostic::{Error, Result, Source};

/// One `[metrics.NAME]` table: where it stands, so that it can be read with every place in it known.
///
/// It holds the text rather than the parsed table: toml's spanned values borrow the text that they were read from.
#[derive(Clone, Debug)]
pub struct MetricTable {
    /// NAME: what the metric's value is called.
    pub name: String,
    /// The file that the table stands in, whole.
    pub source: Source,
    /// Where NAME stands in it, in bytes.
    pub span: Range<usize>,
    /// The keys that lead to the table, like `["metrics", "accuracy"]`.
    pub path: Vec<String>,
    /// The task's folder: where programs of the user's run.
    pub folder: PathBuf,
}

impl MetricTable {
    /// All tables under `[metrics]` of a task's file, by name. No `[metrics]` gives none.
    pub fn all(source: &Source, document: &DeTable<'_>, folder: &Path) -> Result<Vec<MetricTable>> {
        MetricTable::under(source, document, &["metrics"], folder)
    }

    /// All tables under the table that `path` leads to, by name.
    pub fn under(source: &Source, document: &DeTable<'_>, path: &[&str], folder: &Path) -> Result<Vec<MetricTable>> {
        let mut metrics = document;
        for key in path {
            let Some(value) = metrics.get(*key) else {
                return Ok(Vec::new());
            };
            let Some(table) = value.get_ref().as_table() else {
                return Err(Error::usage(format!("`{key}` is a table here"))
                    .at(source, value.span(), "not a table")
                    .help("each metric has a table of its own, like [metrics.accuracy]"));
            };
            metrics = table;
        }
        let mut all = Vec::with_capacity(metrics.len());
        for (key, value) in metrics {
            let name = key.get_ref();
            if !value.get_ref().is_table() {
                return Err(Error::usage(format!("the metric `{name}` is a table with a `type`"))
                    .at(source, value.span(), "not a table")
                    .help(format!("write [metrics.{name}] and, under it, type = \"exact_match\"; `farthing metrics` lists the types")));
            }
            let path = path.iter().map(|&key| key.to_owned()).chain([name.to_string()]).collect();
            let (name, source, folder) = (name.to_string(), source.clone(), folder.to_owned());
            all.push(MetricTable { name, source, span: key.span(), path, folder });
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The keys and values with their places in [`MetricTable::source`].
    pub fn read(&self) -> Result<Spanned<DeTable<'_>>> {
        let broken = |span: Option<Range<usize>>, message: &str| {
            Error::usage(message).at(&self.source, span.unwrap_or(self.span.clone()), "here")
        };
        let document = DeTable::parse(self.source.text()).map_err(|error| broken(error.span(), error.message()))?;
        let mut value = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
        for key in &self.path {
            let inner = match value.into_inner() {
                DeValue::Table(mut table) => table.remove(key.as_str()),
                _ => None,
            };
            value = inner.ok_or_else(|| broken(None, &format!("there is no table `{}`", self.path.join("."))))?;
        }
        let span = value.span();
        match value.into_inner() {
            DeValue::Table(table) => Ok(Spanned::new(span, table)),
            _ => Err(broken(Some(span), &format!("`{}` is a table", self.path.join(".")))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_found_with_their_places() {
        let text = "[task]\nname = \"x\"\n[metrics.b]\ntype = \"length\"\n[metrics.a]\ntype = \"bleu\"\n";
        let source = Source::new("task.toml", text);
        let document = DeTable::parse(text).unwrap();
        let all = MetricTable::all(&source, document.get_ref(), Path::new("tasks/x")).unwrap();
        assert_eq!(all.iter().map(|table| table.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(&text[all[0].span.clone()], "a");
        let read = all[1].read().unwrap();
        assert_eq!(&text[read.get_ref().get("type").unwrap().span()], "\"length\"");
    }

    #[test]
    fn what_is_no_table_is_said() {
        for (text, place) in [("metrics = 3", "t:1:11"), ("[metrics]\na = 1", "t:2:5"), ("[[metrics.a]]\n", "t:1:1")] {
            let source = Source::new("t", text);
            let document = DeTable::parse(text).unwrap();
            let error = MetricTable::all(&source, document.get_ref(), Path::new("")).unwrap_err();
            assert_eq!(error.location().as_deref(), Some(place), "{error}");
        }
        let source = Source::new("t", "");
        assert!(MetricTable::all(&source, &DeTable::new(), Path::new("")).unwrap().is_empty());
    }
}
