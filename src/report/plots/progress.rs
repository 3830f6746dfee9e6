//! Spend over time with the best so far: what each dollar brought.

use crate::money::Usd;
use crate::report::plots::colours::{BARRED, BASELINE, POINT, TEXT, WINNER};
use crate::report::plots::{Anchor, Axes, Figure, Frame, Ink, Scale};
use crate::report::words;
use crate::study::trial::short;
use plotters::style::RGBColor;

/// One run's course: what it had cost when someone took the lead, and what that one scores as is known now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    /// The run's name; shown where there are several.
    pub name: String,
    /// (dollars, score) in the order of time.
    pub steps: Vec<(f64, f64)>,
    /// What the search cost in all.
    pub end: f64,
    /// What the leader seemed to score when it took the lead.
    pub seemed: Vec<(f64, f64)>,
}

const COLOURS: [RGBColor; 5] = [POINT, WINNER, BASELINE, RGBColor(0x9b, 0x6d, 0xd0), BARRED];

/// The courses as steps; the baseline's score as a line where it is known.
pub fn figure(courses: &[Course], baseline: Option<f64>, budget: Option<Usd>, frame: Frame<'_>) -> Option<Figure> {
    let finite = |(cost, score): &&(f64, f64)| cost.is_finite() && score.is_finite();
    let courses: Vec<Course> = courses
        .iter()
        .map(|course| Course {
            steps: course.steps.iter().filter(finite).copied().collect(),
            seemed: course.seemed.iter().filter(finite).copied().collect(),
            ..course.clone()
        })
        .filter(|course| !course.steps.is_empty())
        .collect();
    if courses.is_empty() {
        return None;
    }
    let mut costs: Vec<f64> = vec![0.0];
    costs.extend(courses.iter().flat_map(|course| course.steps.iter().map(|step| step.0).chain([course.end])));
    let mut scores: Vec<f64> =
        courses.iter().flat_map(|course| course.steps.iter().chain(&course.seemed)).map(|step| step.1).collect();
    scores.extend(baseline);
    let (metric, direction) = (frame.metric.to_owned(), frame.direction);
    let about = about(&courses, &metric, baseline);
    let several = courses.len() > 1;
    let spent = costs.iter().copied().fold(0.0, f64::max);
    let budget = budget.map(Usd::as_f64).filter(|budget| *budget <= 1.5 * spent);
    costs.extend(budget);
    Some(Figure::new(frame.size, about, move |ink: &dyn Ink, (width, height)| {
        let x = Scale::new(&costs, false, (64, width - 16));
        let y = Scale::new(&scores, false, (height - 52, 26));
        let axes = Axes { x: &x, y: &y, metric: &metric, direction, narrow: width < 500 };
        axes.draw(ink, "study cost", &|tick| format!("${}", short(tick)))?;
        let (left, right) = x.pixels;
        if let Some(score) = baseline {
            let at = y.pixel(score);
            ink.line(&[(left, at), (right, at)], BASELINE, 0.6, 1)?;
            ink.text((right, at - 10), "baseline", BASELINE, Anchor::End, 16)?;
        }
        if let Some(budget) = budget {
            let at = x.pixel(budget);
            ink.line(&[(at, y.pixels.0), (at, y.pixels.1)], BARRED, 0.6, 1)?;
            let low = y.pixels.0 - 14;
            // The baseline has its name at the same end.
            let taken = baseline.is_some_and(|score| (y.pixel(score) - 10 - low).abs() < 20);
            ink.text((at - 6, if taken { low - 24 } else { low }), "budget", TEXT, Anchor::End, 16)?;
        }
        for (number, course) in courses.iter().enumerate() {
            let color = COLOURS[number % COLOURS.len()];
            for step in course.seemed.iter().filter(|_| !several) {
                ink.circle((x.pixel(step.0), y.pixel(step.1)), 3, BARRED, 0.8)?;
            }
            let mut path = Vec::new();
            for step in &course.steps {
                let at = (x.pixel(step.0), y.pixel(step.1));
                path.extend(path.last().map(|last: &(i32, i32)| (at.0, last.1)));
                path.push(at);
            }
            path.extend(path.last().map(|last| (x.pixel(course.end), last.1)));
            ink.line(&path, color, 0.9, 2)?;
            if let Some(last) = path.last() {
                ink.circle(*last, 5, color, 1.0)?;
                if several {
                    let name = words::line(&words::cut(&course.name, 30));
                    ink.text((left + 12, y.pixels.1 + 14 + 22 * number as i32), &name, color, Anchor::Start, 17)?;
                }
            }
        }
        Ok(())
    }))
}

