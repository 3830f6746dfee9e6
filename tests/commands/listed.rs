//! The version, and what the listings hold.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::Home;

#[test]
fn the_version_is_the_packages() {
    let version = Home::new(1).run("--version", &[]).ended(0).stdout;
    assert_eq!(version.trim(), concat!("farthing ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn listings_say_what_there_is() {
    let home = Home::new(1);
    for (command, wanted) in [
        ("metrics", &["exact_match", "choice", "numeric", "regex", "command"][..]),
        ("strategies", &["halving", "random", "grid"]),
        ("models", &["gpt-4o-mini", "gpt-4o", "mock-small", "mock-large"]),
    ] {
        let text = home.run(command, &[]).ended(0).stdout;
        let rows = home.run(command, &["--json"]).ended(0).json();
        let names: BTreeSet<&str> = rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        for name in wanted {
            assert!(names.contains(name) && text.contains(name), "{command}: {names:?}");
        }
        assert!(names.iter().all(|name| text.contains(name)), "{command}");
    }
    let models = home.run("models --json", &[]).json();
    let mini = models.as_array().unwrap().iter().find(|row| row["name"] == "gpt-4o-mini").unwrap();
    assert_eq!((&mini["input"], &mini["output"]), (&json!("0.15"), &json!("0.6")));
    let strategies = home.run("strategies --json", &[]).json();
    let defaults = strategies.as_array().unwrap().iter().filter(|row| row["default"] == json!(true)).count();
    assert_eq!(defaults, 1);
}
