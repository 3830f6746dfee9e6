//! The live view: `farthing tune --live`, and `farthing watch` from another terminal.

pub mod hand;
mod screen;
mod state;
mod tail;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self as keys, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use crate::cli::{colour, print};
use crate::diagnostic::{Error, Result};
use crate::event::{Event, Reader, Sums};
use crate::money::Usd;
use crate::report::run::rows_of;
use crate::report::table;
use crate::study::{Stop, folder};
use hand::{Hand, Wish};
use screen::Mood;
use state::State;
use tail::Tail;

const EXAMPLES: &str = "\
Keys: p pauses asking and goes on, b sets another budget, s stops when what is in flight has landed, arrows scroll, q leaves \
the view; the run goes on. A lower budget holds at once and is kept in the run's study.toml, so that --resume decides the same.

Examples:
  farthing watch results/exam-1
  farthing watch results/exam-1 --once       the screen as it is now, as text";

/// Arguments of `farthing watch`.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct WatchArguments {
    /// The run's folder
    run: PathBuf,
    /// Print the screen once and end
    #[arg(long)]
    once: bool,
}

/// Watches a run.
pub fn watch(arguments: &WatchArguments) -> Result<u8> {
    folder::load(&arguments.run)?;
    let mut tail = Tail::new(arguments.run.join("events.jsonl"));
    if arguments.once || !colour(&std::io::stdout()) {
        return once(&mut tail, &arguments.run);
    }
    let began = Instant::now();
    let (mut first, mut ranked, run) = (true, None, arguments.run.clone());
    let mut feed = move |state: &mut State| {
        let news = tail.read();
        if news.anew {
            *state = State::default();
        }
        let live = !std::mem::take(&mut first);
        let now = began.elapsed();
        news.events.iter().for_each(|event| state.read(event, None, now, live));
        settle(state, &run, &mut ranked);
        true
    };
    View::new(Hand::There(arguments.run.clone()), began).run(&mut feed, false)?;
    Ok(0)
}

/// Takes the order of an ended run from its `ranking.csv`, when that is written. `read` is which one was read last.
fn settle(state: &mut State, run: &Path, read: &mut Option<SystemTime>) {
    let written = std::fs::metadata(run.join("ranking.csv")).and_then(|about| about.modified()).ok();
    if state.ended.is_none() || (written == *read && !state.settled.is_empty()) {
        return;
    }
    // A file that cannot be read says nothing: the order stays as it was.
    if let Ok(rows) = rows_of(run) {
        state.settled = rows.iter().map(|row| row.trial).collect();
    }
    *read = written;
}

/// The screen as text.
fn once(tail: &mut Tail, run: &Path) -> Result<u8> {
    let mut state = State::default();
    loop {
        let news = tail.read();
        news.events.iter().for_each(|event| state.read(event, None, Duration::ZERO, false));
        if news.events.is_empty() {
            break;
        }
    }
    settle(&mut state, run, &mut None);
    let height = 8 + state.trials.len().min(40) as u16;
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("the screen cannot be drawn: {error}"));
    let mut terminal = Terminal::new(TestBackend::new(table::width(), height)).map_err(|error| failed(&error))?;
    let drawn = terminal.draw(|frame| screen::draw(frame, &mut state, &Mood::default(), Duration::ZERO));
    drawn.map_err(|error| failed(&error))?;
    let buffer = terminal.backend().buffer();
    let line = |y: u16| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    // The last line are keys that cannot be pressed.
    let lines: Vec<String> = (0..height - 1).map(|y| line(y).trim_end().to_owned()).collect();
    print(&lines.join("\n"))?;
    Ok(0)
}

/// A reader of a run in this process that draws it on the terminal.
pub struct Live {
    events: Option<Sender<(Event, Sums)>>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Takes the terminal until the run ends or the user leaves the view.
    pub fn begin(stop: Arc<Stop>) -> Live {
        let (sender, receiver) = mpsc::channel();
        let draw = move || {
            let began = Instant::now();
            let mut feed = |state: &mut State| receive(&receiver, state, began.elapsed());
            // A view that cannot be drawn breaks nothing.
            if let Err(error) = View::new(Hand::Here(stop), began).run(&mut feed, true) {
                tracing::warn!("{error}");
            }
        };
        let thread = std::thread::Builder::new().name("live".into()).spawn(draw).ok();
        Live { events: Some(sender), thread }
    }
}

fn receive(events: &Receiver<(Event, Sums)>, state: &mut State, now: Duration) -> bool {
    loop {
        match events.try_recv() {
            Ok((event, sums)) => state.read(&event, Some(&sums), now, true),
            Err(mpsc::TryRecvError::Empty) => return true,
            Err(mpsc::TryRecvError::Disconnected) => return false,
        }
    }
}

