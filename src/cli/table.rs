//! A plain table, or JSON, on standard output.

use std::io::{self, Write};

use serde::Serialize;

/// Rows of `N` cells, the header first; columns are padded.
#[derive(Debug)]
pub struct Table<const N: usize>(Vec<[String; N]>);

impl<const N: usize> Table<N> {
    /// A table of these columns.
    #[must_use]
    pub fn new(header: [&str; N]) -> Self {
        Self(vec![header.map(str::to_owned)])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.0.push(cells);
    }

    /// Writes it to standard output.
    ///
    /// # Errors
    /// Where that is closed.
    pub fn print(&self) -> io::Result<()> {
        self.write(&mut io::stdout().lock())
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut widths = [0; N];
        for row in &self.0 {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.0 {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Writes a value to standard output as indented JSON.
///
/// # Errors
/// Where that is closed.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{}", serde_json::to_string_pretty(value)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["a", "long", "b"]);
        table.row(["wide".into(), "1".into(), "é".into()]);
        let mut text = Vec::new();
        table.write(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), "a     long  b\nwide  1     é\n");
    }
}
