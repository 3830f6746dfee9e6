//! A prompt as a choice of a search space: messages, one template, or a text to go on from.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::diagnostic::{Error, Result, Source, unreadable};
use crate::prompt::template::{Context, Template};
use crate::provider::{Input, Message, ROLES};

/// A prompt as written: `{ name = "...", messages = [...] }`, or with `template`, `file` or `text` in place of `messages`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptTable {
    /// Required and unique: wherever a prompt is meant, it is meant by this name.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// A conversation; each content is a template.
    #[schemars(with = "Option<Vec<MessageTable>>")]
    pub messages: Option<Spanned<Vec<MessageTable>>>,
    /// One user message (for a completion model: the text).
    #[schemars(with = "Option<String>")]
    pub template: Option<Spanned<String>>,
    /// A file that holds the template, relative to the space's file.
    #[schemars(with = "Option<String>")]
    pub file: Option<Spanned<String>>,
    /// A text for a completion model to go on from.
    #[schemars(with = "Option<String>")]
    pub text: Option<Spanned<String>>,
}

/// One message as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageTable {
    /// `system`, `user`, `assistant`, `developer` or `tool`.
    #[schemars(with = "String")]
    pub role: Spanned<String>,
    /// A template.
    #[schemars(with = "String")]
    pub content: Spanned<String>,
}

/// A prompt, compiled.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub body: Body,
    variables: BTreeSet<String>,
}

/// What a prompt is made of.
#[derive(Clone, Debug)]
pub enum Body {
    /// A conversation: (role, content).
    Messages(Vec<(String, Template)>),
    /// One template: a user message for a chat model, the text for a completion model.
    Template(Template),
    /// A text, for completion models only.
    Text(Template),
}

impl Prompt {
    /// A prompt from its parts.
    pub fn new(name: impl Into<String>, body: Body) -> Prompt {
        let variables = match &body {
            Body::Messages(messages) => messages.iter().flat_map(|(_, content)| content.variables()).cloned().collect(),
            Body::Template(template) | Body::Text(template) => template.variables().clone(),
        };
        Prompt { name: name.into(), body, variables }
    }

    /// Compiles a prompt as written; `folder` is where its `file` is looked for.
    pub fn read(table: &PromptTable, source: &Source, folder: &Path) -> Result<Prompt> {
        let span = table.name.span();
        let compile = |text: &Spanned<String>| Template::new(text.get_ref(), source, text.span());
        let body =
            match (&table.messages, &table.template, &table.file, &table.text) {
                (Some(messages), None, None, None) => {
                    if messages.get_ref().is_empty() {
                        return Err(Error::usage("a prompt needs at least one message").at(
                            source,
                            messages.span(),
                            "empty",
                        ));
                    }
                    let message = |message: &MessageTable| {
                        let role = message.role.get_ref();
                        if !ROLES.contains(&role.as_str()) {
                            return Err(Error::usage(format!("`{role}` is no role"))
                                .at(source, message.role.span(), "here")
                                .help(crate::diagnostic::suggestion(role, ROLES)));
                        }
                        Ok((role.clone(), compile(&message.content)?))
                    };
                    Body::Messages(messages.get_ref().iter().map(message).collect::<Result<_>>()?)
                }
                (None, Some(template), None, None) => Body::Template(compile(template)?),
                (None, None, Some(file), None) => {
                    let path = folder.join(file.get_ref());
                    if !path.is_file() {
                        let missing = unreadable(&path, &std::io::ErrorKind::NotFound.into());
                        return Err(missing.at(source, file.span(), "named here"));
                    }
                    let source = Source::read(&path)?;
                    let whole = 0..source.text().len();
                    Body::Template(Template::new(source.text(), &source, whole)?)
                }
                (None, None, None, Some(text)) => Body::Text(compile(text)?),
                _ => {
                    return Err(Error::usage("a prompt has exactly one of `messages`, `template`, `file` and `text`")
                        .at(source, span, "this prompt"));
                }
            };
        Ok(Prompt::new(table.name.get_ref(), body))
    }

    /// The names that the prompt takes from the instance and the configuration.
    pub fn variables(&self) -> &BTreeSet<String> {
        &self.variables
    }

    /// Renders it for a chat model or, with `chat` false, for a completion model. Errors say what is undefined.
    pub fn render(&self, context: &Context<'_>, chat: bool) -> Result<Input, String> {
        match (&self.body, chat) {
            (Body::Messages(messages), _) => {
                let message = |(role, content): &(String, Template)| {
                    Ok(Message { role: role.clone(), content: content.render(context)? })
                };
                Ok(Input::Messages(messages.iter().map(message).collect::<Result<_, String>>()?))
            }
            (Body::Template(template), true) => {
                Ok(Input::Messages(vec![Message { role: "user".to_owned(), content: template.render(context)? }]))
            }
            (Body::Template(template), false) | (Body::Text(template), _) => Ok(Input::Text(template.render(context)?)),
        }
    }
}
