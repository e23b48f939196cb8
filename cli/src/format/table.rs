//! Tables as docker aligns them: by Go's `text/tabwriter` with columns of at least ten characters, three of them spaces.

/// The narrowest column, its padding included.
const WIDTH_MIN: usize = 10;

/// Between columns.
const PADDING: usize = 3;

/// Aligns lines whose cells are ended by tabs. What follows the last tab of a line is in no column.
///
/// A column is as wide as its widest cell, and goes no further than the lines in a row that have it.
pub(crate) fn aligned(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..columns {
        let mut from = 0;
        while from < lines.len() {
            let has = |line: &usize| widths[*line].len() > column;
            let to = (from..lines.len()).find(|line| !has(line)).unwrap_or(lines.len());
            let wide = |line: usize| lines[line][column].chars().count() + PADDING;
            let width = (from..to).map(wide).fold(WIDTH_MIN, usize::max);
            widths[from..to].iter_mut().for_each(|line| line[column] = width);
            from = to + 1;
        }
    }
    let aligned = lines.iter().zip(&widths).map(|(cells, widths)| row(cells, widths));
    aligned.collect::<Vec<_>>().join("\n")
}

fn row(cells: &[&str], widths: &[usize]) -> String {
    let mut row = String::new();
    for (at, cell) in cells.iter().enumerate() {
        row.push_str(cell);
        if let Some(width) = widths.get(at) {
            row.push_str(&" ".repeat(width.saturating_sub(cell.chars().count())));
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        assert_eq!(
            aligned("CONTAINER ID\tIMAGE\tNAMES\n2a2746dabd61\tsmall\tweb\n"),
            "CONTAINER ID   IMAGE     NAMES\n2a2746dabd61   small     web\n"
        );
        assert_eq!(aligned("a\t\tb\nc\tdddddddddd\te"), "a                      b\nc         dddddddddd   e");
        assert_eq!(aligned("a…\tb\nabcdefgh\tc"), "a…         b\nabcdefgh   c");
    }

    #[test]
    fn a_column_ends_with_the_last_line_that_has_it() {
        assert_eq!(aligned("a\tb\nplain\nlonger than ten\tc"), "a         b\nplain\nlonger than ten   c");
        assert_eq!(aligned(""), "");
        assert_eq!(aligned("no tab"), "no tab");
    }
}
