//! Tables in Markdown, and what stands in their cells.

use std::fmt::Write;

/// One table with its title; nothing when it has no rows or no columns.
pub(crate) fn markdown(text: &mut String, title: &str, first: &str, columns: &[&str], rows: &[Vec<String>]) {
    if rows.is_empty() || columns.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{title}:\n\n| {first} | {} |", columns.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(columns.len() + 1));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

pub(crate) fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => all[n / 2],
        n => (all[n / 2 - 1] + all[n / 2]) / 2.0,
    }
}

/// The median, and between what all lie.
pub(crate) fn spread(all: Vec<f64>) -> String {
    if let [only] = all[..] {
        return format!("{only:.2}");
    }
    let least = all.iter().copied().fold(f64::INFINITY, f64::min);
    let most = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.2} ({least:.2} to {most:.2})", median(all))
}
