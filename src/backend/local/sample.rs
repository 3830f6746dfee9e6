//! One completion as it grows: picks each token, matches stop sequences in the text, and keeps log probabilities.

use std::collections::BTreeMap;
use std::sync::Arc;

use farthing_kernels as kernels;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha12Rng;
use serde_json::{Value, json};

use super::settings::Settings;
use super::vocabulary::Vocabulary;
use crate::provider::{self, FinishReason};

/// The log probability of one token, and the likeliest ones in its place.
#[derive(Clone, Debug)]
pub struct Record {
    token: u32,
    /// `None` for the first token of a prompt.
    logprob: Option<f64>,
    top: Vec<(u32, f64)>,
    /// Where its text begins.
    from: usize,
}

impl Record {
    /// Of a token, by the logits of its place.
    pub fn new(token: u32, logits: Option<&[f32]>, top: usize, from: usize) -> Record {
        let Some(logits) = logits else { return Record { token, logprob: None, top: Vec::new(), from } };
        let total = kernels::log_sum_exp(logits);
        let of = |at: usize| logits.get(at).map(|logit| f64::from(*logit) - total);
        let top = kernels::top(logits, top).into_iter().filter_map(|at| Some((at as u32, of(at)?))).collect();
        Record { token, logprob: of(token as usize), top, from }
    }
}

impl Record {
    /// Where its text ends.
    pub fn ends(&self, vocabulary: &Vocabulary) -> usize {
        self.from + vocabulary.text(self.token).len()
    }
}

/// What all samples of a request share.
pub struct Shared {
    /// What was asked.
    pub settings: Settings,
    /// The prompt's tokens.
    pub prompt: Arc<[u32]>,
    /// What draws hang on, beside a sample's number.
    pub key: [u8; 32],
    /// Most tokens of a completion: as asked, and as fit the context.
    pub most: usize,
    /// It completes a text.
    pub text: bool,
    /// The prompt as a text, given back where that was asked.
    pub echo: Option<String>,
    /// The longest stop sequence, in bytes.
    longest_stop: usize,
}

impl Shared {
    /// Puts it together.
    pub fn new(
        settings: Settings,
        prompt: Arc<[u32]>,
        key: [u8; 32],
        most: usize,
        text: bool,
        echo: Option<String>,
    ) -> Shared {
        let longest_stop = settings.stop.iter().map(String::len).max().unwrap_or(0);
        Shared { settings, prompt, key, most, text, echo, longest_stop }
    }

    /// Every prompt token's log probability is wanted.
    pub fn scores_prompt(&self) -> bool {
        self.echo.is_some() && self.settings.logprobs.is_some()
    }
}

/// A completion.
pub struct Growing {
    shared: Arc<Shared>,
    rng: ChaCha12Rng,
    counts: BTreeMap<u32, u32>,
    last: [u32; 1],
    tokens: usize,
    bytes: Vec<u8>,
    records: Vec<Record>,
    finish: Option<FinishReason>,
}

/// Space for one pick, kept for the next.
#[derive(Default)]
pub struct Picking {
    adjusted: Vec<f32>,
    weights: Vec<f64>,
}

impl Growing {
    /// The sample of this number: its draws hang on the request and the number alone.
    pub fn new(shared: Arc<Shared>, number: u64) -> Growing {
        let seed = *blake3::Hasher::new().update(&shared.key).update(&number.to_le_bytes()).finalize().as_bytes();
        let finish = (shared.most == 0).then_some(FinishReason::LENGTH);
        Growing {
            shared,
            rng: ChaCha12Rng::from_seed(seed),
            counts: BTreeMap::new(),
            last: [0],
            tokens: 0,
            bytes: Vec::new(),
            records: Vec::new(),
            finish,
        }
    }

    /// It has ended.
    pub fn ended(&self) -> bool {
        self.finish.is_some()
    }

    /// It has said something.
    pub fn begun(&self) -> bool {
        self.tokens > 0
    }

    /// The token that goes through the model next.
    pub fn last(&self) -> &[u32] {
        &self.last
    }

    /// Goes on by one token. `ends` are the tokens that end a text.
    pub fn accept(&mut self, logits: &[f32], vocabulary: &Vocabulary, ends: &[u32], space: &mut Picking) {
        let shared = self.shared.clone();
        let settings = &shared.settings;
        let token = self.pick(logits, settings, &shared.prompt, space);
        self.tokens += 1;
        self.last = [token];
        if ends.contains(&token) {
            self.finish = Some(FinishReason::STOP);
            return;
        }
        *self.counts.entry(token).or_insert(0) += 1;
        let before = self.bytes.len();
        if let Some(wanted) = settings.logprobs {
            self.records.push(Record::new(token, Some(logits), wanted.top, before));
        }
        let text = vocabulary.text(token);
        let first = self.tokens == 1 && !shared.text && vocabulary.strips;
        self.bytes.extend_from_slice(if first { text.strip_prefix(b" ").unwrap_or(text) } else { text });
        // A stop sequence may have begun in earlier tokens.
        let from = (before + 1).saturating_sub(shared.longest_stop.max(1));
        let new = &self.bytes[from.min(before)..];
        let found = settings.stop.iter().filter_map(|stop| memchr::memmem::find(new, stop.as_bytes())).min();
        if let Some(at) = found {
            self.bytes.truncate(from.min(before) + at);
            self.records.retain(|record| record.from < self.bytes.len());
            self.finish = Some(FinishReason::STOP);
        } else if self.tokens >= shared.most {
            self.finish = Some(FinishReason::LENGTH);
        }
    }

