//! Whether verdicts may stand, and what is withheld: the scene as witness.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::{Group, Scene, Seen, Trouble, WINDOW, Whose, before, chart::Chart};
use crate::{
    health::withhold::{
        Accusation, Charge, Fault, Judgement, LINK_GRACE, Lookup, Shows, Witness, judge, judge_name,
    },
    topology::Cause,
};

/// A stop of this process is looked for as far back as a request or a probe may have been waiting.
const STALL_WINDOW: Duration = Duration::from_millis(500);

/// Nodes are asked for the sake of others no more often.
const ASK_PAUSE: Duration = Duration::from_millis(100);

/// An answer is no older when it speaks for the link.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Nodes that begin to fail within this time of each other fail together.
const TOGETHER: Duration = Duration::from_secs(30);

/// What the resolver said of another name is no older when it speaks for the resolver: one round of
/// questions.
const LOOKUP_WITHIN: Duration = Duration::from_secs(5);

/// What a verdict may wait for.
#[derive(Clone, Copy, Debug)]
pub(in crate::health) struct Asking {
    /// How long the others have been asked already.
    pub(in crate::health) asked: Duration,
    /// What a probe may take.
    pub(in crate::health) patience: Duration,
}

impl Scene {
    /// Whether a verdict on a node may stand.
    pub(in crate::health) fn judge(
        &self,
        now: Instant,
        whose: &Whose,
        cause: Cause,
        Asking { asked, patience }: Asking,
    ) -> Judgement {
        let (stalled, _) = self.lag.since(before(now, STALL_WINDOW));
        let mut seen = self.seen();
        seen.look(now);
        let Some(chart) = seen.charts.get(whose) else { return Judgement::Stands };
        let charge = chart.charge(now, cause);
        if cause == Cause::Unresolved && !chart.is_nowhere {
            return Judgement::Moot;
        }
        // Requests for it that find no connection are no more than that.
        let found_nobody = matches!(charge, Charge::Silence | Charge::Losses) || cause == Cause::Unresolved;
        if chart.awaits_its_name() && found_nobody {
            return seen.judge_name(now, whose, asked);
        }
        let cut = seen.cut.map(|(fault, at)| (fault, now.saturating_duration_since(at)));
        let began = chart.failing.filter(|_| !chart.losses.is_mixed(now));
        let mute = began.map(|(since, _)| now.saturating_duration_since(since));
        let is_remote = chart.is_remote;
        let accused = Accusation { charge, is_remote, stalled, asked, patience, mute, cut };
        let witnesses = seen.witnesses(now, whose, chart, charge);
        let now_alone = judge(&Accusation { cut: None, ..accused }, witnesses.iter().copied());
        let judgement = judge(&accused, witnesses);
        if let Judgement::Withheld(fault @ (Fault::Link | Fault::Lossy)) = now_alone {
            seen.is_cut(now, fault);
        }
        if judgement == Judgement::Ask && seen.asked.is_none_or(|at| now >= at + ASK_PAUSE) {
            seen.asked = Some(now);
            self.asked.send_modify(|turn| *turn += 1);
        }
        judgement
    }

    /// A verdict is withheld.
    pub(in crate::health) fn withhold(&self, now: Instant, whose: &Whose, fault: Fault) {
        let mut seen = self.seen();
        let group = seen.group(|_, chart| chart.is_remote);
        let (_, stalled) = self.lag.since(before(now, WINDOW));
        let evidence = match fault {
            Fault::Link => vec![match group.failing - group.silent {
                0 => format!(
                    "{} of {} nodes on other machines are silent, of all pools",
                    group.silent, group.nodes
                ),
                refuse => format!(
                    "of {} nodes on other machines, of all pools, {refuse} refuse, {} are silent and none answers",
                    group.nodes, group.silent
                ),
            }],
            Fault::Lossy => vec![format!(
                "{} of {} nodes on other machines left something unanswered within 3 s, of all pools",
                seen.charts.values().filter(|chart| chart.is_remote && chart.losses.is_recent(now)).count(),
                group.nodes
            )],
            Fault::Dns => {
                let names = seen.names(|_| true);
                vec![format!("the resolver does not answer for {} of {} names", names.failing, names.nodes)]
            }
            Fault::Starved => {
                vec![format!("this process did not run for {} ms of the last 10 s", stalled.as_millis())]
            }
            Fault::Descriptors | Fault::Memory => Vec::new(),
        };
        seen.withheld.insert(whose.clone(), fault);
        let trouble = seen.trouble(fault, now, evidence);
        trouble.withheld.insert(format!("{}/{}", whose.0, whose.1));
    }

    /// A verdict is withheld no more.
    pub(in crate::health) fn release(&self, whose: &Whose) {
        self.seen().withheld.remove(whose);
    }

    /// What the resolver said of a node's name, asked at this time.
    pub(in crate::health) fn looked_up(&self, asked: Instant, whose: &Whose, found: Lookup) {
        if let Some(chart) = self.seen().charts.get_mut(whose) {
            chart.lookup = Some((asked, found));
            chart.version += 1;
        }
    }

