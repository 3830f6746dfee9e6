//! The made-up models: no language model at all, but a deterministic imitation of one, so that tuning can be tried,
//! taught and tested without a key and without a cent.
//!
//! They solve the little word problems of [`problem`], the last one in the prompt, and they err the way large models do:
//!
//! - **Wording.** Asked for the bare answer they are short, cheap and often wrong; asked for steps ("step by step",
//!   "show your work") they write worked lines, and are right more often. "Briefly" with steps shortens the working,
//!   "explain in detail" lengthens it; solved examples, an expert's system prompt and "check" help a little. Where
//!   wordings contradict each other, the later one mostly wins.
//! - **Temperature.** At 0 every sample is the same. Above, each sample is more often drawn anew and a little worse,
//!   but errors scatter, so that a majority vote over worked answers finds more than the greedy one. Bare answers err
//!   the same way each time: voting helps them little. Above 1.3 it all goes bad. `top_p` scales the temperature.
//! - **Running on.** After its answer a model often goes on with a next problem of its own invention, until
//!   `max_tokens`, unless a stop sequence ends it. Telling it where to end makes that rarer.
//! - **Cuts.** Stop sequences and `max_tokens` cut the text exactly; they do not change what is said before the cut.
//!
//! Every draw is a hash of the model, the prompt, the temperature, `top_p`, `seed` and the sample's index. The difficulty
//! of a problem hangs on its text alone, so it is shared by all prompts and models, and paired comparison works.

pub mod problem;
pub mod tokens;
mod wording;

use serde_json::Value;

use crate::provider::{Failure, FailureKind, FinishReason, Input, Request, Response, Sample};
use problem::{Operation, Problem};
use wording::Wording;

/// What is declared about a made-up model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// Its name in requests.
    pub name: &'static str,
    /// What it is, in words.
    pub about: &'static str,
    /// A suggested price in dollars per million input tokens, as a decimal.
    pub input_price: &'static str,
    /// A suggested price in dollars per million output tokens, as a decimal.
    pub output_price: &'static str,
    /// The most tokens of prompt and completion together.
    pub context_window: u64,
    /// The most tokens of one completion; also the default of `max_tokens`.
    pub max_output_tokens: u64,
    /// How able it is, in units of difficulty: with worked steps, and without.
    skill: [f64; 2],
    /// The chance that it works in steps unasked.
    works_unasked: f64,
    /// The chance that it runs on in a chat, without a stop sequence.
    runs_on: f64,
}

/// The made-up models.
pub const MODELS: &[Model] = &[
    Model {
        name: "mock-small",
        about: "made up: cheap and weak",
        input_price: "0.25",
        output_price: "0.75",
        context_window: 8192,
        max_output_tokens: 1024,
        skill: [0.2, -1.0],
        works_unasked: 0.2,
        runs_on: 0.6,
    },
    Model {
        name: "mock-large",
        about: "made up: dear and stronger",
        input_price: "1",
        output_price: "3",
        context_window: 32768,
        max_output_tokens: 1024,
        skill: [1.1, 0.05],
        works_unasked: 0.5,
        runs_on: 0.45,
    },
];

