//! `farthing cache stats|export|prune|clear`: what the store holds, out of it, and less of it.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::arguments::store_location;
use crate::cli::{ask, print, print_json, small_runtime};
use crate::diagnostic::{Error, Result, nearest};
use crate::files::{Output, cannot_write};
use crate::money::Usd;
use crate::provider::Sample;
use crate::store::{self, Contents, Item, Kept, SharedStore, Sums};

/// Arguments of `farthing cache`.
#[derive(Args, Clone, Debug)]
pub struct CacheArguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Clone, Debug)]
enum Command {
    /// Count what the store holds: requests, samples, bytes and dollars, by model and source
    Stats(StatsArguments),
    /// Write the samples as a cassette, which `provider = "replay"` serves
    Export(ExportArguments),
    /// Remove samples by age, model or size; what was spent stays in the ledger
    Prune(PruneArguments),
    /// Remove all samples; what was spent stays in the ledger
    Clear(ClearArguments),
}

#[derive(Args, Clone, Debug)]
struct StatsArguments {
    /// The store [default: .farthing/store.db]
    #[arg(long, value_name = "PATH")]
    store: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct ExportArguments {
    /// JSON Lines, compressed where it ends in .gz or .zst; `-` is standard output
    file: PathBuf,
    /// Only this model
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Only what this source answered, as `farthing cache stats` names it: http, mock, ...
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The store [default: .farthing/store.db]
    #[arg(long, value_name = "PATH")]
    store: Option<String>,
}

#[derive(Args, Clone, Debug)]
struct PruneArguments {
    /// Requests whose newest sample is older than this, like 30d, 12h or 2weeks
    #[arg(long, value_name = "AGE", value_parser = age, allow_hyphen_values = true)]
    older_than: Option<Duration>,
    /// Requests to this model; with another condition, only those for which both hold
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The oldest requests, until what is left takes at most this: 500MB, 1.5GB, 2GiB (requests and samples; the ledger is not
    /// counted)
    #[arg(long, value_name = "SIZE", value_parser = size)]
    larger_than_total: Option<u64>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    /// The store [default: .farthing/store.db]
    #[arg(long, value_name = "PATH")]
    store: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct ClearArguments {
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The store [default: .farthing/store.db]
    #[arg(long, value_name = "PATH")]
    store: Option<String>,
}

/// How many requests are looked at in one transaction, and how many are removed in one: others write in between.
const PAGE: usize = 256;

/// Runs it.
pub fn run(arguments: &CacheArguments) -> Result<u8> {
    match &arguments.command {
        Command::Stats(arguments) => stats(arguments),
        Command::Export(arguments) => export(arguments),
        Command::Prune(arguments) => prune(arguments),
        Command::Clear(arguments) => clear(arguments),
    }
    .map(|()| 0)
}

fn open(given: &Option<String>) -> Result<(SharedStore, String)> {
    let location = store_location(given.as_deref());
    Ok((store::open_existing(&location)?, location))
}

/// A time that has passed.
fn age(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(age) => Ok(age),
        Err(_) if text.trim_start().starts_with('-') => Err("an age is not below 0: write it like 30d".to_owned()),
        Err(error) => Err(format!("{error}: write it like 30d, 12h or 2weeks")),
    }
}

/// A size in bytes: a number, and a unit of 1000 (kB, MB, GB, TB) or 1024 (KiB, MiB, GiB, TiB).
fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(format!("`{unit}` is no unit of size: use kB, MB, GB, TB, KiB, MiB, GiB or TiB")),
    };
    match number.trim().parse::<f64>() {
        Ok(number) if number >= 0.0 && number * (factor as f64) < 1e18 => Ok((number * factor as f64) as u64),
        _ => Err(format!("`{text}` is no size: write it like 500MB or 1.5GB")),
    }
}

fn shown_size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let at = (0..units.len()).rev().find(|&at| bytes >= 1000_u64.pow(at as u32)).unwrap_or(0);
    match at {
        0 => format!("{bytes} B"),
        _ => format!("{:.1} {}", bytes as f64 / 1000_f64.powi(at as i32), units[at]),
    }
}

/// A moment in seconds since 1970, as people and programs read it.
fn shown_time(seconds: i64) -> String {
    // The last second that the form has is in the year 9999.
    let since = Duration::from_secs(seconds.clamp(0, 253_402_300_799).unsigned_abs());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string()
}

