//! Tasks without which a process serves on and does harm: a worker whose connections nobody polls, nodes that
//! nobody watches. A panic in one of them is a bug, and it ends the process, so that whoever looks after it
//! starts a new one. A session's panic ends that session.

use std::{
    future::{Future, poll_fn},
    io::Write,
    mem::forget,
    pin::pin,
};

/// Dropped by a panic only.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        // The log may be what panicked, and nobody may be there to hear it.
        let _ = writeln!(
            std::io::stderr(),
            "ringway: a task that it can't do without ended in a panic, which is a bug: the process ends"
        );
        std::process::abort();
    }
}

/// The task; a panic while it is polled ends the process.
pub async fn essential<T>(task: impl Future<Output = T>) -> T {
    let mut task = pin!(task);
    poll_fn(|cx| {
        let fatal = Fatal;
        let polled = task.as_mut().poll(cx);
        forget(fatal);
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::Command};

    use super::*;

    /// The process ends with a panic of such a task, and says so; what is dropped while something else panics
    /// is no such thing.
    #[test]
    fn a_panic_is_the_end() {
        const NAME: &str = "proxy::essential::tests::a_panic_is_the_end";
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        match std::env::var("RINGWAY_TEST_PANICS").as_deref() {
            Ok("inside") => {
                runtime().block_on(async {
                    let _ = tokio::spawn(essential(async { panic!("a bug") })).await;
                });
            }
            Ok(_) => {
                let runtime = runtime();
                runtime.spawn(essential(std::future::pending::<()>()));
                runtime.block_on(tokio::task::yield_now());
                panic!("beside it");
            }
            Err(_) => {
                for (what, is_fatal) in [("inside", true), ("beside", false)] {
                    let this = std::env::current_exe().expect("it has a path");
                    let mut command = Command::new(this);
                    command.args(["--exact", NAME, "--nocapture"]).env("RINGWAY_TEST_PANICS", what);
                    let ended = command.output().expect("it runs");
                    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
                    assert_eq!(ended.status.signal().is_some(), is_fatal, "{what}: {said}");
                    assert_eq!(said.contains("can't do without"), is_fatal, "{what}: {said}");
                }
            }
        }
    }
}
