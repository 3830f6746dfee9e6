//! Readers of a run: a progress bar where standard error is a terminal, plain lines elsewhere, and the run's record.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::lead;
use crate::event::{Event, Reader, Sums};
use crate::money::Usd;
use crate::report::words;
use crate::study::trial::short;
use crate::task::Direction;

/// The display for this standard error.
pub fn display(instances: usize) -> Box<dyn Reader> {
    let lines = Lines { state: State::new(instances), last: Instant::now() };
    match std::io::stderr().is_terminal() {
        true => Box::new(Bar::new(lines.state)),
        false => Box::new(lines),
    }
}

/// What both displays show.
struct State {
    instances: usize,
    started: Instant,
    direction: Direction,
    /// By trial: the sum of its scores, and how many there are.
    scores: Vec<(f64, u64)>,
    /// Nobody is named as the best any more: the ranking says who it is.
    over: bool,
    trials: usize,
    dropped: usize,
}

impl State {
    fn new(instances: usize) -> State {
        State {
            instances,
            started: Instant::now(),
            direction: Direction::default(),
            scores: Vec::new(),
            over: false,
            trials: 0,
            dropped: 0,
        }
    }

    fn read(&mut self, event: &Event) {
        match event {
            Event::Started { direction, .. } => self.direction = *direction,
            Event::TrialStarted { .. } => {
                self.trials += 1;
                self.scores.push((0.0, 0));
            }
            Event::TrialDropped { .. } => self.dropped += 1,
            Event::EvaluationFinished { trial, score: Some(score), .. } => {
                if let Some(own) = self.scores.get_mut(*trial) {
                    *own = (own.0 + score, own.1 + 1);
                }
            }
            Event::Finished { .. } => self.over = true,
            _ => {}
        }
    }

    /// Who leads, with the mean and on how many instances.
    fn best(&self) -> Option<(usize, f64, u64)> {
        let gains = lead::gains(&self.scores, self.direction);
        let judged = gains.iter().enumerate().filter_map(|(trial, gain)| Some((trial, (*gain)?)));
        let best = judged.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        best.map(|(trial, _)| {
            let (sum, count) = self.scores[trial];
            (trial, sum / count as f64, count)
        })
    }

    /// What matters most comes first: a narrow terminal shows the beginning.
    fn text(&self, sums: &Sums) -> String {
        let elapsed = self.started.elapsed().as_secs_f64().max(1e-3);
        let mut parts = vec![match sums.budget {
            Some(budget) => format!("${} of ${budget}", cents(sums.study_cost)),
            None => format!("${}", cents(sums.study_cost)),
        }];
        if let Some((trial, mean, count)) = self.best().filter(|_| !self.over) {
            parts.push(format!("best so far {mean:.3} on {count} (#{trial})"));
        }
        // What is nearly used up may take long to be told so.
        if let Some(left) = self.time_left(sums, elapsed).filter(|left| left.as_secs() > 0) {
            parts.push(format!("about {} left", words::span(left)));
        }
        parts.push(words::plural(sums.evaluations, "evaluation"));
        parts.push(format!("{:.0}/s", sums.evaluations as f64 / elapsed));
        parts.push(format!("{} cached", sums.cache_hits));
        if sums.failed > 0 {
            parts.push(format!("{} failed", sums.failed));
        }
        let judged = self.scores.iter().filter(|own| own.1 > 0).count();
        if judged > 0 {
            parts.push(words::plural(judged as u64, "configuration"));
        }
        if self.dropped > 0 {
            parts.push(format!("{} dropped", self.dropped));
        }
        parts.join(", ")
    }

    /// How long the rest of the budget (or of the work) takes at the pace so far.
    fn time_left(&self, sums: &Sums, elapsed: f64) -> Option<Duration> {
        let share = match sums.budget {
            Some(budget) if self.trials > 0 => sums.study_cost.as_f64() / budget.as_f64(),
            _ => sums.evaluations as f64 / self.instances.max(1) as f64,
        };
        (share > 0.02 && share < 1.0 && elapsed > 2.0).then(|| Duration::from_secs_f64(elapsed * (1.0 - share) / share))
    }
}

/// Dollars with as many decimals as tell something.
fn cents(amount: Usd) -> String {
    match amount.as_f64() {
        dollars if dollars >= 0.1 => format!("{dollars:.2}"),
        dollars => short(dollars),
    }
}

/// A progress bar of the money (or, without a budget, of the instances).
struct Bar {
    state: State,
    bar: ProgressBar,
    last: Instant,
}

