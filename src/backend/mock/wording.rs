//! How the made-up models read a prompt: what it asks for, apart from the problem itself.

use super::problem;
use crate::provider::Input;

/// What a prompt asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wording {
    /// Where worked steps were asked for last, as an offset into the instructions.
    pub steps: Option<usize>,
    /// Where the bare answer was asked for last.
    pub direct: Option<usize>,
    /// It asks for few words.
    pub terse: bool,
    /// It asks for details.
    pub detailed: bool,
    /// It asks for care, or speaks to an expert.
    pub careful: bool,
    /// It asks for a check of the result.
    pub check: bool,
    /// It says where to end.
    pub ends: bool,
    /// It leaves off where the answer goes ("Answer:").
    pub primed: bool,
    /// Solved examples whose working is shown.
    pub worked_examples: usize,
    /// Solved examples of a bare answer.
    pub bare_examples: usize,
    /// The examples stand in one text with the problem rather than in turns of a chat.
    pub examples_in_text: bool,
}

const STEPS: &[&str] = &[
    "step by step",
    "step-by-step",
    "steps",
    "your work",
    "the work",
    "reason",
    "think",
    "work it out",
    "work through",
    "explain",
];
const DIRECT: &[&str] = &[
    "number only",
    "only the number",
    "just the number",
    "nothing but the number",
    "answer only",
    "only the answer",
    "just the answer",
    "directly",
    "at once",
    "immediately",
    "no explanation",
    "without explanation",
    "do not explain",
    "don't explain",
    "no steps",
    "without steps",
    "no working",
    "without working",
];
const TERSE: &[&str] = &["brief", "concise", "short", "few words", "terse"];
const DETAILED: &[&str] = &["detail", "thorough", "every step", "explain", "full sentences"];
const CAREFUL: &[&str] = &["careful", "expert", "teacher", "mathemat", "accurate", "precise", "deep breath"];
const CHECK: &[&str] = &["check", "verify"];
const ENDS: &[&str] =
    &["nothing else", "then stop", "stop after", "end with", "only", "no further", "one problem", "last line"];

/// Reads a prompt.
pub fn read(input: &Input) -> Wording {
    let mut wording = Wording::default();
    let mut instructions = String::new();
    match input {
        Input::Text(text) => {
            wording.primed = text.trim_end().to_ascii_lowercase().ends_with("answer:");
            wording.examples_in(text);
            instruct(&mut instructions, text);
        }
        Input::Messages(messages) => {
            for (at, message) in messages.iter().enumerate() {
                if message.role == "assistant" {
                    let asked = at > 0 && !problem::questions(&messages[at - 1].content).is_empty();
                    wording.example(asked, &message.content);
                    continue;
                }
                wording.primed = message.content.trim_end().to_ascii_lowercase().ends_with("answer:");
                wording.examples_in(&message.content);
                instruct(&mut instructions, &message.content);
            }
        }
    }
    // "Do not explain" must not be read as "explain".
    wording.direct = last_of(&instructions, DIRECT);
    let mut positive = instructions.clone();
    for phrase in DIRECT {
        positive = positive.replace(phrase, &" ".repeat(phrase.len()));
    }
    wording.steps = last_of(&positive, STEPS);
    wording.terse = last_of(&positive, TERSE).is_some();
    wording.detailed = last_of(&positive, DETAILED).is_some();
    wording.careful = last_of(&positive, CAREFUL).is_some();
    wording.check = last_of(&positive, CHECK).is_some();
    wording.ends = last_of(&instructions, ENDS).is_some();
    wording
}

impl Wording {
    /// Solved examples in one text: each problem but the last, with what follows it.
    fn examples_in(&mut self, text: &str) {
        for pair in problem::questions(text).windows(2) {
            let between = text[pair[0]..pair[1]].split_once('?').map_or("", |(_, after)| after);
            let solution = between.split("\n\n").next().unwrap_or_default();
            if self.example(true, solution) {
                self.examples_in_text = true;
            }
        }
    }

    fn example(&mut self, asked: bool, solution: &str) -> bool {
        let solved = asked && solution.contains(|c: char| c.is_ascii_digit());
        if solved && solution.contains('=') {
            self.worked_examples += 1;
        } else if solved {
            self.bare_examples += 1;
        }
        solved
    }
}

/// Adds the lines that ask nothing, in small letters: the instructions.
fn instruct(instructions: &mut String, text: &str) {
    for line in text.lines().filter(|line| problem::questions(line).is_empty()) {
        instructions.push_str(&line.to_ascii_lowercase());
        instructions.push('\n');
    }
}

fn last_of(text: &str, phrases: &[&str]) -> Option<usize> {
    phrases.iter().filter_map(|phrase| text.rfind(phrase)).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Message;

    const PROBLEM: &str = "Problem: Ann has 2 apples and eats 1. How many apples has she?";

    fn chat(turns: &[(&str, &str)]) -> Wording {
        let message = |&(role, content): &(&str, &str)| Message { role: role.into(), content: content.into() };
        read(&Input::Messages(turns.iter().map(message).collect()))
    }

    #[test]
    fn reads_what_is_asked_for() {
        let asked = chat(&[("system", "Reason step by step. Be brief; check it."), ("user", PROBLEM)]);
        assert!(asked.steps.is_some() && asked.direct.is_none() && asked.terse && asked.check && !asked.careful);
        let direct = chat(&[("user", &format!("{PROBLEM}\nDo not explain, answer with the number only.\nAnswer:"))]);
        assert!(direct.direct.is_some() && direct.steps.is_none() && direct.ends && direct.primed);
        let torn = chat(&[("system", "Answer only."), ("user", &format!("{PROBLEM}\nThink step by step."))]);
        assert!(torn.steps > torn.direct && torn.direct.is_some());
        assert_eq!(chat(&[("user", PROBLEM)]), Wording::default());
    }

    #[test]
    fn sees_examples_in_turns_and_in_one_text() {
        let turns = chat(&[("user", PROBLEM), ("assistant", "2 - 1 = 1. The answer is 1."), ("user", PROBLEM)]);
        assert_eq!((turns.worked_examples, turns.bare_examples, turns.examples_in_text), (1, 0, false));
        let text = read(&Input::Text(format!("{PROBLEM}\nAnswer: 1\n\n{PROBLEM}\nAnswer:")));
        assert_eq!((text.worked_examples, text.bare_examples, text.examples_in_text), (0, 1, true));
    }
}
