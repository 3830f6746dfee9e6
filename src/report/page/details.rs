//! The parts of a page that are unpacked only where somebody looks: prompts, responses, votes. Packed piece by piece, the
//! most important first, until the page's size is used up.
//!
//! A piece holds the evaluations of one configuration on [`RANGE`] instances in the order of first asking. Prompts are
//! kept once for all configurations that render the same: pieces of their own, whose texts share their lines.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::evaluate::Workload;
use crate::metric;
use crate::provider::Sample;
use crate::report::run::{Evaluation, Run};
use crate::space::parameter::{api_parameter, whole};
use crate::store::{Fingerprint, Store, Stored};
use crate::task::Task;

/// Instances of one piece.
pub const RANGE: usize = 250;

/// Pieces that are packed at once.
const TOGETHER: usize = 16;

/// The longest text that a page takes up whole, in characters, unless it is to be complete.
const LONGEST: usize = 50_000;

/// A packed part of a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// What the page's script asks for.
    pub name: String,
    /// Raw deflate.
    pub bytes: Vec<u8>,
}

impl Block {
    /// What it takes of a page, in bytes: Base64, and what stands around it.
    pub fn size(&self) -> usize {
        self.bytes.len().div_ceil(3) * 4 + self.name.len() + 60
    }

    /// Packs some bytes.
    pub fn pack(name: impl Into<String>, bytes: &[u8]) -> Block {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        // Writing to memory cannot fail.
        let _ = encoder.write_all(bytes);
        Block { name: name.into(), bytes: encoder.finish().unwrap_or_default() }
    }
}

/// What the page has of single evaluations.
pub struct Details {
    /// For the page's document: which pieces there are.
    pub index: Value,
    /// The pieces.
    pub blocks: Vec<Block>,
    /// What is left out, in a sentence.
    pub left_out: Option<String>,
}

/// Configurations whose prompts are the same on every instance: alike but for what is sent beside the prompt.
fn groups(run: &Run) -> Vec<usize> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let beside = |name: &str| name == "model" || name == "n" || api_parameter(name).is_some();
    run.trials
        .iter()
        .map(|configuration| {
            let own: BTreeMap<_, _> = configuration.0.iter().filter(|(name, _)| !beside(name)).collect();
            let next = numbers.len();
            *numbers.entry(serde_json::to_string(&own).unwrap_or_default()).or_insert(next)
        })
        .collect()
}

/// Texts whose lines are kept once.
#[derive(Default)]
struct Lines<'a> {
    places: HashMap<&'a str, usize>,
    lines: Vec<&'a str>,
}

impl<'a> Lines<'a> {
    fn add(&mut self, text: &'a str) -> Vec<usize> {
        let place = |line: &'a str| {
            let next = self.lines.len();
            let place = *self.places.entry(line).or_insert(next);
            if place == next {
                self.lines.push(line);
            }
            place
        };
        text.split('\n').map(place).collect()
    }
}

/// A request as the store kept it: its messages, and its samples.
struct Seen {
    messages: Vec<(String, String)>,
    stored: Stored,
}

/// The fingerprint just before another, in their order.
fn before(print: &Fingerprint) -> Option<Fingerprint> {
    let mut bytes = print.0;
    for byte in bytes.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            return Some(Fingerprint(bytes));
        }
    }
    None
}

fn look(store: &dyn Store, print: &Fingerprint) -> Option<Seen> {
    let kept = store.page(before(print).as_ref(), 1).ok()?.into_iter().next()?;
    if kept.fingerprint != *print {
        return None;
    }
    let body: Value = serde_json::from_str(&kept.request.body).ok()?;
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let messages = match body.get("messages").and_then(Value::as_array) {
        Some(messages) => messages.iter().map(|message| (text(message, "role"), text(message, "content"))).collect(),
        None => vec![("prompt".to_owned(), text(&body, "prompt"))],
    };
    // As the study saw it, which may be less than what is kept now.
    let stored = store.stored(print).unwrap_or(kept.stored);
    Some(Seen { messages, stored })
}

