//! The screen of a live view, drawn from a state alone.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Gauge, Paragraph, Row, Table};

use super::state::State;
use crate::report::words;

/// What the user is at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mood {
    /// A budget that is being typed.
    pub typed: Option<String>,
    /// What the last key came to.
    pub said: Option<String>,
    /// The run was asked to stop.
    pub stopping: bool,
    /// Rows that are scrolled away.
    pub scroll: usize,
    /// With colours.
    pub colour: bool,
}

/// Draws it at a moment since the view began.
pub fn draw(frame: &mut Frame<'_>, state: &mut State, mood: &Mood, now: Duration) {
    let failures = u16::from(!state.failures.is_empty());
    let [title, money, counts, table, errors, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(failures),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(state, mood)), title);
    frame.render_widget(gauge(state, mood), money);
    frame.render_widget(Paragraph::new(figures(state, now)), counts);
    frame.render_widget(ranking(state, mood, (table.width, table.height)), table);
    if failures > 0 {
        frame.render_widget(Paragraph::new(failed(state)), errors);
    }
    frame.render_widget(Paragraph::new(keys(state, mood)), foot);
}

fn paint(mood: &Mood, colour: Color) -> Style {
    if mood.colour { Style::new().fg(colour) } else { Style::new() }
}

fn heading(state: &State, mood: &Mood) -> Line<'static> {
    let doing = match (&state.ended, state.paused, mood.stopping) {
        (Some(reason), ..) => format!("ended: {}", reason.replace('_', " ")),
        (None, _, true) => "stopping: what is in flight lands first".to_owned(),
        (None, true, _) => "paused".to_owned(),
        (None, false, false) if state.task.is_empty() => "waiting for the run to begin".to_owned(),
        (None, false, false) => "running".to_owned(),
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let colour = if state.ended.is_some() || state.paused || mood.stopping { Color::Yellow } else { Color::Green };
    Line::from(vec![
        Span::styled(words::line(&state.task), bold),
        Span::raw(format!("  {}  ", words::line(&state.strategy))),
        Span::styled(doing, paint(mood, colour)),
    ])
}

/// The money: the study's own cost is what the budget limits.
fn gauge(state: &State, mood: &Mood) -> Gauge<'static> {
    let cost = words::dollars(state.cost);
    let (share, label) = match state.budget {
        Some(budget) if budget.as_f64() > 0.0 => {
            let share = (state.cost.as_f64() / budget.as_f64()).clamp(0.0, 1.0);
            (share, format!("{cost} of ${budget} ({:.0} %)", share * 100.0))
        }
        _ => (0.0, format!("{cost}, no budget")),
    };
    Gauge::default().ratio(share).label(label).gauge_style(paint(mood, Color::Cyan)).use_unicode(true)
}

fn figures(state: &mut State, now: Duration) -> Vec<Line<'static>> {
    let mut first = vec![words::plural(state.evaluations, "evaluation")];
    if let Some((evaluations, dollars)) = state.rates(now).filter(|_| state.ended.is_none()) {
        first.push(format!("{evaluations:.1}/s"));
        first.push(format!("${:.3}/min", dollars * 60.0));
    }
    first.push(format!("{} from the store", words::count(state.cached)));
    first.push(format!("{} failed", words::count(state.failed)));
    if let Some(waiting) = state.waiting {
        first.push(format!("{} under way", words::count(waiting)));
    }
    let mut second = vec![words::plural(state.trials.len() as u64, "configuration")];
    let dropped = state.trials.iter().filter(|trial| trial.dropped.is_some()).count() as u64;
    if dropped > 0 {
        second.push(format!("{} out", words::count(dropped)));
    }
    second.push(words::plural(state.instances as u64, "instance"));
    if let Some(spent) = state.spent {
        second.push(format!("{} billed", words::dollars(spent)));
    }
    if let Some(left) = state.left(now) {
        second.push(format!("the budget lasts about {}", words::span(left)));
    }
    let quiet =
        state.last.map(|last| now.saturating_sub(last)).filter(|quiet| quiet.as_secs() >= 10 && state.ended.is_none());
    second.extend(quiet.map(|quiet| format!("nothing happened for {}", words::span(quiet))));
    [first, second].map(|parts| Line::raw(parts.join(", "))).into()
}

/// Below so many columns what a configuration cost and what failed of it is left out, and below so many the interval.
const NARROW: u16 = 90;
const NARROWER: u16 = 70;

