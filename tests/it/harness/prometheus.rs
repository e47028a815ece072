//! A real Prometheus that scrapes a ringway.

use std::{net::TcpStream, process::Command};

use serde_json::Value;
use tempfile::TempDir;

use super::server::Server;

/// One that scrapes an admin port each second. It dies with this value.
pub(crate) struct Prometheus {
    server: Server,
    _dir: TempDir,
}

impl Prometheus {
    /// The job is called `ringway`.
    pub(crate) fn of(admin: &str) -> Prometheus {
        let dir = tempfile::tempdir().expect("a directory for its data");
        let (path, data) = (dir.path().join("prometheus.yml"), dir.path().join("data"));
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs:\n  - job_name: ringway\n    static_configs: \
             [{{targets: ['{admin}']}}]\n"
        );
        std::fs::write(&path, config).expect("its configuration can be written");
        let command = move |ip: &str, port: u16| {
            let mut command = Command::new("prometheus");
            command.arg(format!("--config.file={}", path.display()));
            command.arg(format!("--storage.tsdb.path={}", data.display()));
            command.arg(format!("--web.listen-address={ip}:{port}"));
            command
        };
        Prometheus {
            server: Server::start(command, |address| TcpStream::connect(address).is_ok()),
            _dir: dir,
        }
    }

    /// What it answers to a query at this moment: the samples, or why there are none.
    pub(crate) fn query(&self, query: &str) -> Result<Vec<Value>, String> {
        let url = format!("http://{}/api/v1/query", self.server.address());
        let query = format!("query={query}");
        let output = Command::new("curl").args(["-sS", "--data-urlencode", &query, &url]).output();
        let output = output.expect("curl is installed (tests/run installs it)");
        let page: Value = serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())?;
        match page["data"]["result"].as_array() {
            Some(samples) => Ok(samples.clone()),
            None => Err(page["error"].to_string()),
        }
    }
}
