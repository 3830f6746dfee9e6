//! The decoder against transformers, and the engine: what a sample says hangs on nothing beside it. `devices` holds the
//! decoder for devices to the same.

mod devices;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::forward::{Decoder, Forward, Run, Seen};
use super::*;
use crate::provider::{FinishReason, Message};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/local").join(name)
}

/// A fixture as a folder of its own, with the tokenizer that they share.
pub fn home(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture(name)).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    std::fs::copy(fixture("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    folder
}

fn near(found: &[f32], right: &Value, within: f32, what: &str) {
    let right: Vec<f32> = right.as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap() as f32).collect();
    assert_eq!(found.len(), right.len(), "{what}");
    let worst = found.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < within, "{what}: off by {worst}");
}

/// A fixture's model, in tensors where a device is given.
fn loaded(place: &Place, precision: Precision, device: Option<candle_core::Device>) -> model::Model {
    model::load_on(place, precision.into(), device, "local:fixture".to_owned()).unwrap()
}

/// What a decoder must say.
struct Reference {
    name: String,
    json: Value,
    /// Logits may differ by so much.
    within: f32,
}

impl Reference {
    fn read(path: &Path, within: f32, name: &str) -> Reference {
        Reference {
            name: name.to_owned(),
            json: serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
            within,
        }
    }

    fn ids(&self, key: &str) -> Vec<u32> {
        self.json[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    }

    fn held(&self, model: &model::Model) {
        match &model.decoder {
            Decoder::Rows(decoder) => self.held_by(&**decoder),
            Decoder::Tensors(decoder) => self.held_by(&**decoder),
        }
    }

    /// The prompt's logits and the greedy continuation are those of transformers.
    fn held_by<D: Forward>(&self, decoder: &D) {
        let Reference { name, json: reference, within } = self;
        let (prompt, continuation) = (self.ids("prompt"), self.ids("continuation"));
        let mut scratch = D::Scratch::default();
        let width = decoder.architecture().vocabulary;
        let mut whole = decoder.cache();
        // In two pieces, as long prompts go through.
        let (first, second) = prompt.split_at(prompt.len() / 3);
        let mut run = [Run { prefix: None, own: &mut whole, tokens: first, wanted: 0 }];
        assert!(decoder.forward(&mut run, &mut scratch, false).unwrap().is_empty());
        let mut run = [Run { prefix: None, own: &mut whole, tokens: second, wanted: 3 }];
        let logits = decoder.forward(&mut run, &mut scratch, false).unwrap();
        assert_eq!(whole.tokens(), prompt.len());
        for (at, row) in logits.chunks_exact(width).enumerate() {
            near(row, &reference["logits"][at], *within, &format!("{name}, position {at} of the last three"));
        }
        // One token at a time, behind a prompt that others could share.
        let mut own = decoder.cache();
        let mut last = logits[2 * width..].to_vec();
        let mut said = Vec::new();
        for step in 0..continuation.len() {
            let token = farthing_kernels::top(&last, 1)[0] as u32;
            said.push(token);
            if step + 1 < continuation.len() {
                let mut run = [Run { prefix: Some(&whole), own: &mut own, tokens: &[token], wanted: 1 }];
                last = decoder.forward(&mut run, &mut scratch, true).unwrap();
            }
        }
        if *within < 1e-3 {
            assert_eq!(said, continuation, "{name}");
            near(&last, &reference["final_logits"], *within, &format!("{name}, last step"));
        }
    }
}

const FIXTURES: [&str; 12] = [
    "llama",
    "gpt2",
    "llama3-rope",
    "llama-linear-rope",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi",
    "phi3",
];

/// Every fixture, on the processor or in tensors: (what it is kept in, how near its logits must be).
fn every_architecture(device: Option<&candle_core::Device>, kept: [(Precision, f32); 2]) {
    for name in FIXTURES {
        let folder = home(name);
        let place = Place::path(folder.path()).unwrap();
        for (precision, within) in kept {
            let reference = Reference::read(&folder.path().join("reference.json"), within, name);
            reference.held(&loaded(&place, precision, device.cloned()));
        }
    }
}

#[test]
fn every_architecture_is_that_of_transformers() {
    // 16 bits are 16 bits, but the model is the same.
    every_architecture(None, [(Precision::F32, 1e-4), (Precision::Bf16, 0.5)]);
}

fn gguf(device: Option<&candle_core::Device>) {
    for name in ["f32", "q8_0"] {
        let place = Place::path(&fixture(&format!("gguf/{name}.gguf"))).unwrap();
        let reference = Reference::read(&fixture(&format!("gguf/{name}.json")), 1e-4, name);
        reference.held(&loaded(&place, Precision::F32, device.cloned()));
    }
}

#[test]
fn gguf_files_hold_the_same_models() {
    gguf(None);
}

fn request(prompt: &str, params: Value, n: u32) -> Request {
    let params = serde_json::from_value(params).unwrap();
    Request { model: "m".into(), input: Input::Text(prompt.into()), params, n }
}

fn chat(content: &str, params: Value, n: u32) -> Request {
    let message = Message { role: "user".into(), content: content.into() };
    Request { input: Input::Messages(vec![message]), ..request("", params, n) }
}

fn open(name: &str) -> (Local, tempfile::TempDir) {
    let folder = home(name);
    (Local::open(&Place::path(folder.path()).unwrap(), Precision::F32).unwrap(), folder)
}

#[test]
fn greedy_through_the_engine_is_that_of_transformers() {
    let (local, folder) = open("llama");
    let reference: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("reference.json")).unwrap()).unwrap();
    let text = |key: &str| -> String {
        let ids = reference[key].as_array().unwrap().iter();
        let bytes: Vec<u8> =
            ids.flat_map(|id| local.engine.model.vocabulary.raw(id.as_u64().unwrap() as u32).to_vec()).collect();
        String::from_utf8(bytes).unwrap()
    };
    let response = local.answer(&request(&text("prompt"), json!({"temperature": 0, "max_tokens": 24}), 2), 0).unwrap();
    assert_eq!((response.prompt_tokens, response.completion_tokens()), (24, 48));
    for sample in &response.samples {
        assert_eq!(
            (sample.text.as_str(), &sample.finish_reason),
            (text("continuation").as_str(), &FinishReason::LENGTH)
        );
    }
}

