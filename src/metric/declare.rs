//! The declarations of all metric functions, and what comes from them: the listing, the JSON schema, the parser.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use regex::Regex;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::text::{Common, Judge, Normalizer};
use super::{Metric, Vote, bleu, choice, command, exact, json, length, numeric, overlap, text};
use crate::diagnostic::{Error, Result, suggestion};
use crate::prompt::Template;
use crate::task::{Instance, MetricTable};

/// A built-in metric function, as declared where it is written.
#[derive(Clone, Copy)]
pub struct Declaration {
    /// The `type` in the table.
    pub name: &'static str,
    /// One line that says what it measures.
    pub summary: &'static str,
    /// The lowest and the highest value; `None` where a program decides.
    pub range: Option<(f64, f64)>,
    /// The votes over n responses; none where the metric sees all responses at once.
    pub votes: &'static [Vote],
    /// What `normalize` is where it is not given.
    pub normalize: &'static [Normalizer],
    own: fn() -> Options,
    common: bool,
    build: fn(&mut Building<'_>) -> Result<Arc<dyn Scorer>>,
}

impl Declaration {
    const fn text<J: Judge>() -> Declaration {
        Declaration {
            name: J::NAME,
            summary: J::SUMMARY,
            range: Some(J::RANGE),
            votes: J::VOTES,
            normalize: J::NORMALIZE,
            own: Options::of::<J::Options>,
            common: true,
            build: text::build::<J>,
        }
    }

    /// All options by name: the metric's own and, for metrics on text, the common ones.
    fn options(&self) -> Options {
        let mut options = (self.own)();
        if self.common {
            let common = Options::of::<Common>();
            options.schemas.extend(common.schemas);
            options.required.extend(common.required);
            if let Some(vote) = options.schemas.get_mut("vote") {
                keep_votes(vote, self.votes);
            }
            if let Some(normalize) = options.schemas.get_mut("normalize") {
                normalize["default"] = self.normalize.iter().map(|step| step.word()).collect();
            }
        }
        options
    }
}

/// Leaves the allowed votes in the schema of `vote`.
fn keep_votes(schema: &mut Value, votes: &[Vote]) {
    if let Some(Value::Array(ways)) = schema.get_mut("oneOf") {
        ways.retain(|way| votes.iter().any(|vote| way["const"] == vote.word()));
    }
}

static DECLARATIONS: &[Declaration] = &[
    Declaration::text::<exact::ExactMatch>(),
    Declaration::text::<exact::Contains>(),
    Declaration::text::<exact::StartsWith>(),
    Declaration::text::<exact::Matches>(),
    Declaration::text::<numeric::Numeric>(),
    Declaration::text::<choice::Choice>(),
    Declaration::text::<overlap::TokenF1>(),
    Declaration::text::<overlap::RougeL>(),
    Declaration::text::<bleu::Bleu>(),
    Declaration::text::<json::Json>(),
    Declaration::text::<length::Length>(),
    Declaration {
        name: command::NAME,
        summary: command::SUMMARY,
        range: None,
        votes: &[],
        normalize: &[],
        own: Options::of::<command::CommandOptions>,
        common: false,
        build: command::build,
    },
];

/// Every metric function there is, in the order in which they are shown.
pub fn declarations() -> &'static [Declaration] {
    DECLARATIONS
}

/// The options of one struct, from its JSON schema.
#[derive(Debug)]
struct Options {
    schemas: BTreeMap<String, Value>,
    required: BTreeSet<String>,
}

impl Options {
    fn of<T: JsonSchema>() -> Options {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
        let schemas = match schema["properties"].take() {
            Value::Object(properties) => {
                properties.into_iter().map(|(name, schema)| (name, without_null(schema))).collect()
            }
            _ => BTreeMap::new(),
        };
        let required = schema["required"].as_array().into_iter().flatten();
        Options { schemas, required: required.filter_map(|name| name.as_str().map(str::to_owned)).collect() }
    }
}

