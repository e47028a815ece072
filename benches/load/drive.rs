//! The loop of a load: one thread, one poll, all sessions; it decides what is sent when, and what
//! counts.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token, event::Event, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{
    Edge, Failure, Length, Pace, Plan, Report,
    session::{Buffers, Session},
    work::Random,
};

/// How long requests may wait without any reply.
const REPLY_MAX: Duration = Duration::from_secs(20);
/// The longest sleep of the loop: it looks at the clock at least so often.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// Longer latencies are kept as this.
const LATENCY_MAX_NS: u64 = 100_000_000_000;
/// Every run asks for the same keys in the same order.
const SEED: u64 = 1;
const ALARM: Token = Token(usize::MAX);

pub(super) struct Drive<'a> {
    plan: &'a Plan<'a>,
    poll: Poll,
    alarm: OwnedFd,
    sessions: Vec<Session>,
    buffers: Buffers,
    random: Random,
    begin: Instant,
    end: Option<Instant>,
    phase: Phase,
    /// Requests that were sent, and those of them that have their replies.
    sent: u64,
    tally: Tally,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    Over,
}

/// What is counted as replies come.
struct Tally {
    replies: u64,
    /// When the last one came.
    last: Instant,
    /// Replies before the first edge, and before the second.
    at_edges: [u64; 2],
    latency: Histogram<u64>,
}