#[test]
fn a_sample_does_not_know_who_is_beside_it() {
    for name in ["llama", "gemma2", "phi"] {
        alone_and_among(&open(name).0, name);
    }
}

/// What three samples say by themselves, and all at once among 40 others that come and go.
fn alone_and_among(local: &Local, name: &str) {
    let params = json!({"temperature": 1.3, "max_tokens": 40, "top_p": 0.95, "logprobs": 2});
    let one = |index: usize| local.answer(&request("a prompt", params.clone(), index as u32 + 1), index).unwrap();
    let alone: Vec<_> = (0..3).map(|index| one(index).samples.remove(0)).collect();
    assert!(alone[0].text != alone[1].text);
    // All three at once, among 40 others that come and go.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let among = runtime.block_on(async {
        let others: Vec<Request> = (0..40)
            .map(|at| request(&"x".repeat(at + 1), json!({"max_tokens": at % 7 + 1, "seed": at}), at as u32 % 3 + 1))
            .collect();
        let mine = request("a prompt", params.clone(), 3);
        let (all, mine) = futures_util::future::join(
            futures_util::future::join_all(others.iter().map(|other| local.call(other, 0))),
            local.call(&mine, 0),
        )
        .await;
        assert!(all.iter().all(Result::is_ok));
        mine.unwrap()
    });
    assert_eq!(among.samples, alone, "{name}");
}