fn total(contents: &Contents) -> Sums {
    let mut total = Sums::default();
    for sums in contents.groups.values() {
        total.requests += sums.requests;
        total.purchases += sums.purchases;
        total.samples += sums.samples;
        total.superseded += sums.superseded;
        total.bytes += sums.bytes;
        total.bought = match (total.bought, sums.bought) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (known, other) => known.or(other),
        };
    }
    total
}

fn stats(arguments: &StatsArguments) -> Result<()> {
    let (store, location) = open(&arguments.store)?;
    let contents = store.contents()?;
    let all = total(&contents);
    if arguments.json {
        let numbers = |sums: &Sums| {
            json!({"requests": sums.requests, "purchases": sums.purchases, "samples": sums.samples,
                "superseded_samples": sums.superseded, "bytes": sums.bytes,
                "oldest": sums.bought.map(|(oldest, _)| shown_time(oldest)),
                "newest": sums.bought.map(|(_, newest)| shown_time(newest))})
        };
        let group = |((model, source), sums): (&(String, String), &Sums)| {
            let mut group = numbers(sums);
            group["model"] = json!(model);
            group["source"] = json!(source);
            group["settled_usd"] = json!(sums.settled);
            group["lost_usd"] = json!(sums.lost);
            group
        };
        let mut shown = numbers(&all);
        shown["store"] = json!(location);
        shown["file_bytes"] = json!(contents.file_bytes);
        shown["ledger"] =
            json!({"entries": contents.entries, "settled_usd": contents.settled, "lost_usd": contents.lost});
        shown["by_model"] = contents.groups.iter().map(group).collect();
        return print_json(&shown);
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["model", "source", "requests", "samples", "size", "dollars", "oldest", "newest"]);
    let row = |model: &str, source: &str, sums: &Sums, dollars: Usd| {
        let time = |at: Option<i64>| at.map_or(String::new(), shown_time);
        [
            model.to_owned(),
            source.to_owned(),
            sums.requests.to_string(),
            sums.samples.to_string(),
            shown_size(sums.bytes),
            dollars.to_string(),
            time(sums.bought.map(|(oldest, _)| oldest)),
            time(sums.bought.map(|(_, newest)| newest)),
        ]
    };
    for ((model, source), sums) in &contents.groups {
        table.add_row(row(model, source, sums, sums.settled));
    }
    table.add_row(row("all", "", &all, contents.settled));
    let mut text =
        format!("{table}\n\n{location}: {} on the disk, {} responses", shown_size(contents.file_bytes), all.purchases);
    if all.superseded > 0 {
        text += &format!(", {} samples put aside by --refresh", all.superseded);
    }
    text += &format!("\nThe ledger has {} entries: ${} billed", contents.entries, contents.settled);
    if contents.lost > Usd::ZERO {
        text += &format!(", ${} that may have been billed (requests that were lost, or are open)", contents.lost);
    }
    print(&(text + "."))
}

/// A line of a cassette. What `replay` does not read is there for people and other programs.
#[derive(Serialize)]
struct Line<'a> {
    model: &'a str,
    #[serde(flatten)]
    body: Map<String, Value>,
    samples: Vec<&'a str>,
    usage: Usage,
    finish_reasons: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<Vec<&'a Option<Value>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Vec<&'a Option<Value>>>,
    source: &'a str,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: Vec<u64>,
}

fn line(kept: &Kept) -> Result<String> {
    let Ok(Value::Object(mut body)) = serde_json::from_str(&kept.request.body) else {
        return Err(Error::internal(format!("the store has a request that cannot be read, {}", kept.fingerprint)));
    };
    // A body that had one of these would make two fields of one name.
    for name in ["model", "samples", "usage", "finish_reasons", "tool_calls", "logprobs", "source"] {
        body.remove(name);
    }
    let samples: Vec<&Sample> = kept.stored.samples().collect();
    let by_sample = |of: fn(&Sample) -> &Option<Value>| {
        samples.iter().any(|sample| of(sample).is_some()).then(|| samples.iter().map(|sample| of(sample)).collect())
    };
    let line = Line {
        model: &kept.request.model,
        body,
        usage: Usage {
            prompt_tokens: kept.stored.purchases.first().map_or(0, |purchase| purchase.response.prompt_tokens),
            completion_tokens: samples.iter().map(|sample| sample.completion_tokens).collect(),
        },
        finish_reasons: samples.iter().map(|sample| &*sample.finish_reason.0).collect(),
        tool_calls: by_sample(|sample| &sample.tool_calls),
        logprobs: by_sample(|sample| &sample.logprobs),
        samples: samples.iter().map(|sample| sample.text.as_str()).collect(),
        source: &kept.request.source,
    };
    serde_json::to_string(&line).map_err(|error| Error::internal(error.to_string()))
}

