//! What an instance costs in production, learnt as it goes: relatives predict what was not looked at yet.

use farthing_kernels::linear::predict;

use super::kinship::Kinship;
use crate::money::Usd;

/// Prior variances of the logarithm of a cost: the level, the main effect of each parameter, what two parameters do together
/// (a stop sequence spares what max_tokens would have cut off) where there are more of them, a combination, its near n.
const LEVEL: f64 = 50.0;
const MAIN: f64 = 3.0;
const PAIR: f64 = 0.05;
const FAMILY: f64 = 0.04;
const NEAR: f64 = 0.05;
/// The growth with n: the expected exponent and its standard deviation.
const EXPONENT: (f64, f64) = (0.6, 0.25);
/// Variance of one instance's cost over the square of its configuration's mean, as expected, and how many observations that
/// expectation weighs; and what stays however many are seen.
const INSTANCE: f64 = 0.1;
const WEIGHT: f64 = 10.0;
/// How far off an input may be whose tokens are guessed from bytes.
const GUESS: f64 = 0.4;
const LEAST: f64 = 1e-4;

/// How sure what is recommended is to be within the inference budget, where anything is so sure.
pub const SURE: f64 = 0.9;

/// What production would pay for what was looked at, in dollars an instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bill {
    /// How many instances.
    pub count: usize,
    /// The mean.
    pub mean: f64,
    /// The mean of the part that is input, where that is known of all.
    pub input: Option<f64>,
    /// The sum of squared differences from the mean, of the rest where the input is known.
    pub squares: f64,
}

impl Bill {
    /// One instance more.
    pub fn add(&mut self, production: Usd, input: Option<Usd>) {
        let known = if self.count == 0 { Some(0.0) } else { self.input };
        let before = self.mean - self.input.unwrap_or(0.0);
        self.count += 1;
        let count = self.count as f64;
        self.mean += (production.as_f64() - self.mean) / count;
        self.input = known.zip(input).map(|(mean, input)| mean + (input.as_f64() - mean) / count);
        let value = production.as_f64() - input.map_or(0.0, Usd::as_f64);
        self.squares += (value - before) * (value - (self.mean - self.input.unwrap_or(0.0)));
    }

    /// What is not input, by the completion; all of it where the input is not known.
    fn completion(&self, samples: f64) -> f64 {
        match self.input {
            Some(input) => (self.mean - input).max(0.0) / samples,
            None => self.mean,
        }
    }
}

/// What input costs an instance in production.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Input {
    /// The mean.
    pub dollars: f64,
    /// So many instances it is the mean of, counted as they will be billed; 0: it is a guess.
    pub counted: usize,
    /// The standard error of the mean over the mean; 0 where all instances were counted.
    pub error: f64,
}

impl Input {
    /// It alone is more than an inference budget, surely.
    pub fn over(&self, budget: f64) -> bool {
        self.counted > 0 && self.dollars * (1.0 - 3.0 * self.error) > budget * (1.0 + 1e-9)
    }
}

/// How much one instance's cost differs from its configuration's mean: the variance over the square of the mean.
fn spread(bills: &[Bill], usual: f64) -> f64 {
    let rest = |bill: &Bill| bill.mean - bill.input.unwrap_or(0.0);
    let seen = |bill: &&Bill| bill.count > 1 && rest(bill) > 0.0;
    let (sum, count) = bills.iter().filter(seen).fold((0.0, 0.0), |(sum, count), bill| {
        (sum + bill.squares / rest(bill).powi(2), count + bill.count as f64 - 1.0)
    });
    (sum + usual * WEIGHT) / (count + WEIGHT)
}

/// Costs as logarithms of dollars per instance.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Expected logarithms.
    pub log: Vec<f64>,
    /// Their standard deviations.
    pub sd: Vec<f64>,
}

impl Costs {
    /// Learns from what was seen. Where inputs are known, only completions are left to be learnt: one costs the same
    /// whatever n is. `None` where nothing above 0 was seen.
    pub fn fit(kinship: &Kinship, bills: &[Bill], inputs: &[Option<Input>]) -> Option<Costs> {
        let all: Option<Vec<Input>> = inputs.iter().copied().collect();
        let seen = || bills.iter().filter(|bill| bill.count > 0);
        match all.filter(|_| seen().all(|bill| bill.input.is_some())) {
            Some(inputs) => Costs::of_completions(kinship, bills, &inputs),
            None => {
                let (log, variance) = logs(kinship, bills, false)?;
                Some(Costs { log, sd: variance.into_iter().map(f64::sqrt).collect() })
            }
        }
    }

