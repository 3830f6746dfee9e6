//! Yes or no, asked on a terminal.

use std::io::{BufRead, IsTerminal, Write};

/// Somebody can be asked.
pub fn possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks whether to go on; what is not a yes is a no.
pub fn agreed(question: &str) -> bool {
    agreed_by(question, std::io::stdin().lock(), std::io::stderr().lock())
}

fn agreed_by(question: &str, mut answers: impl BufRead, mut out: impl Write) -> bool {
    let mut answer = String::new();
    let asked = write!(out, "{question} [y/N] ").and_then(|()| out.flush());
    asked.is_ok()
        && answers.read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, yes) in
            [("y\n", true), (" YES \n", true), ("\n", false), ("n\n", false), ("", false), ("yep\n", false)]
        {
            let mut shown = Vec::new();
            assert_eq!(agreed_by("Go on?", answer.as_bytes(), &mut shown), yes, "{answer:?}");
            assert_eq!(shown, b"Go on? [y/N] ");
        }
    }
}