fn ranking(state: &State, mood: &Mood, (width, height): (u16, u16)) -> Table<'static> {
    let varying = state.varying();
    let order = state.ranking();
    let shown = usize::from(height.saturating_sub(2)).max(1);
    let from = mood.scroll.min(order.len().saturating_sub(shown));
    let rows = order.iter().enumerate().skip(from).take(shown).map(|(place, &at)| {
        let trial = &state.trials[at];
        let estimate = trial.estimate();
        let score = estimate.map_or("-".to_owned(), |estimate| {
            let interval = estimate.ci95.filter(|_| width >= NARROWER);
            words::scored(Some(estimate.mean), interval.map(|(low, high)| [low, high]))
        });
        let value =
            |name: &String| Some(format!("{}={}", words::line(name), words::value(trial.configuration.get(name)?, 24)));
        let mut about = varying.iter().filter_map(value).collect::<Vec<_>>().join(" ");
        if let Some(reason) = &trial.dropped {
            about = format!("{about} (out: {})", words::line(&words::cut(reason, 80)));
        }
        let rank = if trial.dropped.is_some() || estimate.is_none() { "-".to_owned() } else { (place + 1).to_string() };
        let style = match (place, trial.dropped.is_some()) {
            (_, true) => paint(mood, Color::DarkGray),
            (0, false) => paint(mood, Color::Green),
            _ => Style::new(),
        };
        let mut cells = vec![rank, score, trial.scores.len().to_string()];
        if width >= NARROW {
            cells.extend([trial.failed.to_string(), words::dollars(trial.cost)]);
        }
        cells.push(about);
        Row::new(cells).style(style)
    });
    let score = if width >= NARROWER { 22 } else { 8 };
    let mut widths = vec![Constraint::Length(4), Constraint::Length(score), Constraint::Length(6)];
    let metric = words::line(&words::cut(&state.metric, 20));
    let mut header = vec![String::new(), metric, "judged".to_owned()];
    if width >= NARROW {
        widths.extend([Constraint::Length(6), Constraint::Length(10)]);
        header.extend(["failed".to_owned(), "cost".to_owned()]);
    }
    widths.push(Constraint::Fill(1));
    header.push("configuration".to_owned());
    let header = Row::new(header);
    Table::new(rows.collect::<Vec<_>>(), widths)
        .header(header.style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::new().borders(Borders::TOP))
}

fn failed(state: &State) -> Line<'static> {
    let mut kinds: Vec<(&String, &u64)> = state.failures.iter().collect();
    kinds.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let parts: Vec<String> =
        kinds.iter().map(|(kind, count)| format!("{} {}", words::count(**count), words::line(kind))).collect();
    Line::raw(format!("Failed: {}", parts.join(", ")))
}

fn keys(state: &State, mood: &Mood) -> Line<'static> {
    if let Some(typed) = &mood.typed {
        return Line::raw(format!("New budget in dollars: {typed}_   (Enter sets it, Esc leaves it)"));
    }
    let bold = |text: &'static str| Span::styled(text, Style::new().add_modifier(Modifier::BOLD));
    let mut spans = Vec::new();
    if state.ended.is_none() {
        let pause = if state.paused { " go on  " } else { " pause  " };
        spans.extend([bold("p"), Span::raw(pause), bold("b"), Span::raw(" budget  "), bold("s"), Span::raw(" stop  ")]);
    }
    spans.extend([bold("q"), Span::raw(" leave the view  ")]);
    spans.extend(mood.said.iter().map(|said| Span::raw(format!("  {said}"))));
    Line::from(spans)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::live::state::tests::state;

    fn shown(state: &mut State, mood: &Mood, size: (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
        terminal.draw(|frame| draw(frame, state, mood, Duration::from_millis(3500))).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_of_a_run() {
        insta::assert_snapshot!(shown(&mut state(), &Mood::default(), (100, 12)), @r#"
        "sums  halving  running                                                                              "
        "███████████████████████████████████████$0.024 of $0.05 (48 %)                                       "
        "30 evaluations, 8.6/s, $0.411/min, 10 from the store, 6 failed                                      "
        "3 configurations, 1 out, 40 instances, the budget lasts about 3 s                                   "
        "────────────────────────────────────────────────────────────────────────────────────────────────────"
        "     accuracy               judged failed cost       configuration                                  "
        "1    0.700 [0.397, 0.892]   10     0      $0.01      prompt=steps                                   "
        "2    0.600 [0.313, 0.832]   10     0      $0.01      prompt=direct                                  "
        "-    0.000 [0.000, 0.490]   4      6      $0.004     prompt=long (out: too dear)                    "
        "                                                                                                    "
        "Failed: 6 timeout                                                                                   "
        "p pause  b budget  s stop  q leave the view                                                         "
        "#);
    }

    #[test]
    fn a_narrow_screen_shows_the_configurations() {
        for width in [60, 80] {
            let text = shown(&mut state(), &Mood::default(), (width, 12));
            assert!(text.contains("prompt=long (out: too dear)"), "{text}");
            assert_eq!(text.contains("[0.397, 0.892]"), width == 80, "{text}");
        }
    }

    #[test]
    fn a_budget_is_typed_and_a_run_ends() {
        let mut state = state();
        let typing = Mood { typed: Some("0.1".into()), ..Mood::default() };
        assert!(shown(&mut state, &typing, (80, 12)).contains("New budget in dollars: 0.1_"));
        (state.paused, state.ended) = (true, None);
        let paused = shown(&mut state, &Mood { said: Some("said".into()), ..Mood::default() }, (80, 12));
        assert!(paused.contains("paused") && paused.contains("p go on") && paused.contains("said"), "{paused}");
        state.ended = Some("max_trials".into());
        let ended = shown(&mut state, &Mood::default(), (80, 12));
        assert!(ended.contains("ended: max trials") && !ended.contains("p go on"), "{ended}");
    }

    #[test]
    fn any_size_and_any_text_is_drawn() {
        let mut state = state();
        state.task = "a\u{1b}[31m\u{202e}b".into();
        for size in [(1, 1), (10, 3), (20, 30), (300, 5)] {
            let text = shown(&mut state, &Mood { scroll: 100, ..Mood::default() }, size);
            assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'));
        }
        assert!(shown(&mut State::default(), &Mood::default(), (80, 10)).contains("waiting for the run to begin"));
    }
}
