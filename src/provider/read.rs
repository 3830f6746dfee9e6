//! Reading replies. What was paid for is not thrown away for an odd field, so every field is read leniently: a value of
//! another kind than expected counts as absent. Texts are borrowed from the reply.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::provider::tokens;
use crate::provider::{Failure, FailureKind, FinishReason, Refusal, Request, Response, Sample, refusal};

/// Ten times the largest context window there is: a bill for more tokens than that is none.
const MOST_TOKENS: u64 = 100_000_000;

/// Values of other kinds count as absent: the parts of a visitor that say so.
macro_rules! else_absent {
    ($($kind:ident),*) => { $(else_absent!(@ $kind);)* };
    (@ scalar) => {
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_unit<E>(self) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ number) => {
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> { Ok(Default::default()) }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ text) => {
        fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> { Ok(Default::default()) }
    };
    (@ list) => {
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
    (@ object) => {
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(Default::default())
        }
    };
    (@ expecting) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("any value") }
    };
}

/// A text.
#[derive(Debug, Default)]
pub(super) struct Word<'a>(pub(super) Option<Cow<'a, str>>);

impl Word<'_> {
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Word<'de>;
            else_absent!(expecting, scalar, number, list, object);
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Word(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Word(Some(Cow::Owned(text.to_owned()))))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A text, or a list of parts with a text each.
#[derive(Debug, Default)]
pub(super) struct Parts<'a>(pub(super) Option<Cow<'a, str>>);

/// One part.
#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Word<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Parts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Parts<'de>;
            else_absent!(expecting, scalar, number);
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Parts(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Parts(Some(Cow::Owned(text.to_owned()))))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut whole = String::new();
                while let Some(Parts(part)) = list.next_element()? {
                    whole.push_str(part.as_deref().unwrap_or_default());
                }
                Ok(Parts(Some(Cow::Owned(whole))))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Part::deserialize(MapAccessDeserializer::new(map)).map(|part| Parts(part.text.0))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// A count of tokens: a whole number from 0 to [`MOST_TOKENS`]; anything else is no count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Count(pub(super) Option<u64>);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Count;
            else_absent!(expecting, scalar, text, list, object);
            fn visit_u64<E>(self, count: u64) -> Result<Self::Value, E> {
                Ok(Count((count <= MOST_TOKENS).then_some(count)))
            }
            fn visit_i64<E>(self, count: i64) -> Result<Self::Value, E> {
                Ok(Count(u64::try_from(count).ok().filter(|count| *count <= MOST_TOKENS)))
            }
            fn visit_f64<E>(self, count: f64) -> Result<Self::Value, E> {
                let whole = count >= 0.0 && count.fract() == 0.0 && count <= MOST_TOKENS as f64;
                Ok(Count(whole.then_some(count as u64)))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// An object.
#[derive(Debug)]
pub(super) struct Loose<T>(pub(super) Option<T>);

impl<T> Default for Loose<T> {
    fn default() -> Self {
        Loose(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Loose<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Loose<T>;
            else_absent!(expecting, scalar, number, text, list);
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|value| Loose(Some(value)))
            }
        }
        deserializer.deserialize_any(Reader(std::marker::PhantomData))
    }
}

/// A list of objects; what is none in it is left out.
#[derive(Debug)]
pub(super) struct Objects<T>(pub(super) Vec<T>);

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Objects(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Objects<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Reader<T> {
            type Value = Objects<T>;
            else_absent!(expecting, scalar, number, text, object);
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut all = Vec::new();
                while let Some(Loose(item)) = list.next_element::<Loose<T>>()? {
                    all.extend(item);
                }
                Ok(Objects(all))
            }
        }
        deserializer.deserialize_any(Reader(std::marker::PhantomData))
    }
}

/// A value that is neither null nor an empty list.
pub(super) fn something(value: Option<Value>) -> Option<Value> {
    value.filter(|value| !value.is_null() && !value.as_array().is_some_and(Vec::is_empty))
}

