//! The page for Prometheus, text format 0.0.4, from plain views: this room knows no topology.
//! Rendering many nodes takes milliseconds, so it never runs on the control loop.

use std::fmt::{Display, Write};

use super::{
    Class, Count, Histogram, NodeBlock, Outcome, PoolBlock, Process, Reason,
    table::{self, Metric},
};

/// One pool, as it is to be shown.
#[derive(Debug)]
pub struct PoolView<'a> {
    /// Its name.
    pub name: &'a str,
    /// The topology's epoch.
    pub epoch: u64,
    /// The topology's revision.
    pub revision: u64,
    /// Whether some node that owns keys does not fail.
    pub serves: bool,
    /// What the data workers counted.
    pub blocks: &'a [PoolBlock],
    /// Its nodes.
    pub nodes: Vec<NodeView<'a>>,
}

/// One node of a pool, as it is to be shown.
#[derive(Debug)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Each state that a node can have, and whether it is this node's.
    pub states: Vec<(&'static str, bool)>,
    /// Whether it serves its share of the ring.
    pub owns: bool,
    /// Probes that ended and counted.
    pub probes: u64,
    /// It is ejected and its keys do not move yet.
    pub held: bool,
    /// An operator's order is in force for it.
    pub ordered: bool,
    /// Its share of the key space, 0.0..=1.0.
    pub share: f64,
    /// Whether something is wrong with its configuration.
    pub misconfigured: bool,
    /// Whether it is much slower than the others.
    pub slow: bool,
    /// Failures by kind.
    pub failures: Vec<(&'static str, u64)>,
    /// Error replies in which it said something of itself, by kind.
    pub error_replies: Vec<(&'static str, u64)>,
    /// What the data workers counted.
    pub blocks: &'a [NodeBlock],
}

/// The part of the page that is the same for every pool.
#[derive(Clone, Debug, Default)]
pub struct ProcessView {
    /// ringway's version.
    pub version: &'static str,
    /// When the process started, in seconds since the Unix epoch.
    pub start_seconds: f64,
    /// What the operating system says.
    pub process: Process,
}

/// Appends the whole page but for what the facade holds. A class of commands that nobody has used
/// shows only its `ok` row, so that a scrape stays small.
pub fn render(pools: &[PoolView<'_>], process: &ProcessView, out: &mut String) {
    let mut page = Page { out };
    pool_requests(&mut page, pools);
    page.family(&table::REFUSALS);
    for pool in pools {
        for reason in Reason::ALL {
            let n = total(pool.blocks, |b| &b.refusals[reason as usize]);
            page.row(&table::REFUSALS, &[pool.name, reason.word()], n);
        }
    }
    for (metric, number) in POOL_NUMBERS {
        page.family(metric);
        for pool in pools {
            page.row(metric, &[pool.name], number(pool));
        }
    }
    node_requests(&mut page, pools);
    node_durations(&mut page, pools);
    for (metric, number) in NODE_NUMBERS {
        page.family(metric);
        for (pool, node) in nodes(pools) {
            page.row(metric, &[pool.name, node.name], number(node));
        }
    }
    node_words(&mut page, pools);
    process_numbers(&mut page, process);
}

/// A metric, and how its number is read from a pool.
type PoolNumber = (&'static Metric, fn(&PoolView<'_>) -> i128);
/// A metric, and how its number is read from a node.
type NodeNumber = (&'static Metric, fn(&NodeView<'_>) -> f64);

/// Rows with one number for each pool.
const POOL_NUMBERS: [PoolNumber; 9] = [
    (&table::SESSIONS, |p| p.blocks.iter().map(|b| i128::from(b.sessions.value())).sum()),
    (&table::SESSIONS_ACCEPTED, |p| total(p.blocks, |b| &b.accepted).into()),
    (&table::CLIENT_RECEIVED, |p| total(p.blocks, |b| &b.bytes_in).into()),
    (&table::CLIENT_SENT, |p| total(p.blocks, |b| &b.bytes_out).into()),
    (&table::PARKED, |p| p.blocks.iter().map(|b| i128::from(b.parked.value())).sum()),
    (&table::AWAY_MISSES, |p| total(p.blocks, |b| &b.misses).into()),
    (&table::SERVES, |p| i128::from(p.serves)),
    (&table::EPOCH, |p| p.epoch.into()),
    (&table::REVISION, |p| p.revision.into()),
];

/// Rows with one number for each node.
const NODE_NUMBERS: [NodeNumber; 17] = [
    (&table::NODE_SENT, |n| total(n.blocks, |b| &b.bytes_out) as f64),
    (&table::NODE_RECEIVED, |n| total(n.blocks, |b| &b.bytes_in) as f64),
    (&table::NODE_IN_FLIGHT, |n| n.blocks.iter().map(|b| b.in_flight.value()).sum::<i64>() as f64),
    (&table::NODE_CONNECTIONS, |n| n.blocks.iter().map(|b| b.connections.value()).sum::<i64>() as f64),
    (&table::NODE_CONNECTS, |n| total(n.blocks, |b| &b.connects) as f64),
    (&table::NODE_RETRIES, |n| total(n.blocks, |b| &b.retries) as f64),
    (&table::NODE_SUBSTITUTED, |n| total(n.blocks, |b| &b.substituted) as f64),
    (&table::NODE_UNSERVED, |n| total(n.blocks, |b| &b.unserved) as f64),
    (&table::NODE_MISSES, |n| total(n.blocks, |b| &b.misses) as f64),
    (&table::NODE_UNBOUNDED, |n| total(n.blocks, |b| &b.unbounded) as f64),
    (&table::NODE_PROBES, |n| n.probes as f64),
    (&table::NODE_OWNS, |n| f64::from(u8::from(n.owns))),
    (&table::NODE_HELD, |n| f64::from(u8::from(n.held))),
    (&table::NODE_ORDERED, |n| f64::from(u8::from(n.ordered))),
    (&table::NODE_SHARE, |n| n.share),
    (&table::NODE_MISCONFIGURED, |n| f64::from(u8::from(n.misconfigured))),
    (&table::NODE_SLOW, |n| f64::from(u8::from(n.slow))),
];

/// The histogram's bounds are powers of two of a microsecond, 2^5 (32 us) to 2^24 (16.8 s): each
/// is a bound of the blocks' histogram too, so no sample is guessed into a bucket.
const DURATION_POWERS: std::ops::RangeInclusive<u32> = 5..=24;

fn nodes<'p, 'a>(pools: &'p [PoolView<'a>]) -> impl Iterator<Item = (&'p PoolView<'a>, &'p NodeView<'a>)> {
    pools.iter().flat_map(|pool| pool.nodes.iter().map(move |node| (pool, node)))
}

