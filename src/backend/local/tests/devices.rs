//! The decoder for devices. Tensors lie on the processor too, so what CUDA and Metal run is held to transformers here, but
//! for their own kernels.

use super::*;
use candle_core::Device as Lies;

/// A fixture's model in tensors, behind the engine.
fn open_in_tensors(name: &str, room: Option<usize>) -> (Local, tempfile::TempDir) {
    let folder = home(name);
    let model = loaded(&Place::path(folder.path()).unwrap(), Precision::F32, Some(Lies::Cpu));
    assert!(matches!(model.decoder, Decoder::Tensors(_)));
    (Local::of(Arc::new(Engine::with_room(model, room).unwrap())), folder)
}

#[test]
fn every_architecture_in_tensors_is_that_of_transformers() {
    // bf16 has no matrix product on the processor; f16 goes the same way.
    every_architecture(Some(&Lies::Cpu), [(Precision::F32, 1e-4), (Precision::F16, 0.05)]);
    gguf(Some(&Lies::Cpu));
}

#[test]
fn a_sample_in_tensors_does_not_know_who_is_beside_it() {
    for name in ["llama", "gemma2", "phi", "gpt2"] {
        alone_and_among(&open_in_tensors(name, None).0, name);
    }
}

/// Kept by the row and kept by the tensor a model says the same, but for a token that rounding decides.
#[test]
fn samples_are_drawn_as_on_the_processor() {
    for name in ["llama", "gemma3"] {
        let folder = home(name);
        let place = Place::path(folder.path()).unwrap();
        let answer = |device| {
            let engine = Engine::start(loaded(&place, Precision::F32, device)).unwrap();
            let params = json!({"temperature": 0.7, "max_tokens": 30, "logprobs": 1, "stop": ["zz"]});
            Local::of(Arc::new(engine)).answer(&request(&"what is this ".repeat(3), params, 5), 0).unwrap()
        };
        let (rows, tensors) = (answer(None), answer(Some(Lies::Cpu)));
        let texts = |answer: &Response| answer.samples.iter().map(|sample| sample.text.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&tensors), texts(&rows), "{name}");
        assert_eq!(tensors.completion_tokens(), rows.completion_tokens());
    }
}

#[test]
fn prompts_over_several_pieces_and_their_log_probabilities_are_those_of_the_processor() {
    // Longer than one piece, than a block of memory, and than any window.
    let text: String = (0..300).map(|at| char::from(b'a' + (at * 7 % 26) as u8)).collect();
    for name in ["llama", "gemma2", "mistral", "gpt2"] {
        let folder = home(name);
        let path = folder.path().join("config.json");
        let config = std::fs::read_to_string(&path).unwrap();
        if name != "gpt2" {
            let longer = config.replace("\"max_position_embeddings\": 128", "\"max_position_embeddings\": 1024");
            assert_ne!(longer, config, "{name}");
            std::fs::write(&path, longer).unwrap();
        }
        let text = if name == "gpt2" { &text[..100] } else { &text };
        let place = Place::path(folder.path()).unwrap();
        let scored = |device| {
            let local = Local::of(Arc::new(Engine::start(loaded(&place, Precision::F32, device)).unwrap()));
            let params = json!({"max_tokens": 9, "temperature": 0, "echo": true, "logprobs": 0});
            let sample = local.answer(&request(text, params, 1), 0).unwrap().samples.remove(0);
            let logprobs = sample.logprobs.unwrap()["token_logprobs"].clone();
            (sample.text, serde_json::from_value::<Vec<Option<f64>>>(logprobs).unwrap())
        };
        let ((said, rows), (said_in_tensors, tensors)) = (scored(None), scored(Some(Lies::Cpu)));
        assert_eq!(said, said_in_tensors, "{name}");
        assert!(rows.len() > text.len() && rows.len() == tensors.len());
        for (at, (a, b)) in rows.iter().zip(&tensors).enumerate() {
            let apart = (a.unwrap_or_default() - b.unwrap_or_default()).abs();
            assert!(apart < 1e-4, "{name}, token {at}: {a:?} {b:?}");
        }
    }
}

#[test]
fn memory_on_a_device_is_taken_by_whole_blocks() {
    let (local, _folder) = open_in_tensors("llama", Some(192));
    // 5 tokens and 65 take one block and two.
    let failure = local.answer(&request("hello", json!({"max_tokens": 129}), 1), 0);
    assert!(failure.is_ok(), "the context ends before: 64 and 128 fit");
    let ten = local.answer(&request("hello", json!({"max_tokens": 20}), 10), 0).unwrap();
    assert_eq!(ten.samples.len(), 10, "two at a time");
    let (small, _folder) = open_in_tensors("llama", Some(127));
    let failure = small.answer(&request("hello", json!({"max_tokens": 3}), 1), 0).unwrap_err();
    assert!(failure.kind == FailureKind::ContextTooLong && failure.message.contains("are set aside"), "{failure}");
}

#[test]
fn numbers_that_leave_their_range_are_an_error() {
    let folder = home("llama");
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    // The last tensor's last weight is far beyond what 16 bits hold.
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&1e30_f32.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let place = Place::path(folder.path()).unwrap();
    let local = |precision| Local::of(Arc::new(Engine::start(loaded(&place, precision, Some(Lies::Cpu))).unwrap()));
    let ask = request("hello", json!({"max_tokens": 3}), 1);
    let failure = local(Precision::F16).answer(&ask, 0).unwrap_err();
    assert!(failure.kind == FailureKind::BadRequest && failure.message.contains("left the range"), "{failure}");
}

#[test]
fn another_kind_of_device_is_another_model() {
    let folder = home("llama");
    let place = Place::path(folder.path()).unwrap();
    let on = |precision, device| model::source(&place, Compute { precision, device }).unwrap();
    let here = on(Precision::F32, Device::Cpu);
    assert_eq!(here, on(Precision::F32, Device::Auto.found()));
    assert_ne!(here, on(Precision::F32, Device::Cuda(0)));
    assert_ne!(on(Precision::F32, Device::Metal(0)), on(Precision::F32, Device::Cuda(0)));
    assert_ne!(on(Precision::Bf16, Device::Cuda(0)), on(Precision::F32, Device::Cuda(0)));
    // Which of several it is changes nothing.
    assert_eq!(on(Precision::F32, Device::Cuda(1)), on(Precision::F32, Device::Cuda(0)));
}

/// What tensors of the processor cannot show: the kernels of a GPU, where there is one.
#[cfg(any(feature = "cuda", feature = "metal"))]
#[test]
fn a_gpu_is_held_to_transformers_or_said_to_be_missing() {
    for (device, built) in [(Device::Cuda(0), cfg!(feature = "cuda")), (Device::Metal(0), cfg!(feature = "metal"))] {
        let lies = match device.open() {
            Ok(lies) => lies.unwrap(),
            Err(error) => {
                assert!(error.to_string().starts_with(&format!("the device {device} cannot be used: ")), "{error}");
                eprintln!("{error} (built in: {built})");
                continue;
            }
        };
        every_architecture(Some(&lies), [(Precision::F32, 1e-4), (Precision::Bf16, 0.5)]);
        gguf(Some(&lies));
        for name in ["llama", "gemma2", "phi", "gpt2"] {
            let folder = home(name);
            let model = loaded(&Place::path(folder.path()).unwrap(), Precision::F32, Some(lies.clone()));
            alone_and_among(&Local::of(Arc::new(Engine::start(model).unwrap())), name);
        }
    }
}
