//! Columns of text for a person. Pure.

use jiff::SignedDuration;

/// Colours of a terminal.
pub const GREEN: &str = "\u{1b}[32m";
pub const YELLOW: &str = "\u{1b}[33m";
pub const RED: &str = "\u{1b}[31m";
pub const CYAN: &str = "\u{1b}[36m";
pub const DIM: &str = "\u{1b}[2m";
pub const RESET: &str = "\u{1b}[0m";

/// The rows with every column as wide as its widest cell. `colour` answers how a cell is coloured: an escape sequence,
/// which takes no place.
pub fn render(rows: &[Vec<String>], colour: impl Fn(usize, usize) -> Option<&'static str>) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |(row, cells): (usize, &Vec<String>)| {
        let last = cells.len().saturating_sub(1);
        let cell = |(column, (cell, width)): (usize, (&String, &usize))| {
            let padding = if column == last { 0 } else { width.saturating_sub(cell.chars().count()) };
            let cell = match colour(row, column) {
                Some(on) => format!("{on}{cell}{RESET}"),
                None => cell.clone(),
            };
            cell + &" ".repeat(padding)
        };
        let cells: Vec<String> = cells.iter().zip(&widths).enumerate().map(cell).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().enumerate().map(line).collect()
}

/// Columns that a table takes whose last cells are empty: what they have is what a line has beyond that.
pub fn width(rows: &[Vec<String>]) -> usize {
    let bare: Vec<Vec<String>> = rows.iter().map(|row| row.iter().rev().skip(1).rev().cloned().collect()).collect();
    let lines = render(&bare, |_, _| None);
    lines.lines().map(|line| line.chars().count()).max().map_or(0, |widest| widest + 2)
}

/// As kubectl tells ages: one number, and its unit.
pub fn span(time: SignedDuration) -> String {
    let seconds = time.as_secs().max(0);
    let units = [(365 * 86400, "y"), (86400, "d"), (3600, "h"), (60, "m")];
    // Two of a unit at least, or much would be lost by rounding down.
    let unit = units.into_iter().find(|(unit, _)| seconds >= 2 * unit);
    unit.map_or_else(|| format!("{seconds}s"), |(unit, name)| format!("{}{name}", seconds / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_whatever_their_colour() {
        let rows = [["A", "B", "C"], ["long", "x", ""], ["é", "yy", "z"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(render(&rows, |_, _| None), "A     B   C\nlong  x\né     yy  z\n");
        let coloured = render(&rows, |row, column| ((row, column) == (2, 0)).then_some("\u{1b}[31m"));
        assert_eq!(coloured, "A     B   C\nlong  x\n\u{1b}[31mé\u{1b}[0m     yy  z\n");
    }

    #[test]
    fn spans_are_told_in_the_largest_unit_that_says_enough() {
        let told = |seconds| span(SignedDuration::from_secs(seconds));
        assert_eq!([-5, 0, 119, 120].map(told), ["0s", "0s", "119s", "2m"]);
        assert_eq!([7199, 7200, 172_800, 86400 * 729, 86400 * 730].map(told), ["119m", "2h", "2d", "729d", "2y"]);
    }
}
