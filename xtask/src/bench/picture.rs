//! A report as a picture: for each scenario one bar per variant, its ratio to direct, with quartiles. Called by bench.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::figures::{Figure, Report};

const WIDTH: u32 = 960;
/// Of one scenario.
const HEIGHT: u32 = 240;
const FONT: &str = "sans-serif";

/// Where the ratio axis begins.
const FLOOR: f64 = 0.8;

/// Within the goal, above it, without one.
const MET: RGBColor = RGBColor(46, 125, 50);
const MISSED: RGBColor = RGBColor(198, 40, 40);
const REPORTED: RGBColor = RGBColor(96, 125, 139);

pub(super) fn draw(report: &Report, file: &Path) -> Result<()> {
    let mut scenarios: Vec<(&str, Vec<&Figure>)> = Vec::new();
    for figure in &report.figures {
        match scenarios.last_mut() {
            Some((name, figures)) if *name == figure.scenario => figures.push(figure),
            _ => scenarios.push((figure.scenario, vec![figure])),
        }
    }
    let rows = scenarios.len().max(1);
    let height = HEIGHT * u32::try_from(rows).unwrap_or(1);
    let area = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| anyhow!("cannot draw: {error}"))?;
    for (part, (name, figures)) in area.split_evenly((rows, 1)).iter().zip(&scenarios) {
        panel(part, name, figures).map_err(|error| anyhow!("cannot draw {name}: {error}"))?;
    }
    area.present().map_err(|error| anyhow!("cannot write {}: {error}", file.display()))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, name: &str, figures: &[&Figure]) -> Drawn {
    let top = figures.iter().map(|figure| figure.ratio_quartile_3).fold(1.2, f64::max) * 1.05;
    let above_axis = |part: f64| FLOOR + (top - FLOOR) * part;
    let count = figures.len();
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{name}: ratio to direct"), (FONT, 18))
        .margin(10)
        .x_label_area_size(28)
        .y_label_area_size(40)
        .build_cartesian_2d(0.0..count as f64, FLOOR..top)?;
    chart.configure_mesh().disable_mesh().disable_x_axis().y_labels(6).draw()?;
    let line = |y: f64| vec![(0.0, y), (count as f64, y)];
    chart.draw_series([PathElement::new(line(1.0), BLACK.mix(0.5))])?;
    for (at, figure) in figures.iter().enumerate() {
        let left = at as f64 + 0.2;
        let middle = at as f64 + 0.5;
        let colour = match figure.goal_met {
            Some(true) => MET,
            Some(false) => MISSED,
            None => REPORTED,
        };
        let bar = Rectangle::new([(left, FLOOR), (left + 0.6, figure.ratio)], colour.mix(0.7).filled());
        chart.draw_series([bar])?;
        let whisker = vec![(middle, figure.ratio_quartile_1), (middle, figure.ratio_quartile_3)];
        chart.draw_series([PathElement::new(whisker, BLACK)])?;
        let text = format!("{:.3}, {:.1} us", figure.ratio, figure.median_us);
        let inside = Text::new(text, (left + 0.02, above_axis(0.20)), (FONT, 12));
        chart.draw_series([inside])?;
        let name = Text::new(figure.variant, (left + 0.02, above_axis(0.10)), (FONT, 11));
        chart.draw_series([name])?;
    }
    Ok(())
}
