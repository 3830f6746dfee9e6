//! Counting tokens: exactly, with the tokenizer of OpenAI's model families or one that `farthing.toml` gives for a model;
//! else an upper bound from bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Input, Request};

/// A tokenizer from a `tokenizer.json`.
#[cfg(feature = "tokenizers")]
type Given = tokenizers::Tokenizer;
/// A build without the feature has none.
#[cfg(not(feature = "tokenizers"))]
type Given = std::convert::Infallible;

/// The tokenizers that were given, by the model's id at its endpoint.
static GIVEN: RwLock<BTreeMap<String, (PathBuf, Arc<Given>)>> = RwLock::new(BTreeMap::new());

/// Counts a model's tokens with the tokenizer of a `tokenizer.json` (Hugging Face's form) from now on, in this process.
/// `Err` says in words what is wrong with the file.
pub fn give(model: &str, path: &Path) -> Result<(), String> {
    let known = GIVEN.read().unwrap_or_else(PoisonError::into_inner).get(model).is_some_and(|(old, _)| old == path);
    if known {
        return Ok(());
    }
    let tokenizer = Arc::new(load(path)?);
    GIVEN.write().unwrap_or_else(PoisonError::into_inner).insert(model.to_owned(), (path.to_owned(), tokenizer));
    Ok(())
}

#[cfg(feature = "tokenizers")]
fn load(path: &Path) -> Result<Given, String> {
    let text = std::fs::read(path).map_err(|error| error.to_string())?;
    let tokenizer = Given::from_bytes(text).map_err(|error| error.to_string())?;
    whole(tokenizer).map_err(|error| error.to_string())
}

/// A tokenizer that neither cuts nor fills texts: files of models that were trained on say how their trainer did.
#[cfg(feature = "tokenizers")]
pub(crate) fn whole(mut tokenizer: Given) -> tokenizers::Result<Given> {
    tokenizer.with_truncation(None)?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

#[cfg(not(feature = "tokenizers"))]
fn load(_path: &Path) -> Result<Given, String> {
    Err("this farthing was built without the feature `tokenizers`".to_owned())
}

/// True where a tokenizer was [given](give) for a model.
pub fn given(model: &str) -> bool {
    GIVEN.read().unwrap_or_else(PoisonError::into_inner).contains_key(model)
}

#[cfg(feature = "tokenizers")]
fn count_by(tokenizer: &Given, text: &str) -> Option<u64> {
    tokenizer.encode_fast(text, false).ok().map(|encoding| encoding.len() as u64)
}

#[cfg(not(feature = "tokenizers"))]
fn count_by(tokenizer: &Given, _text: &str) -> Option<u64> {
    match *tokenizer {}
}

/// What a message may cost beside its text: role, separators, and what a server's chat template adds.
const PER_MESSAGE: u64 = 16;
/// What a request may cost beside its messages: priming of the answer, a system prompt that a chat template brings along.
const PER_REQUEST: u64 = 64;

/// Parameters that are part of the prompt that is billed, body fields of the providers' own among them.
pub const PROMPT_PARAMETERS: [&str; 10] = [
    "tools",
    "functions",
    "response_format",
    "system",
    "systemInstruction",
    "system_instruction",
    "instructions",
    "suffix",
    "documents",
    "prediction",
];

/// A bound on the input tokens of a request that no byte-level tokenizer exceeds: a token is at least one byte.
pub fn input_bound(request: &Request) -> u64 {
    let text: u64 = match &request.input {
        Input::Messages(messages) => {
            messages.iter().map(|message| (message.content.len() + message.role.len()) as u64 + PER_MESSAGE).sum()
        }
        Input::Text(text) => text.len() as u64,
    };
    let extras = PROMPT_PARAMETERS.iter().filter_map(|name| request.params.get(*name));
    text + extras.map(|value| value.to_string().len() as u64 * 2).sum::<u64>() + PER_REQUEST
}

/// True where [`count`] knows the model's tokenizer.
pub fn knows(model: &str) -> bool {
    given(model) || tiktoken_rs::tokenizer::get_tokenizer(model).is_some()
}

/// How many tokens a text is for a model, where its tokenizer is known.
pub fn count(model: &str, text: &str) -> Option<u64> {
    let given = GIVEN.read().unwrap_or_else(PoisonError::into_inner).get(model).map(|(_, tokenizer)| tokenizer.clone());
    if let Some(tokenizer) = given {
        return count_by(&tokenizer, text);
    }
    let bpe = tiktoken_rs::bpe_for_model(model).ok()?;
    // Its regex gives up, by a panic, on a million blanks in a row: such a text has no count.
    let counted = || bpe.encode_ordinary(text).len() as u64;
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(counted)).ok()
}

/// The input tokens of a request by its model's own tokenizer, as OpenAI counts them: three a message and three for the
/// answer beside the texts; with a tokenizer that was given, with room for what a server's chat template adds. `None` where
/// the tokenizer is not known or the request holds more than text.
pub fn input_count(request: &Request) -> Option<u64> {
    // gpt-3.5-turbo-0301 needed four a message; one more than three is the safe side.
    let (per_request, per_message) = if given(&request.model) { (PER_REQUEST, PER_MESSAGE) } else { (3, 4) };
    if PROMPT_PARAMETERS.iter().any(|name| request.params.contains_key(*name)) {
        return None;
    }
    match &request.input {
        Input::Text(text) => count(&request.model, text),
        Input::Messages(messages) => messages.iter().try_fold(per_request, |sum, message| {
            Some(sum + per_message + count(&request.model, &message.role)? + count(&request.model, &message.content)?)
        }),
    }
}

