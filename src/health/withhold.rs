//! Whether a verdict may stand. A node is not ejected for what is the fault of this proxy, of its link or of
//! its resolver: a proxy that is cut off must not empty its rings. Pure.
//!
//! | the node | the others, of all pools | |
//! |---|---|---|
//! | said what is wrong with it | | the verdict stands |
//! | refuses connections, or breaks them | it is on this machine, no other host is known, or another node answers | the verdict stands |
//! | the same | all others refuse as well, or are silent, on two hosts or more: a firewall answers for them | withheld: link |
//! | the same | nobody has answered since, and some were not heard of | they are asked at once, for the time of a probe |
//! | is silent | this process was not run itself for [`STALL_MIN`] or more | withheld: starved |
//! | is silent | it is on this machine, or no other host is known | the verdict stands: no link is in doubt |
//! | is silent | more than half of all nodes are silent, on two hosts or more | withheld: link |
//! | is silent, or fails too often by silence | more than half are silent or lose requests, on two hosts or more | withheld: lossy |
//! | the same | it was one of both within [`LINK_GRACE`]: what is owed from then is not late yet | withheld still |
//! | is silent | it could become so, as some were not heard of since, or lost something at the same time | they are asked at once, for the time of a probe |
//! | has answered nothing for two probes' time and [`MUTE_MIN`] | the others lose some requests and answer others | the verdict stands |
//! | is silent | otherwise | the verdict stands |
//! | has a name of which the resolver says that there is none | | the verdict stands |
//! | has a name that the resolver does not answer for | it answers for none | withheld: dns |
//! | the same | it answers for another | the verdict stands |
//!
//! *Silent* are timeouts and addresses that can't be reached. For what is silent a refused connection is an
//! answer: the host is there. Nodes on this machine have no link and are not counted.

use std::{collections::BTreeSet, time::Duration};

/// A stop of this process from which on its own clock is not believed.
pub const STALL_MIN: Duration = Duration::from_millis(200);

/// How much longer a verdict waits for what other nodes say than a probe may take.
const ASK_SLACK: Duration = Duration::from_millis(300);

/// How long a link that was cut is in doubt.
pub const LINK_GRACE: Duration = Duration::from_secs(2);

/// Who has answered nothing for so long is not only unlucky on a way that loses packets: a kernel that sends
/// one again does so for the third time after 1.4 s, and for the fourth after 3 s.
const MUTE_MIN: Duration = Duration::from_secs(3);

/// It never waits longer for other nodes.
pub const ASK_MAX: Duration = Duration::from_secs(3);

/// Nor longer for the resolver, which takes five seconds at worst and is asked again three seconds later.
pub const NAMES_ASK_MAX: Duration = Duration::from_secs(15);

/// What one node shows while another is accused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// It answered since the accused began to fail.
    Answer,
    /// It answers some of what it is asked, and some is lost.
    Losses,
    /// It is silent, too.
    Silence,
    /// It refuses connections or breaks them, too.
    Refusal,
    /// Nobody has asked it since.
    Nothing,
}

/// One node that a link leads to, the accused among them.
#[derive(Clone, Copy, Debug)]
pub struct Witness<'a> {
    /// Its host.
    pub host: &'a str,
    /// What it shows.
    pub shows: Shows,
}

/// What is at fault on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The way out of this machine is cut.
    Link,
    /// It loses packets.
    Lossy,
    /// The resolver does not answer.
    Dns,
    /// The process did not get to run.
    Starved,
    /// It has no descriptor left.
    Descriptors,
    /// It has no memory left.
    Memory,
}

/// What becomes of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It stands.
    Stands,
    /// The other nodes, or the resolver, are asked first.
    Ask,
    /// It is withheld.
    Withheld(Fault),
    /// What it rests on is not so any more.
    Moot,
}

/// What a node is accused of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// It answered, and what it answered is held against it.
    Answer,
    /// Its connections are refused, or break.
    Refusal,
    /// It answers nothing.
    Silence,
    /// It leaves too many requests unanswered.
    Losses,
}

/// What is known when a verdict is judged.
#[derive(Clone, Copy, Debug)]
pub struct Accusation {
    /// Of what.
    pub charge: Charge,
    /// Whether a link leads to it.
    pub is_remote: bool,
    /// How long this process stood still lately.
    pub stalled: Duration,
    /// How long the others have been asked.
    pub asked: Duration,
    /// What a probe may take.
    pub patience: Duration,
    /// How long it has answered nothing at all; nothing when it answers now and then.
    pub mute: Option<Duration>,
    /// What was last seen to be wrong with the link, and how long ago.
    pub cut: Option<(Fault, Duration)>,
}