/// Where lines go: a file's lines stand in another one until all are written.
enum Sink {
    Plain(BufWriter<Box<dyn Write>>),
    Gzip(flate2::write::GzEncoder<BufWriter<Box<dyn Write>>>),
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<Box<dyn Write>>>),
}

impl Sink {
    fn new(out: Box<dyn Write>, name: &Path) -> std::io::Result<Sink> {
        let out = BufWriter::new(out);
        Ok(match name.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => Sink::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::default())),
            Some("zst") => Sink::Zstd(zstd::stream::write::Encoder::new(out, 0)?),
            _ => Sink::Plain(out),
        })
    }

    fn line(&mut self, text: &str) -> std::io::Result<()> {
        let out: &mut dyn Write = match self {
            Sink::Plain(out) => out,
            Sink::Gzip(out) => out,
            Sink::Zstd(out) => out,
        };
        out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n"))
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Sink::Plain(out) => out,
            Sink::Gzip(out) => out.finish()?,
            Sink::Zstd(out) => out.finish()?,
        }
        .flush()
    }
}

fn export(arguments: &ExportArguments) -> Result<()> {
    let (store, location) = open(&arguments.store)?;
    let contents = store.contents()?;
    let wanted = |model: &str, source: &str| {
        arguments.model.as_ref().is_none_or(|given| given == model)
            && arguments.source.as_ref().is_none_or(|given| given == source)
    };
    let sources: Vec<&str> =
        contents.groups.keys().filter(|(model, source)| wanted(model, source)).map(|(_, source)| &**source).collect();
    if sources.is_empty() {
        let models = contents.groups.keys().map(|(model, _)| model.as_str());
        let near = arguments.model.as_ref().and_then(|given| nearest(given, models));
        return Err(Error::usage(format!("the store {location} holds nothing of what is asked for")).help(
            near.map_or("`farthing cache stats` lists what there is".to_owned(), |near| {
                format!("did you mean --model {near}?")
            }),
        ));
    }
    if sources.iter().any(|source| source != &sources[0]) {
        say!("Note: answers of several sources go into one cassette; --source NAME takes those of one.");
    }
    let to_stdout = arguments.file == Path::new("-");
    let name = arguments.file.display().to_string();
    let (output, out): (_, Box<dyn Write>) = match to_stdout {
        true => (None, Box::new(std::io::stdout())),
        false => {
            let (output, file) = Output::create(&arguments.file)?;
            (Some(output), Box::new(file))
        }
    };
    let mut requests = 0;
    let write = || -> std::io::Result<Result<()>> {
        let mut sink = Sink::new(out, &arguments.file)?;
        let mut after = None;
        loop {
            let page = match store.page(after.as_ref(), PAGE / 4) {
                Ok(page) => page,
                Err(error) => return Ok(Err(error)),
            };
            let Some(last) = page.last() else { break };
            after = Some(last.fingerprint);
            for kept in page.iter().filter(|kept| wanted(&kept.request.model, &kept.request.source)) {
                match line(kept) {
                    Ok(text) => sink.line(&text)?,
                    Err(error) => return Ok(Err(error)),
                }
                requests += 1;
            }
        }
        sink.finish().map(Ok)
    };
    let written = match write() {
        // A reader that went away (`| head`) is no error.
        Err(error) if to_stdout && error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
        Err(error) if to_stdout => Err(super::cannot_print(&error)),
        Err(error) => Err(cannot_write(&arguments.file, &error)),
        Ok(written) => written,
    };
    written?;
    let Some(output) = output else { return Ok(()) };
    output.finish()?;
    say!("{requests} requests written to {name}.");
    Ok(())
}