fn about(courses: &[Course], metric: &str, baseline: Option<f64>) -> String {
    let metric = words::line(&words::cut(metric, 40));
    let one = |course: &Course| {
        let (first, last) = (course.steps[0], course.steps[course.steps.len() - 1]);
        format!(
            "{}the leader scored {metric} {} after ${} and {} after ${} of ${}",
            if courses.len() > 1 { format!("{}: ", words::line(&words::cut(&course.name, 30))) } else { String::new() },
            words::number(first.1),
            short(first.0),
            words::number(last.1),
            short(last.0),
            short(course.end)
        )
    };
    let texts: Vec<String> = courses.iter().take(10).map(one).collect();
    let baseline = baseline.map_or(String::new(), |score| format!("; the baseline scores {}", words::number(score)));
    format!("Best so far against what the search had cost: {}{baseline}", texts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Direction;
    use proptest::prelude::*;

    const FRAME: Frame<'_> =
        Frame { metric: "accuracy", direction: Direction::Maximize, inference_budget: None, size: (760, 380) };

    #[test]
    fn courses_are_drawn_and_told() {
        let course =
            Course { name: "run-1".into(), steps: vec![(0.0, 0.5), (0.1, 0.7)], end: 0.5, seemed: vec![(0.1, 0.9)] };
        let one = figure(std::slice::from_ref(&course), Some(0.5), Some("0.5".parse().unwrap()), FRAME).unwrap();
        assert!(
            one.about.contains("accuracy 0.500 after $0 and 0.700 after $0.1 of $0.5; the baseline scores 0.500"),
            "{}",
            one.about
        );
        let svg = one.svg().unwrap();
        assert!(svg.contains("<polyline") && svg.contains("budget") && !svg.contains("run-1"));
        let two = figure(&[course.clone(), Course { name: "<b>".into(), ..course }], None, None, FRAME)
            .unwrap()
            .svg()
            .unwrap();
        assert!(two.contains("run-1") && two.contains("&lt;b&gt;") && !two.contains("<b>"));
        assert!(figure(&[Course::default()], None, None, FRAME).is_none());
    }

    #[test]
    fn a_png_has_something_on_it() {
        let course = Course { name: "run-1".into(), steps: vec![(0.0, 0.5), (0.1, 0.7)], end: 0.5, seemed: vec![] };
        let png = figure(&[course], Some(0.5), None, Frame { size: (300, 200), ..FRAME }).unwrap().png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (600, 400));
        let inked = pixels.chunks(3).filter(|pixel| pixel.iter().any(|value| *value < 200)).count();
        assert!((1000..120_000).contains(&inked), "{inked} of 240000 pixels");
    }

    proptest! {
        #[test]
        fn any_course_can_be_drawn(steps in prop::collection::vec((any::<f64>(), any::<f64>()), 0..6), end in 0.0..1e9_f64, base in any::<f64>()) {
            let course = Course { name: "x".into(), seemed: steps.clone(), steps, end };
            if let Some(figure) = figure(&[course], Some(base).filter(|base| base.is_finite()), None, FRAME) {
                prop_assert!(!figure.svg().unwrap().contains("NaN"));
            }
        }
    }
}
