//! Tables for people: columns as wide as their widest cell.

/// Where a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows of cells under one line of headings.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    align: [Align; N],
    rows: Vec<[String; N]>,
    indent: usize,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(columns: [(&str, Align); N]) -> Self {
        Self {
            align: columns.map(|(_, align)| align),
            rows: vec![columns.map(|(heading, _)| heading.to_owned())],
            indent: 2,
        }
    }

    /// The same without indentation.
    pub(crate) fn flush(self) -> Self {
        Self { indent: 0, ..self }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    /// All rows below the headings indented by two, unless flush, without white space at the ends of lines.
    pub(crate) fn render(&self) -> String {
        let mut widths = [0; N];
        for (index, row) in self.rows.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                let indent = if column == 0 && index > 0 { self.indent } else { 0 };
                widths[column] = widths[column].max(cell.chars().count() + indent);
            }
        }
        let mut text = String::new();
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let indent = if column == 0 && index > 0 { self.indent } else { 0 };
                let cell = format!("{:indent$}{cell}", "");
                let width = widths[column];
                let separator = if column == 0 { "" } else { "  " };
                match self.align[column] {
                    Align::Left => line += &format!("{separator}{cell:<width$}"),
                    Align::Right => line += &format!("{separator}{cell:>width$}"),
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([("what", Align::Left), ("µs", Align::Right), ("note", Align::Left)]);
        table.row(["plan".into(), "1.5".into(), "x".into()]);
        table.row(["a longer one".into(), "12345.5".into(), String::new()]);
        let expected = "what                 µs  note\n  plan              1.5  x\n  a longer one  12345.5\n";
        assert_eq!(table.render(), expected);
    }
}
