//! A model's tokens: texts into tokens, and each token's bytes back.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::diagnostic::{Error, Result};

/// Prompts whose tokens are remembered: each is counted for the budget before it is asked.
const REMEMBERED: usize = 4096;

/// A tokenizer, with what each token is in bytes.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    bytes: Vec<Box<[u8]>>,
    /// How many tokens the model knows.
    size: usize,
    special: HashSet<u32>,
    /// A text begins without the blank that its first word's token has.
    pub strips: bool,
    seen: Mutex<HashMap<[u8; 32], Arc<[u32]>>>,
}

impl Vocabulary {
    /// Reads a `tokenizer.json`; the model knows `size` tokens.
    pub fn read(name: &str, text: &[u8], size: usize) -> Result<Vocabulary> {
        let broken = |what: String| {
            Error::usage(format!("{name} is no tokenizer: {what}"))
                .help("it is the tokenizer.json that models on Hugging Face come with")
        };
        let text = std::str::from_utf8(text).map_err(|error| broken(error.to_string()))?;
        let source = crate::diagnostic::Source::new(name, text);
        let fields = super::config::object(&source)?;
        let tokenizer = super::weights::caught(|| {
            text.parse::<Tokenizer>().map_err(|error| candle_core::Error::Msg(error.to_string()))
        });
        Vocabulary::new(name, tokenizer.map_err(broken)?, &Value::Object(fields), size)
    }

    /// With a tokenizer and its form in JSON.
    pub fn new(name: &str, tokenizer: Tokenizer, json: &Value, size: usize) -> Result<Vocabulary> {
        let most = |added: bool| {
            let tokens = tokenizer.get_vocab(added);
            tokens.values().copied().max().map_or(0, |most| most as usize + 1)
        };
        // Added tokens beyond what the model knows are of a relative, like the one for pictures in Gemma 3's tokenizer.
        let (known, most) = (most(false), most(true));
        if known > size {
            return Err(Error::usage(format!("{name} has {known} tokens, and the model knows {size}"))
                .help("the tokenizer and the configuration are not of one model"));
        }
        if let Some(decoder) = unknown_decoder(json) {
            return Err(Error::usage(format!("{name} makes words of tokens by `{decoder}`, which is not known here"))
                .help("ByteLevel, ByteFallback and Metaspace are: those of causal language models"));
        }
        let tokenizer = crate::provider::tokens::whole(tokenizer)
            .map_err(|error| Error::usage(format!("{name} cannot be used: {error}")))?;
        let added = tokenizer.get_added_tokens_decoder();
        let special: HashSet<u32> = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let form = Form::of(json);
        let bytes = (0..most as u32)
            .map(|id| match added.get(&id) {
                Some(token) => token.content.as_bytes().into(),
                None => tokenizer.id_to_token(id).map_or_else(Box::default, |token| form.bytes(&token)),
            })
            .collect();
        let strips = json["decoder"]["decoders"]
            .as_array()
            .is_some_and(|decoders| decoders.iter().any(|decoder| decoder["type"] == "Strip"))
            || json["decoder"]["type"] == "Metaspace";
        Ok(Vocabulary { tokenizer, bytes, size, special, strips, seen: Mutex::default() })
    }

    /// A text's tokens; `with_begin` adds what the tokenizer puts around a text of its own.
    pub fn encode(&self, text: &str, with_begin: bool) -> std::result::Result<Arc<[u32]>, String> {
        let key = *blake3::Hasher::new().update(&[u8::from(with_begin)]).update(text.as_bytes()).finalize().as_bytes();
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokens) = seen().get(&key) {
            return Ok(tokens.clone());
        }
        let encode = || {
            let encoded = self.tokenizer.encode_fast(text, with_begin);
            encoded.map_err(|error| candle_core::Error::Msg(error.to_string()))
        };
        let tokens: Arc<[u32]> = super::weights::caught(encode)?.get_ids().into();
        if let Some(token) = tokens.iter().find(|token| **token as usize >= self.size) {
            return Err(format!(
                "`{}` is a token that the model does not know",
                String::from_utf8_lossy(self.raw(*token))
            ));
        }
        let mut seen = seen();
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        seen.insert(key, tokens.clone());
        Ok(tokens)
    }

    /// What a token adds to a text: nothing for one that is no text, like the end.
    pub fn text(&self, token: u32) -> &[u8] {
        if self.special.contains(&token) { &[] } else { self.raw(token) }
    }

    /// A token's bytes, as it is written.
    pub fn raw(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], |bytes| bytes)
    }

    /// The token of a written form.
    pub fn token(&self, written: &str) -> Option<u32> {
        self.tokenizer.token_to_id(written)
    }
}

