//! Model names: which part of them is a snapshot's date.

/// The name without its snapshot: `gpt-4o-2024-08-06` and `gpt-4o` are one family, `gpt-4o-mini` is another.
///
/// A snapshot is a date as providers write it (`-2024-08-06`, `-20250219`, `@20250219`, `-08-2024`, `-05-20`, `-0613`,
/// `-2411`), `-latest`, or a build number of Gemini (`-001`). Anything else belongs to the name.
pub fn family(name: &str) -> &str {
    let bare = strip(name).unwrap_or(name);
    if bare.is_empty() { name } else { bare }
}

/// Whether two names are of one family, whatever provider's prefix they carry (`models/`, `openai/`): a reply that names
/// a snapshot of the model that was asked is that model's, and one of another family is not.
pub fn same_family(asked: &str, replied: &str) -> bool {
    fn bare(name: &str) -> String {
        let name = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        // Azure writes gpt-3.5 without the point.
        family(&name).replace("gpt-35-", "gpt-3.5-")
    }
    bare(asked) == bare(replied)
}

fn strip(name: &str) -> Option<&str> {
    if let Some(bare) = name.strip_suffix("-latest").or_else(|| name.strip_suffix(":latest")) {
        return Some(bare);
    }
    // Longest first: `-2024-08-06` also ends like `-08-06`.
    let shapes = ["-yyyy-mm-dd", "-yyyymmdd", "@yyyymmdd", "-mm-yyyy", "-mm-dd", "-mmdd", "-YYmm"];
    for shape in shapes {
        let Some(at) = name.len().checked_sub(shape.len()) else { continue };
        if name.get(at..).is_some_and(|tail| fits(tail, shape)) {
            return name.get(..at);
        }
    }
    let (bare, build) = name.rsplit_once('-')?;
    (name.starts_with("gemini-") && build.len() == 3 && build.starts_with("00") && digits(build)).then_some(bare)
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a text is a date of this shape: `yyyy` 2000 to 2099, `YY` 20 to 39, `mm` 01 to 12, `dd` 01 to 31.
fn fits(text: &str, shape: &str) -> bool {
    let number = |letters: &str| {
        shape
            .find(letters)
            .and_then(|at| text.get(at..at + letters.len()))
            .map(|part| if digits(part) { part.parse::<u32>().unwrap_or(0) } else { 0 })
    };
    let within = |letters: &str, low: u32, high: u32| number(letters).is_none_or(|n| (low..=high).contains(&n));
    let separators = shape.bytes().zip(text.bytes()).all(|(s, t)| s.is_ascii_alphabetic() || s == t);
    separators && within("yyyy", 2000, 2099) && within("YY", 20, 39) && within("mm", 1, 12) && within("dd", 1, 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_are_taken_off_and_nothing_else() {
        for (name, bare) in [
            ("gpt-4o-2024-08-06", "gpt-4o"),
            ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
            ("gpt-4-0613", "gpt-4"),
            ("gpt-3.5-turbo-1106", "gpt-3.5-turbo"),
            ("claude-3-7-sonnet-20250219", "claude-3-7-sonnet"),
            ("claude-3-7-sonnet@20250219", "claude-3-7-sonnet"),
            ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
            ("gemini-2.5-flash-preview-05-20", "gemini-2.5-flash-preview"),
            ("gemini-2.0-flash-001", "gemini-2.0-flash"),
            ("command-r-08-2024", "command-r"),
            ("mistral-large-2411", "mistral-large"),
            ("llama3:latest", "llama3"),
        ] {
            assert_eq!(family(name), bare, "{name}");
        }
        for name in [
            "gpt-4-32k",
            "gpt-4o",
            "gpt-4.1",
            "o1",
            "o1-pro",
            "davinci-002",
            "claude-opus-4-5",
            "gpt-4-1106-preview",
            "llama-3.1-8b-instruct",
            "gpt-oss-120b",
            "x-4096",
            "gpt-4o-2024-13-06",
            "-0613",
            "-latest",
            "",
            "é",
            "mé-0613x",
        ] {
            assert_eq!(family(name), name);
        }
    }

    #[test]
    fn a_reply_of_another_family_is_noticed() {
        assert!(same_family("gpt-4o", "gpt-4o-2024-08-06"));
        assert!(same_family("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"), "another snapshot is the same family");
        assert!(same_family("gpt-35-turbo", "gpt-3.5-turbo-0125"));
        assert!(same_family("openai/gpt-4o", "GPT-4o"));
        assert!(same_family("gemini-2.5-flash", "models/gemini-2.5-flash-001"));
        assert!(!same_family("gpt-4o", "gpt-4o-mini-2024-07-18"));
        assert!(!same_family("claude-opus-4-5", "claude-opus-4-6"));
    }

    proptest! {
        #[test]
        fn any_name_has_a_family(name in "\\PC{0,20}") {
            let bare = family(&name);
            prop_assert!(name.starts_with(bare) && bare.is_empty() == name.is_empty());
        }

        #[test]
        fn a_date_is_always_found(name in "[a-z][a-z0-9.]{0,8}(-[a-z]+)?", year in 2023_u32..2030, month in 1_u32..=12, day in 1_u32..=31) {
            let dated = [
                format!("{name}-{year}-{month:02}-{day:02}"), format!("{name}-{year}{month:02}{day:02}"),
                format!("{name}@{year}{month:02}{day:02}"), format!("{name}-{month:02}{day:02}"),
            ];
            for dated in dated {
                prop_assert_eq!(family(&dated), name.as_str());
                prop_assert!(same_family(&dated, &name));
            }
        }
    }
}
