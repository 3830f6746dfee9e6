//! What is asked: a model, a conversation or a text, and the parameters of the API.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::diagnostic::{Error, Result};
use crate::prompt::{Context, Fields, Template};
use crate::provider::{Input, Message, Request};
use crate::space::parameter::{check_all, completions};

/// A request in the making.
///
/// ```
/// use farthing::client::Create;
/// let ask = Create::chat("gpt-4o-mini").system("Be brief.").history(["Hi!", "Hello."]).user("How are you?").n(3);
/// # assert!(ask.request().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Create {
    /// The model, by its name in `farthing.toml` or at the provider.
    pub model: String,
    /// The conversation; empty where `text` is given.
    pub messages: Vec<Message>,
    /// A text to go on from, for completion models.
    pub text: Option<String>,
    /// The parameters of the API by their names there, except `n`.
    pub params: BTreeMap<String, Value>,
    /// How many completions.
    pub n: u32,
    /// Which block of `n` samples: 0 takes the first `n`, 1 the next `n`, and so on.
    pub repeat: u32,
    /// False: what the store has is not taken, new samples are bought (and kept).
    pub use_cache: bool,
    /// Of requests that wait for a limit the smallest goes first; equal ones in the order of coming.
    pub priority: i32,
    /// Values for templates in the texts: with a context every text is a template over it.
    pub context: Option<serde_json::Map<String, Value>>,
}

impl Create {
    /// A conversation with a chat model, empty so far.
    pub fn chat(model: impl Into<String>) -> Create {
        Create {
            model: model.into(),
            messages: Vec::new(),
            text: None,
            params: BTreeMap::new(),
            n: 1,
            repeat: 0,
            use_cache: true,
            priority: 0,
            context: None,
        }
    }

    /// A text to go on from, for a completion model.
    pub fn text(model: impl Into<String>, text: impl Into<String>) -> Create {
        Create { text: Some(text.into()), ..Create::chat(model) }
    }

    /// The system prompt: it comes first, in place of one that is there.
    #[must_use]
    pub fn system(mut self, text: impl Into<String>) -> Create {
        self.messages.retain(|message| message.role != "system");
        self.messages.insert(0, message("system", text));
        self
    }

    /// Turns of a conversation: texts alternate between user and assistant, the user first.
    #[must_use]
    pub fn history<T: Into<String>>(mut self, turns: impl IntoIterator<Item = T>) -> Create {
        let roles = ["user", "assistant"].into_iter().cycle();
        self.messages.extend(roles.zip(turns).map(|(role, text)| message(role, text)));
        self
    }

    /// One more turn of the user's.
    #[must_use]
    pub fn user(self, text: impl Into<String>) -> Create {
        self.message("user", text)
    }

    /// One more turn of the model's.
    #[must_use]
    pub fn assistant(self, text: impl Into<String>) -> Create {
        self.message("assistant", text)
    }

    /// One more turn of any role.
    #[must_use]
    pub fn message(mut self, role: impl Into<String>, text: impl Into<String>) -> Create {
        self.messages.push(message(role, text));
        self
    }

