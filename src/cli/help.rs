//! The main help: commands by purpose, made from the declarations.

use std::fmt::Write;

use clap::Command;

/// Commands by what they are for. One that is not there yet is left out; one that is in no group comes at the end.
const GROUPS: &[(&str, &[&str])] = &[
    ("Begin", &["init", "doctor", "estimate"]),
    ("Search and judge", &["tune", "test", "evaluate", "compare", "judge", "rephrase"]),
    ("See", &["report", "plot", "watch", "serve"]),
    ("Ask many at once", &["run", "batch"]),
    ("Look up", &["models", "metrics", "strategies", "schema"]),
    ("Tools", &["cache", "mock", "completions", "man"]),
];

/// The command with its help in groups.
pub fn grouped(command: Command) -> Command {
    let list: Vec<(String, String)> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
        .map(|below| (below.get_name().to_owned(), below.get_about().map(ToString::to_string).unwrap_or_default()))
        .collect();
    let width = list.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |text: &mut String, (name, about): &(String, String)| {
        // Braces would be taken for a part of the template.
        let about = about.lines().next().unwrap_or_default().replace(['{', '}'], "");
        let _ = writeln!(text, "  {name:width$}  {about}");
    };
    let mut text = String::new();
    for (title, names) in GROUPS {
        let known: Vec<_> = names.iter().filter_map(|name| list.iter().find(|(known, _)| known == name)).collect();
        if !known.is_empty() {
            let _ = writeln!(text, "{title}:");
            known.into_iter().for_each(|one| line(&mut text, one));
            text.push('\n');
        }
    }
    let grouped = |name: &str| GROUPS.iter().any(|(_, names)| names.contains(&name));
    let others: Vec<_> = list.iter().filter(|(name, _)| !grouped(name)).collect();
    if !others.is_empty() {
        text += "More:\n";
        others.into_iter().for_each(|one| line(&mut text, one));
        text.push('\n');
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{text}Options:\n{{options}}{{after-help}}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_shown_once() {
        let command = |name: &'static str| Command::new(name).about(format!("about {name}"));
        let all = Command::new("farthing").about("x").subcommands([command("tune"), command("init"), command("other")]);
        let text = grouped(all).render_help().to_string();
        let place = |line: &str| text.find(line).unwrap_or_else(|| panic!("no {line:?} in {text}"));
        assert!(place("Begin:\n  init   about init\n") < place("Search and judge:\n  tune   about tune\n"));
        assert!(place("Search and judge:") < place("More:\n  other  about other\n"));
        assert!(!text.contains("Commands:") && !text.contains("See:"), "{text}");
        assert_eq!(text.matches("about tune").count(), 1);
    }
}