/// The made-up model of a name.
pub fn model(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

/// The most completions of one request, as at OpenAI.
const MOST_SAMPLES: u32 = 128;

/// Samples `first..first + n` of a request: a pure function of model, input, parameters and sample index.
///
/// Understands `temperature` (0 to 2, default 1), `top_p`, `stop` (a text or up to four), `max_tokens` or
/// `max_completion_tokens` and `seed`; other parameters do nothing.
///
/// # Errors
/// `UnknownModel` for a name that is not in [`MODELS`], `BadRequest` for a parameter out of its range, `ContextTooLong`
/// where prompt and `max_tokens` do not fit the context window.
pub fn answer(request: &Request, first: usize) -> Result<Response, Failure> {
    let Some(model) = model(&request.model) else {
        let known: Vec<_> = MODELS.iter().map(|model| model.name).collect();
        let message = format!("no made-up model is named `{}`; there are {}", request.model, known.join(" and "));
        return Err(Failure::new(FailureKind::UnknownModel, message));
    };
    let params = Params::read(model, request)?;
    let prompt_tokens = tokens::prompt(&request.input);
    if prompt_tokens + params.max_tokens > model.context_window {
        let message = format!(
            "the prompt has {prompt_tokens} tokens and max_tokens is {}, but the context window of {} is {}",
            params.max_tokens, model.name, model.context_window
        );
        return Err(Failure::new(FailureKind::ContextTooLong, message));
    }
    let speaker = Speaker::new(model, &request.input, &params);
    let samples = (first..first.saturating_add(request.n as usize)).map(|index| {
        let said = speaker.say(index, params.max_tokens);
        let (text, finish_reason) = cut(&said, &params);
        Sample::new(text, finish_reason, tokens::count(text))
    });
    Ok(Response { samples: samples.collect(), prompt_tokens, ..Response::default() })
}

/// The parameters that do something.
struct Params {
    /// After `top_p`.
    temperature: f64,
    max_tokens: u64,
    stop: Vec<String>,
    seed: String,
}

impl Params {
    fn read(model: &Model, request: &Request) -> Result<Params, Failure> {
        let bad = |message: String| Failure::new(FailureKind::BadRequest, message);
        let set = |name: &str| request.params.get(name).filter(|value| !value.is_null());
        let number = |name: &str, most: f64, default: f64| match set(name) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|number| (0.0..=most).contains(number))
                .ok_or_else(|| bad(format!("`{name}` must be a number from 0 to {most}, but it is {value}"))),
        };
        let temperature = number("temperature", 2.0, 1.0)? * number("top_p", 1.0, 1.0)?;
        let max_tokens = match set("max_tokens").or_else(|| set("max_completion_tokens")) {
            None => model.max_output_tokens,
            Some(value) => {
                whole(value).filter(|most| (1..=model.max_output_tokens).contains(most)).ok_or_else(|| {
                    let most = model.max_output_tokens;
                    bad(format!(
                        "`max_tokens` of {} must be a whole number from 1 to {most}, but it is {value}",
                        model.name
                    ))
                })?
            }
        };
        let stop = match set("stop") {
            None => Some(Vec::new()),
            Some(Value::String(text)) => Some(vec![text.clone()]),
            Some(Value::Array(texts)) if texts.len() <= 4 => {
                texts.iter().map(|text| text.as_str().map(str::to_owned)).collect()
            }
            Some(_) => None,
        };
        let stop = stop
            .filter(|stop| stop.iter().all(|text| !text.is_empty()))
            .ok_or_else(|| bad("`stop` must be a text or a list of up to four, none of them empty".into()))?;
        if !(1..=MOST_SAMPLES).contains(&request.n) {
            return Err(bad(format!("`n` must be from 1 to {MOST_SAMPLES}, but it is {}", request.n)));
        }
        let seed = set("seed").map(|seed| whole(seed).map_or_else(|| seed.to_string(), |seed| seed.to_string()));
        Ok(Params { temperature, max_tokens, stop, seed: seed.unwrap_or_default() })
    }
}

/// A whole number from 0 up, however it is written: 64 and 64.0.
fn whole(value: &Value) -> Option<u64> {
    let float = || value.as_f64().filter(|float| float.fract() == 0.0 && (0.0..9e15).contains(float));
    value.as_u64().or_else(|| float().map(|float| float as u64))
}

/// Cuts what was said at max_tokens and before the earliest stop sequence.
fn cut<'a>(said: &'a str, params: &Params) -> (&'a str, FinishReason) {
    let (within, too_long) = tokens::first(said, params.max_tokens);
    match params.stop.iter().filter_map(|stop| within.find(stop.as_str())).min() {
        Some(at) => (&within[..at], FinishReason::STOP),
        None if too_long => (within, FinishReason::LENGTH),
        None => (within, FinishReason::STOP),
    }
}

