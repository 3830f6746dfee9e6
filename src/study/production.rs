//! What production would pay for a configuration, learnt from its own answers and from its relatives'.
//!
//! Inputs are rendered over all tuning instances: what was not answered yet counts in proportion to its bound. Outputs are
//! learnt, in tokens a completion, and grow with n. *Siblings* differ in n and max_tokens alone: their completions are of
//! one kind, only cut off elsewhere. *Relatives* share model, prompt and template variables, and are taken to differ by
//! 30 % in their mean. A longer max_tokens never makes completions shorter, and the mean of `min(length, max_tokens)` is
//! concave in max_tokens; that bounds what one sibling says of another from both sides (FLAML's valid and invalid
//! bounds, EcoOptiGen 2023, made exact).
//!
//! A configuration is dropped when the evidence that it is too dear reaches 40 (97.5 %), in the sense of
//! [`eprocess::above`]: at any time of looking, whatever the distribution of lengths.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::money::Usd;
use crate::space::parameter::{OUTPUT_LIMITS, output_limit};
use crate::stats::eprocess;
use crate::study::trial::{Evaluation, Production, Trial, short};

/// How far the mean output of a relative is taken to be off, as a share. Half of the variance is that of the one which is
/// asked about, and however many relatives there are does not take it away.
const RELATIVE: f64 = 0.3;

/// The evidence that drops: 40 is 97.5 %.
const DROP: f64 = 40.0;

/// What relatives say of the mean output of a completion, in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutputPrior {
    /// The mean.
    pub mean: f64,
    /// How unsure that is, as a variance.
    pub variance: f64,
    /// The variance of one instance's output over the square of its mean.
    pub spread: f64,
}

/// True where production can afford a mean: sums of floats may be off by a hundredth of a picodollar.
pub fn within(mean: f64, inference_budget: Usd) -> bool {
    mean <= inference_budget.as_f64() + 1e-14
}

fn answered(trial: &Trial) -> impl Iterator<Item = &Evaluation> {
    trial.evaluations.iter().filter(|done| done.production().is_some())
}

/// Output tokens a completion, of each instance that was answered. Where long inputs make output dearer, a token of theirs
/// counts for more than one.
fn outputs(trial: &Trial) -> Vec<f64> {
    outputs_but(trial, &BTreeSet::new())
}

/// The same without some instances.
fn outputs_but(trial: &Trial, without: &BTreeSet<usize>) -> Vec<f64> {
    let n = f64::from(trial.plan.n.max(1));
    let price = &trial.plan.service.price;
    let base = price.at(0).output.as_f64();
    let weight = |prompt: u64| if base > 0.0 { price.at(prompt).output.as_f64() / base } else { 1.0 };
    let counted = answered(trial).filter(|done| !without.contains(&done.instance()));
    counted.map(|done| done.completion_tokens() as f64 / n * weight(done.prompt_tokens())).collect()
}

/// Dollars that one token a completion costs, over all n.
fn per_token(trial: &Trial) -> f64 {
    f64::from(trial.plan.n.max(1)) * trial.plan.service.price.at(0).output.as_f64()
}

/// The count, the mean and the sample variance.
pub(super) fn moments(values: &[f64]) -> (f64, f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (n, mean, if n > 1.0 { squares / (n - 1.0) } else { 0.0 })
}

/// Where its completions are cut off.
fn cut(trial: &Trial) -> f64 {
    output_limit(|name| trial.plan.params.get(name)).map_or(f64::INFINITY, |most| most as f64).max(1.0)
}

/// The same model, prompt and template variables.
fn relatives(a: &Trial, b: &Trial) -> bool {
    a.plan.service.model.name == b.plan.service.model.name
        && a.plan.prompt.name == b.plan.prompt.name
        && a.plan.variables == b.plan.variables
}

/// Relatives that differ in n and max_tokens alone.
fn siblings(a: &Trial, b: &Trial) -> bool {
    let differs = |(name, value): (&String, &Value), other: &Trial| {
        !OUTPUT_LIMITS.contains(&name.as_str()) && other.plan.params.get(name) != Some(value)
    };
    relatives(a, b)
        && !a.plan.params.iter().any(|parameter| differs(parameter, b))
        && !b.plan.params.iter().any(|parameter| differs(parameter, a))
}

