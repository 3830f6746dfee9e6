//! Counting tokens: exactly, with the tokenizer of OpenAI's model families; else an upper bound from bytes.

use crate::provider::{Input, Request};

/// What a message may cost beside its text: role, separators, and what a server's chat template adds.
const PER_MESSAGE: u64 = 16;
/// What a request may cost beside its messages: priming of the answer, a system prompt that a chat template brings along.
const PER_REQUEST: u64 = 64;

/// A bound on the input tokens of a request that no byte-level tokenizer exceeds: a token is at least one byte.
pub fn input_bound(request: &Request) -> u64 {
    let text: u64 = match &request.input {
        Input::Messages(messages) => {
            messages.iter().map(|message| (message.content.len() + message.role.len()) as u64 + PER_MESSAGE).sum()
        }
        Input::Text(text) => text.len() as u64,
    };
    // Tools and schemas are part of the prompt that is billed.
    let extras = ["tools", "functions", "response_format"].iter().filter_map(|name| request.params.get(*name));
    text + extras.map(|value| value.to_string().len() as u64 * 2).sum::<u64>() + PER_REQUEST
}

/// True where [`count`] knows the model's tokenizer.
pub fn knows(model: &str) -> bool {
    tiktoken_rs::tokenizer::get_tokenizer(model).is_some()
}

/// How many tokens a text is for a model, where its tokenizer is known.
pub fn count(model: &str, text: &str) -> Option<u64> {
    let bpe = tiktoken_rs::bpe_for_model(model).ok()?;
    // Its regex gives up, by a panic, on a million blanks in a row: such a text has no count.
    let counted = || bpe.encode_ordinary(text).len() as u64;
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(counted)).ok()
}

/// The input tokens of a request by its model's own tokenizer, as OpenAI counts them: three a message and three for the
/// answer beside the texts. `None` where the tokenizer is not known or the request holds more than text.
pub fn input_count(request: &Request) -> Option<u64> {
    if ["tools", "functions", "response_format"].iter().any(|name| request.params.contains_key(*name)) {
        return None;
    }
    match &request.input {
        Input::Text(text) => count(&request.model, text),
        Input::Messages(messages) => messages.iter().try_fold(3, |sum, message| {
            // gpt-3.5-turbo-0301 needed four a message; one more than three is the safe side.
            Some(sum + 4 + count(&request.model, &message.role)? + count(&request.model, &message.content)?)
        }),
    }
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
    fn shares_add_up_to_the_bill() {
        assert_eq!(shares("gpt-4o", &["one", "one two three four five six seven", ""], 12), [2, 9, 1]);
        assert_eq!(shares("unknown", &["", ""], 5), [3, 2]);
        assert_eq!(shares("unknown", &[], 0), Vec::<u64>::new());
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
