//! How figures are shown: a plain table with the ratio and what it is to reach first. It must not know what they mean.

use anyhow::Result;
use console::{Term, measure_text_width, pad_str};

/// One line; a cell may be empty.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub work: String,
    pub ratio: String,
    pub to_reach: &'static str,
    pub signet: String,
    pub upstream: String,
    pub floor: String,
}

const HEAD: [&str; 6] = ["work", "ratio", "to reach", "Signet", "upstream v0.40.0", "floor"];

/// Prints them all.
pub fn print(out: &Term, rows: &[Row]) -> Result<()> {
    let cells = rows.iter().map(|row| {
        let Row { work, ratio, to_reach, signet, upstream, floor } = row;
        [work.as_str(), ratio, to_reach, signet, upstream, floor]
    });
    let lines: Vec<[&str; 6]> = std::iter::once(HEAD).chain(cells).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|column| lines.iter().map(|line| measure_text_width(line[column])).max().unwrap_or(0));
    for (number, line) in lines.iter().enumerate() {
        out.write_line(&joined(&std::array::from_fn(|column| pad(line[column], widths[column]))))?;
        if number == 0 {
            out.write_line(&joined(&widths.map(|width| "-".repeat(width))))?;
        }
    }
    Ok(())
}

fn pad(text: &str, width: usize) -> String {
    pad_str(text, width, console::Alignment::Left, None).into_owned()
}

fn joined(cells: &[String; 6]) -> String {
    format!("| {} |", cells.join(" | "))
}
