//! hyper's HTTP/2 starts tasks of its own; here they run on the worker that has the connection. Those of a
//! client's connection are its streams, and each can be ended alone.

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{
    sync::Notify,
    task::{AbortHandle, spawn_local},
    task_local,
    time::Instant,
};

use super::wire::Activity;

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

/// The most that a piece of a reply has over HTTP/2: a frame.
pub(super) const PIECE_MAX: usize = 16 * 1024;
/// A stream waits for its turn on a slow connection for so many times as long as on one that stands still.
const TURN_MAX: u32 = 10;

/// One stream of a client's HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Stream {
    task: OnceCell<AbortHandle>,
    activity: Arc<Activity>,
    /// The piece of its reply that the client has not taken.
    given: Cell<Option<Given>>,
}

/// Since when a piece is there, and what the connection had written by then.
#[derive(Clone, Copy, Debug)]
struct Given {
    since: Instant,
    written: u64,
}

impl Given {
    /// Whether the client takes nothing of it, rather than that it waits for its turn: that comes when the
    /// connection has taken as much as all its streams wait for, twice, and it must move for that.
    fn is_stalled(self, now: Instant, written: u64, owed: u64, timeout: Duration) -> bool {
        let waited = now.saturating_duration_since(self.since);
        let moved = written.wrapping_sub(self.written);
        let pace = waited.as_secs_f64() / timeout.as_secs_f64() * PIECE_MAX as f64;
        waited >= timeout && ((moved as f64) < pace || moved >= 2 * owed || waited >= TURN_MAX * timeout)
    }
}

impl Stream {
    /// The one that is served just now; none over HTTP/1.1.
    pub(super) fn current() -> Option<Rc<Stream>> {
        STREAM.try_with(Rc::clone).ok()
    }

    /// hyper was given a piece, and asks for the next one when the client has taken it; or there is none yet.
    pub(super) fn gave(&self, is_piece: bool) {
        let given = || Given { since: Instant::now(), written: self.activity.written() };
        self.given.set(is_piece.then(given));
    }
}

/// Below this nobody looks for streams that have ended.
const SWEEP_MIN: usize = 64;

/// The streams of one connection, and what starts their tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Streams(Rc<Known>);

#[derive(Debug, Default)]
struct Known {
    activity: Arc<Activity>,
    streams: RefCell<Vec<Weak<Stream>>>,
    /// At this length those that have ended are taken out.
    sweep_at: Cell<usize>,
}

impl<F: Future + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        let activity = self.0.activity.clone();
        let stream = Rc::new(Stream { task: OnceCell::new(), activity, given: Cell::new(None) });
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
    /// Those of a connection that moves like this.
    pub(super) fn of(activity: &Arc<Activity>) -> Streams {
        Streams(Rc::new(Known { activity: activity.clone(), ..Known::default() }))
    }

    /// Resets those of which the client has taken nothing for `timeout`, though something is there, unless
    /// they wait for their turn. How many.
    pub(super) fn reset_stalled(&self, timeout: Duration) -> u64 {
        let (now, written) = (Instant::now(), self.0.activity.written());
        let given = |stream: Rc<Stream>| stream.given.get().map(|given| (stream, given));
        let waiting: Vec<_> =
            self.0.streams.borrow().iter().filter_map(Weak::upgrade).filter_map(given).collect();
        let owed = (waiting.len() * PIECE_MAX) as u64;
        let mut reset = 0;
        for (stream, given) in waiting {
            if given.is_stalled(now, written, owed, timeout)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A piece that is not taken for long is stalled when nothing moves, or others got what they waited for;
    /// and not when the connection is slow and gives each its turn, within reason.
    #[test]
    fn who_waits_for_its_turn_is_not_stalled() {
        let (since, timeout) = (Instant::now(), Duration::from_secs(60));
        let given = Given { since, written: 1000 };
        let piece = PIECE_MAX as u64;
        for (waited, moved, owed, is_stalled) in [
            (59, 0, piece, false),
            (60, 0, piece, true),
            (60, 20 * 17, piece, true),
            (60, 2 * piece, piece, true),
            (60, 2 * piece, 100 * piece, false),
            (119, 2 * piece, 100 * piece, false),
            (121, 2 * piece, 100 * piece, true),
            (60, 200 * piece, 100 * piece, true),
            (599, 150 * piece, 100 * piece, false),
            (600, 150 * piece, 100 * piece, true),
        ] {
            let now = since + Duration::from_secs(waited);
            let found = given.is_stalled(now, 1000 + moved, owed, timeout);
            assert_eq!(found, is_stalled, "{waited} s, {moved} of {owed}");
        }
    }
}