/// A number in `0..1` that hangs on the parts alone.
fn draw(parts: &[&[u8]]) -> f64 {
    let mut hasher = blake3::Hasher::new_derive_key("farthing made-up model");
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A draw that is about normal: mean 0, standard deviation 1, within -3.5..3.5.
fn bell(parts: &[&[u8]]) -> f64 {
    let sum: f64 = (0..4_u8).map(|at| draw(&[&parts.concat(), &[at]])).sum();
    (sum - 2.0) * 3.0_f64.sqrt()
}

/// How an answer is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Direct,
    Terse,
    Steps,
    Detailed,
}

/// What a model brings to one request.
struct Speaker<'a> {
    model: &'a Model,
    wording: Wording,
    problem: Option<Problem<'a>>,
    chat: bool,
    temperature: f64,
    /// The hash of the model and the prompt: what the greedy answer hangs on.
    request: [u8; 32],
    /// The same with all sampling parameters.
    sampling: [u8; 32],
    difficulty: f64,
}

impl<'a> Speaker<'a> {
    fn new(model: &'a Model, input: &'a Input, params: &Params) -> Speaker<'a> {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        add(model.name);
        let (asked, chat) = match input {
            Input::Text(text) => {
                add(text);
                (text.as_str(), false)
            }
            Input::Messages(messages) => {
                for message in messages {
                    add(&message.role);
                    add(&message.content);
                }
                let asked = messages.iter().rev().find(|message| message.role == "user").or(messages.last());
                (asked.map_or("", |message| &message.content), true)
            }
        };
        let request = *hasher.finalize().as_bytes();
        hasher.update(&params.temperature.to_le_bytes());
        hasher.update(params.seed.as_bytes());
        let problem = problem::last(asked);
        Speaker {
            model,
            wording: wording::read(input),
            difficulty: problem.as_ref().map_or(0.0, difficulty),
            problem,
            chat,
            temperature: params.temperature,
            request,
            sampling: *hasher.finalize().as_bytes(),
        }
    }

    /// The text of one sample, before it is cut; a model that runs on fills `room` tokens and a little more.
    fn say(&self, index: usize, room: u64) -> String {
        let Some(problem) = &self.problem else {
            return "I am a made-up model. I know little arithmetic problems only, and I see none here.".to_owned();
        };
        // A sample keeps to the greedy course the more, the lower the temperature is.
        let index = (index as u64).to_le_bytes();
        let anew = self.temperature > 0.0 && draw(&[b"anew", &self.sampling, &index]) < self.temperature / 0.7;
        let key: Vec<u8> = if anew { [&self.sampling[..], &index].concat() } else { self.request.to_vec() };
        let style = self.style(problem, &key);
        let mut results = problem.results.clone();
        if draw(&[b"right", &key]) >= self.chance(problem, style, anew) {
            slip(problem, &mut results, self.slip_number(problem, style, &key));
        }
        let mut text = tell(problem, &results, style, &self.wording, draw(&[b"words", &key]));
        if draw(&[b"on", &key]) < self.runs_on() {
            let label = if problem.label.is_empty() { "Problem" } else { problem.label };
            let mut said = tokens::count(&text);
            for round in 0_u64.. {
                if said > room {
                    break;
                }
                let more = run_on(label, &[&key[..], &round.to_le_bytes()].concat());
                said += tokens::count(&more);
                text.push_str(&more);
            }
        }
        text
    }

    fn style(&self, problem: &Problem, key: &[u8]) -> Style {
        let wording = &self.wording;
        let asked = wording.steps.is_some() || wording.worked_examples > 0;
        let bare = wording.direct.is_some() || wording.bare_examples > 0 || (wording.terse && !asked);
        let works = match (asked, bare) {
            (true, false) => 1.0,
            (false, true) => 0.0,
            (false, false) => self.model.works_unasked - if wording.primed { 0.15 } else { 0.0 },
            (true, true) if wording.steps > wording.direct => 0.7,
            (true, true) => 0.3,
        };
        // Torn or unasked, it is the problem that decides, and only sometimes the draw.
        let bent = if draw(&[b"whim", key]) < 0.2 {
            draw(&[b"style", key])
        } else {
            draw(&[b"style", problem.text.as_bytes()])
        };
        if bent >= works {
            Style::Direct
        } else if wording.terse || (wording.worked_examples > 0 && !wording.detailed && wording.steps.is_none()) {
            Style::Terse
        } else if wording.detailed {
            Style::Detailed
        } else {
            Style::Steps
        }
    }

    /// The chance that the answer is right.
    fn chance(&self, problem: &Problem, style: Style, anew: bool) -> f64 {
        let wording = &self.wording;
        let worked = style != Style::Direct;
        let mut skill = self.model.skill[usize::from(!worked)];
        skill += match style {
            Style::Direct | Style::Steps => 0.0,
            Style::Terse => -0.3,
            Style::Detailed => 0.1,
        };
        let examples = (wording.worked_examples + wording.bare_examples).min(4) as f64;
        skill += examples * if worked { 0.22 } else { 0.07 };
        skill += f64::from(u8::from(wording.careful)) * 0.1 + f64::from(u8::from(wording.check && worked)) * 0.15;
        // Each model finds other problems hard, in steps or without.
        skill += 0.45 * bell(&[self.model.name.as_bytes(), &[u8::from(worked)], problem.text.as_bytes()]);
        if anew {
            skill -= 0.3 * self.temperature * self.temperature + 3.0 * (self.temperature - 1.3).max(0.0);
        }
        let sharpness = if worked { 1.5 } else { 3.0 };
        1.0 / (1.0 + (-sharpness * (skill - self.difficulty)).exp())
    }

    /// Which slip is made: working scatters its errors, bare guesses repeat theirs.
    fn slip_number(&self, problem: &Problem, style: Style, key: &[u8]) -> u64 {
        let habit = if style == Style::Direct { 0.75 } else { 0.3 };
        let number = |key: &[u8]| (draw(&[b"slip", key]) * 1e6) as u64;
        if draw(&[b"habit", key]) < habit { number(problem.text.as_bytes()) } else { number(key) }
    }

    fn runs_on(&self) -> f64 {
        let mut chance = self.model.runs_on + if self.chat { 0.0 } else { 0.3 };
        if self.wording.examples_in_text {
            chance += 0.3;
        } else if self.wording.worked_examples + self.wording.bare_examples > 0 {
            chance *= 0.6;
        }
        if self.wording.ends {
            chance *= 0.5;
        }
        chance.clamp(0.02, 0.97)
    }
}