    /// The nodes of a pool of which what requests met within this time proves nothing, as the link was in
    /// doubt.
    pub(in crate::health) fn doubtful(
        &self,
        now: Instant,
        pool: &str,
        within: Duration,
    ) -> HashSet<Arc<str>> {
        if self.seen().cut.is_none_or(|(_, at)| at + within + LINK_GRACE <= now) {
            return HashSet::new();
        }
        self.remote(pool)
    }

    /// The nodes of a pool that a link leads to.
    pub(in crate::health) fn remote(&self, pool: &str) -> HashSet<Arc<str>> {
        let seen = self.seen();
        let remote = seen.charts.iter().filter(|(whose, chart)| *whose.0 == *pool && chart.is_remote);
        remote.map(|(whose, _)| whose.1.clone()).collect()
    }

    /// Whether most nodes behind the link lose some of what they are asked.
    pub(in crate::health) fn is_lossy(&self, now: Instant) -> bool {
        self.seen().is_lossy(now)
    }

    /// What is wrong with the process now.
    pub fn troubles(&self, now: Instant) -> Vec<Trouble> {
        let mut seen = self.seen();
        if seen.troubles.contains_key(&Fault::Lossy) && seen.is_lossy(now) {
            seen.is_cut(now, Fault::Lossy);
        }
        let cut = seen.cut.filter(|(_, at)| now < *at + LINK_GRACE).map(|(fault, _)| fault);
        for fault in [Fault::Link, Fault::Lossy, Fault::Dns] {
            if cut != Some(fault) && seen.withheld.values().all(|withheld| *withheld != fault) {
                seen.troubles.remove(&fault);
            }
        }
        seen.troubles.values().cloned().collect()
    }
}

impl Seen {
    /// Something is wrong with the link. What was seen of it just before is believed longer: a link that
    /// loses packets may look cut for a moment.
    fn is_cut(&mut self, now: Instant, fault: Fault) {
        let is_other = |(before, at): (Fault, Instant)| before != fault && now < at + LINK_GRACE;
        if !self.cut.is_some_and(is_other) {
            self.cut = Some((fault, now));
        }
    }

    /// What the nodes behind the link show while one of them is accused.
    fn witnesses<'a>(
        &'a self,
        now: Instant,
        whose: &'a Whose,
        accused: &'a Chart,
        charge: Charge,
    ) -> Vec<Witness<'a>> {
        let began = accused.failing.map_or(now, |(since, _)| since);
        let since = began.max(before(now, HEARD_WITHIN));
        // One that is silent for long has troubles of its own.
        let is_old = |chart: &Chart| chart.failing.is_some_and(|(since, _)| since + TOGETHER < began);
        let shows = |other: &Whose, chart: &Chart| match () {
            () if charge == Charge::Refusal && other == whose => Shows::Refusal,
            () if charge == Charge::Refusal => chart.shows(since, charge),
            () if chart.losses.is_mixed(now) => Shows::Losses,
            () if other == whose => Shows::Silence,
            () => match chart.shows(since, charge) {
                Shows::Answer if chart.losses.is_beside(now, began) => Shows::Losses,
                shows => shows,
            },
        };
        let remote = self.charts.iter().filter(move |(_, chart)| chart.is_remote && !is_old(chart));
        remote.map(|(other, chart)| Witness { host: &chart.host, shows: shows(other, chart) }).collect()
    }

    fn is_lossy(&self, now: Instant) -> bool {
        let behind = self.behind_link(now, |_| true);
        2 * behind.failing > behind.nodes
    }

    /// Some nodes behind the link, and those of them that lose some requests and answer others; none of them
    /// do when all that do so are on one host.
    pub(super) fn behind_link(&self, now: Instant, is_of: impl Fn(&Whose) -> bool) -> Group {
        let mut group = Group::default();
        let mut hosts = BTreeSet::new();
        for (whose, chart) in self.charts.iter().filter(|(_, chart)| chart.is_remote) {
            let is_mixed = chart.losses.is_mixed(now);
            if is_mixed {
                hosts.insert(&*chart.host);
            }
            if is_of(whose) {
                group.nodes += 1;
                group.failing += usize::from(is_mixed);
            }
        }
        Group { failing: if hosts.len() > 1 { group.failing } else { 0 }, ..group }
    }

    /// Nodes that have names, and those of them for which the resolver does not answer.
    pub(super) fn names(&self, is_of: impl Fn(&Whose) -> bool) -> Group {
        let names = self.charts.iter().filter(|(whose, chart)| chart.has_a_name && is_of(whose));
        names.fold(Group::default(), |group, (_, chart)| Group {
            nodes: group.nodes + 1,
            failing: group.failing + usize::from(chart.is_unanswered()),
            silent: 0,
        })
    }

    fn judge_name(&self, now: Instant, whose: &Whose, asked: Duration) -> Judgement {
        let Some(own) = self.charts.get(whose) else { return Judgement::Stands };
        let since = before(own.lookup.map_or(now, |(at, _)| at), LOOKUP_WITHIN);
        let others = self.charts.iter().filter(|(other, chart)| chart.has_a_name && *other != whose);
        let others = others.map(|(_, chart)| chart.lookup.filter(|(at, _)| *at >= since).map(|l| l.1));
        judge_name(own.lookup.map(|l| l.1), others, asked)
    }
}
