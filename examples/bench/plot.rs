//! Throughput against round-trip time, both on logarithmic scales.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

/// One program's throughput.
pub(crate) struct Curve {
    pub(crate) name: String,
    /// One of ours, drawn as such.
    pub(crate) ours: bool,
    /// Round-trip time in milliseconds, messages a second.
    pub(crate) points: Vec<(f64, f64)>,
}

const SIZE: (u32, u32) = (900, 560);
const GRID: RGBColor = RGBColor(222, 222, 222);
/// They differ in brightness as well, for those who do not see red and green.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(122, 75, 148),
    RGBColor(70, 70, 70),
];

/// Draws them.
pub(crate) fn draw(file: &Path, curves: &[Curve]) -> anyhow::Result<()> {
    chart(file, curves).map_err(|e| anyhow!("{}: {e}", file.display()))
}

fn chart(file: &Path, curves: &[Curve]) -> Result<(), Box<dyn std::error::Error>> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let ends = |of: fn(&(f64, f64)) -> f64| {
        points()
            .map(of)
            .fold((f64::MAX, f64::MIN), |(low, high), value| {
                (low.min(value), high.max(value))
            })
    };
    let (near, far) = ends(|point| point.0);
    let (slow, fast) = ends(|point| point.1);
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Publishing lines at QoS 1 over mutual TLS: messages a second",
            font(19),
        )
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(80)
        .build_cartesian_2d(
            (near..far).log_scale(),
            (slow / 2.0..fast * 1.6).log_scale(),
        )?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(BLACK)
        .x_label_formatter(&|x| format!("{x} ms"))
        .y_label_formatter(&|y| super::report::number(*y))
        .x_desc("round-trip time (left end: loopback itself)")
        .label_style(font(13))
        .axis_desc_style(font(14))
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(if curve.ours { 4 } else { 2 });
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), style))?
            .label(&curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        let dots = curve
            .points
            .iter()
            .map(|point| Circle::new(*point, 3, colour.filled()));
        chart.draw_series(dots)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE)
        .border_style(GRID)
        .label_font(font(13))
        .draw()?;
    root.present()?;
    Ok(())
}

fn font(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&BLACK)
}