/// The decoder of a tokenizer, where a token's bytes hang on its neighbours in a way that is not known here.
fn unknown_decoder(json: &Value) -> Option<&str> {
    let decoder = &json["decoder"];
    let several = decoder["decoders"].as_array().map_or(std::slice::from_ref(decoder), Vec::as_slice);
    several.iter().filter_map(|one| one["type"].as_str()).find(|kind| ["WordPiece", "BPEDecoder", "CTC"].contains(kind))
}

/// How a tokenizer writes bytes as tokens.
enum Form {
    /// Each byte is a printable character (GPT-2 and most since).
    ByteLevel(HashMap<char, u8>),
    /// A low line for blanks, `<0x0A>` for bytes (SentencePiece).
    Pieces,
    /// Words with blanks between them.
    Words,
    /// As they are.
    Plain,
}

impl Form {
    fn of(json: &Value) -> Form {
        let text = json["decoder"].to_string();
        let has = |kind: &str| text.contains(&format!("\"type\":\"{kind}\""));
        if has("ByteLevel") {
            Form::ByteLevel(byte_characters())
        } else if has("ByteFallback") || has("Metaspace") || text.contains('\u{2581}') {
            Form::Pieces
        } else if json["model"]["type"] == "WordLevel" && json["decoder"].is_null() {
            Form::Words
        } else {
            Form::Plain
        }
    }

    fn bytes(&self, token: &str) -> Box<[u8]> {
        match self {
            Form::ByteLevel(characters) => {
                let bytes: Option<Vec<u8>> = token.chars().map(|c| characters.get(&c).copied()).collect();
                bytes.map_or_else(|| token.as_bytes().into(), Vec::into_boxed_slice)
            }
            Form::Pieces => {
                let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
                match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => [byte].into(),
                    None => token.replace('\u{2581}', " ").into_bytes().into_boxed_slice(),
                }
            }
            Form::Words => format!(" {token}").into_bytes().into_boxed_slice(),
            Form::Plain => token.as_bytes().into(),
        }
    }
}

/// The character that stands for each byte: printable ones for themselves, the others for those from 256 on.
fn byte_characters() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256_u32;
    (0..=255_u8)
        .filter_map(|byte| {
            let code = if printable(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            Some((char::from_u32(code)?, byte))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three words, and a token for pictures that the model may not know.
    fn words(decoder: Value) -> String {
        let token = serde_json::json!({"id": 3, "content": "<image>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true});
        serde_json::json!({
            "version": "1.0",
            "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "a"},
            "added_tokens": [token], "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": null, "decoder": decoder,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2}, "unk_token": "a"},
        })
        .to_string()
    }

    #[test]
    fn texts_are_neither_cut_nor_filled() {
        let vocabulary = Vocabulary::read("t", words(Value::Null).as_bytes(), 4).unwrap();
        assert_eq!(vocabulary.encode("a b c b", true).unwrap()[..], [0, 1, 2, 1]);
        assert_eq!(vocabulary.encode("c", true).unwrap()[..], [2]);
    }

    #[test]
    fn added_tokens_that_the_model_does_not_know_are_refused_where_they_are_used() {
        let vocabulary = Vocabulary::read("t", words(Value::Null).as_bytes(), 3).unwrap();
        assert_eq!(vocabulary.encode("a b", false).unwrap()[..], [0, 1]);
        assert_eq!(
            vocabulary.encode("a <image> b", false).unwrap_err(),
            "`<image>` is a token that the model does not know"
        );
        assert!(Vocabulary::read("t", words(Value::Null).as_bytes(), 2).is_err(), "of another model");
    }

    #[test]
    fn a_decoder_that_is_not_known_is_named() {
        let decoder = serde_json::json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
        let error = Vocabulary::read("t", words(decoder).as_bytes(), 4).map(|_| ()).unwrap_err();
        assert_eq!(error.message(), "t makes words of tokens by `WordPiece`, which is not known here");
    }

    #[test]
    fn tokens_are_bytes() {
        let level = Form::of(&serde_json::json!({"decoder": {"type": "ByteLevel"}}));
        assert_eq!(&*level.bytes("\u{120}the"), b" the");
        assert_eq!(&*level.bytes("\u{10a}"), b"\n");
        assert_eq!(&*level.bytes("\u{c3}\u{a9}"), "é".as_bytes());
        let pieces = Form::of(&serde_json::json!({"decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "}, {"type": "ByteFallback"}]}}));
        assert_eq!(&*pieces.bytes("\u{2581}the"), b" the");
        assert_eq!(&*pieces.bytes("<0x0A>"), b"\n");
        assert_eq!(byte_characters().len(), 256);
    }
}