/// The schema of an optional value without its null: TOML has none.
fn without_null(schema: Value) -> Value {
    let Value::Object(mut map) = schema else { return schema };
    if map.get("default").is_some_and(Value::is_null) {
        map.remove("default");
    }
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [kind] = types.as_slice() {
            let kind = kind.clone();
            map.insert("type".to_owned(), kind);
        }
    }
    if let Some(Value::Array(ways)) = map.get_mut("anyOf") {
        ways.retain(|way| way["type"] != "null");
        if ways.len() == 1
            && let Some(Value::Object(only)) = ways.pop()
        {
            map.remove("anyOf");
            for (key, value) in only {
                map.entry(key).or_insert(value);
            }
        }
    }
    // The docs are wrapped in the code, not in what people read.
    if let Some(Value::String(text)) = map.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    Value::Object(map)
}

/// One option, as listed.
#[derive(Clone, Debug, PartialEq)]
pub struct OptionRow {
    /// The key.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// True where it must be given.
    pub required: bool,
    /// What it is where it is not given, as TOML; `None` where there is nothing to say.
    pub default: Option<String>,
    /// What it is for.
    pub doc: String,
}

/// What an option holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Text,
    /// One of these words.
    Word(Vec<String>),
    /// A number.
    Number {
        /// Without a fraction.
        whole: bool,
    },
    /// True or false.
    Flag,
    /// A list.
    List(Box<Kind>),
    /// A table.
    Table,
    /// Any value.
    Any,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Text => f.write_str("text"),
            Kind::Word(words) => write!(f, "one of {}", words.join(", ")),
            Kind::Number { whole: true } => f.write_str("whole number"),
            Kind::Number { whole: false } => f.write_str("number"),
            Kind::Flag => f.write_str("true or false"),
            Kind::List(kind) => write!(f, "list of: {kind}"),
            Kind::Table => f.write_str("table"),
            Kind::Any => f.write_str("any value"),
        }
    }
}

/// One metric function, as `farthing metrics` lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The `type`.
    pub name: String,
    /// One line that says what it measures.
    pub summary: String,
    /// The values it gives, like `0 to 1`.
    pub range: String,
    /// The votes that it allows.
    pub votes: Vec<String>,
    /// Its options: those that must be given, its own, the common ones.
    pub options: Vec<OptionRow>,
}

/// The listing of all metric functions.
pub fn rows() -> Vec<Row> {
    declarations().iter().map(row).collect()
}

fn row(declaration: &Declaration) -> Row {
    let own = (declaration.own)();
    let all = declaration.options();
    let mut options: Vec<OptionRow> = all
        .schemas
        .iter()
        .map(|(name, schema)| OptionRow {
            name: name.clone(),
            kind: kind(schema),
            required: all.required.contains(name),
            default: schema.get("default").map(Value::to_string),
            doc: schema["description"].as_str().unwrap_or_default().to_owned(),
        })
        .collect();
    options.sort_by_key(|option| (!option.required, !own.schemas.contains_key(&option.name)));
    let range = match declaration.range {
        None => "what the program says".to_owned(),
        Some((low, high)) if high.is_infinite() => format!("{low} and up"),
        Some((low, high)) => format!("{low} to {high}"),
    };
    Row {
        name: declaration.name.to_owned(),
        summary: declaration.summary.to_owned(),
        range,
        votes: declaration.votes.iter().map(|vote| vote.word().to_owned()).collect(),
        options,
    }
}

/// What a schema allows.
fn kind(schema: &Value) -> Kind {
    if let Some(ways) = schema["oneOf"].as_array().or(schema["enum"].as_array()) {
        let words = ways.iter().filter_map(|way| way["const"].as_str().or(way.as_str()));
        return Kind::Word(words.map(str::to_owned).collect());
    }
    match schema["type"].as_str() {
        Some("string") => Kind::Text,
        Some("integer") => Kind::Number { whole: true },
        Some("number") => Kind::Number { whole: false },
        Some("boolean") => Kind::Flag,
        Some("array") => Kind::List(Box::new(kind(&schema["items"]))),
        Some("object") => Kind::Table,
        Some(_) | None => Kind::Any,
    }
}