/// Reads a reply. Where its JSON is spoilt by half a character (an emoji cut at the token limit) that is mended in `spare`.
pub(super) fn json<'a, T: Deserialize<'a>>(body: &'a [u8], spare: &'a mut Vec<u8>) -> Result<T, Refusal> {
    let error = match serde_json::from_slice(body) {
        Ok(reply) => return Ok(reply),
        Err(error) => error,
    };
    if let Some(mended) = mended(body).filter(|_| !error.is_eof()) {
        *spare = mended;
        if let Ok(reply) = serde_json::from_slice(spare) {
            return Ok(reply);
        }
    }
    Err(malformed(format!("the reply is not the JSON of a completion ({error}): {}", refusal::excerpt(body))))
}

/// A reply with U+FFFD in place of bytes that are no UTF-8 and of escapes of half a character; `None` where there are none.
fn mended(body: &[u8]) -> Option<Vec<u8>> {
    let text = String::from_utf8_lossy(body);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let half = |at: usize| -> Option<u32> {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    };
    let mut mended = String::with_capacity(text.len());
    let mut rest = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find('\\').map(|found| at + found) {
        at = found + 2;
        match (half(found), half(found + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => at = found + 12,
            (Some(0xd800..=0xdfff), _) => {
                mended.push_str(&text[rest..found]);
                mended.push_str("\\ufffd");
                at = found + 6;
                rest = at;
            }
            _ => {}
        }
        // Behind an escape that was cut there may be the middle of a character.
        while at < text.len() && !text.is_char_boundary(at) {
            at += 1;
        }
        if at >= text.len() {
            break;
        }
    }
    mended.push_str(text.get(rest..).unwrap_or_default());
    (mended.as_bytes() != body).then(|| mended.into_bytes())
}

/// What cannot be read was answered all the same, so it may be billed.
pub(super) fn malformed(what: impl Into<String>) -> Refusal {
    Refusal::of(Failure::new(FailureKind::MalformedReply, what), true)
}

/// A completion as it was read, before its share of the bill is known.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) finish_reason: FinishReason,
    pub(super) tool_calls: Option<Value>,
    pub(super) logprobs: Option<Value>,
    /// Bytes that the model wrote beside the text and that are billed: thoughts.
    pub(super) thought: usize,
}

impl Draft {
    pub(super) fn new(text: impl Into<String>, finish_reason: FinishReason) -> Draft {
        Draft { text: text.into(), finish_reason, tool_calls: None, logprobs: None, thought: 0 }
    }

    /// What was written beside the text, in bytes.
    fn beside(&self) -> usize {
        self.thought + self.tool_calls.as_ref().map_or(0, |calls| calls.to_string().len())
    }
}

/// What a reply says of its bill, for all completions together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// All input tokens, cached ones too.
    pub(super) input: Option<u64>,
    pub(super) cached: u64,
    pub(super) written: u64,
    /// All output tokens, thoughts too.
    pub(super) output: Option<u64>,
    pub(super) reasoning: u64,
}

/// A finish reason from a provider's word: the words of OpenAI where there is one, else as it came.
pub(super) fn finish(word: Option<&str>) -> FinishReason {
    match word {
        Some("stop") => FinishReason::STOP,
        Some("length") => FinishReason::LENGTH,
        Some("content_filter") => FinishReason::CONTENT_FILTER,
        Some("tool_calls") => FinishReason(Cow::Borrowed("tool_calls")),
        Some("refusal") => FinishReason::REFUSAL,
        None | Some("") => FinishReason::UNKNOWN,
        Some(other) => FinishReason(Cow::Owned(other.to_owned())),
    }
}

