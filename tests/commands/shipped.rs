//! What is shipped fits its schemas, and runs.

use serde_json::{Value, json};

use crate::support::Home;

/// What a schema says of a key, following references.
fn resolve<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    while let Some(path) = schema.get("$ref").and_then(Value::as_str) {
        schema = root.pointer(path.trim_start_matches('#')).unwrap_or_else(|| panic!("{path} leads nowhere"));
    }
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(any) => resolve(root, &any[0]),
        None => schema,
    }
}

/// Every key of the value is known to the schema, and every required key is there.
fn satisfies(root: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = resolve(root, schema);
    let Some(fields) = value.as_object() else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(fields.contains_key(name.as_str().unwrap()), "{at} lacks {name}");
    }
    for (name, value) in fields {
        let known = schema.pointer("/properties").and_then(|known| known.get(name));
        let other = schema.get("additionalProperties").filter(|other| other.is_object() || **other == json!(true));
        let choices = schema.get("oneOf").and_then(Value::as_array);
        let place = format!("{at}.{name}");
        match (known, other, choices) {
            (Some(known), ..) => satisfies(root, known, value, &place),
            (None, Some(other), _) if other.is_object() => satisfies(root, other, value, &place),
            (None, Some(_), _) => {}
            // Metrics: one schema a type.
            (None, None, Some(choices)) => {
                let knows = |choice: &Value| {
                    resolve(root, choice).pointer("/properties").is_some_and(|p| p.get(name).is_some())
                };
                assert!(choices.iter().any(knows), "{place} is in no schema");
            }
            (None, None, None) => {
                assert!(schema.get("properties").is_none(), "{place} is not in the schema {schema:#}");
            }
        }
    }
}

#[test]
fn schemas_fit_the_files_that_are_shipped() {
    let home = Home::new(1);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for (schema, file) in [
        ("task", "tasks/arithmetic/task.toml"),
        ("space", "search_spaces/arithmetic.toml"),
        ("config", "tests/fixtures/tasks/mock-arithmetic/farthing.toml"),
    ] {
        let schema = home.run("schema", &[schema]).ended(0).json();
        assert!(
            schema["$schema"].as_str().is_some_and(|url| url.starts_with("https://json-schema.org/")),
            "{schema:#}"
        );
        assert_eq!(schema["type"], "object");
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let value: Value = serde_json::to_value(toml::from_str::<toml::Table>(&text).unwrap()).unwrap();
        satisfies(&schema, &schema, &value, file);
        let mut wrong = value.clone();
        wrong["no_such_section"] = json!({});
        let refused = std::panic::catch_unwind(|| satisfies(&schema, &schema, &wrong, file));
        assert!(refused.is_err(), "the schema of {file} takes anything");
    }
}

#[test]
fn what_is_shipped_runs() {
    let home = Home::new(1);
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in [
        "tasks/arithmetic/task.toml",
        "tasks/arithmetic/tune.jsonl",
        "tasks/arithmetic/test.jsonl",
        "search_spaces/arithmetic.toml",
    ] {
        home.write(file, std::fs::read(root.join(file)).unwrap());
    }
    let done = home.run("tune tasks/arithmetic --budget 0.006 --json --quiet", &[]).ended(0).json();
    assert!(home.path("results/arithmetic-1/best.toml").is_file());
    assert!(home.path(".farthing/store.db").is_file());
    assert!(done["best"]["score"].as_f64().unwrap() >= done["baseline"]["score"].as_f64().unwrap() - 0.1);
    home.run("tune tasks/arithmetic --budget 0.006 --quiet", &[]).ended(0);
    assert_eq!(home.read("results/arithmetic-1/best.toml"), home.read("results/arithmetic-2/best.toml"));
    assert_eq!(home.summary("results/arithmetic-2")["spent_usd"], "0");
    home.run("report results/arithmetic-1", &[]).ended(0);
    home.run("test results/arithmetic-2 --budget 0.003 --quiet", &[]).ended(0);
}
