//! Constraints: minijinja expressions over parameters that a configuration must satisfy.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use minijinja::{Environment, Value};

use crate::diagnostic::{Error, Result, Source};
use crate::prompt::template::{describe, environment};
use crate::space::Configuration;

/// An expression that must hold. One that names an inactive parameter does not apply.
#[derive(Clone)]
pub struct Constraint {
    text: String,
    span: Range<usize>,
    names: BTreeSet<String>,
    environment: Arc<Environment<'static>>,
}

impl std::fmt::Debug for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Constraint").field(&self.text).finish()
    }
}

impl Constraint {
    /// Compiles an expression; `source` and `span` say where it stands.
    pub fn new(text: &str, source: &Source, span: Range<usize>) -> Result<Constraint> {
        Constraint::compile(text, span.clone()).map_err(|problem| {
            Error::usage(format!("this expression cannot be read: {problem}")).at(source, span, "here")
        })
    }

    /// Compiles an expression that stands in no file.
    pub fn compile(text: &str, span: Range<usize>) -> Result<Constraint, String> {
        let environment = environment();
        let names = {
            let expression = environment.compile_expression(text).map_err(|error| describe(&error))?;
            let globals: BTreeSet<&str> = environment.globals().map(|(name, _)| name).collect();
            expression.undeclared_variables(false).into_iter().filter(|name| !globals.contains(name.as_str())).collect()
        };
        Ok(Constraint { text: text.to_owned(), span, names, environment: Arc::new(environment) })
    }

    /// The expression as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it stands in its file.
    pub fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    /// The parameters that it names.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Whether a configuration satisfies it. The error is what went wrong in evaluating it.
    pub fn holds(&self, configuration: &Configuration) -> Result<bool, String> {
        if self.names.iter().any(|name| configuration.get(name).is_none()) {
            return Ok(true);
        }
        let expression = self.environment.compile_expression(&self.text).map_err(|error| describe(&error))?;
        let context: std::collections::BTreeMap<&str, Value> = configuration
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), Value::from(minijinja::value::Serde(value))))
            .collect();
        expression.eval(context).map(|value| value.is_true()).map_err(|error| describe(&error))
    }
}
