//! Score against the price of production.

use plotters::style::RGBColor;

use crate::money::Usd;
use crate::report::plots::colours::{BARRED, BASELINE, POINT, WINNER};
use crate::report::plots::{Anchor, Axes, Drawn, Figure, Frame, Ink, Scale};
use crate::report::rows::RankingRow;
use crate::report::words;
use crate::study::Standing;
use crate::study::trial::short;
use crate::task::Direction;

/// Prices further apart than this are drawn on the scale of logarithms.
const LOG_SPREAD: f64 = 20.0;

/// More points than this, and only those that matter show their interval.
const INTERVALS: usize = 60;

/// One configuration in the plot.
struct Point {
    cost: f64,
    score: f64,
    interval: Option<[f64; 2]>,
    /// Where the frontier runs, if it is on it: the expected score.
    frontier: Option<f64>,
    instances: usize,
    winner: bool,
    baseline: bool,
    eligible: bool,
}

impl Point {
    fn of(row: &RankingRow, cost: f64, score: f64, interval: Option<[f64; 2]>) -> Point {
        let eligible = row.standing == Standing::Eligible;
        Point {
            cost,
            score,
            interval,
            frontier: row.pareto.then(|| row.posterior_mean.filter(|mean| mean.is_finite()).unwrap_or(score)),
            instances: row.instances,
            winner: row.rank == 1 && eligible,
            baseline: row.baseline,
            eligible,
        }
    }
}