/// The sum of one counter over all workers.
fn total<B>(blocks: &[B], count: impl Fn(&B) -> &Count) -> u64 {
    blocks.iter().map(|b| count(b).value()).sum()
}

/// The rows of a class: all outcomes, or only the first while nothing was counted.
fn outcomes(of: impl Fn(Outcome) -> u64) -> Vec<(Outcome, u64)> {
    let mut rows: Vec<_> = Outcome::ALL.into_iter().map(|outcome| (outcome, of(outcome))).collect();
    if rows.iter().all(|(_, n)| *n == 0) {
        rows.truncate(1);
    }
    rows
}

fn pool_requests(page: &mut Page<'_>, pools: &[PoolView<'_>]) {
    page.family(&table::REQUESTS);
    for pool in pools {
        for class in Class::ALL {
            let of = |o: Outcome| total(pool.blocks, |b| &b.requests[class as usize][o as usize]);
            for (outcome, n) in outcomes(of) {
                page.row(&table::REQUESTS, &[pool.name, class.word(), outcome.word()], n);
            }
        }
    }
}

fn node_requests(page: &mut Page<'_>, pools: &[PoolView<'_>]) {
    page.family(&table::NODE_REQUESTS);
    for (pool, node) in nodes(pools) {
        for class in Class::ALL {
            let of = |o: Outcome| total(node.blocks, |b| &b.requests[class as usize][o as usize]);
            for (outcome, n) in outcomes(of) {
                let labels = [pool.name, node.name, class.word(), outcome.word()];
                page.row(&table::NODE_REQUESTS, &labels, n);
            }
        }
    }
}

