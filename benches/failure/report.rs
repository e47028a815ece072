//! The tables: one for each fault, a row for each proxy; and what ringway sets out to do.

use std::time::Duration;

use crate::{fault::Fault, figures::Figures, peers::Peer, subject::Subject, table::markdown, trial::LOAD};

const COLUMNS: [&str; 11] = [
    "requests",
    "failed GETs",
    "failed SETs",
    "wrong values",
    "stale values",
    "last error after",
    "other nodes' keys that moved",
    "hit rate before / during / after",
    "errors after the return",
    "longest wait",
    "p99 of other nodes' keys",
];
/// `failures`, ringway's default.
const FAILURES: usize = 3;

/// The tables of a fault.
pub(crate) fn of(fault: Fault, rows: &[(&Subject, Figures)]) -> String {
    let mut text = format!("\n## {}\n", fault.word());
    let lines: Vec<Vec<String>> = rows.iter().map(|(subject, figures)| line(subject, figures)).collect();
    markdown(&mut text, &fault.title(), "proxy", &COLUMNS, &lines);
    let seconds = rows.iter().map(|(_, figures)| figures.hits_by_second.len()).max().unwrap_or_default();
    let columns: Vec<String> = (1..=seconds).map(|n| n.to_string()).collect();
    let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
    let lines: Vec<Vec<String>> = rows.iter().map(|(subject, figures)| by_second(subject, figures)).collect();
    markdown(
        &mut text,
        "GETs that gave a value, %, in each second from the fault on",
        "proxy",
        &columns,
        &lines,
    );
    text
}

fn line(subject: &Subject, figures: &Figures) -> Vec<String> {
    let percent = figures
        .hits
        .map(|share| if share.is_nan() { "-".to_owned() } else { format!("{:.1}", 100.0 * share) });
    let (moved, others) = figures.moved;
    vec![
        subject.name.to_owned(),
        figures.requests.to_string(),
        figures.failed_reads.to_string(),
        figures.failed_writes.to_string(),
        figures.wrong.to_string(),
        figures.stale.to_string(),
        figures.last_error.map_or("-".to_owned(), |after| format!("{:.2} s", after.as_secs_f64())),
        format!("{moved} of {others}"),
        format!("{} %", percent.join(" / ")),
        figures.failed_after.to_string(),
        ms(figures.longest),
        ms(figures.others_p99),
    ]
}

fn by_second(subject: &Subject, figures: &Figures) -> Vec<String> {
    let cells = figures.hits_by_second.iter().map(|share| format!("{:.0}", 100.0 * share));
    std::iter::once(subject.name.to_owned()).chain(cells).collect()
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Which of ringway's aims were met.
pub(crate) fn aims(all: &[(Fault, &Subject, Figures)]) -> String {
    let mut text = String::from("\n## What ringway sets out to do\n\n");
    for (fault, subject, figures) in all.iter().filter(|(_, subject, _)| subject.peer == Peer::Ringway) {
        let aims = aims_of(*fault, subject, figures);
        for (word, is_met) in [("met", true), ("MISSED", false)] {
            let of_them: Vec<&str> =
                aims.iter().filter(|aim| aim.1 == is_met).map(|aim| aim.0.as_str()).collect();
            if !of_them.is_empty() {
                text += &format!("- {}, {}: {word}: {}\n", fault.word(), subject.name, of_them.join(", "));
            }
        }
    }
    text
}

fn aims_of(fault: Fault, subject: &Subject, figures: &Figures) -> Vec<(String, bool)> {
    let (reads, writes) = (figures.failed_reads, figures.failed_writes);
    let timed_out = figures.timed_out;
    let mut aims = vec![
        (format!("no wrong value ({})", figures.wrong), figures.wrong == 0),
        (format!("no other node's key moved ({})", figures.moved.0), figures.moved.0 == 0),
    ];
    match fault {
        Fault::Kill | Fault::Restart | Fault::Flap => {
            // A flapping node has five deaths.
            let most = LOAD.clients * if fault == Fault::Flap { 5 } else { 1 };
            aims.push((format!("no failed GET ({reads})"), reads == 0));
            aims.push((
                format!("no failed SET but those in flight, at most {most} ({writes})"),
                writes <= most,
            ));
        }
        Fault::Hang => {
            aims.push((format!("at most {FAILURES} timed out ({timed_out})"), timed_out <= FAILURES));
            let (rest, most) = (reads + writes - timed_out, LOAD.clients);
            let is_met = reads <= timed_out && rest <= most;
            aims.push((format!("the other {rest} failed are SETs in flight, at most {most}"), is_met));
        }
        Fault::Slow => aims.push((format!("no failed request ({})", reads + writes), reads + writes == 0)),
    }
    aims.push((format!("no error after the return ({})", figures.failed_after), figures.failed_after == 0));
    if subject.forgets {
        aims.push((format!("no stale value ({})", figures.stale), figures.stale == 0));
    }
    aims
}
