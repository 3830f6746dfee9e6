//! From n responses to one number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the n responses to one instance become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Vote {
    /// The score of the first response.
    First,
    /// The best score of any response (FLAML's `success`).
    Any,
    /// The average score.
    Mean,
    /// The score of the most frequent answer, ties to the one seen first; what does not parse has no vote (FLAML's
    /// `success_vote`).
    Majority,
    /// 1 - (1 - p)^n, where p is the average score of the n responses (FLAML's `expected_success`).
    ExpectedSuccess,
}

impl Vote {
    /// Every way of voting.
    pub const ALL: &[Vote] = &[Vote::First, Vote::Any, Vote::Mean, Vote::Majority, Vote::ExpectedSuccess];
    /// For scores of 0 and 1 where answers cannot be told to be the same.
    pub const BINARY: &[Vote] = &[Vote::First, Vote::Any, Vote::Mean, Vote::ExpectedSuccess];
    /// For scores that are no probabilities of success.
    pub const GRADED: &[Vote] = &[Vote::First, Vote::Any, Vote::Mean];

    /// The word used in files.
    pub fn word(self) -> &'static str {
        match self {
            Vote::First => "first",
            Vote::Any => "any",
            Vote::Mean => "mean",
            Vote::Majority => "majority",
            Vote::ExpectedSuccess => "expected_success",
        }
    }

    /// The one score of these answers, in the order of the responses. `None` is a response that does not parse: it
    /// scores 0 and has no vote. No answers at all: 0.
    pub fn combine<A: PartialEq>(self, answers: &[Option<A>], score: impl Fn(&A) -> f64) -> f64 {
        let scored = || answers.iter().map(|answer| answer.as_ref().map_or(0.0, &score));
        let mean = || scored().sum::<f64>() / answers.len().max(1) as f64;
        match self {
            Vote::First => scored().next().unwrap_or(0.0),
            Vote::Any => scored().fold(0.0, f64::max),
            Vote::Mean => mean(),
            Vote::Majority => majority(answers).map_or(0.0, score),
            Vote::ExpectedSuccess if answers.is_empty() => 0.0,
            Vote::ExpectedSuccess => {
                // An average may end up a hair above 1.
                let p = mean().clamp(0.0, 1.0);
                1.0 - std::iter::repeat_n(1.0 - p, answers.len()).product::<f64>()
            }
        }
    }
}

/// The most frequent answer, ties to the one seen first.
fn majority<A: PartialEq>(answers: &[Option<A>]) -> Option<&A> {
    let mut counts: Vec<(&A, usize)> = Vec::new();
    for answer in answers.iter().flatten() {
        match counts.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, count)) => *count += 1,
            None => counts.push((answer, 1)),
        }
    }
    // max_by_key gives the last of equals: reversed, that is the one seen first.
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(answer, _)| answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(vote: Vote, answers: &[&str]) -> f64 {
        let answers: Vec<Option<&str>> = answers.iter().map(|&a| (a != "-").then_some(a)).collect();
        vote.combine(&answers, |&answer| f64::from(u8::from(answer == "y")))
    }

    #[test]
    fn each_vote_does_what_it_says() {
        let answers = ["n", "y", "-", "y"];
        assert_eq!(vote(Vote::First, &answers), 0.0);
        assert_eq!(vote(Vote::Any, &answers), 1.0);
        assert_eq!(vote(Vote::Mean, &answers), 0.5);
        assert_eq!(vote(Vote::Majority, &answers), 1.0);
        assert_eq!(vote(Vote::ExpectedSuccess, &answers), 1.0 - 0.5f64.powi(4));
        assert_eq!(vote(Vote::ExpectedSuccess, &["y", "y"]), 1.0);
        assert_eq!(vote(Vote::ExpectedSuccess, &["n"; 7]), 0.0);
    }

    #[test]
    fn ties_go_to_the_answer_seen_first() {
        assert_eq!(vote(Vote::Majority, &["y", "n", "n", "y"]), 1.0);
        assert_eq!(vote(Vote::Majority, &["n", "y", "y", "n"]), 0.0);
        assert_eq!(vote(Vote::Majority, &["a", "n", "y", "b", "y", "n"]), 0.0);
    }

    #[test]
    fn what_does_not_parse_has_no_vote_and_scores_nothing() {
        assert_eq!(vote(Vote::Majority, &["-", "-", "-", "y"]), 1.0);
        assert_eq!(vote(Vote::First, &["-", "y"]), 0.0);
        for v in Vote::ALL {
            assert_eq!(vote(*v, &["-", "-"]), 0.0);
            assert_eq!(vote(*v, &[]), 0.0);
        }
    }
}
