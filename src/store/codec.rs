//! Samples as bytes, for one column of the database: about as long as their texts, and read without a parser.
//!
//! `count`, then for each sample: `length` and the text's bytes, the reason it ended, its completion tokens. Numbers are
//! LEB128 (seven bits a byte, the lowest first). A reason is one byte: 1 to 4 are the known ones in the order of
//! [`KNOWN`], 0 is another one, whose `length` and bytes follow.
//!
//! What few responses have (tool calls, log-probabilities, tokens of caches and thinking) is JSON in a column of its own.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::provider::{FinishReason, Response, Sample};

/// The reasons that have a number of their own. Only ever append.
const KNOWN: [FinishReason; 4] =
    [FinishReason::STOP, FinishReason::LENGTH, FinishReason::CONTENT_FILTER, FinishReason::UNKNOWN];

/// The bytes for samples.
pub(super) fn encode(samples: &[Sample]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(samples.iter().map(|sample| sample.text.len() + 12).sum::<usize>() + 5);
    put_number(&mut bytes, samples.len() as u64);
    for sample in samples {
        put_text(&mut bytes, &sample.text);
        match KNOWN.iter().position(|reason| *reason == sample.finish_reason) {
            Some(at) => bytes.push(at as u8 + 1),
            None => {
                bytes.push(0);
                put_text(&mut bytes, &sample.finish_reason.0);
            }
        }
        put_number(&mut bytes, sample.completion_tokens);
    }
    bytes
}

/// The samples that [`encode`] wrote, or `None` where the bytes are not its work.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<Sample>> {
    let bytes = &mut bytes;
    let count = usize::try_from(number(bytes)?).ok()?;
    // A sample takes three bytes at least, so a damaged count cannot ask for much memory.
    let mut samples = Vec::with_capacity(count.min(bytes.len() / 3));
    for _ in 0..count {
        let text = text(bytes)?.to_owned();
        let finish_reason = match byte(bytes)? {
            0 => FinishReason(self::text(bytes)?.to_owned().into()),
            known => KNOWN.get(usize::from(known) - 1)?.clone(),
        };
        samples.push(Sample::new(text, finish_reason, number(bytes)?));
    }
    bytes.is_empty().then_some(samples)
}

/// How many samples there are in bytes that [`encode`] wrote; the first ten are enough.
pub(super) fn count(mut bytes: &[u8]) -> Option<u64> {
    number(&mut bytes)
}

/// What few responses have.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Extra {
    #[serde(skip_serializing_if = "is_zero")]
    cache_write_tokens: u64,
    #[serde(skip_serializing_if = "is_zero")]
    reasoning_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<u32>,
    /// By sample, where any has some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Present>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Present>,
}

/// A value, or none: `[value]` or `[]`, so that a JSON null is not taken for none.
type Present = Vec<Value>;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a response has beside its samples' texts and the columns that every one has; `None` where that is nothing.
pub(super) fn encode_extra(response: &Response) -> Option<String> {
    let by_sample = |of: fn(&Sample) -> &Option<Value>| -> Vec<Present> {
        match response.samples.iter().any(|sample| of(sample).is_some()) {
            true => response.samples.iter().map(|sample| of(sample).iter().cloned().collect()).collect(),
            false => Vec::new(),
        }
    };
    let extra = Extra {
        cache_write_tokens: response.cache_write_tokens,
        reasoning_tokens: response.reasoning_tokens,
        endpoint: response.endpoint.clone(),
        asked: response.asked,
        tool_calls: by_sample(|sample| &sample.tool_calls),
        logprobs: by_sample(|sample| &sample.logprobs),
    };
    if extra == Extra::default() {
        return None;
    }
    serde_json::to_string(&extra).ok()
}

/// Puts back what [`encode_extra`] took down; `None` where the text is not its work.
pub(super) fn decode_extra(text: &str, response: &mut Response) -> Option<()> {
    let extra: Extra = serde_json::from_str(text).ok()?;
    response.cache_write_tokens = extra.cache_write_tokens;
    response.reasoning_tokens = extra.reasoning_tokens;
    response.endpoint = extra.endpoint;
    response.asked = extra.asked;
    for (sample, value) in response.samples.iter_mut().zip(extra.tool_calls) {
        sample.tool_calls = value.into_iter().next();
    }
    for (sample, value) in response.samples.iter_mut().zip(extra.logprobs) {
        sample.logprobs = value.into_iter().next();
    }
    Some(())
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_number(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn byte(bytes: &mut &[u8]) -> Option<u8> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(first)
}

fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let next = byte(bytes)?;
        let bits = u64::from(next & 0x7f);
        if bits << shift >> shift != bits {
            return None;
        }
        number |= bits << shift;
        if next < 0x80 {
            return Some(number);
        }
    }
    None
}

fn text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(text: &str, reason: FinishReason, completion_tokens: u64) -> Sample {
        Sample::new(text, reason, completion_tokens)
    }

    #[test]
    fn the_bytes_are_what_they_have_always_been() {
        let samples = [sample("aß", FinishReason::LENGTH, 300), sample("", FinishReason("eos".into()), 0)];
        let bytes = [2, 3, b'a', 0xc3, 0x9f, 2, 0xac, 2, 0, 0, 3, b'e', b'o', b's', 0];
        assert_eq!(encode(&samples), bytes);
        assert_eq!(decode(&bytes).unwrap(), samples);
    }

    #[test]
    fn what_few_responses_have_comes_back() {
        let plain = Response { samples: vec![sample("a", FinishReason::STOP, 1)], ..Response::default() };
        assert_eq!(encode_extra(&plain), None);
        let mut odd = plain.clone();
        odd.samples.push(sample("b", FinishReason::STOP, 2));
        odd.samples[1].tool_calls = Some(serde_json::json!([{"function": {"name": "f", "arguments": "{}"}}]));
        odd.samples[0].logprobs = Some(Value::Null);
        (odd.reasoning_tokens, odd.cache_write_tokens) = (u64::MAX, 7);
        odd.endpoint = Some("here".into());
        let text = encode_extra(&odd).unwrap();
        let mut back = Response { samples: decode(&encode(&odd.samples)).unwrap(), ..Response::default() };
        assert_eq!(decode_extra(&text, &mut back), Some(()));
        assert_eq!(back, odd);
        assert_eq!(decode_extra("[", &mut back), None);
    }

    #[test]
    fn damaged_bytes_are_noticed() {
        for bytes in
            [&[][..], &[1], &[1, 0], &[1, 0, 9, 0], &[1, 5, b'a', 1, 0], &[1, 1, 0xff, 1, 0], &[0, 0], &[0xff; 12]]
        {
            assert_eq!(decode(bytes), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(parts in prop::collection::vec((any::<String>(), 0..6_usize, any::<u64>()), 0..8)) {
            let reason = |at: usize| KNOWN.get(at).cloned().unwrap_or(FinishReason(format!("other {at}").into()));
            let samples: Vec<Sample> = parts.iter().map(|(text, at, tokens)| sample(text, reason(*at), *tokens)).collect();
            prop_assert_eq!(decode(&encode(&samples)), Some(samples));
        }

        #[test]
        fn any_bytes_are_samples_or_not(bytes: Vec<u8>) {
            if let Some(samples) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&samples)), Some(samples));
            }
        }
    }
}
