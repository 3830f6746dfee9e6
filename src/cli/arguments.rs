//! Arguments that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::money::Usd;
use crate::store::{Cache, Place};
use crate::study::Settings;
use crate::task::Split;

/// Which instances of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SplitArgument {
    Tune,
    Test,
}

impl From<SplitArgument> for Split {
    fn from(split: SplitArgument) -> Split {
        match split {
            SplitArgument::Tune => Split::Tune,
            SplitArgument::Test => Split::Test,
        }
    }
}

/// Common to all commands that evaluate.
#[derive(Args, Clone, Debug)]
pub struct Common {
    #[command(flatten)]
    pub place: Where,
    #[command(flatten)]
    pub asking: Asking,
    #[command(flatten)]
    pub output: Output,
}

/// Where things are.
#[derive(Args, Clone, Debug)]
pub struct Where {
    /// Where responses and the ledger are kept: a path, or `memory:` [default: .farthing/store.db]
    #[arg(long, value_name = "PATH|URL")]
    pub store: Option<String>,
    /// Endpoints, models and prices [default: farthing.toml in the task's folder, or above it up to the working folder]
    #[arg(long, value_name = "FILE")]
    pub endpoints: Option<PathBuf>,
}

/// How requests are sent, and what is random about them.
#[derive(Args, Clone, Debug)]
pub struct Asking {
    /// Use no samples that others bought: everything is bought anew, and kept behind what the store has. A run that is
    /// resumed still finds its own
    #[arg(long, conflicts_with = "refresh")]
    pub no_cache: bool,
    /// As --no-cache, but what is bought takes the place of what the store has, so later runs find it
    #[arg(long)]
    pub refresh: bool,
    /// Requests in flight at once; changes no decision [default: 32]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub concurrency: Option<u32>,
    #[command(flatten)]
    pub random: Random,
}

/// What is random.
#[derive(Args, Clone, Debug)]
pub struct Random {
    /// Decides everything random [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: Option<u64>,
}

/// How the result is shown.
#[derive(Args, Clone, Debug)]
pub struct Output {
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    /// No progress on standard error
    #[arg(long, short)]
    pub quiet: bool,
}

impl Where {
    /// The store's place: kept absolute, so that a run finds it from any folder.
    pub fn store(&self) -> String {
        store_location(self.store.as_deref())
    }
}

impl Random {
    /// The seed: as given, else a study's own.
    pub fn seed(&self) -> u64 {
        self.seed.unwrap_or(Settings::default().seed)
    }
}

impl Asking {
    /// What is done with samples that the store has.
    pub fn cache(&self) -> Cache {
        match (self.no_cache, self.refresh) {
            (_, true) => Cache::Refresh,
            (true, _) => Cache::Ignore,
            _ => Cache::Use,
        }
    }

    /// Requests in flight at once.
    pub fn concurrency(&self) -> usize {
        self.concurrency.map_or(Settings::default().concurrency, |concurrency| concurrency as usize)
    }
}

/// The help of `--endpoints` where no task is asked about.
pub const BESIDE: &str =
    "Endpoints, models and prices [default: farthing.toml beside the input, or above it up to the working folder]";

/// The help of `--seed` where nothing is random.
pub const UNUSED_SEED: &str = "Changes nothing here: nothing is random. Taken, as by every command that evaluates";

/// The place of the store that is meant, absolute.
pub fn store_location(given: Option<&str>) -> String {
    let given = given.map_or_else(|| Settings::default().store, str::to_owned);
    let absolute = Place::of(&given).file().and_then(|path| std::path::absolute(path).ok());
    absolute.map_or(given, |path| path.display().to_string())
}

/// Reads a number that others are compared with. One that is not finite is refused: nothing is below NaN, so a gate of it
/// would let everything pass.
pub fn number(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|value| value.is_finite()).ok_or_else(|| "it must be a finite number".to_owned())
}

/// Reads dollars exactly.
pub fn dollars(text: &str) -> Result<Usd, String> {
    text.parse::<Usd>().map_err(|error| error.to_string())
}

/// What something may cost: with nothing, only what the store holds can be had.
pub fn cap(text: &str) -> Result<Usd, String> {
    let budget = dollars(text)?;
    if budget < Usd::ZERO { Err("a budget cannot be below 0".to_owned()) } else { Ok(budget) }
}

/// What is spent: without a cent nothing can be.
pub fn some_dollars(text: &str) -> Result<Usd, String> {
    let budget = dollars(text)?;
    if budget <= Usd::ZERO { Err("a budget must be above 0".to_owned()) } else { Ok(budget) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_numbers_are_taken() {
        assert_eq!([number("0.5"), number("-1e3"), number("7")], [Ok(0.5), Ok(-1000.0), Ok(7.0)]);
        for text in ["nan", "NaN", "-nan", "inf", "-inf", "infinity", "1e999", "", "0,5", "much"] {
            assert!(number(text).is_err(), "{text}");
        }
    }
}