#[test]
fn parameters_do_what_they_say() {
    let (local, _folder) = open("llama");
    // No sample ends by itself here.
    let said = |mut params: Value, n| {
        params["logit_bias"]["0"] = json!(-100);
        local.answer(&request("hello there", params, n), 0).unwrap()
    };
    let text = |params: Value| said(params, 1).samples.remove(0).text;
    let plain = text(json!({"max_tokens": 30}));
    assert_eq!(plain.chars().count(), 30, "a token is a character here");
    assert_eq!(text(json!({"max_tokens": 30})), plain, "the same again");
    assert_ne!(text(json!({"max_tokens": 30, "seed": 1})), plain);
    assert_eq!(text(json!({"max_tokens": 12})), plain[..12], "max_tokens only cuts");
    // A stop sequence over three tokens, in a list, is matched in the text and cut exactly.
    let stop = &plain[7..10];
    let at = plain.find(stop).unwrap();
    let stopped = said(json!({"max_tokens": 30, "stop": ["\u{1}", stop]}), 1).samples.remove(0);
    assert_eq!((stopped.text.as_str(), stopped.finish_reason), (&plain[..at], FinishReason::STOP));
    assert_eq!(stopped.completion_tokens, at as u64 + 3, "what was made is paid");
    let greedy = text(json!({"max_tokens": 20, "temperature": 0}));
    for same in [json!({"top_k": 1}), json!({"top_p": 0}), json!({"min_p": 1}), json!({"temperature": 1e-5})] {
        let mut params = json!({"max_tokens": 20});
        params.as_object_mut().unwrap().extend(same.as_object().unwrap().clone());
        assert_eq!(text(params), greedy, "{same}");
    }
    let x = local.engine.model.vocabulary.token("x").unwrap();
    let biased = text(json!({"max_tokens": 9, "logit_bias": {x.to_string(): 100}}));
    assert_eq!(biased, "xxxxxxxxx");
    let varied = text(json!({"max_tokens": 9, "logit_bias": {x.to_string(): 100}, "frequency_penalty": 60}));
    assert!(varied.starts_with("xx") && varied != biased, "{varied}");
    let present = text(json!({"max_tokens": 9, "temperature": 0, "presence_penalty": 100}));
    let distinct: std::collections::BTreeSet<char> = present.chars().collect();
    assert_eq!(distinct.len(), 9, "{present}");
    assert_ne!(text(json!({"max_tokens": 20, "temperature": 0, "repetition_penalty": 3.0})), greedy);
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let (local, _folder) = open("llama");
    let params = json!({"max_tokens": 5, "temperature": 0, "logprobs": true, "top_logprobs": 2});
    let sample = local.answer(&chat("hello", params, 1), 0).unwrap().samples.remove(0);
    let content = sample.logprobs.unwrap()["content"].clone();
    let joined: String = content.as_array().unwrap().iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(joined, sample.text);
    for entry in content.as_array().unwrap() {
        let top = &entry["top_logprobs"];
        assert_eq!(top[0]["token"], entry["token"], "greedy is the likeliest");
        assert!(top[0]["logprob"].as_f64().unwrap() >= top[1]["logprob"].as_f64().unwrap());
        assert!(entry["logprob"].as_f64().unwrap() < 0.0);
    }
    // The prompt's own, without a completion: what comes after each token, as sampling would see it.
    let echoed = local.answer(&request("hello", json!({"max_tokens": 0, "echo": true, "logprobs": 1}), 1), 0).unwrap();
    let sample = &echoed.samples[0];
    let logprobs = sample.logprobs.as_ref().unwrap();
    assert_eq!((sample.text.as_str(), sample.completion_tokens), ("hello", 0));
    assert_eq!(logprobs["tokens"], json!(["h", "e", "l", "l", "o"]));
    assert_eq!((&logprobs["token_logprobs"][0], &logprobs["text_offset"]), (&Value::Null, &json!([0, 1, 2, 3, 4])));
    let next = local.answer(&request("hell", json!({"max_tokens": 1, "logprobs": 1, "logit_bias": {(local.engine.model.vocabulary.token("o").unwrap()).to_string(): 100}}), 1), 0).unwrap();
    let bound = next.samples[0].logprobs.as_ref().unwrap()["token_logprobs"][0].as_f64().unwrap();
    assert!((bound - logprobs["token_logprobs"][4].as_f64().unwrap()).abs() < 1e-6);
}

#[test]
fn what_cannot_be_asked_is_refused_in_its_class() {
    let (local, _folder) = open("llama");
    let failed = |request: &Request| local.answer(request, 0).unwrap_err();
    let long = failed(&request(&"x".repeat(128), json!({}), 1));
    assert_eq!(
        (long.kind, long.message.as_str()),
        (FailureKind::ContextTooLong, "the prompt has 128 tokens, and the context of m holds 128, the answer included")
    );
    let full = local.answer(&request(&"x".repeat(120), json!({"max_tokens": 500}), 1), 0).unwrap();
    assert_eq!(
        (full.completion_tokens(), &full.samples[0].finish_reason),
        (8, &FinishReason::LENGTH),
        "to the end of the context"
    );
    for (bad, what) in [
        (request("", json!({}), 1), "empty"),
        (request("x", json!({"tools": [1]}), 1), "tools"),
        (request("x", json!({}), 0), "`n` must be"),
    ] {
        let failure = failed(&bad);
        assert!(failure.kind == FailureKind::BadRequest && failure.message.contains(what), "{failure}");
    }
}