impl Bar {
    fn new(state: State) -> Bar {
        let bar = ProgressBar::new(1000);
        // A bar that cannot be drawn as wished is drawn in the default way.
        let wide = ratatui::crossterm::terminal::size().is_ok_and(|(columns, _)| columns >= 120);
        let template = if wide { "{spinner} [{bar:24}] {wide_msg}" } else { "{spinner} [{bar:8}] {wide_msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { state, bar, last: Instant::now() }
    }
}

impl Reader for Bar {
    fn read(&mut self, event: &Event, sums: &Sums) {
        self.state.read(event);
        let last = matches!(event, Event::Finished { .. });
        if self.last.elapsed() > Duration::from_millis(80) || last {
            self.last = Instant::now();
            let share = match sums.budget {
                Some(budget) => sums.study_cost.as_f64() / budget.as_f64(),
                None => sums.evaluations as f64 / self.state.instances.max(1) as f64,
            };
            self.bar.set_position((share * 1000.0).clamp(0.0, 1000.0) as u64);
            self.bar.set_message(self.state.text(sums));
        }
        if last {
            self.bar.finish_and_clear();
            say!("{}", self.state.text(sums));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A line every few seconds, for logs.
struct Lines {
    state: State,
    last: Instant,
}

impl Reader for Lines {
    fn read(&mut self, event: &Event, sums: &Sums) {
        self.state.read(event);
        let due = self.last.elapsed() > Duration::from_secs(5) || matches!(event, Event::Finished { .. });
        if due {
            self.last = Instant::now();
            say!("{}", self.state.text(sums));
        }
    }
}

/// `events.jsonl`: the run as it happened, written by a thread of its own, so that a slow disk never slows the run. What
/// others watch is at most [`LAG`] old.
pub struct EventLog {
    lines: Option<mpsc::Sender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
}

/// How long a line may wait for others.
const LAG: Duration = Duration::from_millis(200);

impl EventLog {
    /// A new record. One that cannot be written is not kept; the run goes on.
    pub fn create(path: &Path) -> Option<EventLog> {
        let begun = File::create(path).and_then(|file| {
            let (sender, lines) = mpsc::channel();
            let writer = std::thread::Builder::new().name("events".into()).spawn(move || write_lines(file, &lines))?;
            Ok(EventLog { lines: Some(sender), writer: Some(writer) })
        });
        match begun {
            Ok(log) => Some(log),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the run's events are not kept");
                None
            }
        }
    }
}

/// Writes what comes until nobody is left who sends.
fn write_lines(file: File, lines: &mpsc::Receiver<Vec<u8>>) {
    let mut out = BufWriter::new(file);
    let mut written = Ok(());
    let mut flushed = Instant::now();
    while written.is_ok() {
        written = match lines.recv_timeout(LAG) {
            Ok(line) => out.write_all(&line).and_then(|()| match flushed.elapsed() > LAG {
                true => {
                    flushed = Instant::now();
                    out.flush()
                }
                false => Ok(()),
            }),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                flushed = Instant::now();
                out.flush()
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        };
    }
    if let Err(error) = written.and_then(|()| out.flush()) {
        tracing::warn!(%error, "the run's events are kept only up to here");
    }
}

impl Reader for EventLog {
    fn read(&mut self, event: &Event, _sums: &Sums) {
        let Some(lines) = &self.lines else { return };
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        // A writer that gave up said why.
        if lines.send(line).is_err() {
            self.lines = None;
        }
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lucky_answers_do_not_lead_and_what_was_never_asked_does_not_count() {
        let mut state = State::new(40);
        let started = |trial| Event::TrialStarted { trial, configuration: crate::space::Configuration::default() };
        (0..5).for_each(|trial| state.read(&started(trial)));
        let mut told = |trial: usize, score: f64, times: usize| {
            let event = serde_json::json!({"event": "evaluation_finished", "trial": trial, "instance": "a",
                "score": score, "cost_usd": "0", "requests": 1});
            (0..times).for_each(|_| state.read(&serde_json::from_value(event.clone()).unwrap()));
        };
        told(2, 1.0, 2);
        told(1, 1.0, 18);
        told(1, 0.0, 2);
        told(0, 0.0, 10);
        let sums = Sums { budget: Some("0.05".parse().unwrap()), evaluations: 32, ..Sums::default() };
        let text = state.text(&sums);
        assert!(text.starts_with("$0 of $0.05, best so far 0.900 on 20 (#1), 32 evaluations"), "{text}");
        assert!(text.ends_with("3 configurations"), "{text}");
        state.direction = Direction::Minimize;
        assert!(state.text(&sums).contains("best so far 0.000 on 10 (#0)"));
        state.read(&Event::Finished { stop_reason: "budget".into(), spent_usd: Usd::ZERO, study_cost_usd: Usd::ZERO });
        assert!(!state.text(&sums).contains("best so far"));
    }
}
