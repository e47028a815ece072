//! A thread with a runtime of its own.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{Builder, Handle, LocalOptions},
    sync::{mpsc, oneshot},
};

use super::AppError;
use crate::proxy::{self, Memory, Order};

/// The thread.
pub(super) struct Thread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    ended: std_mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    /// A thread for tasks that are spawned on it.
    pub(super) fn start(name: &str) -> Result<Thread, AppError> {
        let failed = |error| AppError::Thread { what: name.to_owned(), error };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = std_mpsc::channel();
        let run = move || {
            // A dropped sender means the same.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(SHUTDOWN);
            // Nobody may be waiting.
            let _ = end.send(());
        };
        let thread =
            std::thread::Builder::new().name(format!("ringway-{name}")).spawn(run).map_err(failed)?;
        Ok(Thread { handle, stop: Some(stop), ended, thread: Some(thread) })
    }

    /// A data worker; when it is busy it coalesces.
    pub(super) fn worker(
        index: usize,
        memory: Arc<Memory>,
        coalesces: bool,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Result<Thread, AppError> {
        let what = format!("worker-{index}");
        let failed = |error| AppError::Thread { what: what.clone(), error };
        let (started, handle) = std_mpsc::channel();
        let (end, ended) = std_mpsc::channel();
        let run = move || {
            // The runtime can't leave the thread that makes it.
            let mut builder = Builder::new_current_thread();
            builder.enable_all().on_thread_unpark(proxy::woke);
            if coalesces {
                builder.on_thread_park(proxy::before_wait());
            }
            match builder.build_local(LocalOptions::default()) {
                Err(error) => drop(started.send(Err(error))),
                Ok(runtime) => {
                    drop(started.send(Ok(runtime.handle().clone())));
                    runtime.block_on(proxy::essential(proxy::run(index, memory, orders)));
                    // Nobody may be waiting.
                    let _ = end.send(());
                }
            }
        };
        let thread =
            std::thread::Builder::new().name(format!("ringway-{what}")).spawn(run).map_err(failed)?;
        let handle = handle.recv().map_err(std::io::Error::other).and_then(|r| r).map_err(failed)?;
        Ok(Thread { handle, stop: None, ended, thread: Some(thread) })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Spawns what the process can't do without.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(proxy::essential(task));
    }

    /// Waits for the thread to end by itself; false when it did not in time, or before that is not waited for
    /// any more.
    pub(super) fn join_until(mut self, deadline: Instant, is_urged: &AtomicBool) -> bool {
        let in_time = loop {
            let left = deadline.saturating_duration_since(Instant::now()).min(URGE_LOOK);
            match self.ended.recv_timeout(left) {
                Ok(()) | Err(std_mpsc::RecvTimeoutError::Disconnected) => break true,
                Err(_) if left.is_zero() || is_urged.load(Relaxed) => break false,
                Err(_) => {}
            }
        };
        if in_time && let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
        in_time
    }

    /// Ends its tasks.
    pub(super) fn stop(mut self) {
        drop(self.stop.take());
        // A thread that hangs is left behind: the process ends anyway.
        let _ = self.ended.recv_timeout(2 * SHUTDOWN);
    }
}

/// How often somebody who waits for a thread looks whether he still may.
const URGE_LOOK: Duration = Duration::from_millis(20);
/// How long blocking work may go on after a runtime was told to stop.
const SHUTDOWN: Duration = Duration::from_millis(200);