fn node_durations(page: &mut Page<'_>, pools: &[PoolView<'_>]) {
    page.family(&table::NODE_DURATION);
    for (pool, node) in nodes(pools) {
        let histograms: Vec<&Histogram> = node.blocks.iter().map(|b| &b.latency).collect();
        page.durations(&table::NODE_DURATION, &[pool.name, node.name], &histograms);
    }
}

fn node_words(page: &mut Page<'_>, pools: &[PoolView<'_>]) {
    page.family(&table::NODE_FAILURES);
    for (pool, node) in nodes(pools) {
        for (kind, n) in &node.failures {
            page.row(&table::NODE_FAILURES, &[pool.name, node.name, kind], n);
        }
    }
    page.family(&table::NODE_ERROR_REPLIES);
    for (pool, node) in nodes(pools) {
        for (kind, n) in &node.error_replies {
            page.row(&table::NODE_ERROR_REPLIES, &[pool.name, node.name, kind], n);
        }
    }
    page.family(&table::NODE_HEALTH);
    for (pool, node) in nodes(pools) {
        for (state, is) in &node.states {
            page.row(&table::NODE_HEALTH, &[pool.name, node.name, state], u8::from(*is));
        }
    }
}

fn process_numbers(page: &mut Page<'_>, view: &ProcessView) {
    page.family(&table::BUILD_INFO);
    page.row(&table::BUILD_INFO, &[view.version], 1);
    page.single(&table::START_TIME, Some(view.start_seconds));
    page.single(&table::CPU, view.process.cpu_seconds);
    page.single(&table::RESIDENT, view.process.resident_bytes);
    page.single(&table::OPEN_FDS, view.process.open_fds);
    page.single(&table::MAX_FDS, view.process.max_fds);
}

/// The page while it is written. Writing to a `String` can't fail.
struct Page<'a> {
    out: &'a mut String,
}

impl Page<'_> {
    /// The two lines above a metric's rows.
    fn family(&mut self, metric: &Metric) {
        let Metric { name, help, kind, .. } = metric;
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
    }

    /// One row, with the values of the metric's labels in their order.
    fn row(&mut self, metric: &Metric, values: &[&str], number: impl Display) {
        self.series(metric, "", values, None, number);
    }

    /// A metric without labels, if there is a number.
    fn single(&mut self, metric: &Metric, number: Option<impl Display>) {
        if let Some(number) = number {
            self.family(metric);
            self.row(metric, &[], number);
        }
    }

    /// The rows of one histogram of microseconds, summed over workers. The count is the last
    /// bucket's by construction, whatever is added while this reads.
    fn durations(&mut self, metric: &Metric, values: &[&str], histograms: &[&Histogram]) {
        let mut counts: Vec<(u64, u64)> = Vec::new();
        for histogram in histograms {
            for (i, (bound, n)) in histogram.buckets().enumerate() {
                match counts.get_mut(i) {
                    Some(count) => count.1 += n,
                    None => counts.push((bound, n)),
                }
            }
        }
        let mut buckets = counts.iter().peekable();
        let mut below = 0;
        for power in DURATION_POWERS {
            while let Some((_, n)) = buckets.next_if(|(bound, _)| *bound <= 1 << power) {
                below += n;
            }
            let seconds = (1u64 << power) as f64 / 1e6;
            self.series(metric, "_bucket", values, Some(&seconds.to_string()), below);
        }
        let count = below + buckets.map(|(_, n)| n).sum::<u64>();
        let sum = histograms.iter().map(|h| h.sum_us()).sum::<u64>() as f64 / 1e6;
        self.series(metric, "_bucket", values, Some("+Inf"), count);
        self.series(metric, "_sum", values, None, sum);
        self.series(metric, "_count", values, None, count);
    }

    fn series(&mut self, metric: &Metric, suffix: &str, values: &[&str], le: Option<&str>, n: impl Display) {
        debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
        self.out.push_str(metric.name);
        self.out.push_str(suffix);
        let labels = metric.labels.iter().copied().zip(values.iter().copied());
        let mut before = '{';
        for (label, value) in labels.chain(le.map(|le| ("le", le))) {
            self.out.push(before);
            before = ',';
            self.out.push_str(label);
            self.out.push_str("=\"");
            escape(value, self.out);
            self.out.push('"');
        }
        if before == ',' {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {n}");
    }
}