/// How hard a problem is: its steps, the size of its numbers, divisions, and something of its own. About -2 to 2.
fn difficulty(problem: &Problem) -> f64 {
    let sizes = problem.steps.iter().scan(0, |at, step| {
        let (left, right) = step.operands(&problem.results[..*at]);
        *at += 1;
        let small = (left.abs().min(right.abs()) + 1) as f64;
        Some(match step.operation {
            Operation::Add | Operation::Subtract => 0.2 * small.log10(),
            Operation::Multiply => 0.6 * small.log10(),
            Operation::Divide => 0.4 + 0.3 * small.log10(),
        })
    });
    0.4 * (problem.steps.len() as f64 - 2.6) + sizes.sum::<f64>() - 1.1
        + 0.8 * bell(&[b"difficulty", problem.text.as_bytes()])
}

/// Puts a slip into the results: one step goes wrong, and all that follow carry it on.
fn slip(problem: &Problem, results: &mut [i64], number: u64) {
    let step = (number % problem.steps.len() as u64) as usize;
    let amount = [1, -1, 10, -10, 2, -2, 9, 20][(number / 7 % 8) as usize];
    let mut wrong = results.to_vec();
    wrong[step] += if wrong[step] + amount < 0 { -amount } else { amount };
    for later in step + 1..wrong.len() {
        let (left, right) = problem.steps[later].operands(&wrong);
        wrong[later] = problem.steps[later].operation.apply(left, right).unwrap_or(0);
    }
    if wrong.last() == results.last() {
        // The slip was lost on the way (a rest that was dropped): then the last step is off.
        if let Some(last) = wrong.last_mut() {
            *last += amount.abs();
        }
    }
    results.copy_from_slice(&wrong);
}

