//! `ring`: how keys are placed. The one file of this room that knows the words of the ring.

use std::ops::RangeInclusive;

use super::{
    section::{Placed, Section},
    units::{number, word},
};
use crate::{
    protocol::Protocol,
    ring::{self, BoundedLoad, CharSign, ENTRIES_MAX, HashKind, Member, Placement, Settings, is_prime},
};

const POINTS_MAX: u32 = 65_536;

/// The placements, each as it is when nothing more is said.
const PLACEMENTS: [(&str, Placement); 4] = [
    ("vnode", Placement::Vnode { points: Settings::POINTS }),
    ("ketama", Placement::Ketama),
    ("maglev", Placement::Maglev { slots: Settings::SLOTS }),
    ("modula", Placement::Modula),
];

const CHAR_SIGNS: [(&str, CharSign); 2] = [("x86", CharSign::X86), ("arm", CharSign::Arm)];

/// HAProxy's advice: below it keys wander at small imbalances, above it the bound bounds little.
const BOUNDED_LOAD_ADVISED: RangeInclusive<u32> = 125..=200;

/// The ring of a pool that says nothing of it. The braces of hash tags mean nothing in a
/// URL, nor to the clients of memcached.
pub(super) fn defaults(protocol: Protocol) -> Settings {
    match protocol {
        Protocol::Http | Protocol::Memcached => Settings { hash_tag: None, ..Settings::default() },
        Protocol::Redis => Settings::default(),
    }
}

/// Reads `ring` over these defaults; its place is kept for [`check`].
pub(super) fn ring(mut section: Section<'_>, defaults: Settings) -> (Placed<Settings>, Option<BoundedLoad>) {
    let mut settings = defaults;
    section.read("placement", &mut settings.placement, |t| word(&PLACEMENTS, t));
    let is_vnode = matches!(settings.placement, Placement::Vnode { .. });
    let is_maglev = matches!(settings.placement, Placement::Maglev { .. });
    if let Some(points) = of_placement(&mut section, "points", is_vnode, number(1..=POINTS_MAX)) {
        settings.placement = Placement::Vnode { points };
    }
    if let Some(slots) = of_placement(&mut section, "slots", is_maglev, prime) {
        settings.placement = Placement::Maglev { slots };
    }
    section.read("hash", &mut settings.hash, hash);
    section.read("char_sign", &mut settings.char_sign, |t| word(&CHAR_SIGNS, t));
    section.read("hash_tag", &mut settings.hash_tag, hash_tag);
    let bounded_load = bounded_load(&mut section);
    let place = section.place().clone();
    section.finish();
    (Placed { value: settings, place }, bounded_load)
}

/// The ring with these words of the configuration, as a running ringway tells them; `of` gives the text of a
/// key.
///
/// # Errors
/// A word that is missing, or that this ringway does not know.
pub fn ring_of(of: impl Fn(&str) -> Option<String>) -> Result<Settings, String> {
    let text = |key: &str| of(key).ok_or_else(|| format!("it does not tell its ring's {key}"));
    let placement = match word(&PLACEMENTS, &text("placement")?)? {
        Placement::Vnode { .. } => Placement::Vnode { points: number(1..=POINTS_MAX)(&text("points")?)? },
        Placement::Maglev { .. } => Placement::Maglev { slots: prime(&text("slots")?)? },
        other => other,
    };
    Ok(Settings {
        placement,
        hash: hash(&text("hash")?)?,
        char_sign: word(&CHAR_SIGNS, &text("char_sign")?)?,
        hash_tag: hash_tag(&text("hash_tag")?)?,
    })
}

/// What a ring of these members would be: one that cannot be built is an error, an odd one a
/// warning. Builds the ring.
pub(super) fn check(ring: &Placed<Settings>, members: &[Member], section: &Section<'_>) {
    let (report, entries) = (section.report(), ring::entries(&ring.value, members));
    if members.is_empty() {
        return;
    }
    if entries > ENTRIES_MAX {
        let message = format!("makes {entries} places of points and weights, more than {ENTRIES_MAX}");
        report.error(&ring.place, message + "; use smaller weights");
        return;
    }
    for message in ring::warnings(&ring.value, members) {
        report.warn(&ring.place, message);
    }
}

fn bounded_load(section: &mut Section<'_>) -> Option<BoundedLoad> {
    let field = section.take("bounded_load")?;
    let bound = field.parse(factor)?;
    if !BOUNDED_LOAD_ADVISED.contains(&bound.hundredths()) {
        field.warn(
            "is outside 1.25 to 2.0: below it many keys leave their owner, above it an owner may be swamped",
        );
    }
    Some(bound)
}

/// A factor above 1 with at most two decimals.
fn factor(text: &str) -> Result<BoundedLoad, String> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let hundredths = match (digits(whole), digits(decimals), decimals.len()) {
        (true, true, 1 | 2) => format!("{whole}{decimals:0<2}").parse().ok(),
        _ => None,
    };
    hundredths.and_then(BoundedLoad::new).ok_or_else(|| {
        format!("`{text}` is not a factor above 1 and up to 1000, with two decimals at most; write 1.25")
    })
}

/// A factor as [`factor`] reads it.
pub(super) fn factor_text(bound: BoundedLoad) -> String {
    format!("{}.{:02}", bound.hundredths() / 100, bound.hundredths() % 100)
}