/// The JSON schema of a `[metrics.NAME]` table: one of the metric functions, by `type`.
pub fn schema() -> Value {
    let one = |declaration: &Declaration| {
        let options = declaration.options();
        let mut properties: Map<String, Value> = options.schemas.into_iter().collect();
        properties.insert("type".to_owned(), json!({"const": declaration.name}));
        let required: Vec<String> = std::iter::once("type".to_owned()).chain(options.required).collect();
        json!({
            "type": "object",
            "title": declaration.name,
            "description": declaration.summary,
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A metric of a task: a [metrics.NAME] table",
        "oneOf": declarations().iter().map(one).collect::<Vec<_>>(),
    })
}

/// What a built metric can do beside scoring.
pub trait Scorer: Metric {
    /// Whether what is expected can be worked out for an instance; no response is needed for it.
    fn check(&self, instance: &Instance) -> Result<(), String>;
    /// Whether what it needs is there, like a program.
    fn prepare(&self) -> Result<(), String> {
        Ok(())
    }
    /// The lowest and the highest value, if known.
    fn range(&self) -> Option<(f64, f64)>;
    /// The name of its only value; `None` where a program decides.
    fn output(&self) -> Option<&str>;
}

/// A metric from a table.
#[derive(Clone)]
pub struct Built {
    /// The metric function.
    pub metric: Arc<dyn Metric>,
    /// The columns that its templates need, each with the place of a template that does.
    pub fields: BTreeMap<String, Range<usize>>,
    /// The name of its only value, which is the table's; `None` where a program says what it gives.
    pub output: Option<String>,
    /// The lowest and the highest value, if known.
    pub range: Option<(f64, f64)>,
    scorer: Arc<dyn Scorer>,
    table: MetricTable,
}

impl Built {
    /// The columns that its templates need.
    pub fn variables(&self) -> BTreeSet<String> {
        self.fields.keys().cloned().collect()
    }

    /// Works out what is expected for an instance, to find bad rows before anything is spent.
    pub fn check(&self, instance: &Instance) -> Result<(), String> {
        self.scorer.check(instance)
    }

    /// Looks whether what the metric needs (a program) is there, to be called before anything is spent.
    pub fn prepare(&self) -> Result<()> {
        let wrong =
            |reason: String| Error::usage(reason).at(&self.table.source, self.table.span.clone(), "this metric");
        self.scorer.prepare().map_err(wrong)
    }
}

impl std::fmt::Debug for Built {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Built").field("name", &self.table.name).field("fields", &self.fields).finish_non_exhaustive()
    }
}

/// Reads a `[metrics.NAME]` table. Every error is a usage error that points at what is wrong in it.
pub fn build(table: &MetricTable) -> Result<Built> {
    let mut content = table.read()?;
    let span = content.span();
    let declaration = declaration(table, content.get_mut(), &span)?;
    let options = declaration.options();
    for key in content.get_ref().keys() {
        let name: &str = key.get_ref();
        if !options.schemas.contains_key(name) {
            let known = options.schemas.keys().map(String::as_str).chain(["type"]);
            return Err(Error::usage(format!("`{}` has no option `{name}`", declaration.name))
                .at(&table.source, key.span(), "unknown key")
                .help(suggestion(name, known)));
        }
    }
    if let Some(missing) = options.required.iter().find(|name| !content.get_ref().contains_key(name.as_str())) {
        let doc = options.schemas[missing]["description"].as_str().unwrap_or_default();
        return Err(Error::usage(format!(
            "the metric `{}` of type `{}` needs `{missing}`",
            table.name, declaration.name
        ))
        .at(&table.source, table.span.clone(), "this metric")
        .help(format!("`{missing}`: {doc}")));
    }
    let mut parts = Building { table, span, content: content.into_inner(), fields: BTreeMap::new() };
    let scorer = (declaration.build)(&mut parts)?;
    let (output, range) = (scorer.output().map(str::to_owned), scorer.range());
    Ok(Built { metric: scorer.clone(), fields: parts.fields, output, range, scorer, table: table.clone() })
}

