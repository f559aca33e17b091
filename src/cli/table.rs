//! Rows under a header, as text that fits where it is read.
//!
//! INVARIANTS: a single word (an id, a state, an address) is never broken, so that what is in it can be copied.
//! Nothing is left out: a column that has no room beside the others stands below its row, under its name. What others
//! wrote begins no line there, so that it can't be taken for another column.

use comfy_table::{Cell, ColumnConstraint, ContentArrangement, Table, presets};

use crate::model::text::{misleads, shows_nothing};

use super::printer::plain;

/// What prose needs to be readable.
const PROSE_COLUMNS_MIN: u16 = 16;

/// Between two columns, and before what stands below a row.
const GAP: &str = "  ";

/// The same as a number of columns.
const GAP_COLUMNS: u16 = 2;

/// The rows as lines. Without a width each row is one line whatever its length. With one, prose is folded; where that
/// is too little, the first columns that have room stay beside each other and the others stand below their row, or,
/// where no header names them, each row is one line.
pub(super) fn lines(header: &[&str], rows: &[Vec<String>], width: Option<u16>) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|text| plain(text)).collect()).collect();
    let mut table = blank(header, &rows);
    let fits = width.is_none_or(|width| arranged(&mut table, &rows, width));
    match width {
        Some(width) if !fits && !header.is_empty() => stacked(header, &rows, width),
        _ => trimmed(&table),
    }
}

/// Puts a column in where any row has something in it: a column of blanks says nothing.
pub(super) fn insert<'h>(
    header: &mut Vec<&'h str>,
    rows: &mut [Vec<String>],
    (at, name): (usize, &'h str),
    cells: Vec<String>,
) {
    if cells.iter().all(String::is_empty) {
        return;
    }
    header.insert(at, name);
    for (row, cell) in rows.iter_mut().zip(cells) {
        row.insert(at, cell);
    }
}

fn blank(header: &[&str], rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header.iter().map(Cell::new));
    }
    for row in rows {
        table.add_row(row.iter().map(Cell::new));
    }
    table
}

/// More than a word, or what could be mistaken for that.
fn is_prose(text: &str) -> bool {
    text.chars().any(|c| c.is_whitespace() || misleads(c) || shows_nothing(c))
}

/// Gives columns of prose what others leave of the width, if that is enough.
fn arranged(table: &mut Table, rows: &[Vec<String>], width: u16) -> bool {
    let contents = table.column_max_content_widths();
    let mut needed = 0u16;
    for (index, (column, content)) in table.column_iter_mut().zip(contents).enumerate() {
        let least = if rows.iter().any(|row| row.get(index).is_some_and(|text| is_prose(text))) {
            content.min(PROSE_COLUMNS_MIN)
        } else {
            column.set_constraint(ColumnConstraint::ContentWidth);
            content
        };
        needed = needed.saturating_add(least).saturating_add(column.padding_width());
    }
    let fits = needed <= width;
    if fits {
        table.set_width(width);
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    fits
}

/// The first columns that have room, and below each row the others.
fn stacked(header: &[&str], rows: &[Vec<String>], width: u16) -> String {
    let widths = blank(header, rows).column_max_content_widths();
    let ends = widths.iter().scan(0u16, |end, content| {
        *end = end.saturating_add(*content).saturating_add(GAP_COLUMNS);
        Some(end.saturating_sub(GAP_COLUMNS))
    });
    let kept = ends.take_while(|end| *end <= width).count().max(1);
    let names: Vec<&str> = header.iter().copied().take(kept).collect();
    let beside: Vec<Vec<String>> = rows.iter().map(|row| row.iter().take(kept).cloned().collect()).collect();
    let table = trimmed(&blank(&names, &beside));
    // Nothing is folded in it: after the header, each row is one line.
    let mut above = table.split('\n').map(str::to_owned);
    let mut text: Vec<String> = above.next().into_iter().collect();
    for (line, row) in above.zip(rows) {
        text.push(line);
        let rest = header.iter().copied().zip(row.iter().map(String::as_str)).skip(kept);
        text.extend(below(rest.filter(|(_, value)| !matches!(*value, "" | "-")).collect(), width));
    }
    text.join("\n")
}

/// Words with their names, several on a line, and then prose, which goes on below itself.
fn below(cells: Vec<(&str, &str)>, width: u16) -> Vec<String> {
    let (prose, words): (Vec<_>, Vec<_>) = cells.into_iter().partition(|(_, value)| is_prose(value));
    let mut lines: Vec<String> = Vec::new();
    for (name, value) in words {
        let word = if name.is_empty() { value.to_owned() } else { format!("{name} {value}") };
        let longer = lines.last().map(|line| format!("{line}{GAP}{word}")).filter(|line| columns(line) <= width);
        match longer {
            Some(longer) => {
                lines.pop();
                lines.push(longer);
            }
            None => lines.push(format!("{GAP}{word}")),
        }
    }
    if prose.is_empty() {
        return lines;
    }
    let pairs: Vec<Vec<String>> =
        prose.iter().map(|(name, value)| vec![(*name).to_owned(), (*value).to_owned()]).collect();
    let mut table = blank(&[], &pairs);
    arranged(&mut table, &pairs, width.saturating_sub(GAP_COLUMNS));
    lines.extend(trimmed(&table).split('\n').map(|line| format!("{GAP}{line}")));
    lines
}

/// How many columns of a terminal a text takes.
fn columns(text: &str) -> u16 {
    blank(&[], &[vec![text.to_owned()]]).column_max_content_widths().first().copied().unwrap_or_default()
}

/// Lines without the blanks that fill the last column.
fn trimmed(table: &Table) -> String {
    let text = table.trim_fmt();
    // Without borders each line starts with the padding of the first cell.
    text.split('\n').map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n")
}