impl Accusation {
    /// Whether the others may still be asked.
    fn is_in_time(&self) -> bool {
        self.asked < (self.patience + ASK_SLACK).min(ASK_MAX)
    }
}

/// What the resolver said when it was last asked for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Where it is.
    Found,
    /// That there is no such name, or that it has no address.
    Denied,
    /// Nothing.
    Unanswered,
}

/// Judges.
pub fn judge<'a>(accused: &Accusation, witnesses: impl IntoIterator<Item = Witness<'a>>) -> Judgement {
    if accused.charge == Charge::Answer {
        return Judgement::Stands;
    }
    if accused.charge == Charge::Refusal {
        return judge_refusal(accused, witnesses);
    }
    if accused.stalled >= STALL_MIN {
        return Judgement::Withheld(Fault::Starved);
    }
    if !accused.is_remote {
        return Judgement::Stands;
    }
    let is_mute = accused.mute.is_some_and(|mute| mute > (2 * accused.patience + ASK_SLACK).max(MUTE_MIN));
    let (mut all, mut silent, mut losing, mut unheard) = (0, 0, 0, 0);
    let (mut hosts, mut silent_hosts) = (BTreeSet::new(), BTreeSet::new());
    for witness in witnesses {
        all += 1;
        hosts.insert(witness.host);
        match witness.shows {
            Shows::Answer => continue,
            Shows::Silence | Shows::Refusal => silent += 1,
            // A way that loses some lets some through: what has said nothing for so long is not behind such a
            // one.
            Shows::Losses if is_mute => continue,
            Shows::Losses => losing += 1,
            Shows::Nothing => {
                unheard += 1;
                continue;
            }
        }
        silent_hosts.insert(witness.host);
    }
    if hosts.len() < 2 {
        return Judgement::Stands;
    }
    let before = accused.cut.filter(|(_, ago)| *ago < LINK_GRACE).map(|(fault, _)| fault);
    let now = (2 * (silent + losing) > all && silent_hosts.len() > 1).then_some(if losing > silent {
        Fault::Lossy
    } else {
        Fault::Link
    });
    if let Some(fault) = before.or(now) {
        return Judgement::Withheld(fault);
    }
    // Of a link that loses packets not all nodes have lost some yet.
    let may_become =
        unheard > 0 && 2 * (silent + losing + unheard) > all || losing > 0 && silent_hosts.len() > 1;
    if may_become && accused.is_in_time() && accused.charge == Charge::Silence {
        Judgement::Ask
    } else {
        Judgement::Stands
    }
}

/// Judges a node that refuses. One that answers shows that the way is open; where nobody does, what refuses
/// stands on the way, and who is ejected for it has nobody to go to.
fn judge_refusal<'a>(accused: &Accusation, witnesses: impl IntoIterator<Item = Witness<'a>>) -> Judgement {
    if !accused.is_remote {
        return Judgement::Stands;
    }
    let (mut hosts, mut unheard) = (BTreeSet::new(), 0);
    for witness in witnesses {
        match witness.shows {
            Shows::Answer | Shows::Losses => return Judgement::Stands,
            Shows::Nothing => unheard += 1,
            Shows::Silence | Shows::Refusal => {}
        }
        hosts.insert(witness.host);
    }
    match unheard {
        _ if hosts.len() < 2 => Judgement::Stands,
        0 => Judgement::Withheld(Fault::Link),
        _ if accused.is_in_time() => Judgement::Ask,
        _ => Judgement::Stands,
    }
}

