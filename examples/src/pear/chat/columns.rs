//! Two texts beside each other that grow at the same time.

use console::measure_text_width;

/// Between the columns.
const GAP: &str = " │ ";

/// Lines of a fixed width, broken between words. A line that is finished does not change any more.
#[derive(Clone, Debug)]
struct Column {
    width: usize,
    finished: Vec<String>,
    /// The line that grows.
    last: String,
}

impl Column {
    fn new(width: usize) -> Self {
        Self {
            width: width.max(1),
            finished: Vec::new(),
            last: String::new(),
        }
    }

    fn push(&mut self, text: &str) {
        for c in text.chars() {
            if c == '\n' {
                self.finished.push(std::mem::take(&mut self.last));
                continue;
            }
            self.last.push(c);
            // A space at the end may stick out: the line is broken there.
            if measure_text_width(self.last.trim_end()) > self.width {
                self.wrap();
            }
        }
    }

    /// Breaks the last line at its last space, or before its last character if it has none.
    fn wrap(&mut self) {
        let space = self
            .last
            .rfind(' ')
            .filter(|&at| !self.last[..at].trim().is_empty());
        let start = match space {
            Some(at) => at + 1,
            None => self.last.char_indices().next_back().map_or(0, |(at, _)| at),
        };
        let rest = self.last.split_off(start);
        let line = std::mem::replace(&mut self.last, rest);
        self.finished.push(line.trim_end().to_owned());
    }

    fn finish(&mut self) {
        if !self.last.is_empty() {
            self.finished.push(std::mem::take(&mut self.last));
        }
    }
}

/// Two columns. A row is given as soon as both of its lines are finished.
#[derive(Clone, Debug)]
pub(super) struct Columns {
    columns: [Column; 2],
    /// Rows that were given.
    given: usize,
}

impl Columns {
    /// Columns that share `width` characters.
    pub(super) fn new(width: usize) -> Self {
        let each = width.saturating_sub(measure_text_width(GAP)) / 2;
        Self {
            columns: [Column::new(each), Column::new(each)],
            given: 0,
        }
    }

    /// A row with a text in each column, cut to its width, and a line below.
    pub(super) fn heading(&self, titles: [&str; 2]) -> String {
        let width = self.columns[0].width;
        let rule = "─".repeat(width);
        format!("{}\n{rule}─┼─{rule}\n", row(titles, width))
    }

    /// Adds to a column; gives the rows that are finished by it.
    pub(super) fn push(&mut self, column: usize, text: &str) -> String {
        self.columns[column].push(text);
        self.rows(|[left, right]| left.min(right))
    }

    /// The column has ended; gives the rows that are finished by it. Once both have, all are.
    pub(super) fn end(&mut self, column: usize, other_ended: bool) -> String {
        self.columns[column].finish();
        if other_ended {
            self.rows(|[left, right]| left.max(right))
        } else {
            self.rows(|[left, right]| left.min(right))
        }
    }

    fn rows(&mut self, count: impl Fn([usize; 2]) -> usize) -> String {
        let until = count([0, 1].map(|i| self.columns[i].finished.len()));
        let mut text = String::new();
        for index in self.given..until {
            let lines = [0, 1].map(|i| {
                self.columns[i]
                    .finished
                    .get(index)
                    .map_or("", String::as_str)
            });
            text += &row(lines, self.columns[0].width);
            text.push('\n');
        }
        self.given = self.given.max(until);
        text
    }
}

fn row([left, right]: [&str; 2], width: usize) -> String {
    let padding = " ".repeat(width.saturating_sub(measure_text_width(left)));
    format!("{left}{padding}{GAP}{right}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_when_both_lines_are_finished_and_are_not_wider_than_asked_for() {
        let mut columns = Columns::new(23);
        assert_eq!(columns.push(0, "one two three "), "");
        assert_eq!(
            columns.push(1, "abcdefghijklmno"),
            "one two    │ abcdefghij\n"
        );
        assert_eq!(columns.push(0, "\n\nend"), "");
        assert_eq!(columns.end(1, false), "three      │ klmno\n");
        assert_eq!(columns.end(0, true), "           │\nend        │\n");
    }

    #[test]
    fn wide_characters_take_two_places() {
        let mut columns = Columns::new(11);
        columns.push(0, "日本語");
        columns.end(0, false);
        assert_eq!(columns.end(1, true), "日本 │\n語   │\n");
    }
}
