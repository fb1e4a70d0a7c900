//! The record of a run: as CSV, and as a curve.

use std::fmt::Write;
use std::path::Path;

use crate::{Error, Result};

/// A step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Its number, 1 for the first.
    pub step: u64,
    /// Tokens that went through the model so far.
    pub tokens: u64,
    /// Mean loss of the step's predictions, in nats.
    pub loss: f32,
    /// Mean loss on the validation text, where it was measured.
    pub valid: Option<f32>,
    /// Learning rate.
    pub rate: f32,
    /// The gradient's norm before it was clipped.
    pub norm: f32,
}

const HEAD: &str = "step,tokens,loss,valid_loss,learning_rate,gradient_norm";

/// All steps so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log(pub Vec<Row>);

impl Log {
    /// As CSV: shortest decimals that read back the same.
    pub fn to_csv(&self) -> String {
        let mut csv = format!("{HEAD}\n");
        for Row { step, tokens, loss, valid, rate, norm } in &self.0 {
            let valid = valid.map(|loss| loss.to_string()).unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(csv, "{step},{tokens},{loss},{valid},{rate},{norm}");
        }
        csv
    }

    /// Reads the steps up to `step` of such a file.
    ///
    /// # Errors
    /// A line that is none of ours.
    pub fn read(path: &Path, step: u64) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let parse = |(i, line): (usize, &str)| {
            let wrong = || Error::format(path, format!("line {}: found {line:?}, expected {HEAD}", i + 1));
            let mut fields = line.split(',');
            let mut field = || fields.next().ok_or_else(wrong);
            let (step, tokens, loss, valid, rate, norm) = (field()?, field()?, field()?, field()?, field()?, field()?);
            let number = |text: &str| text.parse::<f32>().map_err(|_| wrong());
            let count = |text: &str| text.parse::<u64>().map_err(|_| wrong());
            Ok(Row {
                step: count(step)?,
                tokens: count(tokens)?,
                loss: number(loss)?,
                valid: if valid.is_empty() { None } else { Some(number(valid)?) },
                rate: number(rate)?,
                norm: number(norm)?,
            })
        };
        let rows = text.lines().enumerate().skip(1).map(parse).collect::<Result<Vec<_>>>()?;
        Ok(Self(rows.into_iter().filter(|row| row.step <= step).collect()))
    }

    /// The curves of training and validation loss as an SVG image. Training losses are means of up to 1/200 of the steps.
    pub fn to_svg(&self) -> String {
        let per_point = self.0.len().div_ceil(200).max(1);
        let training: Vec<(f64, f64)> = self.0.chunks(per_point).map(mean).collect();
        let validation: Vec<(f64, f64)> =
            self.0.iter().filter_map(|row| Some((row.step as f64, f64::from(row.valid?)))).collect();
        let all = || training.iter().chain(&validation);
        let (low, high) = all().fold((f64::MAX, f64::MIN), |(low, high), (_, loss)| (low.min(*loss), high.max(*loss)));
        let (low, high) = if low < high { (low, high) } else { (0.0, 1.0) };
        let steps = self.0.last().map_or(1, |row| row.step).max(2) as f64;
        let x = |step: f64| LEFT + (step - 1.0) / (steps - 1.0) * (WIDTH - LEFT - RIGHT);
        let y = |loss: f64| TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
        );
        for i in 0..=4 {
            let loss = low + (high - low) * f64::from(i) / 4.0;
            let (left, right, at, text) = (LEFT, WIDTH - RIGHT, y(loss), LEFT - 6.0);
            let _ = writeln!(svg, "<path d=\"M{left} {at:.1}H{right}\" stroke=\"#ddd\"/>");
            let _ = writeln!(svg, "<text x=\"{text}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.3}</text>", at + 4.0);
            let step = 1.0 + (steps - 1.0) * f64::from(i) / 4.0;
            let (at, text) = (x(step), HEIGHT - BOTTOM + 18.0);
            let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{text}\" text-anchor=\"middle\">{step:.0}</text>");
        }
        for (name, color, points, at) in
            [("training loss", "#1f77b4", &training, LEFT), ("validation loss", "#d62728", &validation, LEFT + 120.0)]
        {
            let line: Vec<String> =
                points.iter().map(|&(step, loss)| format!("{:.1},{:.1}", x(step), y(loss))).collect();
            let line = line.join(" ");
            let _ =
                writeln!(svg, "<polyline points=\"{line}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>");
            let _ = writeln!(svg, "<text x=\"{at}\" y=\"18\" fill=\"{color}\">{name}</text>");
        }
        svg + "</svg>\n"
    }
}

/// Sizes of the image and its margins.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 36.0;

/// The middle of some steps, and their mean loss.
fn mean(rows: &[Row]) -> (f64, f64) {
    let n = rows.len().max(1) as f64;
    let sum = |f: fn(&Row) -> f64| rows.iter().map(f).sum::<f64>();
    (sum(|row| row.step as f64) / n, sum(|row| f64::from(row.loss)) / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_reads_back_what_it_wrote_up_to_a_step() {
        let row = |step, valid| Row { step, tokens: 64 * step, loss: 0.1 / step as f32, valid, rate: 1e-3, norm: 0.7 };
        let log = Log((1..=5).map(|step| row(step, (step % 2 == 0).then_some(1.0 / 3.0))).collect());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv");
        std::fs::write(&path, log.to_csv()).unwrap();
        assert_eq!(Log::read(&path, 5).unwrap(), log);
        assert_eq!(Log::read(&path, 3).unwrap().0, log.0[..3]);
        std::fs::write(&path, "step\n1,2,x,,1,1\n").unwrap();
        assert!(Log::read(&path, 5).unwrap_err().to_string().contains("line 2"));
        assert!(log.to_svg().contains("polyline"));
    }
}
