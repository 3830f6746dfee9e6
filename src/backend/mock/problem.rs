//! The little arithmetic word problems that the made-up models know: reading one, and really solving it.
//!
//! A problem stands on one line and ends in a question that begins with "How many". What is understood:
//!
//! - `Ann has 12 apples`, and the gains `buys|finds|gets|picks|bakes|packs|wins 7` and losses
//!   `gives|loses|eats|sells|uses|breaks 5`; each amount may be `3 bags of 7` (any word for the bag);
//! - `shares them equally among 4 friends`;
//! - `A pen costs 3 dollars. Tom buys 5 of them and pays with 20 dollars`: the question is for the change;
//! - `Mia has 3 times as many`; with `together` in the question, both are added up.

/// What one step of a solution does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Left plus right.
    Add,
    /// Left minus right.
    Subtract,
    /// Left times right.
    Multiply,
    /// Left by right, without a rest.
    Divide,
}

impl Operation {
    /// The sign between the operands.
    pub fn sign(self) -> char {
        match self {
            Operation::Add => '+',
            Operation::Subtract => '-',
            Operation::Multiply => '*',
            Operation::Divide => '/',
        }
    }

    /// The result, if there is one: a division by 0 or an overflow has none. Rests of divisions are dropped.
    pub fn apply(self, left: i64, right: i64) -> Option<i64> {
        match self {
            Operation::Add => left.checked_add(right),
            Operation::Subtract => left.checked_sub(right),
            Operation::Multiply => left.checked_mul(right),
            Operation::Divide => left.checked_div(right),
        }
    }
}

/// What a step works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A number of the problem.
    Number(i64),
    /// The result of an earlier step.
    Result(usize),
}

/// One step of a solution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub operation: Operation,
    /// On what.
    pub left: Operand,
    /// With what.
    pub right: Operand,
}

impl Step {
    /// The numbers of the step, given the results of the steps before it.
    pub fn operands(&self, results: &[i64]) -> (i64, i64) {
        let value = |operand| match operand {
            Operand::Number(number) => number,
            Operand::Result(step) => results.get(step).copied().unwrap_or(0),
        };
        (value(self.left), value(self.right))
    }
}

/// A word problem that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem<'a> {
    /// The line it stands on, without a label.
    pub text: &'a str,
    /// What stood before it, up to a colon: `Problem`, `Q`; or nothing.
    pub label: &'a str,
    /// What is counted: the word after "How many".
    pub things: &'a str,
    /// How it is solved: at least one step.
    pub steps: Vec<Step>,
    /// The result of each step.
    pub results: Vec<i64>,
}

impl Problem<'_> {
    /// The right answer.
    pub fn answer(&self) -> i64 {
        self.results.last().copied().unwrap_or(0)
    }
}

/// What a verb does to the amount that follows it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Has,
    Gains,
    Loses,
    Costs,
    Pays,
}

fn verb(word: &str) -> Option<Verb> {
    Some(match word {
        "has" | "had" => Verb::Has,
        "buys" | "finds" | "gets" | "picks" | "bakes" | "packs" | "wins" => Verb::Gains,
        "gives" | "loses" | "eats" | "sells" | "uses" | "breaks" => Verb::Loses,
        "costs" => Verb::Costs,
        "pays" => Verb::Pays,
        _ => return None,
    })
}

/// Byte offsets of every "how many" of a text, in any case.
pub fn questions(text: &str) -> Vec<usize> {
    const QUESTION: &[u8] = b"how many";
    let windows = text.as_bytes().windows(QUESTION.len()).enumerate();
    windows.filter(|(_, window)| window.eq_ignore_ascii_case(QUESTION)).map(|(at, _)| at).collect()
}

/// The last problem of a text. `None` where there is none, or it is not one of the kinds known here, or its numbers
/// are above 999 or do not work out in whole numbers from 0 up.
pub fn last(text: &str) -> Option<Problem<'_>> {
    let question = *questions(text).last()?;
    let start = text[..question].rfind('\n').map_or(0, |at| at + 1);
    let end = text[question..].find(['?', '\n']).map_or(text.len(), |at| question + at + 1);
    let line = &text[start..end];
    let (label, told) = match line.split_once(':') {
        Some((label, told)) if label.len() <= 12 && start + label.len() < question => (label.trim(), told),
        _ => ("", line),
    };
    let asked = &text[question..end];
    let told_end = told.len() - asked.len();
    let mut reader = Reader::default();
    reader.read(&told[..told_end])?;
    let words: Vec<&str> = words(asked).collect();
    if words.contains(&"together") {
        let (other, total) = (reader.other?, reader.total?);
        reader.step(Operation::Add, other, total)?;
    }
    let things = words.get(2).copied().unwrap_or("things");
    let (steps, results) = (reader.steps, reader.results);
    (!steps.is_empty()).then(|| Problem { text: told.trim(), label, things, steps, results })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_whitespace()
        .map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
}

