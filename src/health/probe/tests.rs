//! What all probes share, tried with scripted nodes that speak RESP.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

pub(super) const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn question(targets: &[SocketAddr], timeout: Duration) -> Question {
    Question {
        who: false,
        flush: false,
        deep: None,
        address: Address::Tcp { host: "node.example".into(), port: 80 },
        targets: targets.iter().copied().map(Target::Tcp).collect(),
        policy: Arc::new(Policy { connect_timeout: timeout, ..Policy::default() }),
        timeout,
        anew: false,
    }
}

pub(super) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// Answers each request with the next of these replies, then closes.
pub(super) async fn replies(mut stream: TcpStream, replies: &[&str]) {
    let mut buffer = [0; 512];
    for reply in replies {
        assert!(stream.read(&mut buffer).await.expect("a request") > 0);
        stream.write_all(reply.as_bytes()).await.expect("it reads");
    }
}

pub(super) fn cause(answer: &Answer) -> Option<(Cause, bool)> {
    match answer {
        Answer::Failed { cause, after_loss, .. } => Some((*cause, *after_loss)),
        _ => None,
    }
}

pub(super) const MASTER: &str = "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n";

/// Nobody there, a node that says nothing, and no targets at all are three different failures.
#[tokio::test]
async fn no_answer_at_all() {
    let (gone, address) = listener().await;
    drop(gone);
    let mut prober = Prober::default();
    let answer = prober.probe(&question(&[address], PATIENCE)).await.answer;
    assert_eq!(cause(&answer), Some((Cause::Refused, false)));
    let (_silent, address) = listener().await;
    let probe = prober.probe(&question(&[address], Duration::from_millis(30))).await;
    assert_eq!(cause(&probe.answer), Some((Cause::Timeout, false)));
    assert!(probe.ended - probe.started >= Duration::from_millis(30));
    let answer = prober.probe(&question(&[], PATIENCE)).await.answer;
    assert_eq!(cause(&answer), Some((Cause::Unresolved, false)));
    let file = Target::Unix("/nonexistent/ringway.sock".into());
    let absent = Question { targets: Arc::new([file]), ..question(&[], PATIENCE) };
    assert_eq!(cause(&prober.probe(&absent).await.answer), Some((Cause::Refused, false)));
}

/// The second target is asked when the first is not there.
#[tokio::test]
async fn each_target_is_tried() {
    let (gone, first) = listener().await;
    drop(gone);
    let (listener, second) = listener().await;
    let question = question(&[first, second], PATIENCE);
    let mut prober = Prober::default();
    let node = async {
        replies(listener.accept().await.expect("a probe").0, &["+PONG\r\n", MASTER]).await;
    };
    let (probe, ()) = tokio::join!(prober.probe(&question), node);
    assert_eq!(probe.answer, Answer::Serves(None));
}

/// A target that can't be dialled at all does not hide how the others failed; descriptors that
/// ran out are our own fault, a refusal is not.
#[tokio::test]
async fn our_own_limits_are_no_failure() {
    let (gone, dead) = listener().await;
    drop(gone);
    let ours = |errno: rustix::io::Errno| is_ours(&errno.into());
    assert!(ours(rustix::io::Errno::MFILE) && !ours(rustix::io::Errno::CONNREFUSED));
    // No socket file has such a long path.
    let far = Target::Unix("/x".repeat(200).into());
    let mut question = question(&[dead], PATIENCE);
    question.targets = Arc::new([Target::Tcp(dead), far]);
    let mut prober = Prober::default();
    let answer = prober.probe(&question).await.answer;
    assert_eq!(cause(&answer), Some((Cause::Refused, false)), "{answer:?}");
}

/// A standing connection is used again; when it broke, the same probe makes another, and only
/// what it meets there counts; a refusal there is marked as one after a loss.
#[tokio::test]
async fn a_broken_connection_is_made_anew_in_the_same_probe() {
    let (listener, address) = listener().await;
    let question = question(&[address], PATIENCE);
    let mut prober = Prober::default();
    let node = async {
        replies(listener.accept().await.expect("a probe").0, &["+PONG\r\n", MASTER, "+PONG\r\n"]).await;
        replies(listener.accept().await.expect("another").0, &["+PONG\r\n", MASTER]).await;
        drop(listener);
    };
    let probes = async {
        for _ in 0..3 {
            assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
        }
    };
    tokio::join!(probes, node);
    tokio::time::timeout(PATIENCE, prober.broken()).await.expect("it sees the close while idle");
    assert_eq!(cause(&prober.probe(&question).await.answer), Some((Cause::Refused, true)));
    assert_eq!(cause(&prober.probe(&question).await.answer), Some((Cause::Refused, false)));
}

/// A probe that shall prove that connections can be made does not use the standing one.
#[tokio::test]
async fn a_new_connection_on_request() {
    let (listener, address) = listener().await;
    let mut prober = Prober::default();
    let mut question = question(&[address], PATIENCE);
    let script = ["+PONG\r\n", MASTER];
    let node = async {
        let (first, _) = listener.accept().await.expect("a probe");
        replies(first, &script).await;
        let (second, _) = listener.accept().await.expect("a new connection");
        replies(second, &script).await;
    };
    let probes = async {
        assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
        question.anew = true;
        assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
    };
    tokio::join!(probes, node);
}

/// The key with which a node is tried is its own, and one that every server takes, whatever it is called.
#[test]
fn keys_of_deep_probes() {
    let of = |pool: &str, node: &str| key(pool, node).to_string();
    assert!(of("cache", "n1").starts_with("ringway:probe:cache:n1:"));
    assert_eq!(of("cache", "n1"), of("cache", "n1"));
    let odd = [of("cache", "n 1"), of("cache", &"n".repeat(250)), of("cache", "n\r\n1"), of("cäche", "n1")];
    for (i, name) in odd.iter().enumerate() {
        assert!(name.len() <= 250 && name.bytes().all(|b| b.is_ascii_graphic()), "{name}");
        assert!(!odd[..i].contains(name), "{name} twice");
    }
}

/// A deep probe fails when the key is refused, or comes back as another; it says what the node said, and the
/// key is deleted all the same.
#[tokio::test]
async fn a_deep_probe_tries_a_key() {
    let set = "+OK\r\n";
    for (deep, expected) in [
        (["-READONLY no\r\n", "$-1\r\n", "-READONLY no\r\n"], "READONLY no"),
        (["-OOM full\r\n", "$-1\r\n", ":0\r\n"], "OOM full"),
        ([set, "$3\r\nold\r\n", ":1\r\n"], "read `old`"),
        ([set, "$-1\r\n", ":0\r\n"], "deleted 0 keys of one"),
    ] {
        let (listener, address) = listener().await;
        let question = Question { deep: Some("key".into()), ..question(&[address], PATIENCE) };
        let mut prober = Prober::default();
        let script = [&["+PONG\r\n", MASTER], &deep[..]].concat();
        let node = async { replies(listener.accept().await.expect("a probe").0, &script).await };
        let answer = tokio::join!(prober.probe(&question), node).0.answer;
        assert_eq!(cause(&answer), Some((Cause::Unwritable, false)), "{answer:?}");
        assert!(format!("{answer:?}").contains(expected), "{answer:?}");
    }
}
