//! The drawing: attempts a second, a strip for each jitter, and below them how many devices are
//! back.

use std::{error::Error, path::Path, time::Duration};

use plotters::prelude::*;

use super::simulation::{Course, Scene};

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Result = std::result::Result<(), Box<dyn Error>>;

const SIZE: (u32, u32) = (900, 940);
const STRIP: i32 = 140;
const TITLE: i32 = 72;
/// A time without anybody coming back that is worth showing.
const PAUSE: Duration = Duration::from_millis(500);
/// They differ in brightness as well, for those who do not see red and green.
const COLOURS: [RGBColor; 4] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(122, 75, 148),
];
const LET_IN: RGBColor = RGBColor(70, 70, 70);
const AWAY: RGBColor = RGBColor(236, 236, 236);
const GRID: RGBColor = RGBColor(222, 222, 222);

/// Draws scenes that differ in their jitter only.
///
/// # Errors
///
/// The file cannot be written, or there is nothing to draw.
pub(crate) fn draw(file: &Path, drawn: &[(Scene, Course)]) -> Result {
    let (scene, _) = drawn.first().ok_or("nothing to draw")?;
    let longest = drawn
        .iter()
        .map(|(_, course)| course.attempts.len())
        .max()
        .unwrap_or(0);
    let end = u32::try_from(longest)?.next_multiple_of(60);

    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (title, rest) = root.split_vertically(TITLE);
    caption(&title, scene)?;
    let strips = i32::try_from(drawn.len())? * STRIP;
    let (strips, below) = rest.split_vertically(strips);
    let strips = strips.split_evenly((drawn.len(), 1));
    for ((strip, drawn), colour) in strips.iter().zip(drawn).zip(COLOURS) {
        attempts(strip, drawn, colour, end)?;
    }
    back(&below, drawn, end)?;
    root.present()?;
    Ok(())
}

fn caption(area: &Area, scene: &Scene) -> Result {
    let text = format!(
        "{} devices lose their broker for {} s; back again, it takes {} connections a second",
        thousands(scene.devices),
        scene.outage.as_secs(),
        thousands(scene.rate),
    );
    area.draw(&Text::new(text, (18, 14), font(19)))?;
    let (top, words) = (46, 45);
    for (at, colour) in [
        (18, COLOURS[0]),
        (32, COLOURS[1]),
        (46, COLOURS[2]),
        (60, COLOURS[3]),
    ] {
        area.draw(&Rectangle::new(
            [(at, top), (at + 12, top + 12)],
            colour.filled(),
        ))?;
    }
    area.draw(&Text::new("attempts", (80, words), font(14)))?;
    area.draw(&Rectangle::new(
        [(170, top), (182, top + 12)],
        LET_IN.filled(),
    ))?;
    area.draw(&Text::new("let in", (190, words), font(14)))?;
    for at in [260, 270, 280] {
        let dash = [(at, top + 6), (at + 6, top + 6)];
        area.draw(&PathElement::new(dash, BLACK.stroke_width(1)))?;
    }
    area.draw(&Text::new("the broker's limit", (294, words), font(14)))?;
    area.draw(&Rectangle::new(
        [(440, top), (452, top + 12)],
        AWAY.filled(),
    ))?;
    area.draw(&Text::new("no broker", (460, words), font(14)))?;
    Ok(())
}

/// One strip: what arrives and what is let in, on a logarithmic scale.
fn attempts(area: &Area, (scene, course): &(Scene, Course), colour: RGBColor, end: u32) -> Result {
    let outage = u32::try_from(scene.outage.as_secs())?;
    let top = f64::from(scene.devices) * 2.0;
    let peak = thousands(course.peak(scene.outage));
    let heading = format!(
        "--jitter {}: up to {peak} attempts a second after the outage",
        scene.jitter
    );
    area.draw(&Text::new(heading, (84, 4), font(15).color(&colour)))?;
    let mut chart = ChartBuilder::on(area)
        .margin_left(10)
        .margin_right(18)
        .margin_top(26)
        .x_label_area_size(22)
        .y_label_area_size(72)
        .build_cartesian_2d(0..end, (1f64..top).log_scale())?;
    chart.draw_series([Rectangle::new([(0, 1.0), (outage, top)], AWAY.filled())])?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(BLACK)
        .x_labels(12)
        .y_labels(5)
        .y_label_formatter(&|y| format!("{y:.0}"))
        .y_desc("per second")
        .label_style(font(13))
        .axis_desc_style(font(14))
        .draw()?;
    for (seconds, style) in [
        (&course.attempts, colour.filled()),
        (&course.accepted, LET_IN.filled()),
    ] {
        let bars = (0u32..).zip(seconds).filter(|(_, count)| **count > 0);
        let bar = |(at, count): (u32, &u32)| {
            // Above the axis, even if there is only one.
            let height = f64::from(*count).max(1.15);
            Rectangle::new([(at, 1.0), (at + 1, height)], style)
        };
        chart.draw_series(bars.map(bar))?;
    }
    let quota = f64::from(scene.rate);
    let limit = [(0, quota), (end, quota)];
    chart.draw_series(DashedLineSeries::new(limit, 6, 4, BLACK.stroke_width(1)))?;
    Ok(())
}

/// How many devices are back, one line a scene.
fn back(area: &Area, drawn: &[(Scene, Course)], end: u32) -> Result {
    let outage = drawn
        .first()
        .map_or(0.0, |(scene, _)| scene.outage.as_secs_f64());
    let mut chart = ChartBuilder::on(area)
        .margin_left(10)
        .margin_right(18)
        .margin_top(14)
        .margin_bottom(10)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0f64..f64::from(end), 0f64..100.0)?;
    chart.draw_series([Rectangle::new([(0.0, 0.0), (outage, 100.0)], AWAY.filled())])?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(BLACK)
        .x_labels(12)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0} %"))
        .x_desc("seconds since the connections were lost")
        .y_desc("devices back")
        .label_style(font(13))
        .axis_desc_style(font(14))
        .draw()?;
    for ((scene, course), colour) in drawn.iter().zip(COLOURS) {
        let all = f64::from(scene.devices);
        let step = (scene.devices / 200).max(1);
        let next = course.back.iter().skip(1).map(Some).chain([None]);
        let line = (1u32..)
            .zip(course.back.iter().zip(next))
            // As much as can be seen: a point each half per cent, and the ends of every pause.
            .filter(|(number, (time, next))| {
                number % step == 0 || next.is_none_or(|next| *next > **time + PAUSE)
            })
            .map(|(number, (time, _))| {
                let at = (scene.outage + *time).as_secs_f64();
                (at, f64::from(number) * 100.0 / all)
            });
        chart
            .draw_series(LineSeries::new(line, colour.stroke_width(2)))?
            .label(format!("--jitter {}", scene.jitter))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(GRID)
        .label_font(font(13))
        .draw()?;
    Ok(())
}

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}

/// 10000 as 10,000.
fn thousands(number: u32) -> String {
    match (number / 1000, number % 1000) {
        (0, rest) => rest.to_string(),
        (more, rest) => format!("{},{rest:03}", thousands(more)),
    }
}