/// A text with what is too long cut out of its end: `[text, characters left out]`, or the text alone.
fn bounded(text: &str, full: bool) -> Value {
    if full || text.len() <= LONGEST {
        return Value::from(text);
    }
    match text.char_indices().nth(LONGEST) {
        None => Value::from(text),
        Some((end, _)) => json!([&text[..end], text[end..].chars().count()]),
    }
}

/// Judges single responses, where that takes none of the user's programs.
pub fn judge_of(task: &Task) -> Option<Workload> {
    // A task without tables has metrics that a Rust program built.
    let programs = task.metrics.is_empty() || task.metrics.iter().any(metric::runs_a_program);
    if programs { None } else { Workload::from_task(task.clone()).ok() }
}

struct Packer<'a> {
    run: &'a Run,
    store: &'a dyn Store,
    by_trial: Vec<Vec<&'a Evaluation>>,
    groups: Vec<usize>,
    judge: Option<Workload>,
    instances: HashMap<&'a str, &'a crate::task::Instance>,
    full: bool,
}

/// One piece: a configuration on a range of instances.
type Piece = (usize, usize);

/// The messages that instances were asked, each with its role.
type Prompts = BTreeMap<u32, Vec<(String, String)>>;

impl Packer<'_> {
    fn evaluations(&self, (trial, range): Piece) -> impl Iterator<Item = &Evaluation> {
        let within = move |done: &&&Evaluation| done.instance as usize / RANGE == range;
        self.by_trial[trial].iter().filter(within).copied()
    }

    /// The prompts of a piece by instance, and the piece itself; nothing where the store has none of it.
    fn piece(&self, piece: Piece) -> Option<(Prompts, Block)> {
        let n = self.run.trials[piece.0].get("n").and_then(whole).and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
        let mut prompts = BTreeMap::new();
        let (mut texts, mut places) = (Vec::new(), HashMap::new());
        let mut shown = Vec::new();
        let mut evaluations: Vec<&Evaluation> = self.evaluations(piece).collect();
        evaluations.sort_by_key(|done| done.instance);
        for done in evaluations {
            let seen = done.fingerprint.as_ref().and_then(|print| look(self.store, print));
            let mut entry = Map::new();
            let mut put = |name: &str, value: Value| drop(entry.insert(name.to_owned(), value));
            put("i", done.instance.into());
            if let Some(seen) = seen {
                let samples: Vec<&Sample> = seen.stored.samples().take(n).collect();
                let mut place = |text: &str| -> usize {
                    let next = texts.len();
                    let place = *places.entry(text.to_owned()).or_insert(next);
                    if place == next {
                        texts.push(bounded(text, self.full));
                    }
                    place
                };
                put("r", samples.iter().map(|sample| place(&sample.text)).collect());
                if samples.iter().any(|sample| sample.finish_reason.0 != "stop") {
                    put("f", samples.iter().map(|sample| sample.finish_reason.0.as_ref()).collect());
                }
                if samples.iter().any(|sample| sample.tool_calls.is_some()) {
                    put("k", samples.iter().map(|sample| sample.tool_calls.clone().unwrap_or_default()).collect());
                }
                put("o", samples.iter().map(|sample| sample.completion_tokens).collect());
                if let Some(votes) = self.votes(done, &samples) {
                    put("v", votes);
                }
                if let Some(purchase) = seen.stored.purchases.first() {
                    let response = &purchase.response;
                    let more = [("cached", response.cached_tokens), ("reasoning", response.reasoning_tokens)];
                    let more: Map<String, Value> = more
                        .iter()
                        .filter(|(_, tokens)| *tokens > 0)
                        .map(|(name, tokens)| ((*name).to_owned(), (*tokens).into()))
                        .collect();
                    if !more.is_empty() {
                        put("h", Value::Object(more));
                    }
                    if let Some(by) = &response.model {
                        put("b", Value::from(by.as_str()));
                    }
                }
                prompts.insert(done.instance, seen.messages);
            }
            if let Some(tokens) = done.tokens {
                put("t", json!(tokens));
            }
            if let Some(production) = done.production {
                put("p", Value::from(production.to_string()));
            }
            put("c", Value::from(done.cost.to_string()));
            if !done.metrics.is_empty() {
                put("m", json!(done.metrics));
            }
            if let Some(failure) = done.failure {
                put("x", failure.into());
            }
            shown.push(Value::Object(entry));
        }
        if shown.is_empty() {
            return None;
        }
        let json = json!({"texts": texts, "evaluations": shown}).to_string();
        Some((prompts, Block::pack(format!("d{}.{}", piece.0, piece.1), json.as_bytes())))
    }

    /// What each of several responses would score alone.
    fn votes(&self, done: &Evaluation, samples: &[&Sample]) -> Option<Value> {
        let judge = self.judge.as_ref().filter(|_| samples.len() > 1)?;
        let instance = self.instances.get(self.run.instances.get(done.instance as usize)?.as_str())?;
        let metric = &judge.task.objective.metric;
        let alone = |sample: &&Sample| judge.judge(instance, std::slice::from_ref(*sample)).ok()?.get(metric).copied();
        Some(samples.iter().map(alone).collect())
    }
}

