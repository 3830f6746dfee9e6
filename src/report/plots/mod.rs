//! Plots: score against price, spend over time, what matters, and how many completions pay. Each is a [`Figure`] that is
//! drawn as SVG or as PNG.
//!
//! Colours are in the middle between dark and light, so that a plot can be read on either; a page may set others for the
//! values of [`colours`] by attribute selectors.

pub mod importance;
pub mod pareto;
pub mod progress;

use std::sync::Once;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use crate::money::Usd;
use crate::report::words;
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
use colours::{GRID, TEXT};

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

/// What drawing gives.
pub type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Which end of a text is at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Its beginning.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// What figures are drawn with; places in pixels from the upper left.
pub trait Ink {
    /// A text, in the middle of its height at its place.
    fn text(&self, at: (i32, i32), text: &str, color: RGBColor, anchor: Anchor, size: i32) -> Drawn;
    /// A line through points.
    fn line(&self, points: &[(i32, i32)], color: RGBColor, shade: f64, width: u32) -> Drawn;
    /// A filled circle.
    fn circle(&self, at: (i32, i32), radius: i32, color: RGBColor, shade: f64) -> Drawn;
    /// A filled rectangle.
    fn square(&self, from: (i32, i32), to: (i32, i32), color: RGBColor, shade: f64) -> Drawn;
}

/// Ink on an area of plotters', everything `scale` times as large.
struct Area<DB: DrawingBackend> {
    area: DrawingArea<DB, plotters::coord::Shift>,
    scale: i32,
}

impl<DB: DrawingBackend> Ink for Area<DB>
where
    DB::ErrorType: 'static,
{
    fn text(&self, at: (i32, i32), text: &str, color: RGBColor, anchor: Anchor, size: i32) -> Drawn {
        let place = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let style = TextStyle::from(("sans-serif", size * self.scale)).color(&color).pos(Pos::new(place, VPos::Center));
        let at = (at.0 * self.scale, at.1 * self.scale);
        Ok(self.area.draw(&Text::new(text.to_owned(), at, style)).map_err(|error| error.to_string())?)
    }

    fn line(&self, points: &[(i32, i32)], color: RGBColor, shade: f64, width: u32) -> Drawn {
        let points: Vec<(i32, i32)> = points.iter().map(|at| (at.0 * self.scale, at.1 * self.scale)).collect();
        let style = color.mix(shade).stroke_width(width * self.scale as u32);
        Ok(self.area.draw(&PathElement::new(points, style)).map_err(|error| error.to_string())?)
    }

    fn circle(&self, at: (i32, i32), radius: i32, color: RGBColor, shade: f64) -> Drawn {
        let circle =
            Circle::new((at.0 * self.scale, at.1 * self.scale), radius * self.scale, color.mix(shade).filled());
        Ok(self.area.draw(&circle).map_err(|error| error.to_string())?)
    }

    fn square(&self, from: (i32, i32), to: (i32, i32), color: RGBColor, shade: f64) -> Drawn {
        let corners = [(from.0 * self.scale, from.1 * self.scale), (to.0 * self.scale, to.1 * self.scale)];
        let rectangle = Rectangle::new(corners, color.mix(shade).filled());
        Ok(self.area.draw(&rectangle).map_err(|error| error.to_string())?)
    }
}

/// How a figure is drawn on ink of a size.
type Draw = Box<dyn Fn(&dyn Ink, (i32, i32)) -> Drawn>;

/// A plot that can be drawn.
pub struct Figure {
    pub(in crate::report) size: (u32, u32),
    /// The same in words, for those who cannot see it.
    pub about: String,
    draw: Draw,
}

impl Figure {
    fn new(size: (u32, u32), about: String, draw: impl Fn(&dyn Ink, (i32, i32)) -> Drawn + 'static) -> Figure {
        Figure { size: (size.0.clamp(200, 4000), size.1.clamp(160, 4000)), about, draw: Box::new(draw) }
    }

    /// The same in another size.
    #[must_use]
    pub fn sized(self, size: (u32, u32)) -> Figure {
        Figure { size: (size.0.clamp(200, 4000), size.1.clamp(160, 4000)), ..self }
    }

    /// As SVG.
    pub fn svg(&self) -> Option<String> {
        fonts();
        let mut svg = String::new();
        {
            let area = SVGBackend::with_string(&mut svg, self.size).into_drawing_area();
            let ink = Area { area, scale: 1 };
            (self.draw)(&ink, (self.size.0 as i32, self.size.1 as i32)).ok()?;
            ink.area.present().ok()?;
        }
        let about = escaped(&words::line(&self.about));
        Some(svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{about}\" "), 1))
    }

    /// As PNG on white, two pixels for one.
    pub fn png(&self) -> Option<Vec<u8>> {
        const SCALE: u32 = 2;
        fonts();
        let (width, height) = (self.size.0 * SCALE, self.size.1 * SCALE);
        let mut pixels = vec![0xff; (width * height * 3) as usize];
        {
            let area = BitMapBackend::with_buffer(&mut pixels, (width, height)).into_drawing_area();
            let ink = Area { area, scale: SCALE as i32 };
            (self.draw)(&ink, (self.size.0 as i32, self.size.1 as i32)).ok()?;
            ink.area.present().ok()?;
        }
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().ok()?;
        writer.write_image_data(&pixels).ok()?;
        writer.finish().ok()?;
        Some(bytes)
    }
}

