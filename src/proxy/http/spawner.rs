//! hyper's HTTP/2 starts tasks of its own; here they run on the worker that has the connection. Those of a client's
//! connection are its streams, and each can be ended alone.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::{Rc, Weak},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{
    sync::Notify,
    task::{AbortHandle, spawn_local},
    task_local,
    time::Instant,
};

/// Starts the tasks of a node's connection, and rings each time that one of them has moved.
#[derive(Clone, Debug)]
pub(super) struct Spawner(pub(super) Rc<Notify>);

impl<F: Future + 'static> Executor<F> for Spawner {
    fn execute(&self, task: F) {
        let moved = self.0.clone();
        spawn_local(async move {
            let mut task = pin!(task);
            poll_fn(|cx| {
                let polled = task.as_mut().poll(cx).map(drop);
                moved.notify_waiters();
                polled
            })
            .await;
        });
    }
}

task_local! {
    /// The stream that this task serves.
    static STREAM: Rc<Stream>;
}

/// One stream of a client's HTTP/2 connection.
#[derive(Debug, Default)]
pub(super) struct Stream {
    task: OnceCell<AbortHandle>,
    /// Since when the client has not taken the piece of its reply that is there.
    given: Cell<Option<Instant>>,
}

impl Stream {
    /// The one that is served just now; none over HTTP/1.1.
    pub(super) fn current() -> Option<Rc<Stream>> {
        STREAM.try_with(Rc::clone).ok()
    }

    /// hyper was given a piece, and asks for the next one when the client has taken it; or there is none yet.
    pub(super) fn gave(&self, is_piece: bool) {
        self.given.set(is_piece.then(Instant::now));
    }
}

/// Below this nobody looks for streams that have ended.
const SWEEP_MIN: usize = 64;

/// The streams of one connection, and what starts their tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Rc<Known>);

#[derive(Debug, Default)]
struct Known {
    streams: RefCell<Vec<Weak<Stream>>>,
    /// At this length those that have ended are taken out.
    sweep_at: Cell<usize>,
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        let stream = Rc::new(Stream::default());
        let mut streams = self.0.streams.borrow_mut();
        if streams.len() >= self.0.sweep_at.get() {
            streams.retain(|stream| stream.strong_count() > 0);
            self.0.sweep_at.set((2 * streams.len()).max(SWEEP_MIN));
        }
        streams.push(Rc::downgrade(&stream));
        let served = STREAM.scope(stream.clone(), async move {
            task.await;
        });
        // Nobody else sets it.
        let _ = stream.task.set(spawn_local(served).abort_handle());
    }
}

impl Streams {
    /// Resets those of which the client has taken nothing for `timeout`, though something is there. How many.
    pub(super) fn reset_stalled(&self, timeout: Duration) -> u64 {
        let mut reset = 0;
        for stream in self.0.streams.borrow().iter().filter_map(Weak::upgrade) {
            if stream.given.get().is_some_and(|since| since.elapsed() >= timeout)
                && let Some(task) = stream.task.get()
            {
                // With the task its stream is dropped, and the reply with the node's connection.
                task.abort();
                stream.gave(false);
                reset += 1;
            }
        }
        reset
    }
}
