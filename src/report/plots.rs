//! Plots as SVG texts: score against the price of production.
//!
//! Colours are in the middle between dark and light, so that a plot can be read on either; a page may set others for the
//! values of [`colours`] by attribute selectors.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::money::Usd;
use crate::report::rows::RankingRow;
use crate::report::words;
use crate::study::Standing;
use crate::study::trial::short;
use crate::task::Direction;

/// What each colour means.
pub mod colours {
    use plotters::style::RGBColor;

    /// Axes' texts.
    pub const TEXT: RGBColor = RGBColor(0x76, 0x7b, 0x85);
    /// Lines of the grid.
    pub const GRID: RGBColor = RGBColor(0x9b, 0xa1, 0xab);
    /// Configurations that can be best.
    pub const POINT: RGBColor = RGBColor(0x4c, 0x8b, 0xd9);
    /// Those that cannot.
    pub const BARRED: RGBColor = RGBColor(0x9a, 0x9d, 0xa3);
    /// The winner.
    pub const WINNER: RGBColor = RGBColor(0x23, 0xa0, 0x5a);
    /// The baseline.
    pub const BASELINE: RGBColor = RGBColor(0xd9, 0x7a, 0x1e);
}
use colours::{BARRED, BASELINE, GRID, POINT, TEXT, WINNER};

/// Prices further apart than this are drawn on the scale of logarithms.
const LOG_SPREAD: f64 = 20.0;

/// More points than this, and only those that matter show their interval.
const INTERVALS: usize = 60;

/// What a plot is to show beside the rows.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// The objective's name.
    pub metric: &'a str,
    /// Which way is better.
    pub direction: Direction,
    /// The inference budget, drawn as a line.
    pub inference_budget: Option<Usd>,
    /// The size in pixels.
    pub size: (u32, u32),
}

/// One configuration in the plot.
struct Point<'a> {
    row: &'a RankingRow,
    cost: f64,
    score: f64,
    interval: Option<[f64; 2]>,
    on_frontier: bool,
}

/// Score against production cost: a point a configuration that was judged, its 95 % interval, the frontier (no other
/// that was seen on at least half as many instances as the one seen most is both cheaper and better), the winner and the
/// baseline. `None` where there is nothing to draw.
pub fn score_against_cost(rows: &[RankingRow], frame: Frame<'_>) -> Option<String> {
    let mut points: Vec<Point<'_>> = rows
        .iter()
        .filter_map(|row| {
            let (cost, score) = (row.production_cost_usd_per_instance?.as_f64(), row.score?);
            let interval = row.ci95().filter(|[low, high]| low.is_finite() && high.is_finite());
            (cost >= 0.0 && score.is_finite()).then_some(Point { row, cost, score, interval, on_frontier: false })
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    mark_frontier(&mut points, frame.direction);
    let all_intervals = points.len() <= INTERVALS;
    let shows_interval =
        |point: &Point<'_>| all_intervals || point.on_frontier || point.row.baseline || is_winner(point.row);
    let mut costs: Vec<f64> = points.iter().map(|point| point.cost).collect();
    costs.extend(frame.inference_budget.map(Usd::as_f64));
    let mut scores: Vec<f64> = points.iter().map(|point| point.score).collect();
    scores.extend(points.iter().filter(|point| shows_interval(point)).filter_map(|point| point.interval).flatten());
    let least_paid = costs.iter().copied().filter(|cost| *cost > 0.0).fold(f64::MAX, f64::min);
    let most = costs.iter().copied().fold(0.0, f64::max);
    let (width, height) = (frame.size.0.clamp(200, 4000) as i32, frame.size.1.clamp(160, 4000) as i32);
    let narrow = width < 500;
    let x = Scale::new(
        &costs,
        most / least_paid > LOG_SPREAD * (1.0 + 1e-9) && costs.iter().all(|cost| *cost > 0.0),
        (64, width - 16),
    );
    let y = Scale::new(&scores, false, (height - 52, 26));
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
        draw(&root, &points, &x, &y, frame, narrow, &shows_interval).ok()?;
        root.present().ok()?;
    }
    let about = format!("Score against price of {}", words::plural(points.len() as u64, "configuration"));
    Some(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{about}\" "), 1))
}

/// True where a plot of these rows shows the intervals of some points only.
pub fn leaves_out_intervals(rows: &[RankingRow]) -> bool {
    rows.iter().filter(|row| row.production_cost_usd_per_instance.is_some() && row.score.is_some()).count() > INTERVALS
}

fn is_winner(row: &RankingRow) -> bool {
    row.rank == 1 && row.standing == Standing::Eligible
}

