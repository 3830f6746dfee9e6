//! What came back, and what to take from it.

use serde_json::Value;

use crate::money::Usd;
use crate::provider::Sample;
use crate::store::Fingerprint;

/// The answer to a request: its `n` completions, what they were billed and what they would have cost without the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The completions.
    pub samples: Vec<Sample>,
    /// The model that was asked.
    pub model: String,
    /// The model that the reply names, where it is another name.
    pub replied_model: Option<String>,
    /// The endpoint that answered, where several could have.
    pub endpoint: Option<String>,
    /// Input tokens, as if nothing had been stored.
    pub prompt_tokens: u64,
    /// Output tokens of the completions.
    pub completion_tokens: u64,
    /// Dollars paid for it now: 0 where the store had it.
    pub cost: Usd,
    /// Dollars as if nothing had been stored.
    pub full_cost: Usd,
    /// Nothing had to be asked.
    pub cached: bool,
    /// Requests that were sent for it.
    pub requests: u64,
    /// The tokens of each completion, or all of them, are estimates.
    pub estimated: bool,
    /// The fingerprint that its samples are stored under.
    pub fingerprint: Fingerprint,
    /// Which of several requests this answers, where [`Client::create_any`](super::Client::create_any) tried several.
    pub tried: usize,
    /// It passed the filter; true where there was none.
    pub passed: bool,
}

impl Completion {
    /// The texts of the completions.
    pub fn extract_text(&self) -> Vec<&str> {
        self.samples.iter().map(|sample| sample.text.as_str()).collect()
    }

    /// The first text.
    pub fn text(&self) -> &str {
        self.samples.first().map_or("", |sample| &sample.text)
    }

    /// Each completion's text, or the tool calls that it wants instead (a list, in the form of OpenAI's chat API).
    pub fn extract_text_or_tool_call(&self) -> Vec<TextOrToolCall<'_>> {
        fn one(sample: &Sample) -> TextOrToolCall<'_> {
            match &sample.tool_calls {
                Some(calls) => TextOrToolCall::ToolCalls(calls),
                None => TextOrToolCall::Text(&sample.text),
            }
        }
        self.samples.iter().map(one).collect()
    }
}

/// What a completion is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TextOrToolCall<'a> {
    /// A text.
    Text(&'a str),
    /// Tools to be called.
    ToolCalls(&'a Value),
}