#[test]
fn memory_is_bounded_and_those_who_leave_give_it_back() {
    let folder = home("llama");
    let place = Place::path(folder.path()).unwrap();
    let model = model::load(&place, Precision::F32.into(), "local:small".into()).unwrap();
    let local = Local::of(Arc::new(Engine::with_room(model, Some(64)).unwrap()));
    let failure = local.answer(&request("hello", json!({"max_tokens": 60}), 1), 0).unwrap_err();
    assert!(failure.kind == FailureKind::ContextTooLong && failure.message.contains("are set aside"), "{failure}");
    // Ten samples of 20 tokens do not fit 64 at a time: they take turns, and nobody waits for ever.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let params = json!({"max_tokens": 20, "temperature": 1});
    let (asked, other) = (request("hello", params.clone(), 10), request("other", params, 4));
    let (answer, others) = runtime.block_on(async {
        // One that is given up at once.
        drop(tokio::time::timeout(std::time::Duration::ZERO, local.call(&other, 0)).await);
        futures_util::future::join(local.call(&asked, 0), local.call(&other, 0)).await
    });
    let (free, _folder) = open("llama");
    let mut again = free.answer(&asked, 0).unwrap();
    // Who a model is decides its draws, so the two differ in that alone.
    assert_eq!(answer.unwrap().samples.len(), again.samples.len());
    assert_eq!(others.unwrap().samples.len(), 4);
    again.samples.clear();
}

fn broken(change: impl Fn(&Path)) -> String {
    let folder = home("llama");
    change(folder.path());
    let opened = Place::path(folder.path()).and_then(|place| Local::open(&place, Precision::F32).map(|_| ()));
    let error = opened.unwrap_err();
    assert_eq!(error.fault(), crate::diagnostic::Fault::Usage, "{error}");
    let text = format!("{} {error} {}", error.location().unwrap_or_default(), error.advice().unwrap_or_default());
    text.replace(&folder.path().display().to_string(), "")
}

/// Changes the tensors of a folder's model.
fn rewrite(folder: &Path, change: impl FnOnce(&mut std::collections::HashMap<String, candle_core::Tensor>)) {
    let file = folder.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &candle_core::Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, &file).unwrap();
}

#[test]
fn a_last_layer_that_is_the_embedding_keeps_its_bias() {
    let logprobs = |tied: bool| {
        let folder = home("phi");
        rewrite(folder.path(), |tensors| {
            let table = tensors["model.embed_tokens.weight"].clone();
            tensors.insert("lm_head.weight".into(), table);
            let bias = candle_core::Tensor::arange(0.0_f32, 96.0, &candle_core::Device::Cpu).unwrap();
            tensors.insert("lm_head.bias".into(), (bias * 0.1).unwrap());
            if tied {
                tensors.remove("lm_head.weight");
            }
        });
        if tied {
            let config = folder.path().join("config.json");
            let text = std::fs::read_to_string(&config).unwrap();
            let said = "\"tie_word_embeddings\": ";
            std::fs::write(&config, text.replace(&format!("{said}false"), &format!("{said}true"))).unwrap();
        }
        let local = Local::open(&Place::path(folder.path()).unwrap(), Precision::F32).unwrap();
        let params = json!({"max_tokens": 3, "temperature": 0, "logprobs": 2});
        local.answer(&request("hello", params, 1), 0).unwrap().samples.remove(0).logprobs
    };
    assert_eq!(logprobs(true), logprobs(false));
}

#[test]
fn a_layer_that_is_missing_is_no_tie() {
    let folder = home("phi");
    rewrite(folder.path(), |tensors| drop(tensors.remove("lm_head.weight")));
    let error = Local::open(&Place::path(folder.path()).unwrap(), Precision::F32).map(|_| ()).unwrap_err();
    assert!(error.message().contains("lm_head.weight"), "{error}");
}

#[test]
fn weights_that_are_no_numbers_are_an_error_and_not_noise() {
    let folder = home("llama");
    rewrite(folder.path(), |tensors| {
        let norm = tensors["model.norm.weight"].clone();
        tensors.insert("model.norm.weight".into(), (norm * f64::INFINITY).unwrap());
    });
    let local = Local::open(&Place::path(folder.path()).unwrap(), Precision::F32).unwrap();
    let failure = local.answer(&request("hello", json!({"max_tokens": 3}), 1), 0).unwrap_err();
    assert!(failure.kind == FailureKind::BadRequest && failure.message.contains("no number"), "{failure}");
}