    fn of_completions(kinship: &Kinship, bills: &[Bill], inputs: &[Input]) -> Option<Costs> {
        if bills.iter().all(|bill| bill.mean <= 0.0) {
            return None;
        }
        // Where tokens can only be guessed from bytes, bills say how far off that is.
        let (billed, guessed) = bills
            .iter()
            .zip(inputs)
            .filter(|(bill, input)| bill.count > 0 && input.counted == 0)
            .fold((0.0, 0.0), |(billed, guessed), (bill, input)| {
                let count = bill.count as f64;
                (billed + bill.input.unwrap_or(0.0) * count, guessed + input.dollars * count)
            });
        let off = if guessed > 0.0 { billed / guessed } else { 1.0 };
        let completions = logs(kinship, bills, true);
        let (mut log, mut sd) = (Vec::new(), Vec::new());
        for (row, input) in inputs.iter().enumerate() {
            let (input, unsure) = match (input.counted, bills[row].count) {
                (0, 0) => (input.dollars * off, if guessed > 0.0 { 0.1 } else { GUESS }),
                (0, count) => (bills[row].input.unwrap_or(0.0), 0.1 / (count as f64).sqrt()),
                // Bills are of the same instances, and of more of them in the end.
                (counted, count) if input.error > 0.0 && count > counted => {
                    (bills[row].input.unwrap_or(0.0), input.error * (counted as f64 / count as f64).sqrt())
                }
                _ => (input.dollars, input.error),
            };
            let (output, doubt) = completions.as_ref().map_or((0.0, 0.0), |(log, variance)| {
                let output = log[row].exp() * kinship.samples[row];
                (output, output * variance[row].sqrt())
            });
            let dollars = (input + output).max(f64::MIN_POSITIVE);
            log.push(dollars.ln());
            sd.push((doubt.powi(2) + (unsure * input).powi(2)).sqrt() / dollars);
        }
        Some(Costs { log, sd })
    }

    /// Expected dollars per instance.
    pub fn dollars(&self, row: usize) -> f64 {
        self.log[row].exp()
    }

    /// The probability that a configuration's mean cost is within an inference budget.
    pub fn within(&self, row: usize, budget: f64) -> f64 {
        within(self.log[row], self.sd[row], budget)
    }
}

/// The probability that a cost is within a budget, by the expectation and the standard deviation of its logarithm.
pub fn within(log: f64, sd: f64, budget: f64) -> f64 {
    normal_cdf((budget.max(f64::MIN_POSITIVE).ln() - log) / sd.max(1e-9))
}

/// Expected logarithms and their variances: of what one completion costs, or of all that an instance costs. `None` where
/// nothing above 0 was seen.
fn logs(kinship: &Kinship, bills: &[Bill], completions: bool) -> Option<(Vec<f64>, Vec<f64>)> {
    let spread = spread(bills, INSTANCE);
    let (exponent, near) = if completions { ((0.0, 0.0), 0.0) } else { (EXPONENT, NEAR) };
    let value = |row: usize| {
        let bill = &bills[row];
        let value = if completions { bill.completion(kinship.samples[row]) } else { bill.mean };
        (bill.count > 0 && value > 0.0).then(|| (value.ln(), LEAST + spread / bill.count as f64))
    };
    let line = |row: usize| kinship.samples[row].ln();
    let rest: Vec<Option<(f64, f64)>> =
        (0..kinship.len()).map(|row| value(row).map(|(log, noise)| (log - exponent.0 * line(row), noise))).collect();
    let known = rest.iter().flatten().count() as f64;
    if known == 0.0 {
        return None;
    }
    let centre = rest.iter().flatten().map(|(rest, _)| rest).sum::<f64>() / known;
    let prior = |a: usize, b: usize| {
        let (mut all, mut one, mut squares) = (1.0, 0.0, 0.0);
        for parameter in 0..kinship.parameters.len() {
            let alike = kinship.alike(parameter, a, b);
            all *= alike;
            one += alike;
            squares += alike * alike;
        }
        let pairs = if kinship.parameters.len() > 2 { (one * one - squares) / 2.0 } else { 0.0 };
        let sum = LEVEL
            + exponent.1 * exponent.1 * line(a) * line(b)
            + MAIN * one
            + PAIR * pairs
            + all * (FAMILY + near * kinship.near(a, b));
        if a == b { sum + 1e-6 } else { sum }
    };
    let seen: Vec<_> = rest.iter().map(|seen| seen.map(|(rest, noise)| (rest - centre, noise))).collect();
    let (log, variance): (Vec<f64>, Vec<f64>) = predict(&seen, prior).into_iter().unzip();
    Some((log.iter().enumerate().map(|(row, log)| log + centre + exponent.0 * line(row)).collect(), variance))
}

/// The standard normal distribution function.
pub fn normal_cdf(z: f64) -> f64 {
    0.5 * statrs::function::erf::erfc(-z / std::f64::consts::SQRT_2)
}