/// Marks the points that no serious other is both cheaper and better than.
fn mark_frontier(points: &mut [Point<'_>], direction: Direction) {
    let most = points.iter().map(|point| point.row.instances).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..points.len()).filter(|&at| 2 * points[at].row.instances >= most).collect();
    let gain = |point: &Point<'_>| direction.gain(point.score);
    order.sort_by(|&a, &b| {
        let (a, b) = (&points[a], &points[b]);
        a.cost.total_cmp(&b.cost).then(gain(b).total_cmp(&gain(a))).then(a.row.rank.cmp(&b.row.rank))
    });
    let mut best = f64::NEG_INFINITY;
    for at in order {
        if gain(&points[at]) > best {
            best = gain(&points[at]);
            points[at].on_frontier = true;
        }
    }
}

/// An axis: values to pixels, and where its ticks are.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    pixels: (i32, i32),
}

impl Scale {
    /// A scale that shows all values, with some room at the ends. Needs one finite value.
    fn new(values: &[f64], log: bool, pixels: (i32, i32)) -> Scale {
        let map = |value: f64| if log { value.log10() } else { value };
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for value in values.iter().map(|value| map(*value)) {
            (low, high) = (low.min(value), high.max(value));
        }
        let size = low.abs().max(high.abs());
        // Values so near each other that floats could not tell the ticks apart count as equal.
        let room = match high / 2.0 - low / 2.0 > size * 1e-9 {
            true => (high / 2.0 - low / 2.0) * 0.12,
            false if size == 0.0 => 0.5,
            false if log => 0.3,
            false => size * 0.05,
        };
        // Half the largest float at most, so that no sum or difference of them overflows.
        let bound = |value: f64| value.clamp(-f64::MAX / 4.0, f64::MAX / 4.0);
        let (mut low, high) = (bound(low - room), bound(high + room));
        if !log && low < 0.0 && values.iter().all(|value| *value >= 0.0) {
            low = 0.0;
        }
        Scale { low, high, log, pixels }
    }