/// The least and the greatest that the mean output can be with completions cut off at `to`, where it is `mean` with
/// them cut off at `from`.
fn cut_elsewhere(mean: f64, from: f64, to: f64) -> (f64, f64) {
    match (from.is_finite(), to.is_finite()) {
        _ if from == to => (mean, mean),
        // Concave and 0 at 0: it grows at most in proportion, and shrinks at most in proportion.
        (true, true) if to < from => (mean * to / from, mean.min(to)),
        (true, true) => (mean, mean * to / from),
        (false, true) => (0.0, mean.min(to)),
        // Without a cut nothing is known above; what is seen mostly ends by itself.
        _ => (mean, 2.0 * mean),
    }
}

/// What one relative says of a mean.
#[derive(Clone, Copy, Debug)]
struct Word {
    /// The mean.
    expected: f64,
    /// How far off it is by chance, as a variance: others are off by something else.
    own: f64,
    /// How far off it is as all others are, as a variance.
    alike: f64,
}

/// The mean that relatives say together, and how unsure it is, as a variance; `None` where none says anything.
fn together(words: &[Word]) -> Option<(f64, f64)> {
    let (mut weights, mut sum, mut chance, mut shared) = (0.0, 0.0, 0.0, 0.0);
    for &Word { expected, own, alike } in words {
        let own = own.max(1e-6 * expected * expected);
        let weight = 1.0 / (own + alike);
        weights += weight;
        sum += weight * expected;
        chance += weight * weight * own;
        shared += weight * alike.sqrt();
    }
    (weights > 0.0).then(|| (sum / weights, (chance + shared * shared) / (weights * weights)))
}

/// What the relatives of a trial say of its outputs; `None` where none was answered.
pub fn prior(trial: &Trial, all: &[Trial]) -> Option<OutputPrior> {
    // What a sibling wrote where the trial was asked itself is mostly the trial's own: it counts once.
    let (own, nothing) = (answered(trial).map(Evaluation::instance).collect::<BTreeSet<usize>>(), BTreeSet::new());
    let others = all.iter().filter(|other| other.number != trial.number && relatives(other, trial));
    let series = others.filter_map(|other| {
        let sibling = siblings(other, trial);
        let moments = moments(&outputs_but(other, if sibling { &own } else { &nothing }));
        let (least, greatest) = cut_elsewhere(moments.1, cut(other), cut(trial));
        (moments.0 > 0.0 && moments.1 > 0.0).then_some((sibling, moments, (least, greatest)))
    });
    let series: Vec<_> = series.collect();
    // A few that are alike by chance say nothing of how much lengths differ: all together do, as a share of what is typical.
    let itself = moments(&outputs(trial));
    let middle = |(least, greatest): (f64, f64)| f64::midpoint(least, greatest);
    let every = || series.iter().map(|&(_, moments, ends)| (moments, middle(ends))).chain([(itself, itself.1)]);
    let share = |(count, mean, variance): (f64, f64, f64)| if count > 1.0 { variance / (mean * mean) } else { 1.0 };
    let told = || every().filter(|(moments, _)| moments.0 > 0.0 && moments.1 > 0.0);
    let seen: f64 = told().map(|(moments, _)| moments.0).sum();
    let spread = told().map(|(moments, _)| moments.0 * share(moments)).sum::<f64>() / seen;
    let typical = told().map(|(moments, expected)| moments.0 * expected).sum::<f64>() / seen;
    let words: Vec<Word> = series
        .iter()
        .map(|&(sibling, (count, mean, variance), ends)| {
            let expected = middle(ends);
            let kind = if sibling { 0.0 } else { (expected * RELATIVE).powi(2) / 2.0 };
            Word {
                expected,
                own: kind + variance.max(spread * mean.max(typical).powi(2)) / count,
                // The kind of the one that is asked about, and where between its bounds a cut lets it come out.
                alike: kind + ((ends.1 - ends.0) / 4.0).powi(2),
            }
        })
        .collect();
    together(&words).map(|(mean, variance)| OutputPrior { mean, variance, spread })
}

/// What production would pay an instance, by the posterior. `None` where nothing is known of it or a relative.
pub fn production(trial: &Trial, bounds: Option<&[u64]>, prior: Option<OutputPrior>) -> Option<Production> {
    let lengths = outputs(trial);
    let (count, own, variance) = moments(&lengths);
    let unseen =
        bounds.filter(|bounds| !bounds.is_empty()).map_or(1.0, |all| 1.0 - (count / all.len() as f64).min(1.0));
    // From one answer the spread is not known: a relative's, else as large as the mean.
    let spread =
        if count >= 8.0 { 0.0 } else { prior.map_or(if count > 1.0 { 0.0 } else { 1.0 }, |prior| prior.spread) };
    let own_error = variance.max(spread * own * own) / count.max(1.0) * unseen;
    let (mean, error) = match prior {
        _ if count > 0.0 && own_error == 0.0 => (own, 0.0),
        Some(prior) if count > 0.0 => {
            let (a, b) = (1.0 / own_error, 1.0 / prior.variance.max(f64::MIN_POSITIVE));
            ((a * own + b * prior.mean) / (a + b), 1.0 / (a + b))
        }
        Some(prior) => (prior.mean, prior.variance),
        None if count > 0.0 => (own, own_error),
        None => return None,
    };
    let per_token = per_token(trial);
    Some(Production {
        mean: trial.plan.input_dollars(input(trial, bounds)?.mean) + mean * per_token,
        output: mean * per_token,
        error: error.sqrt() * per_token,
        seen: lengths.len(),
    })
}

