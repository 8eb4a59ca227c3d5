//! Columns of text for a person. Pure.

const RESET: &str = "\u{1b}[0m";

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
}