impl<'a> Drive<'a> {
    /// Connects.
    pub(super) fn start(plan: &'a Plan<'a>) -> Result<Drive<'a>, Failure> {
        let poll = Poll::new()?;
        let mut sessions = Vec::with_capacity(plan.connections);
        for i in 0..plan.connections {
            let mut session = Session::connect(plan.address)?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut session.stream, Token(i), interest)?;
            sessions.push(session);
        }
        let alarm = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        poll.registry().register(&mut SourceFd(&alarm.as_raw_fd()), ALARM, Interest::READABLE)?;
        let start = Instant::now();
        let (begin, end) = match plan.length {
            Length::Time { warm_up, measured } => (start + warm_up, Some(start + warm_up + measured)),
            Length::Requests(_) => (start, None),
        };
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3)?;
        Ok(Drive {
            plan,
            poll,
            alarm,
            sessions,
            buffers: Buffers::new(),
            random: Random::new(SEED),
            begin,
            end,
            phase: Phase::WarmUp,
            sent: 0,
            tally: Tally { replies: 0, last: start, at_edges: [0; 2], latency },
        })
    }

    /// Runs to the end.
    pub(super) fn run(mut self, at_edge: &mut (dyn FnMut(Edge) + Send)) -> Result<Report, Failure> {
        let mut events = Events::with_capacity(1024);
        let mut start = Instant::now();
        let mut edges = [start; 2];
        loop {
            let now = Instant::now();
            if self.phase == Phase::WarmUp && now >= self.begin {
                (self.phase, edges[0], self.tally.at_edges[0]) = (Phase::Measured, now, self.tally.replies);
                at_edge(Edge::Begin);
                // What is done at an edge before the first request may take its time.
                if self.sent == 0 {
                    start = Instant::now();
                    self.tally.last = start;
                }
            }
            if self.phase == Phase::Measured && self.is_over(now) {
                (self.phase, edges[1], self.tally.at_edges[1]) = (Phase::Over, now, self.tally.replies);
                at_edge(Edge::End);
            }
            let in_flight = self.sent - self.tally.replies;
            if self.phase == Phase::Over && in_flight == 0 {
                break;
            }
            if in_flight > 0 && now > self.tally.last + REPLY_MAX {
                return Err(format!("{in_flight} requests wait and no reply came for {REPLY_MAX:?}").into());
            }
            self.send(start, now)?;
            match self.poll.poll(&mut events, Some(SLEEP_MAX)) {
                Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error.into()),
                _ => {}
            }
            for event in events.iter().filter(|event| event.token() != ALARM) {
                self.serve(event)?;
            }
        }
        Ok(Report {
            requests: self.tally.at_edges[1] - self.tally.at_edges[0],
            all_requests: self.tally.replies,
            elapsed: edges[1] - edges[0],
            latency: self.tally.latency,
        })
    }

    /// Whether nothing more is sent.
    fn is_over(&self, now: Instant) -> bool {
        match self.plan.length {
            Length::Time { .. } => self.end.is_some_and(|end| now >= end),
            Length::Requests(count) => self.tally.replies >= count,
        }
    }

    /// Sends what is due, and sets the alarm for what comes next.
    fn send(&mut self, start: Instant, now: Instant) -> Result<(), Failure> {
        match self.plan.pace {
            // Later batches follow on the replies to the first ones.
            Pace::Closed { .. } if self.sent == 0 => {
                (0..self.sessions.len()).try_for_each(|i| self.refill(i))
            }
            Pace::Closed { .. } => Ok(()),
            Pace::InTurn { in_flight } => {
                while self.may_send() && self.sent - self.tally.replies < in_flight {
                    self.send_next(now)?;
                }
                Ok(())
            }
            Pace::Open { per_second } => {
                let due = |number: u64| start + Duration::from_secs_f64(number as f64 / per_second);
                while self.may_send() && due(self.sent) <= now {
                    self.send_next(due(self.sent))?;
                }
                self.set_alarm(due(self.sent))
            }
        }
    }

    /// Sends the next request on the connection whose turn it is.
    fn send_next(&mut self, due: Instant) -> Result<(), Failure> {
        let session = (self.sent % self.sessions.len() as u64) as usize;
        self.push(session, due);
        self.sessions[session].flush()
    }

    /// Whether the run has more requests to send.
    fn may_send(&self) -> bool {
        let all_are_sent = matches!(self.plan.length, Length::Requests(count) if self.sent >= count);
        self.phase != Phase::Over && !all_are_sent
    }

    fn push(&mut self, session: usize, due: Instant) {
        let request = self.plan.work.draw(self.sent, &mut self.random);
        self.sessions[session].push(self.plan.work, request, due);
        self.sent += 1;
    }

    /// In a closed loop: the next batch of a session that has all its replies.
    fn refill(&mut self, session: usize) -> Result<(), Failure> {
        let Pace::Closed { depth } = self.plan.pace else { return Ok(()) };
        if self.sessions[session].in_flight() > 0 {
            return Ok(());
        }
        let now = Instant::now();
        for _ in 0..depth {
            if self.may_send() {
                self.push(session, now);
            }
        }
        self.sessions[session].flush()
    }

    fn set_alarm(&self, at: Instant) -> Result<(), Failure> {
        // Zero would switch it off.
        let left = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let spec = Itimerspec { it_interval: zero, it_value: value };
        timerfd_settime(&self.alarm, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }

    /// Reads what a session has, and lets it go on.
    fn serve(&mut self, event: &Event) -> Result<(), Failure> {
        let Token(i) = event.token();
        if event.is_writable() {
            self.sessions[i].flush()?;
        }
        if !event.is_readable() {
            return Ok(());
        }
        let (begin, end, phase, is_open) =
            (self.begin, self.end, self.phase, matches!(self.plan.pace, Pace::Open { .. }));
        let tally = &mut self.tally;
        let mut done = |due: Instant, now: Instant| {
            tally.replies += 1;
            tally.last = now;
            let counts = match is_open {
                true => due >= begin && end.is_none_or(|end| due < end),
                false => phase == Phase::Measured,
            };
            if counts {
                let took = now.saturating_duration_since(due).as_nanos() as u64;
                tally.latency.saturating_record(took.max(1));
            }
        };
        while self.sessions[i].read(self.plan.work, &mut self.buffers, &mut done)? {}
        self.refill(i)
    }
}