/// Writes an answer out.
fn tell(problem: &Problem, results: &[i64], style: Style, wording: &Wording, whim: f64) -> String {
    let answer = results.last().copied().unwrap_or(0);
    let lines = problem.steps.iter().zip(results).map(|(step, &result)| {
        let (left, right) = step.operands(results);
        (left, step.operation, right, result)
    });
    let pick = |words: [&'static str; 3]| words[((whim * 3.0) as usize).min(2)];
    let things = problem.things;
    let mut text = String::new();
    match style {
        Style::Direct if wording.direct.is_some() || wording.bare_examples > 0 => return answer.to_string(),
        Style::Direct => return format!("{} {answer}.", pick(["The answer is", "It is", "That makes"])),
        Style::Terse => {
            for (left, operation, right, result) in lines {
                text += &format!("{left} {} {right} = {result}. ", operation.sign());
            }
        }
        Style::Steps => {
            text += pick([
                "Let us see what happens to the ",
                "We go step by step and count the ",
                "Here is the way to the number of ",
            ]);
            text += &format!("{things}.\n");
            for (at, (left, operation, right, result)) in lines.enumerate() {
                let opening = if at == 0 { "First" } else { pick(["Then", "Next", "After that"]) };
                text += &format!("{opening} we work out {left} {} {right} = {result}.\n", operation.sign());
            }
        }
        Style::Detailed => {
            text += &format!(
                "We read the problem carefully. It asks for a number of {things}, so we follow them through it.\n"
            );
            for (at, (left, operation, right, result)) in lines.enumerate() {
                let doing = match operation {
                    Operation::Add => "come together, so we add them",
                    Operation::Subtract => "are a whole and a part that goes away, so we subtract",
                    Operation::Multiply => "are a count and a size, so we multiply them",
                    Operation::Divide => "are a whole and its equal shares, so we divide",
                };
                // A blank line before the last step: "\n\n" is no good stop sequence for this one.
                if at + 1 == results.len() && whim < 0.8 {
                    text.push('\n');
                }
                let sign = operation.sign();
                text += &format!(
                    "Step {}: the numbers {left} and {right} {doing}. That is {left} {sign} {right} = {result}.\n",
                    at + 1
                );
            }
        }
    }
    if wording.check {
        text += &format!(
            "A check of the last step gives {answer} again.{}",
            if style == Style::Terse { " " } else { "\n" }
        );
    }
    text + &format!("The answer is {answer}.")
}

/// A next problem that nobody asked for, with an answer.
fn run_on(label: &str, key: &[u8]) -> String {
    let of = |what: &[u8], most: f64| (draw(&[what, key]) * most) as usize;
    let name = ["Olga", "Peter", "Rosa", "Viktor"][of(b"name", 4.0)];
    let things = ["nuts", "shells", "buttons", "candles"][of(b"things", 4.0)];
    let (has, more) = (2 + of(b"has", 90.0), 2 + of(b"more", 50.0));
    let sum = has + more;
    let told = format!("{name} has {has} {things} and finds {more}. How many {things} has {name}?");
    format!("\n\n{label}: {told}\n{has} + {more} = {sum}. The answer is {sum}.")
}

#[cfg(test)]
mod tests;
