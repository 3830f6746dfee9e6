//! What the documentation says is tried: the settings in docs/endpoints.md are read, and every key of a table is in it.

use std::path::Path;

use farthing::backend::Endpoints;
use farthing::diagnostic::Source;

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// The blocks of a language, each with the line that it begins at.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let (mut blocks, mut open): (Vec<(usize, String)>, Option<bool>) = (Vec::new(), None);
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open) {
            (Some(word), None) => {
                open = Some(word == language);
                if word == language {
                    blocks.push((number + 2, String::new()));
                }
            }
            (Some(_), Some(_)) => open = None,
            (None, Some(true)) => blocks.last_mut().unwrap().1.extend([line, "\n"]),
            _ => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    blocks
}

#[test]
fn every_setting_in_the_page_of_endpoints_is_read() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["cassette.jsonl", "tokenizer.json"] {
        std::fs::write(folder.path().join(file), "").unwrap();
    }
    let (mite, tutor) = (concat!(env!("CARGO_MANIFEST_DIR"), "/models/mite"), folder.path().join("models/tutor"));
    std::fs::create_dir_all(&tutor).unwrap();
    for entry in std::fs::read_dir(mite).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), tutor.join(entry.file_name())).unwrap();
    }
    let blocks = blocks(&page("endpoints.md"), "toml");
    assert!(blocks.len() > 8, "{}", blocks.len());
    for (line, text) in blocks {
        let endpoints = Endpoints::read(&Source::new("endpoints.md", text.as_str()), folder.path())
            .unwrap_or_else(|error| panic!("docs/endpoints.md, block at line {line}: {error} {:?}", error.location()));
        assert!(!endpoints.list.is_empty());
        for model in endpoints.named() {
            assert!(model.price.is_some() || model.name != "my-model", "line {line}: {}", model.name);
        }
    }
}

#[test]
fn the_settings_in_the_page_of_batches_are_read() {
    for (line, text) in blocks(&page("batch.md"), "toml") {
        Endpoints::read(&Source::new("batch.md", text), ".".as_ref())
            .unwrap_or_else(|error| panic!("docs/batch.md, block at line {line}: {error} {:?}", error.location()));
    }
}

#[test]
fn the_page_of_endpoints_names_every_key() {
    let page = page("endpoints.md");
    let schema = serde_json::to_value(schemars::schema_for!(farthing::backend::endpoints::ConfigFile)).unwrap();
    for table in ["EndpointTable", "BatchTable", "ModelTable", "RatesTable", "PriceTable"] {
        let properties = schema["$defs"][table]["properties"].as_object().unwrap_or_else(|| panic!("no {table}"));
        for key in properties.keys() {
            assert!(page.contains(key.as_str()), "docs/endpoints.md does not name `{key}` of {table}");
        }
    }
}