/// Makes the letters known that plots are written with where no font is installed.
pub fn fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| drop(register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular())));
}

/// A text within an attribute.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// An axis: values to pixels, and where its ticks are.
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Only whole numbers mean anything.
    whole: bool,
    /// Where the least and the greatest value are.
    pub pixels: (i32, i32),
}

impl Scale {
    /// A scale that shows all values, with some room at the ends. Needs one finite value.
    pub fn new(values: &[f64], log: bool, pixels: (i32, i32)) -> Scale {
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
        Scale { low, high, log, whole: false, pixels }
    }

    /// The same with ticks at whole numbers only.
    #[must_use]
    pub fn of_whole_numbers(self, whole: bool) -> Scale {
        Scale { whole, ..self }
    }

    fn unit(&self, mapped: f64) -> f64 {
        let span = self.high - self.low;
        let unit = if span > 0.0 { (mapped - self.low) / span } else { 0.5 };
        if unit.is_finite() { unit.clamp(0.0, 1.0) } else { 0.5 }
    }

    /// The pixel of a value.
    pub fn pixel(&self, value: f64) -> i32 {
        let mapped = if self.log { value.log10() } else { value.clamp(-f64::MAX / 4.0, f64::MAX / 4.0) };
        let (from, to) = (f64::from(self.pixels.0), f64::from(self.pixels.1));
        (from + self.unit(mapped) * (to - from)).round() as i32
    }

    /// Round values inside, about `wanted` of them, with how many decimals tell them apart.
    pub fn ticks(&self, wanted: usize) -> (Vec<f64>, usize) {
        let (mut ticks, decimals) = self.any_ticks(wanted);
        // Powers of ten are a little beside the whole number that is meant.
        ticks.retain(|tick| !self.whole || (tick - tick.round()).abs() < 1e-9 * tick.abs().max(1.0));
        (ticks, decimals)
    }

    fn any_ticks(&self, wanted: usize) -> (Vec<f64>, usize) {
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

/// About how wide a digit of an axis is, in pixels.
const LETTER: i32 = 9;

/// The two axes of a plot whose upright one is the metric.
pub struct Axes<'a> {
    /// Across.
    pub x: &'a Scale,
    /// Upright.
    pub y: &'a Scale,
    /// The metric's name.
    pub metric: &'a str,
    /// Which way is better.
    pub direction: Direction,
    /// There is little room.
    pub narrow: bool,
}

impl Axes<'_> {
    /// Draws them with their ticks and names.
    pub fn draw(&self, ink: &dyn Ink, name: &str, label: &dyn Fn(f64) -> String) -> Drawn {
        let ((left, right), (bottom, _)) = (self.x.pixels, self.y.pixels);
        self.upright(ink)?;
        let (ticks, _) = self.x.ticks(if self.narrow { 4 } else { 7 });
        let mut free = i32::MIN;
        for tick in ticks {
            let (at, label) = (self.x.pixel(tick), label(tick));
            ink.line(&[(at, bottom), (at, bottom + 5)], GRID, 1.0, 1)?;
            // Two labels do not touch each other.
            let half = label.chars().count() as i32 * LETTER / 2;
            if at - half > free {
                ink.text((at, bottom + 17), &label, TEXT, Anchor::Middle, 17)?;
                free = at + half + LETTER;
            }
        }
        ink.line(&[(left, bottom), (right, bottom)], GRID, 1.0, 1)?;
        let scale = if self.x.log { " (logarithmic)" } else { "" };
        ink.text((right, bottom + 38), &format!("{name}{scale}"), TEXT, Anchor::End, 17)
    }

    /// The upright axis alone.
    pub fn upright(&self, ink: &dyn Ink) -> Drawn {
        let (left, right) = self.x.pixels;
        let (ticks, decimals) = self.y.ticks(5);
        for tick in ticks {
            let at = self.y.pixel(tick);
            ink.line(&[(left, at), (right, at)], GRID, 0.35, 1)?;
            let label = match tick.abs() {
                size if size != 0.0 && !(1e-4..1e6).contains(&size) => format!("{tick:.1e}"),
                _ => format!("{tick:.decimals$}"),
            };
            ink.text((left - 8, at), &label, TEXT, Anchor::End, 17)?;
        }
        let less = if self.direction == Direction::Minimize { " (less is better)" } else { "" };
        let name = format!("{}{less}", words::line(&words::cut(self.metric, 40)));
        ink.text((left, 14), &name, TEXT, Anchor::Start, 18)
    }
}