/// Reads what is told, word by word, and keeps the accounts.
#[derive(Default)]
struct Reader {
    total: Option<Operand>,
    other: Option<Operand>,
    price: Option<i64>,
    cost: Option<Operand>,
    steps: Vec<Step>,
    results: Vec<i64>,
}

impl Reader {
    fn step(&mut self, operation: Operation, left: Operand, right: Operand) -> Option<Operand> {
        let step = Step { operation, left, right };
        let (left, right) = step.operands(&self.results);
        let result = operation.apply(left, right).filter(|result| (0..1_000_000).contains(result))?;
        if operation == Operation::Divide && left % right != 0 {
            return None;
        }
        self.steps.push(step);
        self.results.push(result);
        self.total = Some(Operand::Result(self.steps.len() - 1));
        self.total
    }

    fn read(&mut self, told: &str) -> Option<()> {
        use Operand::Number;
        let words: Vec<&str> = words(told).collect();
        let word = |at: usize| words.get(at).copied().unwrap_or("");
        let number = |at: usize| {
            let word = word(at);
            (word.len() <= 3 && word.bytes().all(|b| b.is_ascii_digit())).then(|| word.parse::<i64>().ok()).flatten()
        };
        let mut doing = None;
        let mut at = 0;
        while at < words.len() {
            doing = verb(word(at)).or(doing);
            let (Some(count), Some(verb)) = (number(at), doing) else {
                // A number that is too large, or written in another way, must not be passed over.
                if doing.is_some() && word(at).starts_with(|c: char| c.is_ascii_digit()) {
                    return None;
                }
                at += 1;
                continue;
            };
            let before = if at == 0 { "" } else { word(at - 1) };
            let mut next = at + 1;
            if word(at + 1) == "times" {
                self.other = self.total;
                self.step(Operation::Multiply, self.other?, Number(count))?;
            } else if before == "among" {
                self.step(Operation::Divide, self.total?, Number(count))?;
            } else if verb == Verb::Costs {
                self.price = Some(count);
            } else if verb == Verb::Pays {
                self.step(Operation::Subtract, Number(count), self.cost?)?;
            } else if word(at + 1) == "of" && word(at + 2) == "them" {
                self.cost = self.step(Operation::Multiply, Number(count), Number(self.price?));
            } else {
                let total = self.total;
                let mut amount = Number(count);
                if let (true, Some(size)) = (word(at + 2) == "of", number(at + 3)) {
                    amount = self.step(Operation::Multiply, amount, Number(size))?;
                    next = at + 4;
                }
                match (verb, total) {
                    (Verb::Has, _) => {
                        self.other = total;
                        self.total = Some(amount);
                    }
                    (Verb::Gains, Some(total)) => _ = self.step(Operation::Add, total, amount)?,
                    (Verb::Loses, Some(total)) => _ = self.step(Operation::Subtract, total, amount)?,
                    (Verb::Gains, None) => self.total = Some(amount),
                    _ => return None,
                }
            }
            at = next;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Option<i64> {
        last(text).map(|problem| problem.answer())
    }

    #[test]
    fn solves_each_kind() {
        for (text, right) in [
            ("Ann has 12 apples, buys 3 bags of 7 and gives 5 away. How many apples has she?", 28),
            (
                "Tom picks 48 pears, finds 12 more and shares them equally among 4 friends. How many pears does each friend get?",
                15,
            ),
            (
                "A pen costs 3 dollars. Eva buys 5 of them and pays with 20 dollars. How many dollars does she get back?",
                5,
            ),
            ("Ben has 14 stamps. Mia has 3 times as many and loses 6. How many stamps have they together?", 50),
            ("Ida packs 4 boxes of 12 cups and 3 bags of 9, and breaks 2. How many cups are left?", 73),
            (
                "Answer with the number only. Problem 1: nothing.\nQ: Ann has 2 apples and eats 1. How many apples has she?\nA:",
                1,
            ),
        ] {
            assert_eq!(answer(text), Some(right), "{text}");
        }
    }

    #[test]
    fn takes_the_last_problem_with_its_label() {
        let text = "Q: Ann has 2 apples and eats 1. How many apples has she?\nA: 1\n\nQ: Bo has 9 figs and eats 4. how many figs has he?\nA:";
        let problem = last(text).unwrap();
        assert_eq!((problem.label, problem.things, problem.answer()), ("Q", "figs", 5));
        assert_eq!(problem.text, "Bo has 9 figs and eats 4. how many figs has he?");
    }

    #[test]
    fn what_is_no_such_problem_is_none() {
        for text in [
            "",
            "How many?",
            "How many apples has she? Ann has 12 apples.",
            "Ann has 3 apples and loses 5. How many apples has she?",
            "Ann has 10 apples and shares them among 3 friends. How many apples does each get?",
            "Ann has 10 apples and shares them among 0 friends. How many apples does each get?",
            "Ann has 1000 apples and eats 5. How many apples has she?",
            "Ann has 12 apples and paints 3. How much is the fish?",
            "Zwölf Äpfel: how many äpfel",
            "a:how many",
        ] {
            assert_eq!(answer(text), None, "{text}");
        }
    }
}