fn prune(arguments: &PruneArguments) -> Result<()> {
    if arguments.older_than.is_none() && arguments.model.is_none() && arguments.larger_than_total.is_none() {
        return Err(Error::usage("what shall be removed?").help(
            "give --older-than 30d, --model NAME or --larger-than-total 1GB; `farthing cache clear` removes all",
        ));
    }
    let (store, location) = open(&arguments.store)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest_kept = arguments.older_than.map(|age| now.saturating_sub(age).as_secs() as i64);
    let everything_asked = arguments.larger_than_total.is_none();
    let (mut chosen, mut others, mut all_bytes) = (Vec::new(), Vec::new(), 0);
    let mut after = None;
    loop {
        let page = store.items(after.as_ref(), PAGE * 4)?;
        let Some(last) = page.last() else { break };
        after = Some(last.fingerprint);
        for mut item in page {
            all_bytes += item.bytes;
            if arguments.model.as_ref().is_some_and(|model| *model != item.model) {
                continue;
            }
            // There may be a million of them.
            item.model = String::new();
            match oldest_kept {
                Some(oldest) if item.newest < oldest => chosen.push(item),
                None if everything_asked => chosen.push(item),
                _ => others.push(item),
            }
        }
    }
    let mut left = all_bytes - chosen.iter().map(|item| item.bytes).sum::<u64>();
    if let Some(most) = arguments.larger_than_total {
        others.sort_unstable_by_key(|item| (item.newest, item.fingerprint));
        for item in others {
            if left <= most {
                break;
            }
            left -= item.bytes;
            chosen.push(item);
        }
    }
    let (mut requests, mut bytes) = (chosen.len() as u64, all_bytes - left);
    if !arguments.dry_run && !chosen.is_empty() {
        requests = remove(&store, chosen)?;
        compact(&store);
        let after = total(&store.contents()?).bytes;
        // What a run bought meanwhile is not part of it.
        (bytes, left) = (bytes.min(all_bytes.saturating_sub(after)), after);
    }
    if arguments.json {
        return print_json(&json!({"store": location, "dry_run": arguments.dry_run, "removed_requests": requests,
            "removed_bytes": bytes, "left_bytes": left}));
    }
    let done = if arguments.dry_run { "would be removed" } else { "removed" };
    print(&format!(
        "{requests} requests ({}) {done} from {location}; {} are left. The ledger keeps what was spent.",
        shown_size(bytes),
        shown_size(left)
    ))
}

fn remove(store: &SharedStore, chosen: Vec<Item>) -> Result<u64> {
    let runtime = small_runtime()?;
    let mut removed = 0;
    for items in chosen.chunks(PAGE) {
        removed += runtime.block_on(store.remove(items.to_vec()))?;
    }
    Ok(removed)
}

/// Gives room back to the disk. Where that cannot be done now, the room is used again.
fn compact(store: &SharedStore) {
    if let Err(error) = store.compact() {
        say!("Note: the file stays as large as it was, and its room is used again: {error}");
    }
}

fn clear(arguments: &ClearArguments) -> Result<()> {
    let (store, location) = open(&arguments.store)?;
    let all = total(&store.contents()?);
    let what = format!("{} requests with {} samples ({})", all.requests, all.samples, shown_size(all.bytes));
    if !arguments.yes {
        if !ask::possible() {
            return Err(Error::usage(format!("{what} would be removed from {location}, and nobody can be asked"))
                .help("add --yes"));
        }
        if !ask::agreed(&format!("Remove {what} from {location}? They would have to be bought again.")) {
            return print("Nothing was removed.");
        }
    }
    let removed = small_runtime()?.block_on(store.clear())?;
    compact(&store);
    print(&format!("{removed} requests removed from {location}. The ledger keeps what was spent."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("1kB", 1000), ("1.5 GB", 1_500_000_000), ("2MiB", 2 << 20), ("3g", 3_000_000_000)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "-1", "1XB", "nan", "inf", "1e99GB", "1 2"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!([0, 999, 1500, 2_000_000].map(shown_size), ["0 B", "999 B", "1.5 kB", "2.0 MB"]);
    }

    #[test]
    fn ages_are_read() {
        assert_eq!(age("12h"), Ok(Duration::from_secs(12 * 3600)));
        assert!(age("-3d").unwrap_err().contains("not below 0"));
        for text in ["", "yesterday", "3", "99999999999999999999y"] {
            assert!(age(text).unwrap_err().contains("like 30d"), "{text}");
        }
    }

    #[test]
    fn any_moment_can_be_shown() {
        assert_eq!(shown_time(0), "1970-01-01T00:00:00Z");
        for odd in [i64::MIN, -1, i64::MAX] {
            assert!(!shown_time(odd).is_empty());
        }
    }
}
