//! A real nginx of its own for each test that wants one.

use std::{
    net::TcpStream,
    ops::{Deref, DerefMut},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tempfile::TempDir;

use super::server::Server;

/// An nginx of one process, which signals and kills reach as a whole. It says its name and what it
/// was asked, has files that can be read and written below `/files/`, and dies with this value.
pub(crate) struct Nginx {
    server: Server,
    dir: Arc<TempDir>,
}

impl Deref for Nginx {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Nginx {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Nginx {
    /// One that says this name.
    pub(crate) fn start(name: &str) -> Nginx {
        Nginx::with(name, "", "")
    }

    /// One with a word behind the address that it listens on, such as `http2`, and with lines of its
    /// own in its server.
    pub(crate) fn with(name: &str, listen: &str, lines: &str) -> Nginx {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        let (place, name) = (dir.clone(), name.to_owned());
        let (listen, lines) = (listen.to_owned(), lines.to_owned());
        let command = move |ip: &str, port: u16| {
            let text = configuration(place.path(), &name, &format!("{ip}:{port} {listen}"), &lines);
            let path = place.path().join("nginx.conf");
            std::fs::write(&path, text).expect("the configuration can be written");
            let mut command = Command::new("nginx");
            command.arg("-p").arg(place.path()).arg("-c").arg(&path);
            command
        };
        let server = Server::start(command, |address| TcpStream::connect(address).is_ok());
        Nginx { server, dir }
    }

    /// Several, named a, b, c ...
    pub(crate) fn several(count: usize) -> Vec<Nginx> {
        super::config::NAMES.iter().take(count).map(|name| Nginx::start(name)).collect()
    }

    /// Where the files below `/files/` are.
    pub(crate) fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }
}

fn configuration(dir: &Path, name: &str, listen: &str, lines: &str) -> String {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|what| format!("  {what}_temp_path {what};\n"))
        .concat();
    let files = dir.join("files");
    std::fs::create_dir_all(&files).expect("a directory for its files");
    // As root nginx would have its files owned by somebody else.
    let user = if files.metadata().is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0) {
        "user root;"
    } else {
        ""
    };
    format!(
        "daemon off; master_process off; {user} pid nginx.pid; error_log stderr;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         {temporary}  access_log off; keepalive_requests 1000000; client_max_body_size 0;\n\
         types {{}} default_type text/plain;\n\
         server {{\n\
         listen {listen};\n\
         {lines}\n\
         location / {{ return 200 \"{name} $request_method $request_uri\\n\"; }}\n\
         location /asked {{ return 200 \"$host|$http_via|$http_x_forwarded_for|$http_x_forwarded_host|$http_x_forwarded_proto|$http_forwarded|$http_connection|$http_x_mine\\n\"; }}\n\
         location /files/ {{ root {root}; dav_methods PUT DELETE; create_full_put_path on; }}\n\
         location /broken {{ return 503 \"{name} is broken\\n\"; }}\n\
         }} }}\n",
        root = dir.display(),
    )
}
