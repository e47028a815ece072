//! Placement as it was recorded: by twemproxy, and by a second implementation of our own formula.

use serde_json::Value;

use super::*;

fn read(text: &str) -> Value {
    serde_json::from_str(text).expect("the file is JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn number(value: &Value) -> usize {
    value.as_u64().expect("a number") as usize
}

fn tag(value: &Value) -> Option<(u8, u8)> {
    let bytes = value.as_str()?.as_bytes();
    Some((bytes[0], bytes[1]))
}

fn member(node: &Value) -> Member {
    let name = match node["name"].as_str() {
        Some(name) => name.to_owned(),
        None => twemproxy_name(text(&node["address"])),
    };
    Member { name: name.into(), weight: number(&node["weight"]) as u32 }
}

fn unhex(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| {
            let digit = |b: u8| (b as char).to_digit(16).expect("a hexadecimal digit") as u8;
            digit(pair[0]) << 4 | digit(pair[1])
        })
        .collect()
}

/// Every key goes where the running twemproxy sent it, in every pool, for `ketama` and `modula` and
/// all of its hashes.
#[test]
fn twemproxy_placement() {
    let file = read(include_str!("../../tests/data/twemproxy-placement.json"));
    let keys: Vec<Vec<u8>> = list(&file["keys_hex"]).iter().map(|k| unhex(text(k))).collect();
    let placements = list(&file["placements"]);
    for recorded in placements {
        let (pool, hash) = (text(&recorded["pool"]), text(&recorded["hash"]));
        let distribution = text(&recorded["distribution"]);
        let settings = Settings {
            placement: if distribution == "ketama" { Placement::Ketama } else { Placement::Modula },
            hash: HashKind::from_word(hash).expect("a hash of ours"),
            char_sign: CharSign::X86,
            hash_tag: tag(&file["pools"][pool]["hash_tag"]),
        };
        let members: Vec<Member> = list(&file["pools"][pool]["nodes"]).iter().map(member).collect();
        let ring = Ring::build(&settings, &members);
        let nodes = list(&recorded["node_index"]);
        assert_eq!(nodes.len(), keys.len());
        for (key, node) in keys.iter().zip(nodes) {
            let ours = ring.first(ring.hash(key));
            assert_eq!(
                ours,
                number(node),
                "{pool} {distribution} {hash} {:?}",
                key.escape_ascii().to_string()
            );
        }
    }
    assert_eq!((placements.len(), keys.len()), (108, 415));
}

/// `vnode` places points, hashes keys and orders candidates as it always did.
#[test]
fn vnode_version_1() {
    let file = read(include_str!("../../tests/data/vnode1.json"));
    for point in list(&file["points"]) {
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(
            text(&point["name"]).as_bytes(),
            number(&point["point"]) as u64,
        );
        assert_eq!(hash.to_string(), text(&point["hash"]));
    }
    let settings = Settings::default();
    assert_eq!(settings.placement, Placement::Vnode { points: number(&file["points_per_weight"]) as u32 });
    assert_eq!(settings.hash.word(), text(&file["hash"]));
    assert_eq!(settings.hash_tag, tag(&file["hash_tag"]));
    let members: Vec<Member> = list(&file["members"]).iter().map(member).collect();
    let ring = Ring::build(&settings, &members);
    for key in list(&file["keys"]) {
        let hash = ring.hash(text(&key["key"]).as_bytes());
        assert_eq!(hash.to_string(), text(&key["hash"]));
        let order: Vec<&str> = ring.candidates(hash).map(|i| &*members[i].name).collect();
        let recorded: Vec<&str> = list(&key["order"]).iter().map(text).collect();
        assert_eq!(order, recorded, "{key}");
    }
}

/// `maglev` fills its table as a second implementation of the published algorithm does.
#[test]
fn maglev_table() {
    let settings = Settings { placement: Placement::Maglev { slots: 23 }, ..Settings::default() };
    let members =
        [("d", 4), ("b", 2), ("a", 1), ("c", 1)].map(|(name, weight)| Member { name: name.into(), weight });
    let ring = Ring::build(&settings, &members);
    let table: String = (0..23).map(|slot| &*members[ring.first(slot)].name).collect();
    assert_eq!(table, "dbbdddbcbcdcaadadddbdbd");
}
