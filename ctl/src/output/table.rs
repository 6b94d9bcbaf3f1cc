//! Tables as the API server lays them out (`meta.k8s.io/v1` Table), fitted to the terminal.

use serde_json::Value;

const GAP: usize = 3;
/// A column is not cut shorter than this.
const CELL_CHARS_MIN: usize = 8;

/// Prints rows under one header, with the widths that the first rows asked for.
#[derive(Default)]
pub struct Table {
    widths: Vec<usize>,
    /// Columns are narrower than what is in them, so that lines fit the terminal.
    fitted: bool,
    columns: Vec<usize>,
    header: Vec<String>,
}

/// What to show.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Columns of priority 1 too.
    pub wide: bool,
    /// A first column NAMESPACE.
    pub namespaces: bool,
    pub no_headers: bool,
    /// Put `type/` before names.
    pub kind_prefix: Option<&'static str>,
    /// Cut cells so that lines fit into this many characters.
    pub terminal_chars: Option<usize>,
}

impl Options {
    /// Options for this process's stdout.
    pub fn for_stdout() -> Self {
        let terminal_chars = std::io::IsTerminal::is_terminal(&std::io::stdout())
            .then(|| terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)))
            .flatten();
        Self { terminal_chars, ..Self::default() }
    }
}

impl Table {
    /// The text of a Table object; the header only the first time.
    pub fn render(&mut self, table: &Value, options: Options) -> String {
        let first = self.columns.is_empty();
        if let (true, Some(definitions)) = (first, table["columnDefinitions"].as_array()) {
            self.define(definitions, options);
        }
        let rows: Vec<Vec<String>> =
            table["rows"].as_array().into_iter().flatten().map(|row| self.cells(row, options)).collect();
        if first {
            self.measure(&rows, options);
        }
        let header = (first && !options.no_headers).then(|| self.header.clone());
        header.iter().chain(&rows).map(|cells| self.line(cells)).collect()
    }

    fn define(&mut self, definitions: &[Value], options: Options) {
        let shown = |definition: &Value| options.wide || definition["priority"].as_i64().unwrap_or(0) == 0;
        self.columns = (0..definitions.len()).filter(|&index| shown(&definitions[index])).collect();
        let name = |&index: &usize| definitions[index]["name"].as_str().unwrap_or_default().to_uppercase();
        self.header = options
            .namespaces
            .then(|| "NAMESPACE".to_owned())
            .into_iter()
            .chain(self.columns.iter().map(name))
            .collect();
    }

    fn cells(&self, row: &Value, options: Options) -> Vec<String> {
        let text = |value: &Value| match value {
            Value::String(text) => text.replace('\n', " "),
            Value::Null => "<none>".to_owned(),
            other => other.to_string(),
        };
        let namespace = options
            .namespaces
            .then(|| row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
        let cell = |&index: &usize| match options.kind_prefix {
            Some(prefix) if index == 0 => format!("{prefix}/{}", text(&row["cells"][index])),
            _ => text(&row["cells"][index]),
        };
        namespace.into_iter().chain(self.columns.iter().map(cell)).collect()
    }

    fn measure(&mut self, rows: &[Vec<String>], options: Options) {
        let header = (!options.no_headers).then_some(&self.header);
        self.widths = vec![0; self.header.len()];
        for cells in header.into_iter().chain(rows) {
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        self.fitted = options.terminal_chars.is_some_and(|limit| fit(&mut self.widths, limit));
    }

    fn line(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (index, (cell, &width)) in cells.iter().zip(&self.widths).enumerate() {
            let last = index + 1 == cells.len();
            let chars = cell.chars().count();
            // Later rows of a watch may be wider than the first: they are cut only where the table was fitted.
            if chars > width && self.fitted {
                line.extend(cell.chars().take(width.saturating_sub(1)));
                line.push('…');
            } else {
                line.push_str(cell);
            }
            if !last {
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(chars) + GAP));
            }
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    }
}

/// Takes characters from the widest columns until the line fits; true when it took any.
fn fit(widths: &mut [usize], limit: usize) -> bool {
    let gaps = GAP * widths.len().saturating_sub(1);
    let mut cut = false;
    while widths.iter().sum::<usize>() + gaps > limit {
        let Some(widest) = widths.iter_mut().max().filter(|width| **width > CELL_CHARS_MIN) else {
            return cut;
        };
        *widest -= 1;
        cut = true;
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pods() -> Value {
        json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "IP", "priority": 1}],
            "rows": [
                {"cells": ["a-very-long-name-of-a-pod", "1/1", "10.0.0.1"], "object": {"metadata": {"namespace": "web"}}},
                {"cells": ["b", "0/1", null], "object": {"metadata": {"namespace": "default"}}},
            ],
        })
    }

    #[test]
    fn columns_line_up() {
        let text = Table::default().render(&pods(), Options::default());
        assert_eq!(
            text,
            "NAME                        READY\na-very-long-name-of-a-pod   1/1\nb                           0/1\n"
        );
        let wide = Options { wide: true, namespaces: true, ..Options::default() };
        let text = Table::default().render(&pods(), wide);
        assert!(text.starts_with("NAMESPACE   NAME "), "{text}");
        assert!(text.ends_with("0/1     <none>\n"), "{text}");
    }

    #[test]
    fn a_narrow_terminal_cuts_the_widest_column() {
        let narrow = Options { terminal_chars: Some(20), ..Options::default() };
        let text = Table::default().render(&pods(), narrow);
        assert!(text.lines().all(|line| line.chars().count() <= 20), "{text}");
        assert!(text.contains("a-very-long…   1/1"), "{text}");
    }

    #[test]
    fn a_watch_prints_the_header_once() {
        let mut table = Table::default();
        table.render(&pods(), Options::default());
        assert!(!table.render(&pods(), Options::default()).contains("NAME"));
    }
}