/// Packs prompts as lines that are kept once: `{"lines": [...], "prompts": {instance: [[role, [line, ...]], ...]}}`.
fn pack_prompts(name: String, prompts: &Prompts, full: bool) -> Block {
    let mut lines = Lines::default();
    let mut shown = Map::new();
    for (instance, messages) in prompts {
        let messages: Vec<Value> = messages
            .iter()
            .map(|(role, text)| {
                let kept = match text.char_indices().nth(LONGEST).filter(|_| !full) {
                    Some((end, _)) => &text[..end],
                    None => text,
                };
                let cut = text[kept.len()..].chars().count();
                json!([role, lines.add(kept), cut])
            })
            .collect();
        shown.insert(instance.to_string(), Value::Array(messages));
    }
    let json = json!({"lines": lines.lines, "prompts": shown}).to_string();
    Block::pack(name, json.as_bytes())
}

/// The instances' own fields, range by range while they fit into `most` bytes: which ranges, and the packed pieces.
fn fields(run: &Run, most: usize, full: bool) -> (Vec<usize>, Vec<Block>) {
    let known = run.instances_by_id();
    let (mut ranges, mut blocks, mut used) = (Vec::new(), Vec::new(), 0_usize);
    for (range, names) in run.instances.chunks(RANGE).enumerate() {
        let mut all = Map::new();
        for (at, name) in names.iter().enumerate() {
            let Some(instance) = known.get(name.as_str()) else { continue };
            let field = |(name, value): (&String, &Value)| match value {
                Value::String(text) => json!([name, bounded(text, full)]),
                other => json!([name, bounded(&other.to_string(), full)]),
            };
            all.insert((range * RANGE + at).to_string(), instance.fields.iter().map(field).collect());
        }
        if all.is_empty() {
            continue;
        }
        let block = Block::pack(format!("i{range}"), Value::Object(all).to_string().as_bytes());
        if used.saturating_add(block.size()) > most {
            break;
        }
        used += block.size();
        ranges.push(range);
        blocks.push(block);
    }
    (ranges, blocks)
}

