//! An HTTP node is asked with GET; its status and, if that is wished, its body say whether it
//! serves.

use std::{future::poll_fn, pin::pin, time::Duration};

use ::http::{Request, Response, Version, header};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{task::JoinSet, time::Instant};

use super::{Question, Told, Trouble};
use crate::{
    net::{Address, Stream},
    protocol::http::{Fault, fields},
    topology::{Cause, HttpLimits, HttpProbe, NodeProtocol, Policy},
};

/// This much of a body is read, and looked at.
const BODY_MAX: usize = 64 * 1024;

/// hyper refuses a smaller bound of what it reads ahead.
const READ_MIN: usize = 8 * 1024;

/// A connection and the task that drives it.
#[derive(Debug)]
pub(super) struct Link {
    sender: Sender,
    /// One task, which ends with the connection and is aborted with the link.
    driver: JoinSet<()>,
    limits: HttpLimits,
    /// Answers that came over it.
    answers: u32,
    /// The node closes it after the last answer, or too much of that is still to come.
    is_spent: bool,
    /// How long the head of the last answer took.
    pub(super) took: Duration,
}

#[derive(Debug)]
enum Sender {
    H1(http1::SendRequest<String>),
    H2(http2::SendRequest<String>),
}

impl Link {
    /// Prepares a connection; what the node makes of it shows with the first request.
    pub(super) async fn open(stream: Stream, question: &Question) -> Result<Link, Trouble> {
        let http = &question.policy.http;
        let (stream, mut driver) = (TokioIo::new(stream), JoinSet::new());
        // How a connection ended is told by the request that was under way.
        let sender = match http.node_protocol {
            NodeProtocol::H1 => {
                let mut builder = http1::Builder::new();
                builder
                    .max_buf_size(http.limits.header_bytes.max(READ_MIN))
                    .max_headers(http.limits.headers_max);
                let (sender, connection) = builder.handshake(stream).await.map_err(|e| trouble(&e))?;
                driver.spawn(async { drop(connection.await) });
                Sender::H1(sender)
            }
            NodeProtocol::H2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder.max_header_list_size(u32::try_from(http.limits.header_bytes).unwrap_or(u32::MAX));
                let (sender, connection) = builder.handshake(stream).await.map_err(|e| trouble(&e))?;
                driver.spawn(async { drop(connection.await) });
                Sender::H2(sender)
            }
        };
        Ok(Link {
            sender,
            driver,
            limits: http.limits.clone(),
            answers: 0,
            is_spent: false,
            took: Duration::ZERO,
        })
    }

    /// Whether it was opened as the policy wants it, and takes another request.
    pub(super) fn is_usable(&self, policy: &Policy) -> bool {
        let protocol = match self.sender {
            Sender::H1(_) => NodeProtocol::H1,
            Sender::H2(_) => NodeProtocol::H2,
        };
        !self.is_spent && protocol == policy.http.node_protocol && self.limits == policy.http.limits
    }

    /// Asks whether the node serves.
    pub(super) async fn ask(&mut self, question: &Question) -> Told {
        let probe = &question.policy.http.probe;
        let request = self.request(probe, &question.address)?;
        let response = async {
            match &mut self.sender {
                Sender::H1(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
                Sender::H2(sender) => {
                    sender.ready().await?;
                    sender.send_request(request).await
                }
            }
        };
        let began = Instant::now();
        let (head, body) = response.await.map_err(|e| trouble(&e))?.into_parts();
        self.took = began.elapsed();
        let path = &probe.path;
        if !probe.status.contains(&head.status.as_u16()) {
            let text = format!("GET {path} was answered with {}", head.status);
            return Err(Trouble::Refusal(Cause::Status, text));
        }
        let (body, is_whole) = beginning(body).await?;
        self.answers += 1;
        self.is_spent = !is_whole || closes(&Response::from_parts(head, ()));
        match &probe.body {
            Some(wanted) if !body.windows(wanted.len()).any(|found| *found == **wanted) => {
                let wanted = String::from_utf8_lossy(wanted);
                let text = format!("the answer to GET {path} does not contain `{wanted}`");
                Err(Trouble::Refusal(Cause::Status, text))
            }
            _ => Ok(None),
        }
    }

    fn request(&self, probe: &HttpProbe, address: &Address) -> Result<Request<String>, Trouble> {
        let host = match (&probe.host, address) {
            (Some(host), _) => host.clone(),
            (None, Address::Tcp { .. }) => address.to_string(),
            (None, Address::Unix(_) | Address::Embedded) => "localhost".to_owned(),
        };
        let mut request = Request::get(match self.sender {
            Sender::H1(_) => probe.path.clone(),
            Sender::H2(_) => format!("http://{host}{}", probe.path),
        });
        if let Sender::H1(_) = self.sender {
            request = request.header(header::HOST, host);
        }
        let request = request.header(header::USER_AGENT, "ringway").header(header::ACCEPT, "*/*");
        let odd =
            |e: ::http::Error| Trouble::Refusal(Cause::Misconfigured, format!("it can't be asked: {e}"));
        request.body(String::new()).map_err(odd)
    }

    /// Returns when the connection breaks unannounced. One that carried a single answer does not
    /// count: some servers close after each.
    pub(super) async fn broken(&mut self) {
        if self.is_spent || self.answers < 2 || self.driver.join_next().await.is_none() {
            std::future::pending().await
        }
    }
}

