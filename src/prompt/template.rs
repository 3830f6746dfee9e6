//! Templates: minijinja, rendered byte for byte. Nothing is escaped, a final newline stays, an undefined variable is an error.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr, Serde, ValueKind};
use minijinja::{Environment, Output, State, UndefinedBehavior, Value};

use crate::diagnostic::{Error, Result, Source};

/// The environment that every template and expression of farthing is compiled in.
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let mut syntax = environment.syntax().to_builder();
    syntax.keep_trailing_newline(true);
    environment.set_syntax(syntax.build().expect("the default delimiters are valid"));
    // A template that loops for ever ends with an error after some seconds at most.
    environment.set_fuel(Some(20_000_000));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(|out, state, value| write_value(out, state, value, true));
    environment
}

/// What a template may render to, in bytes.
const LONGEST: usize = 64 << 20;

/// Why a null was not written.
const NULL: &str = "a value is null";

/// Truth values and null are written as JSON writes them, not as Python does: that is how the data has them.
fn write_value(out: &mut Output, state: &mut State, value: &Value, nulls: bool) -> Result<(), minijinja::Error> {
    match value.kind() {
        ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" }).map_err(Into::into),
        ValueKind::None if nulls => out.write_str("null").map_err(Into::into),
        ValueKind::None => Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, NULL)),
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// Takes what a template renders to, as long as it is not too long.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > LONGEST {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A compiled template and the text it came from.
#[derive(Clone)]
pub struct Template {
    environment: Arc<Environment<'static>>,
    text: Arc<str>,
    variables: Arc<BTreeSet<String>>,
    /// A template without tags renders to itself.
    literal: bool,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Template").field(&self.text).finish()
    }
}

impl Template {
    /// Compiles a template. `source` and `span` say where its text stands, for errors.
    pub fn new(text: &str, source: &Source, span: Range<usize>) -> Result<Template> {
        Template::compile(text).map_err(|problem| {
            Error::usage(format!("this template cannot be read: {problem}")).at(source, span, "in this template")
        })
    }

    /// Compiles a template that stands in no file.
    pub fn compile(text: &str) -> Result<Template, String> {
        let mut environment = environment();
        environment.add_template_owned("template", text.to_owned()).map_err(|error| describe(&error))?;
        let globals: BTreeSet<String> = environment.globals().map(|(name, _)| name.to_owned()).collect();
        let variables =
            environment.get_template("template").map_err(|error| describe(&error))?.undeclared_variables(false);
        let variables = variables.into_iter().filter(|name| !globals.contains(name)).collect();
        let literal = !text.contains("{{") && !text.contains("{%") && !text.contains("{#");
        Ok(Template { environment: Arc::new(environment), text: text.into(), variables: Arc::new(variables), literal })
    }

    /// The same template for what must be there: a null that would be written is an error, as an undefined variable is.
    pub fn without_null(self) -> Template {
        let mut environment = (*self.environment).clone();
        environment.set_formatter(|out, state, value| write_value(out, state, value, false));
        Template { environment: Arc::new(environment), ..self }
    }

    /// The template as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names that the template takes from outside.
    pub fn variables(&self) -> &BTreeSet<String> {
        &self.variables
    }

    /// Renders it. The error says which variable is undefined, or what else went wrong.
    pub fn render(&self, context: &Context<'_>) -> Result<String, String> {
        if self.literal {
            return Ok(self.text.to_string());
        }
        let template = self.environment.get_template("template").map_err(|error| describe(&error))?;
        let mut text = Bounded::default();
        template.render_captured_to(context.value(), &mut text).map_err(|error| self.problem(context, &error))?;
        String::from_utf8(text.0).map_err(|error| error.to_string())
    }

    fn problem(&self, context: &Context<'_>, error: &minijinja::Error) -> String {
        if error.kind() == minijinja::ErrorKind::WriteFailure {
            return format!("it renders to more than {} MiB", LONGEST >> 20);
        }
        if error.detail() == Some(NULL) {
            let null = |name: &&String| context.get(name).is_some_and(Value::is_none);
            let names: Vec<String> = self.variables.iter().filter(null).map(|name| format!("`{name}`")).collect();
            return if names.is_empty() { NULL.to_owned() } else { format!("{} is null", names.join(", ")) };
        }
        if error.kind() == minijinja::ErrorKind::UndefinedError {
            let missing: Vec<String> = self
                .variables
                .iter()
                .filter(|name| context.get(name).is_none())
                .map(|name| format!("`{name}`"))
                .collect();
            if !missing.is_empty() {
                return format!("{} is undefined", missing.join(", "));
            }
        }
        describe(error)
    }
}