/// Puts completions and their bill together. What usage does not say, or says impossibly, is counted where `exact` says
/// that the tokenizer known by the model's name is the endpoint's own, else bounded by bytes; then the response is marked.
pub(super) fn settle(
    request: &Request,
    n: u32,
    mut drafts: Vec<Draft>,
    usage: Usage,
    model: Option<&str>,
    exact: bool,
) -> Result<Response, Refusal> {
    if drafts.is_empty() {
        return Err(malformed("the reply has no choices"));
    }
    // What was not asked for belongs to no request; its tokens stay in the bill.
    drafts.truncate(n.max(1) as usize);
    let wrote = drafts.iter().any(|draft| !draft.text.is_empty());
    // Nothing is written, or asked, for no tokens at all: such a server does not count.
    let input = usage.input.filter(|count| *count > 0);
    let output = usage.output.filter(|count| *count > 0 || !wrote);
    let guessed = input.is_none() || output.is_none();
    let exact = exact || tokens::given(&request.model);
    let prompt_tokens = input.unwrap_or_else(|| {
        let counted = exact.then(|| tokens::input_count(request)).flatten();
        counted.unwrap_or_else(|| tokens::input_bound(request))
    });
    let size = |draft: &Draft| {
        let counted = exact.then(|| tokens::count(&request.model, &draft.text)).flatten();
        counted.unwrap_or(draft.text.len() as u64) + draft.beside() as u64 + 1
    };
    let total = output.unwrap_or_else(|| drafts.iter().map(size).sum());
    let shares = match &drafts[..] {
        [_] => vec![total],
        _ => {
            let texts: Vec<&str> = drafts.iter().map(|draft| draft.text.as_str()).collect();
            tokens::shares(&request.model, &texts, total)
        }
    };
    // A share of nothing is known.
    let estimated = (drafts.len() > 1 && total > 0) || guessed;
    let sample = |(draft, completion_tokens): (Draft, u64)| Sample {
        text: draft.text,
        finish_reason: draft.finish_reason,
        completion_tokens,
        tool_calls: something(draft.tool_calls),
        logprobs: something(draft.logprobs),
    };
    let cached_tokens = usage.cached.min(prompt_tokens);
    Ok(Response {
        samples: drafts.into_iter().zip(shares).map(sample).collect(),
        prompt_tokens,
        cached_tokens,
        cache_write_tokens: usage.written.min(prompt_tokens - cached_tokens),
        reasoning_tokens: usage.reasoning.min(total),
        model: model.filter(|model| !model.is_empty() && *model != request.model).map(str::to_owned),
        estimated,
        output_unsaid: output.is_none(),
        ..Response::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_characters_are_mended() {
        let read = |body: &str| -> String { json::<String>(body.as_bytes(), &mut Vec::new()).unwrap() };
        assert_eq!(read(r#""a\ud83d""#), "a\u{fffd}");
        assert_eq!(read(r#""\udc00b\ud83d\ude00""#), "\u{fffd}b😀");
        assert_eq!(read(r#""\\ud83d""#), "\\ud83d");
        assert_eq!(read("\u{feff}\"x\""), "x");
        assert_eq!(json::<String>(b"\"a\xff\"", &mut Vec::new()).unwrap(), "a\u{fffd}");
        assert!(json::<String>(b"\"a", &mut Vec::new()).is_err(), "a cut reply stays cut");
    }

    #[test]
    fn a_value_of_another_kind_counts_as_absent() {
        for text in ["null", "1", "-1", "1.5", "true", "[1,[2]]", "{\"a\":{}}"] {
            assert!(serde_json::from_str::<Word>(text).unwrap().0.is_none(), "{text}");
        }
        for text in ["null", "-1", "1.5", "1e300", "100000001", "18446744073709551615", "\"12\"", "[1]", "{}"] {
            assert!(serde_json::from_str::<Count>(text).unwrap().0.is_none(), "{text}");
        }
        assert_eq!(serde_json::from_str::<Count>("12.0").unwrap().0, Some(12));
        assert_eq!(serde_json::from_str::<Parts>(r#"["a", {"text": "b"}, 3, null]"#).unwrap().0.as_deref(), Some("ab"));
        assert!(serde_json::from_str::<Loose<Part>>("[]").unwrap().0.is_none());
        assert_eq!(serde_json::from_str::<Objects<Part>>("[{}, 1]").unwrap().0.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn mending_never_panics(body: Vec<u8>, text in "[\\\\ud8cf3\"é😀]{0,40}") {
            let _ = mended(&body);
            let _ = mended(text.as_bytes());
        }
    }
}