/// Judges a node of which nobody knows where it is: what the resolver last said of its name, and what it has
/// said since of those of others. `asked` is how long it has been asked already.
pub fn judge_name(
    own: Option<Lookup>,
    others: impl IntoIterator<Item = Option<Lookup>>,
    asked: Duration,
) -> Judgement {
    match own {
        Some(Lookup::Found) => return Judgement::Moot,
        Some(Lookup::Denied) => return Judgement::Stands,
        Some(Lookup::Unanswered) | None => {}
    }
    let mut waits = own.is_none();
    for other in others {
        match other {
            Some(Lookup::Found | Lookup::Denied) if own.is_some() => return Judgement::Stands,
            Some(Lookup::Found | Lookup::Denied | Lookup::Unanswered) => {}
            None => waits = true,
        }
    }
    if waits && asked < NAMES_ASK_MAX { Judgement::Ask } else { Judgement::Withheld(Fault::Dns) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Accusation = Accusation {
        charge: Charge::Silence,
        is_remote: true,
        stalled: Duration::ZERO,
        asked: Duration::ZERO,
        patience: Duration::from_millis(500),
        mute: None,
        cut: None,
    };

    /// `a1 s a1 a b1 -`: hosts and what their nodes show.
    fn judged(accused: &Accusation, witnesses: &str) -> Judgement {
        let words: Vec<&str> = witnesses.split_whitespace().collect();
        let witness = |pair: &[&'static str]| Witness {
            host: pair[0],
            shows: match pair[1] {
                "a" => Shows::Answer,
                "s" => Shows::Silence,
                "l" => Shows::Losses,
                "r" => Shows::Refusal,
                _ => Shows::Nothing,
            },
        };
        let leaked: Vec<&'static str> =
            words.into_iter().map(|word| &*Box::leak(word.to_owned().into_boxed_str())).collect();
        judge(accused, leaked.chunks(2).map(witness).collect::<Vec<_>>())
    }

    /// Nodes of several hosts that fall silent together are the link's fault; one that is silent alone, or
    /// with its own host, is not; those that were not heard of are asked first, and not for ever.
    #[test]
    fn a_cut_link_ejects_nobody() {
        use Judgement::{Ask, Stands, Withheld};
        for (witnesses, expected) in [
            ("h1 s h2 s h3 s", Withheld(Fault::Link)),
            ("h1 s h2 s h3 a", Withheld(Fault::Link)),
            ("h1 s h2 a h3 a", Stands),
            ("h1 s h2 s h3 a h4 a", Stands),
            ("h1 s h1 s h1 s", Stands),
            ("h1 s h1 s h1 s h2 a", Stands),
            ("h1 s h1 s h1 s h2 -", Ask),
            ("h1 s h2 - h3 -", Ask),
            ("h1 s h2 - h3 a", Ask),
            ("h1 s h2 a h3 a h4 -", Stands),
            ("h1 s", Stands),
        ] {
            assert_eq!(judged(&SILENT, witnesses), expected, "{witnesses}");
        }
        let late = Accusation { asked: Duration::from_millis(800), ..SILENT };
        assert_eq!(judged(&late, "h1 s h2 - h3 -"), Stands);
        assert_eq!(judged(&late, "h1 s h2 s h3 -"), Withheld(Fault::Link));
        for fault in [Fault::Link, Fault::Lossy] {
            for (ago, expected) in [(LINK_GRACE / 2, Withheld(fault)), (LINK_GRACE, Stands)] {
                let accused = Accusation { cut: Some((fault, ago)), ..SILENT };
                assert_eq!(judged(&accused, "h1 s h2 a h3 a"), expected, "{ago:?}");
            }
        }
    }

    /// What refuses everything stands on the way; one that answers shows that the way is open. Time says
    /// nothing of it, however long this process stood still.
    #[test]
    fn a_link_that_refuses_ejects_nobody() {
        use Judgement::{Ask, Stands, Withheld};
        let refused = Accusation { charge: Charge::Refusal, ..SILENT };
        for (witnesses, expected) in [
            ("h1 r h2 r h3 r", Withheld(Fault::Link)),
            ("h1 r h2 r h3 s", Withheld(Fault::Link)),
            ("h1 r h2 r h3 a", Stands),
            ("h1 r h2 r h3 l", Stands),
            ("h1 r h2 - h3 -", Ask),
            ("h1 r h2 - h3 a", Stands),
            ("h1 r h1 r h1 r", Stands),
            ("h1 r", Stands),
        ] {
            assert_eq!(judged(&refused, witnesses), expected, "{witnesses}");
            let stalled = Accusation { stalled: STALL_MIN, ..refused };
            assert_eq!(judged(&stalled, witnesses), expected, "{witnesses}");
            let here = Accusation { is_remote: false, ..refused };
            assert_eq!(judged(&here, witnesses), Stands, "{witnesses}");
        }
        let late = Accusation { asked: Duration::from_millis(800), ..refused };
        assert_eq!(judged(&late, "h1 r h2 - h3 -"), Stands);
    }

    /// A link that loses packets is told from one that is cut by the nodes that go on answering now and then.
    /// Who leaves too many requests unanswered is judged, too, and waits for nobody: its requests say enough.
    #[test]
    fn a_lossy_link_ejects_nobody() {
        use Judgement::{Stands, Withheld};
        let rate = Accusation { charge: Charge::Losses, ..SILENT };
        for (witnesses, expected) in [
            ("h1 l h2 l h3 l", Withheld(Fault::Lossy)),
            ("h1 s h2 l h3 l", Withheld(Fault::Lossy)),
            ("h1 s h2 l h3 s", Withheld(Fault::Link)),
            ("h1 l h1 l h1 l h2 a", Stands),
            ("h1 l h2 a h3 a", Stands),
        ] {
            assert_eq!(judged(&SILENT, witnesses), expected, "{witnesses}");
            assert_eq!(judged(&rate, witnesses), expected, "{witnesses}");
        }
        for (mute, expected) in
            [(1000, Withheld(Fault::Lossy)), (2900, Withheld(Fault::Lossy)), (3100, Stands)]
        {
            let mute = Accusation { mute: Some(Duration::from_millis(mute)), ..SILENT };
            assert_eq!(judged(&mute, "h1 s h2 l h3 l"), expected, "{mute:?}");
            assert_eq!(judged(&mute, "h1 s h2 s h3 l"), Withheld(Fault::Link), "most are silent without it");
        }
        for witnesses in ["h1 s h2 l", "h1 s h2 l h3 a"] {
            let mute = Accusation { mute: Some(Duration::from_millis(3100)), ..SILENT };
            assert_eq!(judged(&mute, witnesses), Stands, "another one that loses some keeps no dead one in");
        }
        let late = Accusation { asked: Duration::from_millis(800), ..SILENT };
        for witnesses in ["h1 l h2 - h3 -", "h1 s h2 l h3 a h4 a"] {
            assert_eq!(judged(&SILENT, witnesses), Judgement::Ask);
            assert_eq!(judged(&late, witnesses), Stands);
        }
        assert_eq!(judged(&rate, "h1 l h2 - h3 -"), Stands);
    }

    /// A name that does not exist is its node's mistake; a resolver that answers for no name is not. It is
    /// waited for, and not for ever.
    #[test]
    fn a_dead_resolver_ejects_nobody() {
        use Judgement::{Ask, Moot, Stands, Withheld};
        use Lookup::{Denied, Found, Unanswered};
        let (soon, late) = (Duration::from_secs(1), NAMES_ASK_MAX);
        let dns = Withheld(Fault::Dns);
        for (own, others, at_first, at_last) in [
            (Some(Denied), vec![], Stands, Stands),
            (Some(Denied), vec![Some(Denied), None], Stands, Stands),
            (Some(Found), vec![Some(Unanswered)], Moot, Moot),
            (Some(Unanswered), vec![], dns, dns),
            (Some(Unanswered), vec![Some(Unanswered), Some(Unanswered)], dns, dns),
            (Some(Unanswered), vec![Some(Unanswered), Some(Found)], Stands, Stands),
            (Some(Unanswered), vec![Some(Denied)], Stands, Stands),
            (Some(Unanswered), vec![Some(Unanswered), None], Ask, dns),
            (None, vec![Some(Found)], Ask, dns),
        ] {
            assert_eq!(judge_name(own, others.clone(), soon), at_first, "{own:?} {others:?}");
            assert_eq!(judge_name(own, others.clone(), late), at_last, "{own:?} {others:?}");
        }
    }

    /// An answer, be it a refusal, is never withheld, however many nodes give it; a node of this machine is
    /// not the link's; a process that stood still believes nothing that is silent.
    #[test]
    fn answers_stand() {
        let stalled = Duration::from_secs(3);
        let answered = Accusation { charge: Charge::Answer, stalled, ..SILENT };
        assert_eq!(judged(&answered, "h1 s h2 s h3 s"), Judgement::Stands);
        let local = Accusation { is_remote: false, ..SILENT };
        assert_eq!(judged(&local, "h1 s h2 s h3 s"), Judgement::Stands);
        let stalled = Accusation { stalled: STALL_MIN, ..local };
        assert_eq!(judged(&stalled, ""), Judgement::Withheld(Fault::Starved));
    }
}
