//! hyper's HTTP/2 starts tasks of its own; here they run on the worker that has the connection.

use std::future::Future;

use hyper::rt::Executor;
use tokio::task::spawn_local;

/// Starts tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spawner;

impl<F: Future + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        spawn_local(async move {
            task.await;
        });
    }
}