/// A label's value: the format escapes these three and nothing else.
fn escape(value: &str, out: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    use super::{
        super::{table::Source, table::TABLE},
        *,
    };

    /// What promtool complains about; it is silent on stderr when all is well.
    fn promtool(arguments: &[&str], input: &str) -> String {
        let mut promtool = Command::new("promtool")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool runs: tests/run installs it (Debian's package `prometheus`)");
        let mut stdin = promtool.stdin.take().expect("it is piped");
        stdin.write_all(input.as_bytes()).expect("promtool reads its input");
        drop(stdin);
        let output = promtool.wait_with_output().expect("promtool ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { said } else { format!("{}: {said}", output.status) }
    }

    fn node<'a>(name: &'a str, blocks: &'a [NodeBlock]) -> NodeView<'a> {
        NodeView {
            name,
            states: vec![("healthy", true), ("ejected", false)],
            owns: true,
            probes: 3,
            held: false,
            ordered: false,
            share: 0.25,
            misconfigured: false,
            slow: true,
            failures: vec![("lost", 3), ("timeout", 0)],
            error_replies: vec![("oom", 4), ("loading", 0)],
            blocks,
        }
    }

    fn page(pools: &[PoolView<'_>]) -> String {
        let process = Process::read();
        let mut out = String::new();
        render(pools, &ProcessView { version: "1.2.3", start_seconds: 1.7e9, process }, &mut out);
        out
    }

    fn pool_page(blocks: &[PoolBlock], node_blocks: &[NodeBlock]) -> String {
        let nodes = vec![node("n1", node_blocks)];
        page(&[PoolView { name: "p", epoch: 7, revision: 9, serves: true, blocks, nodes }])
    }

    /// The value of one series.
    fn value<'p>(page: &'p str, series: &str) -> Option<&'p str> {
        page.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '))
    }

    /// Numbers of all workers are summed, and a class that was used shows all its outcomes, one
    /// that was not shows its `ok` alone.
    #[test]
    fn workers_are_summed() {
        let blocks = [PoolBlock::default(), PoolBlock::default()];
        blocks[0].requests[Class::Read as usize][Outcome::Ok as usize].add(40);
        blocks[1].requests[Class::Read as usize][Outcome::Ok as usize].add(2);
        blocks[1].refusals[Reason::CrossNode as usize].add(5);
        blocks[0].sessions.add(3);
        blocks[1].sessions.add(-1);
        let node_blocks = [NodeBlock::default(), NodeBlock::default()];
        node_blocks[0].requests[Class::Write as usize][Outcome::Lost as usize].add(1);
        node_blocks[1].bytes_out.add(1 << 53);
        let page = pool_page(&blocks, &node_blocks);
        for (series, expected) in [
            ("ringway_requests_total{pool=\"p\",class=\"read\",outcome=\"ok\"}", Some("42")),
            ("ringway_requests_total{pool=\"p\",class=\"read\",outcome=\"lost\"}", Some("0")),
            ("ringway_requests_total{pool=\"p\",class=\"write\",outcome=\"ok\"}", Some("0")),
            ("ringway_requests_total{pool=\"p\",class=\"write\",outcome=\"lost\"}", None),
            ("ringway_refusals_total{pool=\"p\",reason=\"cross_node\"}", Some("5")),
            ("ringway_sessions{pool=\"p\"}", Some("2")),
            ("ringway_epoch{pool=\"p\"}", Some("7")),
            ("ringway_revision{pool=\"p\"}", Some("9")),
            (
                "ringway_node_requests_total{pool=\"p\",node=\"n1\",class=\"write\",outcome=\"lost\"}",
                Some("1"),
            ),
            ("ringway_node_sent_bytes_total{pool=\"p\",node=\"n1\"}", Some("9007199254740992")),
            ("ringway_node_failures_total{pool=\"p\",node=\"n1\",kind=\"lost\"}", Some("3")),
            ("ringway_node_error_replies_total{pool=\"p\",node=\"n1\",reply=\"oom\"}", Some("4")),
            ("ringway_node_health{pool=\"p\",node=\"n1\",state=\"healthy\"}", Some("1")),
            ("ringway_node_health{pool=\"p\",node=\"n1\",state=\"ejected\"}", Some("0")),
            ("ringway_node_share{pool=\"p\",node=\"n1\"}", Some("0.25")),
            ("ringway_node_misconfigured{pool=\"p\",node=\"n1\"}", Some("0")),
            ("ringway_node_slow{pool=\"p\",node=\"n1\"}", Some("1")),
            ("ringway_build_info{version=\"1.2.3\"}", Some("1")),
        ] {
            assert_eq!(value(&page, series), expected, "{series} in\n{page}");
        }
    }

    /// A duration counts in every bucket whose bound is above it and in no other, over workers,
    /// and the sum is in seconds.
    #[test]
    fn buckets_are_cumulative() {
        let blocks = [NodeBlock::default(), NodeBlock::default()];
        for us in [0, 31, 32, 1_000] {
            blocks[0].latency.record(us);
        }
        blocks[1].latency.record(60_000_000);
        let page = pool_page(&[], &blocks);
        let labels = "{pool=\"p\",node=\"n1\"";
        let bucket = |le: &str| {
            value(&page, &format!("ringway_node_request_duration_seconds_bucket{labels},le=\"{le}\"}}"))
        };
        for (le, expected) in [
            ("0.000032", "2"),
            ("0.000064", "3"),
            ("0.000512", "3"),
            ("0.001024", "4"),
            ("16.777216", "4"),
            ("+Inf", "5"),
        ] {
            assert_eq!(bucket(le), Some(expected), "{le} in\n{page}");
        }
        let total =
            |suffix: &str| value(&page, &format!("ringway_node_request_duration_seconds_{suffix}{labels}}}"));
        assert_eq!((total("sum"), total("count")), (Some("60.001063"), Some("5")));
    }

    /// A name with each of the three special characters stays one label value on one line.
    #[test]
    fn label_values_are_escaped() {
        let page = page(&[PoolView {
            name: "a\\b\"c\nd",
            epoch: 1,
            revision: 1,
            serves: true,
            blocks: &[],
            nodes: Vec::new(),
        }]);
        assert_eq!(value(&page, r#"ringway_epoch{pool="a\\b\"c\nd"}"#), Some("1"), "{page}");
    }

    /// The page shows exactly the table's metrics but the facade's, each
    /// once.
    #[test]
    #[cfg(target_os = "linux")]
    fn the_page_is_the_table() {
        let page = pool_page(&[PoolBlock::default()], &[NodeBlock::default()]);
        let mut shown: Vec<&str> =
            page.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let mut expected: Vec<&str> =
            TABLE.iter().filter(|m| m.source != Source::Facade).map(|m| m.name).collect();
        shown.sort_unstable();
        expected.sort_unstable();
        assert_eq!(shown, expected);
    }

    /// Prometheus' own linter has nothing to say about the page, facade included.
    #[test]
    fn promtool_finds_nothing() {
        let blocks = [PoolBlock::default()];
        blocks[0].requests[Class::Write as usize][Outcome::Timeout as usize].add(1);
        let mut page = pool_page(&blocks, &[NodeBlock::default()]);
        page.push_str(&super::super::facade::tests::page_with_every_event());
        assert_eq!(promtool(&["check", "metrics"], &page), "", "{page}");
    }

    /// Prometheus reads the alert rules of docs/metrics.md.
    #[test]
    fn the_rules_in_the_docs_are_rules() {
        let docs = include_str!("../../docs/metrics.md");
        let rules = docs.split("```yaml\n").find(|block| block.starts_with("groups:"));
        let rules = rules.and_then(|block| block.split("```").next()).expect("the docs have rules");
        assert_eq!(promtool(&["check", "rules", "/dev/stdin"], rules), "", "{rules}");
    }
}