/// Packs what fits into `most` bytes of a page, in this order: the instances' own fields up to a quarter of the room, the
/// configurations of `first` on all instances up to half of what is left, then all others that the page names, range by
/// range, by rank.
pub fn details(run: &Run, first: &[usize], named: &BTreeSet<usize>, most: usize, full: bool) -> Details {
    let (fields, mut blocks) = fields(run, most / 4, full);
    let answered = run.evaluations.iter().any(|done| done.fingerprint.is_some());
    let Some(store) = run.store.as_deref().filter(|_| answered) else {
        let index = json!({"range": RANGE, "pieces": {}, "groups": [], "fields": fields});
        return Details { index, blocks, left_out: None };
    };
    let packer = Packer {
        run,
        store,
        by_trial: run.by_trial(),
        groups: groups(run),
        judge: run.task.as_ref().and_then(judge_of),
        instances: run.instances_by_id(),
        full,
    };
    let ranges = run.instances.len().div_ceil(RANGE);
    let others: Vec<usize> = run.rows.iter().map(|row| row.trial).filter(|trial| *trial < run.trials.len()).collect();
    let leading = first.iter().flat_map(|&trial| (0..ranges).map(move |range| (trial, range)));
    let all = (0..ranges).flat_map(|range| others.iter().map(move |&trial| (trial, range)));
    // By the ranges that each configuration was asked on; most were asked on few.
    let asked: Vec<BTreeSet<usize>> =
        packer.by_trial.iter().map(|own| own.iter().map(|done| done.instance as usize / RANGE).collect()).collect();
    let was_asked = |(trial, range): &Piece| asked[*trial].contains(range);
    let leading: Vec<Piece> = leading.filter(was_asked).collect();
    let all: Vec<Piece> = all.filter(was_asked).collect();
    let reachable: Vec<Piece> = all.iter().copied().filter(|(trial, _)| named.contains(trial)).collect();
    let mut used: usize = blocks.iter().map(Block::size).sum();
    let mut pieces: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut prompts_there: BTreeMap<(usize, usize), BTreeSet<u32>> = BTreeMap::new();
    for (order, room) in [(&leading, used + most.saturating_sub(used) / 2), (&reachable, most)] {
        let there = |pieces: &BTreeMap<usize, Vec<usize>>, (trial, range): Piece| {
            pieces.get(&trial).is_some_and(|own| own.contains(&range))
        };
        let order: Vec<Piece> = order.iter().copied().filter(|piece| !there(&pieces, *piece)).collect();
        let mut misfits = 0;
        for together in order.chunks(TOGETHER) {
            let packed: Vec<_> = together.par_iter().map(|&piece| packer.piece(piece)).collect();
            for (&(trial, range), packed) in together.iter().zip(packed) {
                let Some((prompts, block)) = packed else { continue };
                let group = (packer.groups[trial], range);
                // Later configurations of a group may have been asked on instances that the first was not.
                let (name, own) = match prompts_there.get(&group) {
                    None => (format!("p{}.{range}", group.0), prompts),
                    Some(there) => {
                        let own = prompts.into_iter().filter(|(instance, _)| !there.contains(instance)).collect();
                        (format!("q{trial}.{range}"), own)
                    }
                };
                let prompt = (!own.is_empty()).then(|| pack_prompts(name, &own, full));
                let size = block.size() + prompt.as_ref().map_or(0, Block::size) + 16;
                if used.saturating_add(size) > room {
                    misfits += 1;
                    continue;
                }
                used += size;
                pieces.entry(trial).or_default().push(range);
                if !own.is_empty() {
                    prompts_there.entry(group).or_insert_with(|| own.keys().copied().collect());
                }
                blocks.extend(prompt);
                blocks.push(block);
            }
            if misfits >= TOGETHER {
                break;
            }
        }
    }
    let shown = pieces.values().map(Vec::len).sum::<usize>();
    let left_out = (shown < all.len()).then(|| {
        format!(
            "Prompts and responses of {shown} of {} parts are in this page (a part is one configuration on up to {RANGE} instances); \
             the others are in the store. `farthing report RUN --full` makes a page with all of them.",
            all.len()
        )
    });
    let pieces: Map<String, Value> = pieces.into_iter().map(|(trial, all)| (trial.to_string(), json!(all))).collect();
    Details {
        index: json!({"range": RANGE, "pieces": pieces, "groups": packer.groups, "fields": fields}),
        blocks,
        left_out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_before() {
        let mut print = Fingerprint([0; 32]);
        assert_eq!(before(&print), None);
        print.0[31] = 7;
        assert_eq!(before(&print).unwrap().0[31], 6);
        (print.0[30], print.0[31]) = (1, 0);
        let less = before(&print).unwrap();
        assert_eq!((less.0[30], less.0[31]), (0, 255));
    }

    #[test]
    fn long_texts_are_cut_and_say_how_much() {
        assert_eq!(bounded("short", false), json!("short"));
        let long = "語".repeat(LONGEST + 5);
        assert_eq!(bounded(&long, false)[1], json!(5));
        assert_eq!(bounded(&long, true), json!(long));
    }

    #[test]
    fn lines_are_kept_once() {
        let mut lines = Lines::default();
        assert_eq!(lines.add("a\nb\na\n"), [0, 1, 0, 2]);
        assert_eq!(lines.add("b"), [1]);
        assert_eq!(lines.lines, ["a", "b", ""]);
    }
}