    fn unit(&self, mapped: f64) -> f64 {
        let span = self.high - self.low;
        let unit = if span > 0.0 { (mapped - self.low) / span } else { 0.5 };
        if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 0.5 }
    }

    fn pixel(&self, value: f64) -> i32 {
        let mapped = if self.log { value.log10() } else { value.clamp(-f64::MAX / 4.0, f64::MAX / 4.0) };
        let (from, to) = (f64::from(self.pixels.0), f64::from(self.pixels.1));
        (from + self.unit(mapped) * (to - from)).round() as i32
    }

    /// Round values inside, about `wanted` of them, with how many decimals tell them apart.
    fn ticks(&self, wanted: usize) -> (Vec<f64>, usize) {
        if self.log {
            let decades = self.low.floor() as i32..=self.high.ceil() as i32;
            for steps in [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]] {
                let ticks: Vec<f64> = decades
                    .clone()
                    .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
                    .filter(|tick| (self.low..=self.high).contains(&tick.log10()))
                    .collect();
                if ticks.len() <= wanted || steps.len() == 1 {
                    let every = ticks.len().div_ceil(wanted.max(1)).max(1);
                    return (ticks.into_iter().step_by(every).collect(), 0);
                }
            }
        }
        let span = self.high - self.low;
        let rough = span / wanted.max(1) as f64;
        if rough <= 0.0 || !rough.is_finite() {
            return (vec![self.low], 3);
        }
        let power = rough.log10().floor();
        let unit = 10_f64.powf(power);
        let step = [1.0, 2.0, 5.0, 10.0].iter().map(|step| step * unit).find(|step| *step >= rough).unwrap_or(rough);
        if step <= 0.0 || !step.is_finite() {
            return (vec![self.low], 3);
        }
        let first = (self.low / step).ceil();
        let ticks =
            (0..=4 * wanted).map(|at| (first + at as f64) * step).take_while(|tick| *tick <= self.high).collect();
        let decimals = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        (ticks, decimals)
    }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(
    root: &Area<'_>,
    points: &[Point<'_>],
    x: &Scale,
    y: &Scale,
    frame: Frame<'_>,
    narrow: bool,
    shows_interval: &dyn Fn(&Point<'_>) -> bool,
) -> Drawn {
    let text = |at: (i32, i32), text: &str, color: RGBColor, h: HPos, v: VPos, size: i32| -> Drawn {
        let style = TextStyle::from(("sans-serif", size)).color(&color).pos(Pos::new(h, v));
        root.draw(&Text::new(text.to_owned(), at, style))?;
        Ok(())
    };
    let line = |from: (i32, i32), to: (i32, i32), style: ShapeStyle| -> Drawn {
        root.draw(&PathElement::new([from, to], style))?;
        Ok(())
    };
    let ((left, right), (bottom, top)) = (x.pixels, y.pixels);
    let (ticks, decimals) = y.ticks(5);
    for tick in ticks {
        let at = y.pixel(tick);
        line((left, at), (right, at), GRID.mix(0.35).into())?;
        let label = match tick.abs() {
            size if size != 0.0 && !(1e-4..1e6).contains(&size) => format!("{tick:.1e}"),
            _ => format!("{tick:.decimals$}"),
        };
        text((left - 8, at), &label, TEXT, HPos::Right, VPos::Center, 17)?;
    }
    let (ticks, _) = x.ticks(if narrow { 4 } else { 7 });
    for tick in ticks {
        let at = x.pixel(tick);
        line((at, bottom), (at, bottom + 5), GRID.into())?;
        text((at, bottom + 9), &format!("${}", short(tick)), TEXT, HPos::Center, VPos::Top, 17)?;
    }
    line((left, bottom), (right, bottom), GRID.into())?;
    let less = if frame.direction == Direction::Minimize { " (less is better)" } else { "" };
    text((left, 6), &format!("{}{less}", words::line(&words::cut(frame.metric, 40))), TEXT, HPos::Left, VPos::Top, 18)?;
    let scale = if x.log { " (logarithmic)" } else { "" };
    text(
        (right, bottom + 30),
        &format!("price of an instance in production{scale}"),
        TEXT,
        HPos::Right,
        VPos::Top,
        17,
    )?;
    if let Some(budget) = frame.inference_budget {
        let at = x.pixel(budget.as_f64());
        line((at, bottom), (at, top), BASELINE.mix(0.6).stroke_width(1))?;
        let (anchor, aside) = if at > (left + right) / 2 { (HPos::Right, -6) } else { (HPos::Left, 6) };
        text((at + aside, bottom - 8), "inference budget", BASELINE, anchor, VPos::Bottom, 16)?;
    }
    let mut frontier: Vec<&Point<'_>> = points.iter().filter(|point| point.on_frontier).collect();
    frontier.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    let path: Vec<(i32, i32)> = frontier.iter().map(|point| (x.pixel(point.cost), y.pixel(point.score))).collect();
    if path.len() > 1 {
        root.draw(&PathElement::new(path, POINT.mix(0.7).stroke_width(2)))?;
    }
    let most = points.iter().map(|point| point.row.instances).max().unwrap_or(0);
    let last = |point: &&Point<'_>| (is_winner(point.row), point.row.baseline, point.on_frontier);
    let mut order: Vec<&Point<'_>> = points.iter().collect();
    // What matters is drawn last, on top.
    order.sort_by_key(last);
    for point in order {
        let at = (x.pixel(point.cost), y.pixel(point.score));
        let winner = is_winner(point.row);
        let color = match point.row {
            _ if winner => WINNER,
            row if row.baseline => BASELINE,
            row if row.standing == Standing::Eligible => POINT,
            _ => BARRED,
        };
        let strong = winner || point.row.baseline || point.on_frontier;
        let seen = 2 * point.row.instances >= most;
        if let Some([low, high]) = point.interval.filter(|_| shows_interval(point)) {
            let style = color.mix(if strong { 0.8 } else { 0.25 }).stroke_width(if strong { 2 } else { 1 });
            line((at.0, y.pixel(low)), (at.0, y.pixel(high)), style)?;
        }
        let shade = if strong {
            1.0
        } else if seen {
            0.75
        } else {
            0.35
        };
        match point.row.baseline {
            true => root.draw(&Rectangle::new([(at.0 - 6, at.1 - 6), (at.0 + 6, at.1 + 6)], color.filled()))?,
            false => {
                let radius = if winner {
                    7
                } else if strong {
                    5
                } else {
                    4
                };
                root.draw(&Circle::new(at, radius, color.mix(shade).filled()))?;
            }
        }
        let name = match (winner, point.row.baseline) {
            (true, true) => "best (the baseline)",
            (true, false) => "best",
            (false, true) => "baseline",
            _ => continue,
        };
        let (anchor, aside) = if at.0 > right - 140 { (HPos::Right, -11) } else { (HPos::Left, 11) };
        let below = if winner { -11 } else { 15 };
        text((at.0 + aside, at.1 + below), name, color, anchor, VPos::Center, 18)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing;
    use proptest::prelude::*;

    const FRAME: Frame<'_> =
        Frame { metric: "accuracy", direction: Direction::Maximize, inference_budget: None, size: (760, 420) };

    fn svg(rows: &[RankingRow], frame: Frame<'_>) -> String {
        let svg = score_against_cost(rows, frame).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf,"), "{svg}");
        svg
    }

    #[test]
    fn a_plot_shows_every_configuration() {
        let rows = testing::some_rows(30);
        let plot = svg(&rows, FRAME);
        assert_eq!(plot.matches("<circle").count(), 29);
        assert_eq!(plot.matches("<rect").count(), 1, "the baseline is a square");
        assert!(
            plot.contains("<text")
                && plot.contains("best\n")
                && plot.contains("baseline\n")
                && plot.contains("accuracy")
        );
        assert!(!plot.contains("logarithmic"));
        assert_eq!(plot, svg(&rows, FRAME));
    }

    #[test]
    fn nothing_to_draw_is_no_plot() {
        assert_eq!(score_against_cost(&[], FRAME), None);
        assert_eq!(score_against_cost(&[testing::row(0, None, None, Some(Usd::ZERO))], FRAME), None);
        assert_eq!(score_against_cost(&[testing::row(0, Some(0.5), None, None)], FRAME), None);
    }

    #[test]
    fn a_wide_spread_of_prices_is_logarithmic() {
        let cost = |pico| Some(Usd::from_pico(pico));
        let row = |at, pico| testing::row(at, Some(0.5), None, cost(pico));
        assert!(!svg(&[row(0, 1_000_000), row(1, 20_000_000)], FRAME).contains("logarithmic"));
        assert!(svg(&[row(0, 1_000_000), row(1, 21_000_000)], FRAME).contains("logarithmic"));
        assert!(!svg(&[row(0, 0), row(1, 21_000_000)], FRAME).contains("logarithmic"), "0 has no logarithm");
    }

    #[test]
    fn the_frontier_is_what_nothing_beats() {
        let rows: Vec<RankingRow> = [(0.9, 50), (0.8, 20), (0.7, 30), (0.6, 10), (0.99, 5)]
            .iter()
            .enumerate()
            .map(|(at, (score, cost))| testing::row(at, Some(*score), None, Some(Usd::from_pico(cost * 1_000_000))))
            .collect();
        let frontier = |few: usize, direction| {
            let mut rows = rows.clone();
            rows[4].instances = few;
            let mut points: Vec<Point<'_>> = rows
                .iter()
                .map(|row| Point {
                    row,
                    cost: row.production_cost_usd_per_instance.unwrap().as_f64(),
                    score: row.score.unwrap(),
                    interval: None,
                    on_frontier: false,
                })
                .collect();
            mark_frontier(&mut points, direction);
            points.iter().filter(|point| point.on_frontier).map(|point| point.row.trial).collect::<Vec<_>>()
        };
        assert_eq!(frontier(250, Direction::Maximize), [4]);
        assert_eq!(frontier(3, Direction::Maximize), [0, 1, 3], "three instances say too little");
        assert_eq!(frontier(250, Direction::Minimize), [3, 4]);
    }

    #[test]
    fn a_hostile_metric_stays_text() {
        let plot = svg(&testing::some_rows(3), Frame { metric: "</text><script>x\u{0}", ..FRAME });
        assert!(!plot.contains("<script") && !plot.contains('\u{0}'));
    }

    proptest! {
        #[test]
        fn any_numbers_can_be_drawn(
            of in proptest::collection::vec((any::<f64>(), any::<f64>(), any::<f64>(), 0_i64.., 0_usize..1000), 0..8),
            near in any::<bool>(), minimize in any::<bool>(), budget in proptest::option::of(1_i64..), size in (0_u32..3000, 0_u32..2000),
        ) {
            let rows: Vec<RankingRow> = of.iter().enumerate().map(|(at, (score, low, high, cost, instances))| {
                let score = if near { 0.5 + score.clamp(-1.0, 1.0) * 1e-15 } else { *score };
                let mut row = testing::row(at, Some(score), Some([*low, *high]), Some(Usd::from_pico(*cost)));
                row.instances = *instances;
                row
            }).collect();
            let direction = if minimize { Direction::Minimize } else { Direction::Maximize };
            let frame = Frame { metric: "m", direction, inference_budget: budget.map(Usd::from_pico), size };
            if let Some(svg) = score_against_cost(&rows, frame) {
                prop_assert!(!svg.contains("NaN") && svg.len() < 100_000);
            }
        }
    }
}