/// Input tokens an instance: what is expected, and what it surely is at least.
struct InputMean {
    mean: f64,
    least: f64,
}

/// Before an answer the share of the bounds that is tokens is not known: about a quarter for English text.
const TOKENS_A_BYTE: f64 = 0.25;

fn input(trial: &Trial, bounds: Option<&[u64]>) -> Option<InputMean> {
    let tokens: Vec<f64> = answered(trial).map(|done| done.prompt_tokens() as f64).collect();
    let all = bounds.filter(|bounds| !bounds.is_empty());
    let Some(all) = all else {
        let (count, mean, variance) = moments(&tokens);
        return (count > 0.0).then(|| InputMean { mean, least: (mean - 2.0 * (variance / count).sqrt()).max(0.0) });
    };
    let mean_bound = all.iter().map(|&bound| bound as f64).sum::<f64>() / all.len() as f64;
    if tokens.is_empty() {
        return Some(InputMean { mean: mean_bound * TOKENS_A_BYTE, least: 0.0 });
    }
    let seen: Vec<f64> =
        answered(trial).filter_map(|done| all.get(done.instance())).map(|&bound| bound as f64).collect();
    let share = tokens.iter().sum::<f64>() / seen.iter().sum::<f64>().max(1.0);
    let shares: Vec<f64> = tokens.iter().zip(&seen).map(|(tokens, bound)| tokens / bound.max(1.0)).collect();
    let (count, _, variance) = moments(&shares);
    let unseen = 1.0 - (count / all.len() as f64).min(1.0);
    // One answer says nothing of the spread: then only half of it is taken for sure.
    let least = if count > 1.0 { share - 2.0 * (variance / count * unseen).sqrt() } else { share / 2.0 };
    Some(InputMean { mean: share * mean_bound, least: least.max(0.0) * mean_bound })
}

/// The logarithm of the evidence that a mean is above `limit`: from a series of its own, and from series whose mean, times
/// a factor, is no greater. Each is evidence by itself, so is their average.
fn evidence(own: &[f64], others: &[(Vec<f64>, f64)], limit: f64) -> f64 {
    let own = (!own.is_empty()).then(|| eprocess::above(own, limit));
    let others = others.iter().map(|(values, factor)| eprocess::above(values, limit / factor));
    let logs: Vec<f64> = own.into_iter().chain(others).collect();
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if logs.is_empty() || most.is_infinite() {
        return if logs.is_empty() { 0.0 } else { most };
    }
    most + (logs.iter().map(|log| (log - most).exp()).sum::<f64>() / logs.len() as f64).ln()
}

