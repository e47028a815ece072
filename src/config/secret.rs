//! PASSWORDS. They come from a file or from the environment, never from the configuration itself,
//! and never get into a message.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use super::section::Section;
use crate::topology::{NodeAuth, Secret};

/// Longer than any password; a file above it is some other file.
const BYTES_MAX: u64 = 4096;

/// What a configuration may look at beside its own text.
pub(super) struct Surroundings<'a> {
    /// Relative paths start here: the directory of the configuration.
    pub(super) directory: PathBuf,
    /// The environment.
    pub(super) variable: &'a dyn Fn(&str) -> Option<OsString>,
}

/// `auth`: credentials towards nodes.
pub(super) fn node_auth(mut section: Section<'_>, around: &Surroundings<'_>) -> Option<NodeAuth> {
    let user = section.take("user").and_then(|f| {
        let user = |t: &str| if t.is_empty() { Err("is empty".to_owned()) } else { Ok(t.to_owned()) };
        f.parse(user)
    });
    password(section, around).map(|password| NodeAuth { user, password })
}

/// `client_auth`: what clients must give.
pub(super) fn client_auth(section: Section<'_>, around: &Surroundings<'_>) -> Option<Secret> {
    password(section, around)
}

/// The password of a section with `password_file` or `password_env`, one of them.
fn password(mut section: Section<'_>, around: &Surroundings<'_>) -> Option<Secret> {
    let inline = section.take("password");
    let (file, variable) = (section.take("password_file"), section.take("password_env"));
    let secret = match (inline, file, variable) {
        (Some(inline), ..) => {
            inline.error("a password does not belong in this file; name a password_file or a password_env");
            None
        }
        (_, Some(file), Some(_)) => {
            file.error("stands beside password_env; keep one of the two");
            None
        }
        (_, Some(file), None) => file.parse(|path| from_file(&around.directory.join(path))),
        (_, None, Some(variable)) => variable.parse(|name| from_variable(name, around)),
        (_, None, None) => {
            section.report().error(section.place(), "names no password; write password_file or password_env");
            None
        }
    };
    section.finish();
    secret
}

fn from_variable(name: &str, around: &Surroundings<'_>) -> Result<Secret, String> {
    let value = (around.variable)(name).ok_or_else(|| format!("the variable `{name}` is not set"))?;
    secret(value.into_vec()).ok_or_else(|| format!("the variable `{name}` is empty"))
}

/// Only a regular file is opened: a pipe would hold up a reload for ever.
fn from_file(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let unreadable = |e: std::io::Error| format!("cannot read `{shown}`: {}", reason(&e));
    let kind = fs::metadata(path).map_err(unreadable)?;
    if !kind.is_file() {
        return Err(format!("`{shown}` is {}", if kind.is_dir() { "a directory" } else { "not a file" }));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(BYTES_MAX + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("`{shown}` is longer than {BYTES_MAX} bytes, so it is no password"));
    }
    for end in [b'\n', b'\r'] {
        if bytes.last() == Some(&end) {
            bytes.pop();
        }
    }
    secret(bytes).ok_or_else(|| format!("`{shown}` is empty"))
}

fn secret(bytes: Vec<u8>) -> Option<Secret> {
    (!bytes.is_empty()).then(|| Secret(bytes.into()))
}

/// Why a file cannot be read, in the words of this room.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{finding::Report, tree};

    fn read(text: &str, directory: &Path) -> Result<Option<NodeAuth>, String> {
        let report = Report::new("f");
        let node = tree::parse(text, &report).expect("is YAML");
        let section = Section::root(&node, &report).expect("is a map");
        let variable = |name: &str| match name {
            "SET" => Some(OsString::from("from-env")),
            "EMPTY" => Some(OsString::new()),
            _ => None,
        };
        let around = Surroundings { directory: directory.to_owned(), variable: &variable };
        let auth = node_auth(section, &around);
        report.finish().map_err(|e| e.to_string())?;
        Ok(auth)
    }

    /// A password comes from a file beside the configuration, without its last line end, or from
    /// the environment; it is not printed.
    #[test]
    fn sources() {
        let dir = tempfile::tempdir().expect("a directory");
        for (content, want) in [("pw\n", "pw"), ("pw\r\n", "pw"), ("p w\n\n", "p w\n"), ("pw", "pw")] {
            fs::write(dir.path().join("secret"), content).expect("writable");
            let auth = read("{user: app, password_file: secret}", dir.path()).expect("fine").expect("there");
            assert_eq!(&*auth.password.0, want.as_bytes());
            assert_eq!(auth.user.as_deref(), Some("app"));
            assert!(!format!("{auth:?}").contains(want));
        }
        let auth = read("password_env: SET", dir.path()).expect("fine").expect("there");
        assert_eq!((&*auth.password.0, auth.user), (&b"from-env"[..], None));
    }

    /// Missing, empty, overlong, not a file, both, none, or written in the open: each is refused,
    /// and no message repeats what may be a password.
    #[test]
    fn refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("empty"), "\n").expect("writable");
        fs::write(dir.path().join("big"), vec![b'x'; 5000]).expect("writable");
        for (text, want) in [
            ("password_file: nowhere", "password_file: cannot read `"),
            ("password_file: nowhere", "there is no such file"),
            ("password_file: .", "is a directory"),
            ("password_file: /dev/zero", "is not a file"),
            ("password_file: empty", "is empty"),
            ("password_file: big", "is longer than 4096 bytes"),
            ("password_env: UNSET", "the variable `UNSET` is not set"),
            ("password_env: EMPTY", "the variable `EMPTY` is empty"),
            ("{password_env: SET, password_file: empty}", "keep one of the two"),
            ("user: app", "names no password"),
            ("password: hunter2", "does not belong in this file"),
            ("pasword_env: SET", "did you mean `password_env`?"),
        ] {
            let error = read(text, dir.path()).expect_err(text);
            assert!(error.contains(want), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
