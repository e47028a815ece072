//! Whether a verdict may stand. A node is not ejected for what is the fault of this proxy or of its link:
//! a proxy that is cut off must not empty its rings. Pure.
//!
//! | the node | the others, of all pools | |
//! |---|---|---|
//! | answered, if only to refuse | | the verdict stands |
//! | is silent | this process was not run itself for [`STALL_MIN`] or more | withheld: starved |
//! | is silent | it is on this machine, or no other host is known | the verdict stands: no link is in doubt |
//! | is silent | more than half of all nodes are silent, on two hosts or more, or were within [`LINK_GRACE`]: what is owed from then is not late yet | withheld: link |
//! | is silent | it could become so, as some were not heard of since | they are asked at once, for the time of a probe |
//! | is silent | otherwise | the verdict stands |
//!
//! *Silent* are timeouts and addresses that can't be reached. A refused connection is an answer: the host
//! is there. Nodes on this machine have no link and are not counted.

use std::{collections::BTreeSet, time::Duration};

use crate::topology::Cause;

/// A stop of this process from which on its own clock is not believed.
pub const STALL_MIN: Duration = Duration::from_millis(200);

/// How much longer a verdict waits for what other nodes say than a probe may take.
const ASK_SLACK: Duration = Duration::from_millis(300);

/// How long a link that was cut is in doubt.
pub const LINK_GRACE: Duration = Duration::from_secs(2);

/// It never waits longer.
pub const ASK_MAX: Duration = Duration::from_secs(3);

/// What one node shows while another is accused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shows {
    /// It answered since the accused began to fail.
    Answer,
    /// It is silent, too.
    Silence,
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
    /// The way out of this machine.
    Link,
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
    /// The other nodes are asked first.
    Ask,
    /// It is withheld.
    Withheld(Fault),
}

/// What is known when a verdict is judged.
#[derive(Clone, Copy, Debug)]
pub struct Accusation {
    /// Why the node is to go.
    pub cause: Cause,
    /// Whether a link leads to it.
    pub is_remote: bool,
    /// How long this process stood still lately.
    pub stalled: Duration,
    /// How long the others have been asked.
    pub asked: Duration,
    /// What a probe may take.
    pub patience: Duration,
    /// How long ago the link was last seen to be cut.
    pub cut: Option<Duration>,
}

/// Judges.
pub fn judge<'a>(accused: &Accusation, witnesses: impl IntoIterator<Item = Witness<'a>>) -> Judgement {
    if !matches!(accused.cause, Cause::Timeout | Cause::ConnectTimeout) {
        return Judgement::Stands;
    }
    if accused.stalled >= STALL_MIN {
        return Judgement::Withheld(Fault::Starved);
    }
    if !accused.is_remote {
        return Judgement::Stands;
    }
    let (mut all, mut silent, mut unheard) = (0, 0, 0);
    let (mut hosts, mut silent_hosts) = (BTreeSet::new(), BTreeSet::new());
    for witness in witnesses {
        all += 1;
        hosts.insert(witness.host);
        match witness.shows {
            Shows::Answer => {}
            Shows::Silence => {
                silent += 1;
                silent_hosts.insert(witness.host);
            }
            Shows::Nothing => unheard += 1,
        }
    }
    if hosts.len() < 2 {
        return Judgement::Stands;
    }
    let was_cut = accused.cut.is_some_and(|ago| ago < LINK_GRACE);
    if was_cut || 2 * silent > all && silent_hosts.len() > 1 {
        return Judgement::Withheld(Fault::Link);
    }
    let may_become = unheard > 0 && 2 * (silent + unheard) > all;
    if may_become && accused.asked < (accused.patience + ASK_SLACK).min(ASK_MAX) {
        Judgement::Ask
    } else {
        Judgement::Stands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENT: Accusation = Accusation {
        cause: Cause::Timeout,
        is_remote: true,
        stalled: Duration::ZERO,
        asked: Duration::ZERO,
        patience: Duration::from_millis(500),
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
        for (ago, expected) in [(LINK_GRACE / 2, Withheld(Fault::Link)), (LINK_GRACE, Stands)] {
            let accused = Accusation { cut: Some(ago), ..SILENT };
            assert_eq!(judged(&accused, "h1 s h2 a h3 a"), expected, "{ago:?}");
        }
    }

    /// An answer, be it a refusal, is never withheld, however many nodes give it; a node of this machine is
    /// not the link's; a process that stood still believes nothing that is silent.
    #[test]
    fn answers_stand() {
        for cause in [Cause::Refused, Cause::Lost, Cause::Misconfigured, Cause::Loading, Cause::Unresolved] {
            let stalled = Duration::from_secs(3);
            let accused = Accusation { cause, stalled, ..SILENT };
            assert_eq!(judged(&accused, "h1 s h2 s h3 s"), Judgement::Stands);
        }
        let local = Accusation { is_remote: false, ..SILENT };
        assert_eq!(judged(&local, "h1 s h2 s h3 s"), Judgement::Stands);
        let stalled = Accusation { stalled: STALL_MIN, ..local };
        assert_eq!(judged(&stalled, ""), Judgement::Withheld(Fault::Starved));
    }
}
