//! What waits to be written to one socket: shared lines, which are only referred to, and lines of its own.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use serde::Serialize;
use tertulia_protocol::codec::encode;

use super::marks::Marks;
use crate::shard::ConnectionId;
use crate::telemetry::trace::FanOut;
use crate::tls::Stream;

/// Shared lines shorter than this are copied if they are not alone: that costs less than one more piece in the system call.
const COPY_BELOW: usize = 1024;
/// Pieces in one system call.
const PIECES: usize = 32;

/// An empty one owns no memory, and nor does one that holds nothing but the shared lines of one delivery.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    /// Comes before all pieces.
    first: Bytes,
    pieces: VecDeque<Bytes>,
    /// Comes after all pieces.
    tail: Vec<u8>,
    bytes: usize,
    /// `None` unless something that waits is traced.
    marks: Option<Box<Marks>>,
}

impl Outbound {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends a line of this connection's own.
    pub(super) fn push(&mut self, frame: &impl Serialize) {
        self.write_with(|out| encode(frame, out));
    }

    /// Appends what `write` appends.
    pub(super) fn write_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.own_first();
        let before = self.tail.len();
        write(&mut self.tail);
        self.bytes += self.tail.len() - before;
    }

    /// Appends lines that other connections get too.
    pub(super) fn share(&mut self, lines: &Bytes) {
        let alone = self.is_empty();
        self.bytes += lines.len();
        if alone {
            self.first = lines.clone();
        } else if lines.len() < COPY_BELOW {
            self.own_first();
            self.tail.extend_from_slice(lines);
        } else {
            self.seal();
            self.pieces.push_back(lines.clone());
        }
    }

    /// Something is to follow right on the shared lines that come first: if they are short, one piece will do for both.
    fn own_first(&mut self) {
        let follows = self.pieces.is_empty() && self.tail.is_empty();
        if follows && (1..COPY_BELOW).contains(&self.first.len()) {
            self.tail.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
    }

    /// What was appended last ends a traced delivery.
    pub(super) fn mark(&mut self, connection: ConnectionId, trace: Arc<FanOut>) {
        self.marks.get_or_insert_default().add(self.bytes, connection, trace);
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(Bytes::from(std::mem::take(&mut self.tail)));
        }
    }

    /// Writes as much as the socket takes at once. Answers how much that was; if it takes nothing, the task is woken when it does.
    ///
    /// # Errors
    /// As the socket's.
    pub(super) fn poll_write_to(&mut self, socket: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let written = if self.first.len() == self.bytes {
            ready!(socket.poll_send(cx, &self.first))?
        } else if self.tail.len() == self.bytes {
            ready!(socket.poll_send(cx, &self.tail))?
        } else {
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            let pieces = self.pieces.iter().map(|piece| &piece[..]);
            let all = [&self.first[..]].into_iter().chain(pieces).chain([&self.tail[..]]);
            for (slice, bytes) in slices.iter_mut().zip(all.filter(|bytes| !bytes.is_empty())) {
                *slice = IoSlice::new(bytes);
                count += 1;
            }
            ready!(socket.poll_send_vectored(cx, &slices[..count]))?
        };
        if written == 0 && self.bytes > 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        if let Some(marks) = &mut self.marks
            && !marks.advance(written)
        {
            self.marks = None;
        }
        let taken = written.min(self.first.len());
        if taken == self.first.len() {
            self.first = Bytes::new();
        } else {
            self.first.advance(taken);
        }
        written -= taken;
        while written > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                if written == self.tail.len() {
                    self.tail.clear();
                } else {
                    // The socket is full: what is left becomes a piece, which need not be moved again.
                    let mut rest = Bytes::from(std::mem::take(&mut self.tail));
                    rest.advance(written);
                    self.pieces.push_back(rest);
                }
                return;
            };
            let taken = written.min(piece.len());
            piece.advance(taken);
            written -= taken;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// Takes all that waits, as a socket that has room for it would.
    #[cfg(test)]
    pub(super) fn take_all(&mut self) -> Vec<u8> {
        let Self { first, pieces, tail, .. } = std::mem::take(self);
        first.into_iter().chain(pieces.into_iter().flatten()).chain(tail).collect()
    }

    /// Gives memory back if nothing waits.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() && (self.pieces.capacity() > 0 || self.tail.capacity() > 0) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rest(out: &Outbound) -> Vec<u8> {
        let (first, pieces, tail) = (out.first.clone(), out.pieces.clone(), out.tail.clone());
        first.into_iter().chain(pieces.into_iter().flatten()).chain(tail).collect()
    }

    /// What is done with it, in any order.
    #[derive(Debug, Clone)]
    enum Step {
        Share(usize),
        Own(usize),
        /// The socket takes so many bytes.
        Advance(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0usize..3000).prop_map(Step::Share),
            1 => (0usize..3000).prop_map(Step::Own),
            2 => (1usize..5000).prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(steps in proptest::collection::vec(step(), 0..60)) {
            let mut out = Outbound::default();
            let (mut expected, mut taken) = (Vec::new(), 0);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Share(length) => {
                        let bytes = vec![number as u8; length];
                        expected.extend_from_slice(&bytes);
                        out.share(&Bytes::from(bytes));
                    }
                    Step::Own(length) => {
                        let bytes = vec![number as u8; length];
                        expected.extend_from_slice(&bytes);
                        out.write_with(|tail| tail.extend_from_slice(&bytes));
                    }
                    Step::Advance(most) => {
                        let count = most.min(out.len());
                        out.advance(count);
                        taken += count;
                    }
                }
                prop_assert_eq!(&rest(&out)[..], &expected[taken..]);
                prop_assert_eq!(out.len(), expected.len() - taken);
            }
        }
    }
}