/// Takes `type` out of the table and looks it up.
fn declaration(table: &MetricTable, content: &mut DeTable<'_>, span: &Range<usize>) -> Result<&'static Declaration> {
    let types = || declarations().iter().map(|declaration| declaration.name);
    let Some(kind) = content.remove("type") else {
        return Err(Error::usage(format!("the metric `{}` has no `type`", table.name))
            .at(&table.source, if content.is_empty() { table.span.clone() } else { span.clone() }, "this metric")
            .help(suggestion("", types())));
    };
    let Some(name) = kind.get_ref().as_str() else {
        return Err(Error::usage("`type` is a text")
            .at(&table.source, kind.span(), "not a text")
            .help(suggestion("", types())));
    };
    declarations().iter().find(|declaration| declaration.name == name).ok_or_else(|| {
        Error::usage(format!("there is no metric of type `{name}`"))
            .at(&table.source, kind.span(), "unknown type")
            .help(suggestion(name, types()))
    })
}

/// A table while it is turned into a metric.
pub struct Building<'a> {
    table: &'a MetricTable,
    span: Range<usize>,
    content: DeTable<'a>,
    fields: BTreeMap<String, Range<usize>>,
}

impl Building<'_> {
    /// The metric's name.
    pub fn name(&self) -> &str {
        &self.table.name
    }

    /// The table as written.
    pub fn table(&self) -> &MetricTable {
        self.table
    }

    /// One options struct: the common one or the metric's own, each with the keys that are its fields.
    pub fn options<T: DeserializeOwned + JsonSchema>(&self) -> Result<T> {
        let schemas = Options::of::<T>().schemas;
        let mine: DeTable<'_> = self
            .content
            .iter()
            .filter(|(key, _)| schemas.contains_key(&**key.get_ref()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        T::deserialize(toml::de::Deserializer::from(Spanned::new(self.span.clone(), mine)))
            .map_err(|error| self.misread(&error))
    }

    /// A template over an instance's fields, none of which is null where it is written: nothing is expected then. What it
    /// needs is noted.
    pub fn template(&mut self, text: &Spanned<String>) -> Result<Template> {
        self.template_with_null(text).map(Template::without_null)
    }

    /// The same where null is a value as any other.
    pub fn template_with_null(&mut self, text: &Spanned<String>) -> Result<Template> {
        let template = Template::new(text.get_ref(), &self.table.source, text.span())?;
        for name in template.variables() {
            self.fields.entry(name.clone()).or_insert_with(|| text.span());
        }
        Ok(template)
    }

    /// A regex.
    pub fn regex(&self, text: &Spanned<String>) -> Result<Regex> {
        Regex::new(text.get_ref()).map_err(|error| {
            let shown = error.to_string();
            // The parser's message has a drawing of the pattern above its last line.
            let reason = shown.lines().last().unwrap_or_default().trim_start_matches("error: ");
            self.error(format!("this regex cannot be read: {reason}"), text.span(), "in this regex")
        })
    }

    /// A number that must be finite and not below 0.
    pub fn not_negative(&self, name: &str, value: &Option<Spanned<f64>>, default: f64) -> Result<f64> {
        match value {
            None => Ok(default),
            Some(value) if value.get_ref().is_finite() && *value.get_ref() >= 0.0 => Ok(*value.get_ref()),
            Some(value) => Err(self.error(format!("`{name}` is a number from 0 up"), value.span(), "out of range")),
        }
    }

    /// An error at a place in the table.
    pub fn error(&self, message: impl Into<String>, span: Range<usize>, label: &str) -> Error {
        Error::usage(message).at(&self.table.source, span, label)
    }

    /// A value of the wrong kind, or a word that is not known.
    fn misread(&self, error: &toml::de::Error) -> Error {
        let span = error.span().unwrap_or_else(|| self.span.clone());
        let message = error.message();
        if let Some(rest) = message.strip_prefix("unknown variant `") {
            let mut words = rest.split('`').step_by(2);
            let word = words.next().unwrap_or_default();
            let known: Vec<&str> = words.collect();
            return self
                .error(format!("unknown word `{word}`"), span, "unknown")
                .help(suggestion(word, known.iter().copied().filter(|word| !word.is_empty())));
        }
        let at = |(_, value): &(&Spanned<_>, &Spanned<DeValue<'_>>)| {
            value.span().start <= span.start && span.end <= value.span().end
        };
        let key = self.content.iter().find(at).map(|(key, _)| key.get_ref().to_string());
        let message = match key {
            Some(key) => format!("`{key}`: {message}"),
            None => message.to_owned(),
        };
        self.error(message, span, "here")
    }
}

#[cfg(test)]
#[path = "declare_tests.rs"]
mod tests;