    fn pick(&mut self, logits: &[f32], settings: &Settings, prompt: &[u32], space: &mut Picking) -> u32 {
        let penalized = settings.presence != 0.0 || settings.frequency != 0.0 || settings.repetition != 1.0;
        let logits = if penalized || !settings.bias.is_empty() {
            space.adjusted.clear();
            space.adjusted.extend_from_slice(logits);
            self.adjust(settings, prompt, &mut space.adjusted);
            &space.adjusted
        } else {
            logits
        };
        let token = match settings.kept {
            None => kernels::top(logits, 1).first().copied().unwrap_or(0),
            Some(kept) => kernels::keep(logits, kept, self.rng.random(), &mut space.weights),
        };
        token as u32
    }

    fn adjust(&self, settings: &Settings, prompt: &[u32], logits: &mut [f32]) {
        if settings.repetition != 1.0 {
            let mut seen: Vec<u32> = prompt.iter().chain(self.counts.keys()).copied().collect();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = if *logit > 0.0 { *logit / settings.repetition } else { *logit * settings.repetition };
                }
            }
        }
        for (&token, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit -= settings.presence + settings.frequency * count as f32;
            }
        }
        for &(token, bias) in &settings.bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }

    /// The completion as it is given. `prompt` are the log probabilities of the prompt's tokens, where they are wanted.
    pub fn finished(self, vocabulary: &Vocabulary, prompt: &[Record]) -> provider::Sample {
        let said = whole_text(&self.bytes);
        let logprobs = self.shared.settings.logprobs.map(|_| match self.shared.text {
            true => text_logprobs(prompt, &self.records, self.shared.echo.as_deref().map_or(0, str::len), vocabulary),
            false => chat_logprobs(&self.records, vocabulary),
        });
        let text = match &self.shared.echo {
            Some(prompt) => format!("{prompt}{said}"),
            None => said,
        };
        provider::Sample {
            logprobs,
            ..provider::Sample::new(text, self.finish.unwrap_or(FinishReason::LENGTH), self.tokens as u64)
        }
    }
}

/// Bytes as a text: a character that was cut off at the end is left out, and what is none within it is replaced.
fn whole_text(bytes: &[u8]) -> String {
    let mut end = bytes.len();
    for at in (bytes.len().saturating_sub(3)..bytes.len()).rev() {
        if let Err(error) = std::str::from_utf8(&bytes[at..])
            && error.error_len().is_none()
            && error.valid_up_to() == 0
            && bytes[at] >= 0xc0
        {
            end = at;
        }
    }
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn chat_logprobs(records: &[Record], vocabulary: &Vocabulary) -> Value {
    let one = |token: u32, logprob: f64| {
        let bytes = vocabulary.raw(token);
        json!({"token": String::from_utf8_lossy(bytes), "logprob": logprob, "bytes": bytes})
    };
    let content: Vec<Value> = records
        .iter()
        .map(|record| {
            let mut entry = one(record.token, record.logprob.unwrap_or(0.0));
            entry["top_logprobs"] = record.top.iter().map(|(token, logprob)| one(*token, *logprob)).collect();
            entry
        })
        .collect();
    json!({ "content": content })
}

fn text_logprobs(prompt: &[Record], records: &[Record], echoed: usize, vocabulary: &Vocabulary) -> Value {
    let written = |token: u32| String::from_utf8_lossy(vocabulary.raw(token)).into_owned();
    let all = || prompt.iter().map(|record| (record, 0)).chain(records.iter().map(|record| (record, echoed)));
    let top = |record: &Record| match record.logprob {
        None => Value::Null,
        Some(_) => record.top.iter().map(|(token, logprob)| (written(*token), json!(logprob))).collect(),
    };
    json!({
        "tokens": all().map(|(record, _)| written(record.token)).collect::<Vec<_>>(),
        "token_logprobs": all().map(|(record, _)| record.logprob).collect::<Vec<_>>(),
        "top_logprobs": all().map(|(record, _)| top(record)).collect::<Vec<_>>(),
        "text_offset": all().map(|(record, before)| record.from + before).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole() {
        let text = "aé€😀";
        let bytes = text.as_bytes();
        let cut = |end: usize| whole_text(&bytes[..end]);
        let cuts: Vec<String> = (1..=bytes.len()).map(cut).collect();
        assert_eq!(cuts, ["a", "a", "aé", "aé", "aé", "aé€", "aé€", "aé€", "aé€", "aé€😀"]);
        assert_eq!(whole_text(b"a\xffb"), "a\u{fffd}b");
    }
}
