//! Appends on their way to the commit log's writer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::record::Operation;
use crate::log::{AppendError, Head};

/// One append, purge or delete: all of it happens, or nothing.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) operations: Vec<Operation>,
    /// What each operation makes of its group's head; the writer fills it in.
    pub(crate) heads: Vec<Option<Head>>,
    /// The operations' bytes.
    pub(crate) payload: Vec<u8>,
    /// Answers with the number of messages or groups removed; 0 for an append.
    pub(crate) reply: oneshot::Sender<Result<u64, AppendError>>,
    pub(crate) begun: Instant,
    /// A place in the queue.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
}

impl Request {
    /// Whether it adds messages (a purge or a delete frees space, and is let through when space is short).
    pub(crate) fn appends(&self) -> bool {
        self.operations.iter().any(|operation| matches!(operation, Operation::Append { .. }))
    }
}

#[derive(Debug, Default)]
struct State {
    requests: VecDeque<Request>,
    closed: bool,
    /// Whether the writer sleeps: only then is there somebody to wake, and waking is a system call.
    waiting: bool,
}

/// What the writer gets.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Requests that waited; at least one.
    Requests(Vec<Request>),
    /// None came in the time given.
    Nothing,
    /// None will come any more.
    Closed,
}

/// The queue. Its bound is the semaphore whose permits the requests carry.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    filled: Condvar,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request; gives it back if the queue is closed.
    pub(crate) fn push(&self, request: Request) -> Result<(), Request> {
        let mut state = self.state();
        if state.closed {
            return Err(request);
        }
        state.requests.push_back(request);
        // Whoever finds the writer asleep wakes it, and those after it need not.
        let asleep = std::mem::take(&mut state.waiting);
        drop(state);
        if asleep {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Takes what waits, up to `bytes` (but at least one request); waits for the first, for at most `patience`.
    pub(crate) fn take(&self, bytes: usize, patience: Option<Duration>) -> Taken {
        let begun = Instant::now();
        let mut state = self.state();
        while state.requests.is_empty() {
            if state.closed {
                return Taken::Closed;
            }
            state.waiting = true;
            state = match patience {
                None => self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let left = patience.saturating_sub(begun.elapsed());
                    if left.is_zero() {
                        return Taken::Nothing;
                    }
                    self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.waiting = false;
        let mut taken = 0;
        let count = state.requests.iter().position(|request| {
            let full = taken > 0 && taken + request.payload.len() > bytes;
            taken += request.payload.len();
            full
        });
        let count = count.unwrap_or(state.requests.len());
        Taken::Requests(state.requests.drain(..count).collect())
    }

    /// Takes no more requests, and refuses those that wait: nobody may come for them any more.
    pub(crate) fn abort(&self, reason: &str) {
        let waiting = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.requests)
        };
        self.filled.notify_all();
        for request in waiting {
            // Whoever asked may have gone.
            drop(request.reply.send(Err(AppendError::Unavailable { reason: reason.to_owned() })));
        }
    }

    /// Takes no more requests; what waits is still handed out.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn request() -> (Request, oneshot::Receiver<Result<u64, AppendError>>) {
        let (reply, answer) = oneshot::channel();
        let (operations, heads, payload) = (Vec::new(), Vec::new(), Vec::new());
        (Request { operations, heads, payload, reply, begun: Instant::now(), permit: None }, answer)
    }

    #[test]
    fn nobody_waits_in_a_queue_for_which_nobody_comes() {
        let queue = Queue::default();
        let (waiting, answer) = request();
        queue.push(waiting).expect("the queue is open");
        queue.abort("the log is closed");
        let answer = answer.blocking_recv().expect("it is answered");
        assert_eq!(answer, Err(AppendError::Unavailable { reason: "the log is closed".to_owned() }));
        assert!(queue.push(request().0).is_err());
        assert!(matches!(queue.take(1, None), Taken::Closed));
    }

    /// Only a push that finds the writer asleep wakes it: one that is not woken would leave its posters waiting for good.
    #[test]
    fn every_request_is_taken_however_pushes_and_sleep_fall_together() {
        let queue = Arc::new(Queue::default());
        let pushers: Vec<_> = (0..4)
            .map(|_| {
                let queue = Arc::clone(&queue);
                thread::spawn(move || {
                    for _ in 0..2_000 {
                        let (request, answer) = request();
                        queue.push(request).expect("the queue is open");
                        assert_eq!(answer.blocking_recv().expect("it is answered").expect("it is taken"), 1);
                    }
                })
            })
            .collect();
        let mut answered = 0;
        while answered < 4 * 2_000 {
            match queue.take(usize::MAX, Some(Duration::from_secs(20))) {
                Taken::Requests(requests) => {
                    answered += requests.len();
                    requests.into_iter().for_each(|request| drop(request.reply.send(Ok(1))));
                }
                other => panic!("{answered} requests were taken, then {other:?}"),
            }
        }
        pushers.into_iter().for_each(|pusher| pusher.join().expect("it ends"));
    }
}