/// The first [`BODY_MAX`] bytes of a body, and whether that is all of it.
async fn beginning(body: Incoming) -> Result<(Vec<u8>, bool), Trouble> {
    let (mut body, mut bytes) = (pin!(body), Vec::new());
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|e| trouble(&e))?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data[..data.len().min(BODY_MAX - bytes.len())]);
        if bytes.len() == BODY_MAX {
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}

/// Whether the node closes the connection after this (RFC 9112, 9.3).
fn closes(response: &Response<()>) -> bool {
    match response.version() {
        Version::HTTP_10 => !fields::says(response.headers(), "keep-alive"),
        Version::HTTP_11 => fields::says(response.headers(), "close"),
        _ => false,
    }
}

fn trouble(error: &hyper::Error) -> Trouble {
    match Fault::of(error) {
        Fault::Garbage(text) | Fault::TooLarge(text) | Fault::Reset(text) => Trouble::Garbage(text),
        Fault::Broken(text) | Fault::Leaving(text) | Fault::Refused(text) => Trouble::Broken(text),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        net::SocketAddr,
        process::{Child, Command, Stdio},
        sync::Arc,
        time::Duration,
    };

    use tokio::{
        net::{TcpListener, TcpStream},
        time::Instant,
    };

    use super::*;
    use crate::{
        health::probe::{
            Answer, Prober,
            tests::{PATIENCE, cause, listener, question, replies},
        },
        protocol::Protocol,
        topology::HttpSettings,
    };

    /// What nginx answers, path by path.
    const PATHS: &str = r#"
        location = / { return 200 "all is well\n"; }
        location = /host { return 200 "[$host]"; }
        location = /close { keepalive_timeout 0; return 200 "well"; }
        location = /broken { return 500; }
        location = /none { return 204; }
    "#;

    /// A real nginx that ends with the test.
    struct Nginx {
        child: Child,
        address: SocketAddr,
        _directory: tempfile::TempDir,
    }

    impl Drop for Nginx {
        fn drop(&mut self) {
            // It may be gone already.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    impl Nginx {
        /// Starts one of a single process, which signals and kills reach as a whole.
        async fn start(listen: &str) -> Nginx {
            let (free, address) = listener().await;
            drop(free);
            let directory = tempfile::tempdir().expect("a directory");
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|what| format!("{what}_temp_path {what};\n"))
                .concat();
            let text = format!(
                "daemon off; master_process off; pid nginx.pid; error_log stderr;\nevents {{}}\nhttp {{\n\
                 access_log off;\n{temporary}server {{ listen {address}{listen};\n{PATHS} }} }}\n"
            );
            fs::write(directory.path().join("nginx.conf"), text).expect("writable");
            let child = Command::new("nginx")
                .args(["-e", "stderr", "-c", "nginx.conf", "-p"])
                .arg(directory.path())
                .stderr(Stdio::null())
                .spawn()
                .expect("nginx is installed");
            let until = Instant::now() + PATIENCE;
            while TcpStream::connect(address).await.is_err() {
                assert!(Instant::now() < until, "nginx did not start");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Nginx { child, address, _directory: directory }
        }

        fn signal(&self, name: &str) {
            let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
            assert!(status.expect("kill is installed").success());
        }
    }

    fn asking(address: SocketAddr, probe: HttpProbe) -> Question {
        with(address, HttpSettings { probe, ..HttpSettings::default() })
    }

    fn with(address: SocketAddr, http: HttpSettings) -> Question {
        let mut question = question(&[address], PATIENCE);
        let policy = (*question.policy).clone();
        question.policy = Arc::new(Policy { protocol: Protocol::Http, http: Arc::new(http), ..policy });
        question
    }

    fn path(path: &str) -> HttpProbe {
        HttpProbe { path: path.to_owned(), ..HttpProbe::default() }
    }

    fn text(answer: &Answer) -> &str {
        match answer {
            Answer::Failed { text, .. } => text,
            _ => "",
        }
    }

    /// A real nginx serves by its status and its body: the expected ones are good, others are not,
    /// and each says what it met. Both versions of HTTP say the same.
    #[tokio::test]
    async fn statuses_and_bodies_of_a_real_server() {
        for (listen, node_protocol) in [("", NodeProtocol::H1), (" http2", NodeProtocol::H2)] {
            let nginx = Nginx::start(listen).await;
            let body = |path: &str, wanted: &[u8]| HttpProbe {
                path: path.to_owned(),
                body: Some(wanted.into()),
                ..HttpProbe::default()
            };
            let named = HttpProbe { host: Some("web.example".into()), ..body("/host", b"[web.example]") };
            for (probe, wrong) in [
                (path("/"), None),
                (body("/", b"well"), None),
                (path("/none"), None),
                (HttpProbe { status: 404..=404, ..path("/nowhere") }, None),
                (named, None),
                (body("/host", b"[node.example]"), None),
                (body("/", b"unwell"), Some("the answer to GET / does not contain `unwell`")),
                (path("/nowhere"), Some("GET /nowhere was answered with 404 Not Found")),
                (path("/broken"), Some("GET /broken was answered with 500 Internal Server Error")),
                (HttpProbe { status: 200..=203, ..path("/none") }, Some("answered with 204 No Content")),
            ] {
                let http = HttpSettings { probe, node_protocol, ..HttpSettings::default() };
                let answer = Prober::default().probe(&with(nginx.address, http)).await.answer;
                match wrong {
                    None => assert_eq!(answer, Answer::Serves(None)),
                    Some(wrong) => {
                        assert_eq!(cause(&answer), Some((Cause::Status, false)), "{answer:?}");
                        assert!(text(&answer).ends_with(wrong), "{answer:?}");
                    }
                }
            }
        }
    }

    /// A node that speaks the other version of HTTP does not speak the protocol.
    #[tokio::test]
    async fn the_other_version() {
        for (listen, node_protocol) in [("", NodeProtocol::H2), (" http2", NodeProtocol::H1)] {
            let nginx = Nginx::start(listen).await;
            let http = HttpSettings { node_protocol, ..HttpSettings::default() };
            let answer = Prober::default().probe(&with(nginx.address, http)).await.answer;
            assert_eq!(cause(&answer), Some((Cause::Protocol, false)), "{answer:?}");
        }
    }

    /// A stopped nginx answers in no time that would do, a killed one is refused at once after its
    /// connection broke, and both are noticed on the standing connection.
    #[tokio::test]
    async fn a_hung_server_and_a_dead_one() {
        for (listen, node_protocol) in [("", NodeProtocol::H1), (" http2", NodeProtocol::H2)] {
            let mut nginx = Nginx::start(listen).await;
            let http = HttpSettings { node_protocol, ..HttpSettings::default() };
            let mut question = with(nginx.address, http);
            let mut prober = Prober::default();
            for _ in 0..2 {
                assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
            }
            nginx.signal("STOP");
            question.timeout = Duration::from_millis(50);
            let answer = prober.probe(&question).await.answer;
            assert_eq!(cause(&answer), Some((Cause::Timeout, false)), "{answer:?}");
            nginx.signal("CONT");
            question.timeout = PATIENCE;
            for _ in 0..2 {
                assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
            }
            nginx.child.kill().expect("it runs");
            nginx.child.wait().expect("it ends");
            tokio::time::timeout(PATIENCE, prober.broken()).await.expect("it sees the close while idle");
            let answer = prober.probe(&question).await.answer;
            assert_eq!(cause(&answer), Some((Cause::Refused, true)), "{answer:?}");
        }
    }

    /// A node that closes after each answer, with or without saying so, is not taken for one that
    /// broke, and is asked anew each time.
    #[tokio::test]
    async fn a_server_that_closes_each_time() {
        let nginx = Nginx::start("").await;
        let question = asking(nginx.address, path("/close"));
        let mut prober = Prober::default();
        for _ in 0..3 {
            assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
            let broken = tokio::time::timeout(Duration::from_millis(20), prober.broken()).await;
            assert!(broken.is_err(), "it was said that it closes");
        }
        let (listener, address) = listener().await;
        let question = asking(address, path("/"));
        let node = async {
            for _ in 0..3 {
                let (stream, _) = listener.accept().await.expect("a probe");
                replies(stream, &["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
            }
        };
        let probes = async {
            for _ in 0..3 {
                assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
                let broken = tokio::time::timeout(Duration::from_millis(20), prober.broken()).await;
                assert!(broken.is_err(), "one answer proves nothing");
            }
        };
        tokio::join!(probes, node);
    }

    /// One probe of a node that answers like this.
    async fn answer_to(script: &'static str, wanted: Option<&[u8]>) -> Answer {
        let (listener, address) = listener().await;
        let probe = HttpProbe { body: wanted.map(Into::into), ..HttpProbe::default() };
        let node = async {
            let (stream, _) = listener.accept().await.expect("a probe");
            replies(stream, &[script]).await;
        };
        let question = asking(address, probe);
        let mut prober = Prober::default();
        tokio::join!(prober.probe(&question), node).0.answer
    }

    /// What is not HTTP, what is cut short and what closes without a word are told apart.
    #[tokio::test]
    async fn odd_answers_are_told_apart() {
        for (script, expected) in [
            ("+PONG\r\n", Cause::Protocol),
            ("-ERR unknown command\r\n", Cause::Protocol),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", Cause::Protocol),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", Cause::Protocol),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", Cause::Lost),
            ("HTTP/1.1 200 OK\r\n", Cause::Lost),
            ("", Cause::Lost),
        ] {
            let answer = answer_to(script, None).await;
            assert_eq!(cause(&answer), Some((expected, false)), "{script:?}: {answer:?}");
        }
        assert_eq!(answer_to("HTTP/1.0 200 OK\r\n\r\nup", Some(b"up")).await, Answer::Serves(None));
    }

    /// A body without an end is read up to the bound, and a head up to its own.
    #[tokio::test]
    async fn answers_are_bounded() {
        let (listener, address) = listener().await;
        let node = async {
            let serve = async |head: &str, line: String, listener: &TcpListener| {
                let (mut stream, _) = listener.accept().await.expect("a probe");
                let mut buffer = [0; 512];
                assert!(
                    tokio::io::AsyncReadExt::read(&mut stream, &mut buffer).await.expect("a request") > 0
                );
                let mut text = head.to_owned();
                // It ends when the probe has read enough and closes.
                while tokio::io::AsyncWriteExt::write_all(&mut stream, text.as_bytes()).await.is_ok() {
                    text.clone_from(&line);
                }
            };
            serve("HTTP/1.0 200 OK\r\n\r\n", "x".repeat(1024), &listener).await;
            serve("HTTP/1.1 200 OK\r\n", format!("a: {}", "x".repeat(1024)), &listener).await;
        };
        let probes = async {
            let mut prober = Prober::default();
            let question = asking(address, path("/"));
            assert_eq!(prober.probe(&question).await.answer, Answer::Serves(None));
            let answer = prober.probe(&question).await.answer;
            assert_eq!(cause(&answer), Some((Cause::Protocol, false)), "{answer:?}");
        };
        tokio::join!(probes, node);
    }
}