/// Score against production cost: a point a configuration that was judged, its 95 % interval, the winner, the baseline, and
/// the frontier of the ranking (no other beats these in both expected score and price), along the expected scores. `None`
/// where there is nothing to draw.
pub fn figure(rows: &[RankingRow], frame: Frame<'_>) -> Option<Figure> {
    let mut points: Vec<Point> = rows
        .iter()
        .filter_map(|row| {
            let (cost, score) = (row.production_cost_usd_per_instance?.as_f64(), row.score?);
            let interval = row.ci95().filter(|[low, high]| low.is_finite() && high.is_finite());
            (cost >= 0.0 && score.is_finite()).then(|| Point::of(row, cost, score, interval))
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    let all_intervals = points.len() <= INTERVALS;
    for point in &mut points {
        point.interval =
            point.interval.filter(|_| all_intervals || point.frontier.is_some() || point.baseline || point.winner);
    }
    let mut costs: Vec<f64> = points.iter().map(|point| point.cost).collect();
    costs.extend(frame.inference_budget.map(Usd::as_f64));
    let mut scores: Vec<f64> = points.iter().flat_map(|point| [Some(point.score), point.frontier]).flatten().collect();
    scores.extend(points.iter().filter_map(|point| point.interval).flatten());
    let least_paid = costs.iter().copied().filter(|cost| *cost > 0.0).fold(f64::MAX, f64::min);
    let most = costs.iter().copied().fold(0.0, f64::max);
    let log = most / least_paid > LOG_SPREAD * (1.0 + 1e-9) && costs.iter().all(|cost| *cost > 0.0);
    let (metric, budget, direction) = (frame.metric.to_owned(), frame.inference_budget, frame.direction);
    let about = about(&points, &metric, direction);
    Some(Figure::new(frame.size, about, move |ink, (width, height)| {
        let x = Scale::new(&costs, log, (64, width - 16));
        let y = Scale::new(&scores, false, (height - 52, 26));
        draw(
            ink,
            &points,
            &x,
            &y,
            Frame { metric: &metric, direction, inference_budget: budget, size: (0, 0) },
            width < 500,
        )
    }))
}

/// Where the frontier runs: (price, expected score), the cheapest first.
fn frontier(points: &[Point]) -> Vec<(f64, f64)> {
    let mut frontier: Vec<(f64, f64)> = points.iter().filter_map(|point| Some((point.cost, point.frontier?))).collect();
    frontier.sort_by(|a, b| a.0.total_cmp(&b.0));
    frontier
}

/// The plot in words.
fn about(points: &[Point], metric: &str, direction: Direction) -> String {
    let mut text = format!("Score against price of {}", words::plural(points.len() as u64, "configuration"));
    let frontier = frontier(points);
    if let (Some(cheapest), Some(dearest)) = (frontier.first(), frontier.last())
        && frontier.len() > 1
    {
        text += &format!(
            ". The frontier goes from an expected {} of {} at ${} an instance to {} at ${}",
            words::line(&words::cut(metric, 40)),
            words::number(cheapest.1),
            short(cheapest.0),
            words::number(dearest.1),
            short(dearest.0)
        );
    }
    if direction == Direction::Minimize {
        text += "; less is better";
    }
    text
}

/// True where a plot of these rows shows the intervals of some points only.
pub fn leaves_out_intervals(rows: &[RankingRow]) -> bool {
    rows.iter().filter(|row| row.production_cost_usd_per_instance.is_some() && row.score.is_some()).count() > INTERVALS
}

fn draw(ink: &dyn Ink, points: &[Point], x: &Scale, y: &Scale, frame: Frame<'_>, narrow: bool) -> Drawn {
    let axes = Axes { x, y, metric: frame.metric, direction: frame.direction, narrow };
    axes.draw(ink, "price of an instance in production", &|tick| format!("${}", short(tick)))?;
    let ((left, right), (bottom, top)) = (x.pixels, y.pixels);
    if let Some(budget) = frame.inference_budget {
        let at = x.pixel(budget.as_f64());
        ink.line(&[(at, bottom), (at, top)], BASELINE, 0.6, 1)?;
        let (anchor, aside) = if at > (left + right) / 2 { (Anchor::End, -6) } else { (Anchor::Start, 6) };
        ink.text((at + aside, bottom - 16), "inference budget", BASELINE, anchor, 16)?;
    }
    let path: Vec<(i32, i32)> = frontier(points).iter().map(|at| (x.pixel(at.0), y.pixel(at.1))).collect();
    if path.len() > 1 {
        ink.line(&path, POINT, 0.7, 2)?;
    }
    let most = points.iter().map(|point| point.instances).max().unwrap_or(0);
    let mut named: Option<(i32, i32)> = None;
    let mut order: Vec<&Point> = points.iter().collect();
    // What matters is drawn last, on top.
    order.sort_by_key(|point| (point.winner, point.baseline, point.frontier.is_some()));
    for point in order {
        let at = (x.pixel(point.cost), y.pixel(point.score));
        let color: RGBColor = match point {
            Point { winner: true, .. } => WINNER,
            Point { baseline: true, .. } => BASELINE,
            Point { eligible: true, .. } => POINT,
            _ => BARRED,
        };
        let strong = point.winner || point.baseline || point.frontier.is_some();
        if let Some([low, high]) = point.interval {
            let (shade, width) = if strong { (0.8, 2) } else { (0.25, 1) };
            ink.line(&[(at.0, y.pixel(low)), (at.0, y.pixel(high))], color, shade, width)?;
        }
        let shade = match (strong, 2 * point.instances >= most) {
            (true, _) => 1.0,
            (false, true) => 0.75,
            (false, false) => 0.35,
        };
        match (point.baseline, point.winner, strong) {
            (true, ..) => ink.square((at.0 - 6, at.1 - 6), (at.0 + 6, at.1 + 6), color, 1.0)?,
            (_, true, _) => ink.circle(at, 7, color, shade)?,
            (_, _, true) => ink.circle(at, 5, color, shade)?,
            _ => ink.circle(at, 4, color, shade)?,
        }
        let name = match (point.winner, point.baseline) {
            (true, true) => "best (the baseline)",
            (true, false) => "best",
            (false, true) => "baseline",
            _ => continue,
        };
        let (anchor, aside) = if at.0 > right - 140 { (Anchor::End, -11) } else { (Anchor::Start, 11) };
        // Within the axes, where no tick has its label, and not over the other name.
        let near = |y: i32| named.is_some_and(|(x, other)| (other - y).abs() < 18 && (x - at.0).abs() < 160);
        let places = if point.winner { [-11, 15, -29, 33] } else { [15, -11, 33, -29] };
        let fits = |aside: &&i32| (top + 6..=bottom - 10).contains(&(at.1 + **aside)) && !near(at.1 + **aside);
        let below = places.iter().find(fits).copied().unwrap_or(places[0]);
        named = Some((at.0, at.1 + below));
        ink.text((at.0 + aside, at.1 + below), name, color, anchor, 18)?;
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
        let svg = figure(rows, frame).unwrap().svg().unwrap();
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
    fn names_stay_within_the_axes_and_apart() {
        let cost = |pico| Some(Usd::from_pico(pico));
        let mut rows = vec![
            testing::row(0, Some(0.0), None, cost(30_000_000)),
            testing::row(3, Some(0.0), None, cost(31_000_000)),
        ];
        rows.push(testing::row(1, Some(1.0), None, cost(1_000_000)));
        let plot = svg(&rows, FRAME);
        let height = |name: &str| {
            let lines: Vec<&str> = plot.lines().collect();
            let at = lines.iter().position(|line| line.trim() == name).unwrap();
            let y = lines[at - 1].split("y=\"").nth(1).unwrap().split('"').next().unwrap();
            y.parse::<i32>().unwrap()
        };
        assert!(height("baseline") < 420 - 52 && height("best") < 420 - 52, "{plot}");
        assert!((height("baseline") - height("best")).abs() >= 18, "{plot}");
    }

    #[test]
    fn nothing_to_draw_is_no_plot() {
        assert!(figure(&[], FRAME).is_none());
        assert!(figure(&[testing::row(0, None, None, Some(Usd::ZERO))], FRAME).is_none());
        assert!(figure(&[testing::row(0, Some(0.5), None, None)], FRAME).is_none());
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
    fn the_frontier_is_the_rankings() {
        let mut rows: Vec<RankingRow> = [(0.9, 50), (0.8, 20), (0.7, 30), (0.6, 10)]
            .iter()
            .enumerate()
            .map(|(at, (score, cost))| testing::row(at, Some(*score), None, Some(Usd::from_pico(cost * 1_000_000))))
            .collect();
        // By the expected scores, which know more than the means, the second is behind.
        for (row, pareto) in rows.iter_mut().zip([true, false, true, true]) {
            row.pareto = pareto;
        }
        let about = |rows: &[RankingRow]| figure(rows, FRAME).unwrap().about;
        assert!(
            about(&rows)
                .contains("The frontier goes from an expected accuracy of 0.600 at $0.00001 an instance to 0.900 at")
        );
        // The line is at what is expected, whatever luck made of a score.
        let with = figure(&rows, FRAME).unwrap().about;
        (rows[0].score, rows[0].posterior_mean) = (Some(0.95), Some(0.9));
        assert_eq!(about(&rows), with);
        let line = |rows: &[RankingRow]| svg(rows, FRAME).matches("stroke-width=\"2\" points").count();
        assert_eq!(line(&rows), 1);
        rows.iter_mut().for_each(|row| row.pareto = false);
        assert!(!about(&rows).contains("frontier"));
        assert_eq!(line(&rows), 0);
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
            if let Some(svg) = figure(&rows, frame).and_then(|figure| figure.svg()) {
                prop_assert!(!svg.contains("NaN") && svg.len() < 100_000);
            }
        }
    }
}