/// Reads a key that only one placement obeys; with another it must still be right.
fn of_placement(
    section: &mut Section<'_>,
    key: &'static str,
    obeyed: bool,
    parse: impl FnOnce(&str) -> Result<u32, String>,
) -> Option<u32> {
    let field = section.take(key)?;
    if !obeyed {
        field.warn("is not obeyed by this placement: vnode has points, maglev has slots");
    }
    field.parse(parse).filter(|_| obeyed)
}

fn prime(text: &str) -> Result<u32, String> {
    let slots = number(2..=ENTRIES_MAX as u32)(text)?;
    if is_prime(slots) {
        return Ok(slots);
    }
    let next = (slots..).find(|n| is_prime(*n)).unwrap_or(Settings::SLOTS);
    Err(format!("`{slots}` is not a prime; the next one is {next}"))
}

fn hash(text: &str) -> Result<HashKind, String> {
    HashKind::from_word(text).ok_or_else(|| {
        let words: Vec<&str> = HashKind::ALL.iter().map(|h| h.word()).collect();
        format!("`{text}` is not one of {}", words.join(", "))
    })
}

fn hash_tag(text: &str) -> Result<Option<(u8, u8)>, String> {
    match text.as_bytes() {
        [] => Ok(None),
        [open, close] => Ok(Some((*open, *close))),
        _ => {
            Err(format!("`{text}` is not a hash tag; write two characters, as in \"{{}}\", or \"\" for none"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{finding::Report, tree};

    fn read(text: &str) -> Result<(Settings, Vec<String>), String> {
        let report = Report::new("f");
        let node = tree::parse(text, &report).expect("is YAML");
        let section = Section::root(&node, &report).expect("is a map");
        let settings = ring(section, Settings::default()).0.value;
        let warnings = report.finish().map_err(|e| e.to_string())?;
        Ok((settings, warnings.iter().map(ToString::to_string).collect()))
    }

    /// The ring's own defaults are those that the configuration documents.
    #[test]
    fn defaults_agree() {
        let want = Settings {
            placement: Placement::Vnode { points: 160 },
            hash: HashKind::Xxh3_64,
            char_sign: CharSign::X86,
            hash_tag: Some((b'{', b'}')),
        };
        assert_eq!(Settings::default(), want);
        assert_eq!(read("{}"), Ok((want, Vec::new())));
        assert_eq!(read("placement: maglev").map(|r| r.0.placement), Ok(Placement::Maglev { slots: 65_537 }));
    }

    /// Every word is read as what prints it, and each key reaches its setting.
    #[test]
    fn words() {
        for hash in HashKind::ALL {
            let (settings, _) = read(&format!("hash: {}", hash.word())).expect("a word of ours");
            assert_eq!(settings.hash, *hash);
        }
        for (name, placement) in PLACEMENTS {
            assert_eq!(read(&format!("placement: {name}")).map(|r| r.0.placement), Ok(placement));
            assert_eq!(placement.word(), name);
        }
        for (name, sign) in CHAR_SIGNS {
            assert_eq!(read(&format!("char_sign: {name}")).map(|r| r.0.char_sign), Ok(sign));
            assert_eq!(sign.word(), name);
        }
        assert_eq!(read("points: 7").map(|r| r.0.placement), Ok(Placement::Vnode { points: 7 }));
        assert_eq!(read("hash_tag: ''").map(|r| r.0.hash_tag), Ok(None));
        assert_eq!(read("hash_tag: '$$'").map(|r| r.0.hash_tag), Ok(Some((b'$', b'$'))));
    }

    /// A factor is above 1, exact in hundredths, and printed as it is read.
    #[test]
    fn factors() {
        for (text, hundredths) in [("1.25", 125), ("2", 200), ("1.5", 150), ("1000", 100_000), ("1.01", 101)]
        {
            let bound = factor(text).expect(text);
            assert_eq!(bound.hundredths(), hundredths, "{text}");
            assert_eq!(factor(&factor_text(bound)), Ok(bound));
        }
        for text in
            ["1", "1.0", "0.9", "1.255", "1000.01", "-2", "125%", "1e3", "", ".5", "1.", "99999999999"]
        {
            assert!(factor(text).expect_err(text).contains("is not a factor above 1"), "{text}");
        }
        for (text, doubted) in [("1.24", true), ("1.25", false), ("2.0", false), ("2.01", true)] {
            let (_, warnings) = read(&format!("bounded_load: {text}")).expect("fine");
            assert_eq!(warnings.iter().any(|w| w.contains("outside 1.25 to 2.0")), doubted, "{warnings:?}");
        }
    }

    /// A wrong value is refused with what could stand there; a useless one is warned about.
    #[test]
    fn refused_and_doubted() {
        for (text, want) in [
            ("placement: random", "not one of vnode, ketama, maglev, modula"),
            ("hash: sha1", "not one of xxh3_64, "),
            ("char_sign: signed", "not one of x86, arm"),
            ("hash_tag: '{'", "two characters"),
            ("hash_tag: '{}}'", "two characters"),
            ("points: 0", "outside 1 to 65536"),
            ("{placement: maglev, slots: 65536}", "not a prime; the next one is 65537"),
            ("{placement: maglev, slots: 99999999}", "outside 2 to"),
            ("slot: 3", "did you mean `slots`?"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(want), "{error}");
        }
        let (_, warnings) = read("{placement: ketama, points: 160, slots: 7}").expect("obeyed");
        assert!(warnings.len() == 2 && warnings.iter().all(|w| w.contains("not obeyed by this placement")));
    }
}