impl Reader for Live {
    fn read(&mut self, event: &Event, sums: &Sums) {
        // A view that is gone is not told any more.
        if self.events.as_ref().is_some_and(|events| events.send((event.clone(), *sums)).is_err()) {
            self.events = None;
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.events = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// How often the screen is drawn.
const TICK: Duration = Duration::from_millis(150);

/// A view that is shown.
struct View {
    hand: Hand,
    began: Instant,
    state: State,
    mood: Mood,
}

impl View {
    fn new(hand: Hand, began: Instant) -> View {
        View { hand, began, state: State::default(), mood: Mood { colour: true, ..Mood::default() } }
    }

    /// Shows it until the user leaves, or the feed ends.
    fn run(mut self, feed: &mut dyn FnMut(&mut State) -> bool, ends_with_run: bool) -> Result<()> {
        let failed = |error: std::io::Error| Error::internal(format!("the terminal cannot be used: {error}"));
        let mut terminal = ratatui::try_init().map_err(failed)?;
        let outcome = loop {
            let more = feed(&mut self.state);
            let now = self.began.elapsed();
            if let Err(error) = terminal.draw(|frame| screen::draw(frame, &mut self.state, &self.mood, now)) {
                break Err(failed(error));
            }
            if !more || (ends_with_run && self.state.ended.is_some()) {
                break Ok(());
            }
            match keys::poll(TICK).and_then(|there| if there { keys::read().map(Some) } else { Ok(None) }) {
                Ok(Some(keys::Event::Key(key))) if key.kind != KeyEventKind::Release && self.press(key) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(failed(error)),
            }
        };
        ratatui::restore();
        outcome
    }

    /// A key; true where it leaves the view.
    fn press(&mut self, key: KeyEvent) -> bool {
        if let Some(typed) = &mut self.mood.typed {
            match key.code {
                KeyCode::Char(c) if (c.is_ascii_digit() || c == '.') && typed.len() < 20 => typed.push(c),
                KeyCode::Backspace => drop(typed.pop()),
                KeyCode::Esc => self.mood.typed = None,
                KeyCode::Enter => {
                    let typed = self.mood.typed.take().unwrap_or_default();
                    self.mood.said = Some(match typed.parse::<Usd>() {
                        Ok(budget) if budget > Usd::ZERO => self.hand.wish(Wish::Budget { budget_usd: budget }),
                        _ => format!("`{typed}` is no budget"),
                    });
                }
                _ => {}
            }
            return false;
        }
        let running = self.state.ended.is_none();
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => match &self.hand {
                // The terminal gives Ctrl-C to us in place of the program.
                Hand::Here(_) => self.stop(),
                Hand::There(_) => return true,
            },
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('p') if running => {
                let wish = if self.state.paused { Wish::GoOn } else { Wish::Pause };
                self.mood.said = Some(self.hand.wish(wish));
            }
            KeyCode::Char('s') if running => self.stop(),
            KeyCode::Char('b') if running => self.mood.typed = Some(String::new()),
            KeyCode::Down => self.mood.scroll = (self.mood.scroll + 1).min(self.state.trials.len()),
            KeyCode::Up => self.mood.scroll = self.mood.scroll.saturating_sub(1),
            KeyCode::PageDown => self.mood.scroll = (self.mood.scroll + 20).min(self.state.trials.len()),
            KeyCode::PageUp => self.mood.scroll = self.mood.scroll.saturating_sub(20),
            _ => {}
        }
        false
    }

    fn stop(&mut self) {
        self.mood.said = Some(self.hand.wish(Wish::Stop));
        self.mood.stopping = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(view: &mut View, code: KeyCode) -> bool {
        view.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_do_what_they_say() {
        let stop = Arc::new(Stop::default());
        let mut view = View::new(Hand::Here(stop.clone()), Instant::now());
        assert!(!press(&mut view, KeyCode::Char('p')) && stop.control().paused());
        view.state.paused = true;
        assert!(!press(&mut view, KeyCode::Char('p')) && !stop.control().paused());
        for code in "b1x.5".chars().map(KeyCode::Char) {
            assert!(!press(&mut view, code));
        }
        assert_eq!(view.mood.typed.as_deref(), Some("1.5"), "what is no digit is left out, and q would not leave");
        press(&mut view, KeyCode::Enter);
        assert_eq!((view.mood.typed.as_deref(), view.mood.said.as_deref()), (None, Some("the budget is to be $1.5")));
        press(&mut view, KeyCode::Char('b'));
        press(&mut view, KeyCode::Enter);
        assert_eq!(view.mood.said.as_deref(), Some("`` is no budget"));
        press(&mut view, KeyCode::Char('s'));
        assert_eq!((stop.press(), view.mood.stopping), (2, true));
        assert!(press(&mut view, KeyCode::Char('q')));
        let ctrl = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert!(!view.press(ctrl), "within the run Ctrl-C stops the run");
        assert!(
            View::new(Hand::There("nowhere".into()), Instant::now()).press(ctrl),
            "from outside it leaves the view"
        );
    }
}