/// A minijinja error in one line.
pub fn describe(error: &minijinja::Error) -> String {
    let mut text = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    if let Some(line) = error.line().filter(|&line| line > 1) {
        text.push_str(&format!(" (line {line} of the template)"));
    }
    text
}

/// What templates are rendered with: an instance's fields and the configuration's variables. No name is in both.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    fields: &'a Arc<Fields>,
    variables: &'a Arc<Fields>,
}

/// Named values, shared by all templates rendered with them.
#[derive(Debug, Default)]
pub struct Fields(Vec<(String, Value)>);

impl Fields {
    /// Takes JSON values by name.
    pub fn new<'a>(values: impl IntoIterator<Item = (&'a String, &'a serde_json::Value)>) -> Arc<Fields> {
        let mut fields: Vec<_> =
            values.into_iter().map(|(name, value)| (name.clone(), Value::from(Serde(value)))).collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        Arc::new(Fields(fields))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok().map(|at| &self.0[at].1)
    }
}

#[derive(Debug)]
struct Both(Arc<Fields>, Arc<Fields>);

impl Object for Both {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let name = key.as_str()?;
        self.0.get(name).or_else(|| self.1.get(name)).cloned()
    }
}

impl<'a> Context<'a> {
    /// The fields of an instance and the variables of a configuration.
    pub fn new(fields: &'a Arc<Fields>, variables: &'a Arc<Fields>) -> Context<'a> {
        Context { fields, variables }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).or_else(|| self.variables.get(name))
    }

    fn value(&self) -> Value {
        Value::from_object(Both(self.fields.clone(), self.variables.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(text: &str, fields: serde_json::Value) -> Result<String, String> {
        let fields = Fields::new(fields.as_object().unwrap());
        let none = Fields::new([]);
        Template::compile(text)?.render(&Context::new(&fields, &none))
    }

    /// Golden renders: the store's fingerprints hash what comes out here, so a change of minijinja must be seen.
    #[test]
    fn renders_byte_for_byte() {
        let fields = json!({"text": "a <b> & \"c\"\n", "count": 3, "ratio": 0.5, "whole": 2.0, "list": ["x", 1], "yes": true, "none": null});
        for (template, rendered) in [
            ("{{ text }}\n", "a <b> & \"c\"\n\n"),
            ("{{ count }}|{{ ratio }}|{{ whole }}", "3|0.5|2.0"),
            ("{{ list|join(', ') }}|{{ yes }}|{{ none }}", "x, 1|true|null"),
            ("{% if yes %}y{% endif %}{# note #}\n", "y\n"),
            ("{{ list|tojson }}", "[\"x\", 1]"),
            ("no tags: {x}", "no tags: {x}"),
        ] {
            assert_eq!(render(template, fields.clone()).as_deref(), Ok(rendered), "{template}");
        }
    }

    #[test]
    fn what_must_be_there_is_not_null_and_nothing_is_endless() {
        let (fields, none) = (Fields::new(json!({"a": null, "b": 1}).as_object().unwrap()), Fields::new([]));
        let strict = |text: &str| Template::compile(text).unwrap().without_null().render(&Context::new(&fields, &none));
        assert_eq!(strict("{{ b }} {{ a }}"), Err("`a` is null".into()));
        assert_eq!(strict("{{ a if a is not none else b }}").as_deref(), Ok("1"));
        let bomb = "{% set x = 'x' * 100000 %}{% for i in range(10000) %}{{ x }}{% endfor %}";
        assert_eq!(render(bomb, json!({})), Err("it renders to more than 64 MiB".into()));
    }

    #[test]
    fn an_undefined_variable_is_named() {
        assert_eq!(render("{{ question }}", json!({})), Err("`question` is undefined".into()));
        assert_eq!(render("{% if q is defined %}{{ q }}{% endif %}.", json!({})).as_deref(), Ok("."));
        assert!(render("{{ a", json!({})).is_err());
    }

    #[test]
    fn variables_are_what_comes_from_outside() {
        let template = Template::compile(
            "{% set x = 1 %}{{ x }}{{ question }}{% for c in choices %}{{ c }}{% endfor %}{{ range(3) }}",
        )
        .unwrap();
        assert_eq!(template.variables().iter().map(String::as_str).collect::<Vec<_>>(), ["choices", "question"]);
    }
}