    /// A parameter of the API, by its name there.
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl Into<Value>) -> Create {
        self.params.insert(name.into(), value.into());
        self
    }

    /// The temperature, 0 to 2.
    #[must_use]
    pub fn temperature(self, temperature: f64) -> Create {
        self.param("temperature", temperature)
    }

    /// Most tokens of one completion.
    #[must_use]
    pub fn max_tokens(self, tokens: u32) -> Create {
        self.param("max_tokens", tokens)
    }

    /// Texts that end a completion.
    #[must_use]
    pub fn stop<T: Into<String>>(self, stops: impl IntoIterator<Item = T>) -> Create {
        let stops: Vec<Value> = stops.into_iter().map(|stop| Value::String(stop.into())).collect();
        self.param("stop", stops)
    }

    /// How many completions.
    #[must_use]
    pub fn n(mut self, n: u32) -> Create {
        self.n = n;
        self
    }

    /// Which block of `n` samples of this same request is meant: another repeat is another draw. Blocks lie one after
    /// the other, so the first use of a later one buys those before it too.
    #[must_use]
    pub fn repeat(mut self, repeat: u32) -> Create {
        self.repeat = repeat;
        self
    }

    /// Of requests that wait for a limit the one of the smallest priority goes first (0 where nothing is said).
    #[must_use]
    pub fn priority(mut self, priority: i32) -> Create {
        self.priority = priority;
        self
    }

    /// Takes nothing from the store: new samples are bought, and kept behind those that are there.
    #[must_use]
    pub fn fresh(mut self) -> Create {
        self.use_cache = false;
        self
    }

    /// Values for the texts, which become templates over them (`{{ name }}`).
    #[must_use]
    pub fn context(mut self, context: serde_json::Map<String, Value>) -> Create {
        self.context = Some(context);
        self
    }

    /// The request as it is sent, for the first `n` samples. The error says what is wrong with it.
    pub fn request(&self) -> Result<Request> {
        let wrong = |what: String| Err(Error::usage(what));
        let input = match (&self.text, self.messages.is_empty()) {
            (Some(_), false) => return wrong("a request has messages or a text, not both".into()),
            (None, true) => return wrong("a request needs messages or a text".into()),
            (Some(text), true) => Input::Text(self.render(text)?),
            (None, false) => Input::Messages(
                self.messages
                    .iter()
                    .map(|turn| Ok(Message { role: turn.role.clone(), content: self.render(&turn.content)? }))
                    .collect::<Result<_>>()?,
            ),
        };
        let mut params = self.params.clone();
        params.retain(|_, value| !value.is_null());
        let n = params.remove("n").unwrap_or_else(|| self.n.into());
        let n = completions(&n).map_err(Error::usage)?;
        check_all(&params).map_err(|(_, problem)| Error::usage(problem))?;
        Ok(Request { model: self.model.clone(), input, params, n })
    }

    fn render(&self, text: &str) -> Result<String> {
        let Some(context) = &self.context else { return Ok(text.to_owned()) };
        let wrong = |problem| Error::usage(format!("this text cannot be rendered: {problem}"));
        let template = Template::compile(text).map_err(wrong)?;
        let fields: BTreeMap<String, Value> = context.clone().into_iter().collect();
        let (fields, none) = (Fields::new(&fields), Fields::new(&BTreeMap::new()));
        template.render(&Context::new(&fields, &none)).map_err(wrong)
    }
}

fn message(role: impl Into<String>, text: impl Into<String>) -> Message {
    Message { role: role.into(), content: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn turns(create: &Create) -> Vec<(String, String)> {
        let Input::Messages(messages) = create.request().unwrap().input else { panic!("no messages") };
        messages.into_iter().map(|message| (message.role, message.content)).collect()
    }

    #[test]
    fn a_list_of_texts_alternates() {
        let ask = Create::chat("m").history(["a", "b", "c"]).system("old").system("new");
        let expected = [("system", "new"), ("user", "a"), ("assistant", "b"), ("user", "c")];
        assert_eq!(turns(&ask), expected.map(|(role, text)| (role.to_owned(), text.to_owned())));
    }

    #[test]
    fn texts_are_templates_only_with_a_context() {
        let ask = Create::chat("m").user("{{ x }} and {{ x }}");
        assert_eq!(turns(&ask)[0].1, "{{ x }} and {{ x }}");
        let context = json!({"x": "<1>"}).as_object().unwrap().clone();
        assert_eq!(turns(&ask.clone().context(context))[0].1, "<1> and <1>");
        let wrong = ask.context(Default::default()).request().unwrap_err().to_string();
        assert!(wrong.contains("`x` is undefined"), "{wrong}");
    }

    #[test]
    fn what_cannot_be_sent_is_refused() {
        for wrong in [
            Create::chat("m"),
            Create::text("m", "x").user("y"),
            Create::text("m", "x").n(0),
            Create::text("m", "x").param("n", 1.5),
            Create::text("m", "x").n(100_001),
            Create::text("m", "x").temperature(3.0),
            Create::text("m", "x").stop([""]),
        ] {
            assert!(wrong.request().is_err(), "{wrong:?}");
        }
        let unset = Create::text("m", "x").param("seed", Value::Null).request().unwrap();
        assert!(unset.params.is_empty(), "null is not set");
        assert_eq!(Create::text("m", "x").param("n", 4).request().unwrap().n, 4);
    }
}