/// Why a trial should be dropped now: production surely (at 97.5 %) could not afford it. `all` are all trials, whose siblings
/// speak for it too, even before it was asked anything.
pub fn too_dear(trial: &Trial, bounds: Option<&[u64]>, all: &[Trial], budget: Usd) -> Option<String> {
    let own = outputs(trial);
    let family: Vec<&Trial> =
        all.iter().filter(|other| other.number != trial.number && siblings(other, trial)).collect();
    let everything = bounds.is_some_and(|bounds| !bounds.is_empty() && own.len() >= bounds.len());
    let surely = if everything {
        !within(trial.production()?.mean, budget)
    } else {
        // Siblings have the same inputs: the one that was answered most knows them best.
        let knowing = std::iter::once(trial).chain(family.iter().copied()).max_by_key(|of| answered(of).count())?;
        let room = budget.as_f64() - trial.plan.input_dollars(input(knowing, bounds)?.least);
        let per_token = per_token(trial);
        let factor = |other: &Trial| cut_elsewhere(1.0, cut(other), cut(trial)).0;
        let others: Vec<(Vec<f64>, f64)> = family
            .iter()
            .map(|other| (outputs(other), factor(other)))
            .filter(|(o, f)| !o.is_empty() && *f > 0.0)
            .collect();
        match per_token > 0.0 {
            true => evidence(&own, &others, room / per_token) >= DROP.ln(),
            false => room < 0.0,
        }
    };
    let expected = || production(trial, bounds, prior(trial, all)).map_or(0.0, |production| production.mean);
    surely.then(|| {
        let by = if own.is_empty() { ", as its siblings show" } else { "" };
        format!(
            "about ${} an instance in production{by}, over the inference budget of ${budget}",
            short(expected().max(budget.as_f64()))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha12Rng;

    /// Lengths with a long tail: mean `mean`, the standard deviation about as large.
    fn lengths(rng: &mut ChaCha12Rng, count: usize, mean: f64) -> Vec<f64> {
        (0..count).map(|_| -(1.0 - rng.random::<f64>()).ln() * mean).collect()
    }

    #[test]
    fn many_relatives_do_not_make_sure_what_all_are_off_by_alike() {
        let of = |word: Word, count: usize| together(&vec![word; count]).unwrap();
        // 30 % off, half of the variance by chance: 21 % stay.
        let relative = Word { expected: 100.0, own: 450.0, alike: 450.0 };
        assert_eq!(of(relative, 1), (100.0, 900.0));
        let (mean, variance) = of(relative, 50);
        assert!((mean - 100.0).abs() < 1e-9 && (variance - 459.0).abs() < 1e-6, "{mean} {variance}");
        // Siblings cut off at the same place agree to the last token, and are not taken to know it without end.
        let (mean, variance) = of(Word { expected: 20.0, own: 0.0, alike: 0.0 }, 3);
        assert!((mean - 20.0).abs() < 1e-9 && variance > 0.0 && variance < 1e-3, "{mean} {variance}");
        assert_eq!(together(&[]), None);
    }

    #[test]
    fn what_is_affordable_is_not_dropped_more_often_than_said() {
        // At the very limit, looking after every evaluation, with three siblings that say just as much.
        let mut rng = ChaCha12Rng::seed_from_u64(2);
        let studies = 200;
        let wrong = (0..studies).filter(|_| {
            let own = lengths(&mut rng, 100, 50.0);
            let others: Vec<Vec<f64>> = (0..3).map(|_| lengths(&mut rng, 100, 100.0)).collect();
            (1..=100).step_by(4).any(|n| {
                let others: Vec<(Vec<f64>, f64)> = others.iter().map(|all| (all[..n].to_vec(), 0.5)).collect();
                evidence(&own[..n], &others, 50.0) >= DROP.ln()
            })
        });
        let wrong = wrong.count();
        assert!(wrong as f64 <= 0.025 * f64::from(studies), "{wrong}");
    }

    #[test]
    fn what_is_far_too_dear_is_dropped_soon() {
        let mut rng = ChaCha12Rng::seed_from_u64(4);
        let looks = |times: f64, rng: &mut ChaCha12Rng| {
            let own = lengths(rng, 400, 50.0 * times);
            (1..=400).find(|&n| evidence(&own[..n], &[], 50.0) >= DROP.ln()).unwrap_or(400)
        };
        let mut median = |times: f64| {
            let mut all: Vec<usize> = (0..41).map(|_| looks(times, &mut rng)).collect();
            all.sort_unstable();
            all[20]
        };
        let (ten, three, two) = (median(10.0), median(3.0), median(2.0));
        println!("evaluations until dropped: 10 times too dear {ten}, 3 times {three}, twice {two}");
        assert!(ten <= 5 && three <= 14 && two <= 32, "{ten} {three} {two}");
        // A sibling's evidence is enough by itself.
        let sibling = vec![(lengths(&mut rng, 60, 500.0), 0.5)];
        assert!(evidence(&[], &sibling, 50.0) >= DROP.ln());
        assert_eq!(evidence(&[], &[], 50.0), 0.0);
    }

    proptest! {
        #[test]
        fn a_cut_elsewhere_is_bounded(
            values in prop::collection::vec(1.0_f64..2000.0, 1..50), from in 1.0_f64..1500.0, to in 1.0_f64..1500.0,
        ) {
            let mean = |cut: f64| values.iter().map(|value| value.min(cut)).sum::<f64>() / values.len() as f64;
            let (least, greatest) = cut_elsewhere(mean(from), from, to);
            prop_assert!(least <= mean(to) * (1.0 + 1e-9) && mean(to) <= greatest * (1.0 + 1e-9));
            let (least, greatest) = cut_elsewhere(mean(f64::INFINITY), f64::INFINITY, to);
            prop_assert!(least <= mean(to) && mean(to) <= greatest * (1.0 + 1e-9));
        }
    }
}
