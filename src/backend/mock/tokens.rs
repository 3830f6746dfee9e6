//! The made-up models' tokenizer: plain rules, so that anyone can count along.
//!
//! A token is one of: a run of letters, at most six (a longer word is cut into sixes); a run of digits, at most three;
//! a run of line breaks; any other single character. One space before a word, a number or a sign belongs to it. Every
//! token is at least one byte long, so there are never more tokens than bytes.

use std::iter;

use crate::provider::Input;

/// What the roles and the separators of one chat message cost, in tokens.
const PER_MESSAGE: u64 = 4;
/// What the opening of the reply costs in a chat, in tokens.
const PER_REPLY: u64 = 3;

/// Cuts a text into tokens, in order; together they are the text.
pub fn tokens(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (token, after) = rest.split_at(first_token(rest));
        rest = after;
        Some(token)
    })
}

/// The length in bytes of the first token of a text that is not empty.
fn first_token(text: &str) -> usize {
    let mut chars = text.char_indices();
    let Some((_, mut first)) = chars.next() else { return 0 };
    if first == ' ' {
        match chars.next() {
            Some((_, second)) if !second.is_whitespace() => first = second,
            _ => return 1,
        }
    }
    let start = chars.offset() - first.len_utf8();
    let run = |most: usize, belongs: fn(char) -> bool| {
        start + text[start..].chars().take(most).take_while(|&c| belongs(c)).map(char::len_utf8).sum::<usize>()
    };
    match first {
        c if c.is_alphabetic() => run(6, char::is_alphabetic),
        c if c.is_ascii_digit() => run(3, |c| c.is_ascii_digit()),
        '\n' => run(usize::MAX, |c| c == '\n'),
        c => start + c.len_utf8(),
    }
}

/// How many tokens a text has; never more than it has bytes.
pub fn count(text: &str) -> u64 {
    tokens(text).count() as u64
}

/// The beginning of a text that is at most `most` tokens long, and whether anything was cut off.
pub fn first(text: &str, most: u64) -> (&str, bool) {
    let length: usize = tokens(text).take(usize::try_from(most).unwrap_or(usize::MAX)).map(str::len).sum();
    (&text[..length], length < text.len())
}

/// The tokens that a prompt is billed at: those of the texts, and in a chat four a message and three for the reply
/// (so never more than eight a message above the bytes).
pub fn prompt(input: &Input) -> u64 {
    match input {
        Input::Text(text) => count(text),
        Input::Messages(messages) => {
            messages.iter().map(|message| PER_MESSAGE + count(&message.content)).sum::<u64>() + PER_REPLY
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cuts_words_numbers_and_signs() {
        let pieces: Vec<_> = tokens("Ann's marmalade,  1234 + 5\n\nÄpfel").collect();
        assert_eq!(pieces, ["Ann", "'", "s", " marmal", "ade", ",", " ", " 123", "4", " +", " 5", "\n\n", "Äpfel"]);
        assert_eq!((count(""), count(" "), count("  a")), (0, 1, 2));
        assert_eq!(first("one two three", 2), ("one two", true));
        assert_eq!(first("one two", 2), ("one two", false));
    }

    proptest! {
        #[test]
        fn tokens_are_the_text_and_never_more_than_its_bytes(text in "(\\PC|[ \n\t0-9a-z.])*", most in 0_u64..20) {
            prop_assert_eq!(tokens(&text).collect::<String>(), text.clone());
            prop_assert!(tokens(&text).all(|token| !token.is_empty()));
            prop_assert!(count(&text) <= text.len() as u64);
            prop_assert!(count(first(&text, most).0) <= most);
        }

        /// Wherever a stop sequence cuts, the part has no more tokens than the whole: a bill within max_tokens stays so.
        #[test]
        fn a_part_has_no_more_tokens_than_the_whole(text in "(\\PC|[ \n0-9a-z.])*") {
            for (at, _) in text.char_indices() {
                prop_assert!(count(&text[..at]) <= count(&text));
            }
        }
    }
}