/// The tokens of a request's texts alone, by its model's own tokenizer: the least that its input can have. `None` where the
/// tokenizer is not known.
pub fn texts(request: &Request) -> Option<u64> {
    match &request.input {
        Input::Text(text) => count(&request.model, text),
        Input::Messages(messages) => {
            messages.iter().try_fold(0, |sum, message| Some(sum + count(&request.model, &message.content)?))
        }
    }
}

/// Whether a request and `output` tokens of answer fit a context window of `window` tokens: `None` where that cannot be told
/// without the model's tokenizer. Counts only where the bound from bytes does not settle it.
pub fn fits_context(request: &Request, output: u64, window: u64) -> Option<bool> {
    let left = window.saturating_sub(output);
    if output <= window && input_bound(request) <= left {
        return Some(true);
    }
    // Four a message and three a request is what OpenAI counts at least; what a chat template adds may be more.
    input_count(request).map(|count| output <= window && count <= left)
}

/// Splits a bill for `total` output tokens over texts in proportion to their tokens (bytes where the tokenizer is not
/// known), by the largest remainder, so that the shares add up to the bill.
pub fn shares(model: &str, texts: &[&str], total: u64) -> Vec<u64> {
    if texts.len() == 1 {
        return vec![total];
    }
    // Every completion is billed for at least the token that ends it.
    let weight = |text: &&str| u128::from(count(model, text).unwrap_or(text.len() as u64)) + 1;
    let weights: Vec<u128> = texts.iter().map(weight).collect();
    let sum: u128 = weights.iter().sum::<u128>().max(1);
    let exact: Vec<u128> = weights.iter().map(|weight| weight * u128::from(total)).collect();
    let mut shares: Vec<u64> = exact.iter().map(|share| (share / sum) as u64).collect();
    let mut by_remainder: Vec<usize> = (0..texts.len()).collect();
    by_remainder.sort_by_key(|&at| (std::cmp::Reverse(exact[at] % sum), at));
    let left = total - shares.iter().sum::<u64>();
    by_remainder.iter().take(left as usize).for_each(|&at| shares[at] += 1);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Message;
    use proptest::prelude::*;

    fn chat(model: &str, text: &str) -> Request {
        let message = Message { role: "user".into(), content: text.into() };
        Request { model: model.into(), input: Input::Messages(vec![message]), params: Default::default(), n: 1 }
    }

    #[test]
    fn openai_families_are_counted_exactly() {
        assert_eq!(count("gpt-4", "hello world"), Some(2));
        assert_eq!(count("gpt-4o", "hello world"), Some(2));
        assert_eq!(count("no-such-model", "hello world"), None);
        // One message of one token: the API bills 8 (3 + 3 + role + text); ours is one more, on the safe side.
        assert_eq!(input_count(&chat("gpt-4o", "hello")), Some(9));
    }

    #[test]
    fn body_fields_that_are_read_are_bounded() {
        let bare = input_bound(&chat("gpt-4o", "hello"));
        for name in ["system", "systemInstruction", "instructions", "suffix", "documents", "prediction"] {
            let mut request = chat("gpt-4o", "hello");
            request.params.insert(name.to_owned(), "x".repeat(1000).into());
            assert!(input_bound(&request) >= bare + 1000, "{name}");
            assert_eq!(input_count(&request), None, "{name}");
        }
    }

    #[test]
    fn shares_add_up_to_the_bill() {
        assert_eq!(shares("gpt-4o", &["one", "one two three four five six seven", ""], 12), [2, 9, 1]);
        assert_eq!(shares("unknown", &["", ""], 5), [3, 2]);
        assert_eq!(shares("unknown", &[], 0), Vec::<u64>::new());
    }

    #[test]
    fn a_context_is_judged_by_bytes_then_by_count() {
        let text = "hello world ".repeat(50);
        let request = chat("gpt-4o", &text);
        assert_eq!(fits_context(&request, 100, 1000), Some(true));
        assert_eq!(fits_context(&request, 100, 300), Some(true), "by count: about 110 tokens of 600 bytes");
        assert_eq!(fits_context(&request, 100, 150), Some(false));
        assert_eq!(fits_context(&request, 10, 5), Some(false));
        assert_eq!(fits_context(&chat("unknown", &text), 100, 300), None);
    }

    /// A tokenizer of words, as small as the form allows.
    #[cfg(feature = "tokenizers")]
    #[test]
    fn a_given_tokenizer_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "one": 1, "two": 2}, "unk_token": "[UNK]"},
        });
        std::fs::write(&path, json.to_string()).unwrap();
        assert_eq!(count("words-of-mine", "one two three"), None);
        give("words-of-mine", &path).unwrap();
        give("words-of-mine", &path).unwrap();
        assert_eq!(count("words-of-mine", "one two three"), Some(3));
        assert_eq!(input_count(&chat("words-of-mine", "one two")), Some(64 + 16 + 1 + 2));
        std::fs::write(&path, "{}").unwrap();
        assert!(give("other-words", &path).is_err());
        assert!(give("other-words", &folder.path().join("none.json")).is_err());
        assert!(!given("other-words"));
    }

    proptest! {
        #[test]
        fn the_bound_bounds(text in "\\PC{0,200}") {
            let request = chat("gpt-4o", &text);
            prop_assert!(input_count(&request).unwrap() <= input_bound(&request));
        }

        #[test]
        fn nothing_is_lost_in_sharing(texts in proptest::collection::vec("[a-z ]{0,40}", 1..12), total in 0_u64..5000) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            prop_assert_eq!(shares("gpt-4o", &texts, total).iter().sum::<u64>(), total);
        }
    }
}