#[test]
fn broken_files_are_told_apart() {
    let edit = |folder: &Path, name: &str, change: &dyn Fn(String) -> String| {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, change(text)).unwrap();
    };
    let weights = |folder: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let path = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    };
    for (found, words) in [
        (broken(|f| std::fs::remove_file(f.join("config.json")).unwrap()), "has no config.json"),
        (broken(|f| std::fs::remove_file(f.join("tokenizer.json")).unwrap()), "there is no file /tokenizer.json"),
        (broken(|f| std::fs::remove_file(f.join("model.safetensors")).unwrap()), "has no model.safetensors"),
        (broken(|f| edit(f, "config.json", &|t| t.replacen(',', ",,", 1))), "/config.json:4:5"),
        (
            broken(|f| edit(f, "config.json", &|t| t.replace("\"model_type\": \"llama\"", "\"model_type\": \"rwkv\""))),
            "`rwkv` are not known here those that are: gpt2, llama",
        ),
        (
            broken(|f| {
                edit(f, "config.json", &|t| t.replace("\"intermediate_size\": 24", "\"intermediate_size\": 25"))
            }),
            "the tensor `model.layers.0.mlp.gate_proj.weight` of  should be [25, 16] by its configuration, and it is [24, 16]",
        ),
        (
            broken(|f| edit(f, "config.json", &|t| t.replace("\"vocab_size\": 96", "\"vocab_size\": 80"))),
            "has 96 tokens, and the model knows 80",
        ),
        (
            broken(|f| edit(f, "config.json", &|t| t.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"))),
            "has no tensor `model.layers.2.",
        ),
        (broken(|f| edit(f, "tokenizer.json", &|t| t.replace("\"BPE\"", "\"XYZ\""))), "is no tokenizer"),
        (broken(|f| weights(f, &|b| b.truncate(b.len() - 9))), "is no whole safetensors file"),
        (broken(|f| weights(f, &|b| b.truncate(5))), "is no whole safetensors file: it has 5 bytes"),
        (broken(|f| weights(f, &|b| b.clear())), "it has 0 bytes"),
        (broken(|f| weights(f, &|b| b[7] = 0xff)), "announces a header of"),
        (broken(|f| weights(f, &|b| b[8] = b'x')), "the header of /model.safetensors:1:1"),
        (
            broken(|f| std::fs::write(f.join("tokenizer_config.json"), r#"{"chat_template": "{% for %}"}"#).unwrap()),
            "chat template",
        ),
        (
            broken(|f| {
                weights(f, &|b| {
                    let text = String::from_utf8_lossy(&b[8..600]).into_owned();
                    let at = 8 + text.find("\"F32\"").unwrap();
                    b[at..at + 5].copy_from_slice(b"\"I32\"");
                })
            }),
            "is of a type that is not known here",
        ),
    ] {
        assert!(found.contains(words), "{words:?} is not in {found:?}");
    }
}

#[test]
fn no_broken_gguf_file_is_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let whole = std::fs::read(fixture("gguf/f32.gguf")).unwrap();
    let opens = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Place::path(&path).and_then(|place| Local::open(&place, Precision::F32)).map(|_| ())
    };
    opens(&whole).unwrap();
    let header = whole.windows(10).position(|window| window == b"token_embd").unwrap();
    for cut in (0..header + 400).step_by(13).chain([whole.len() - 1]) {
        assert!(opens(&whole[..cut]).is_err(), "cut at {cut}");
    }
    // Bytes of the header turned around: an error or a model, and no panic that gets out.
    for at in (0..header + 400).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        let _ = opens(&bytes);
    }
    assert!(opens(b"GGUFxxxx").unwrap_err().message().contains("is no whole GGUF file"));
}

#[test]
fn the_model_in_the_box_answers() {
    let local = Local::open(&Place::Box, Precision::F32).unwrap();
    let response = local.answer(&chat("3 + 4", json!({"max_tokens": 8}), 3), 0).unwrap();
    assert_eq!(response.samples.len(), 3);
    assert!(response.completion_tokens() <= 24 && response.prompt_tokens > 0);
    assert_eq!(local.count(&chat("3 + 4", json!({}), 1).input).unwrap(), response.prompt_tokens);
}
