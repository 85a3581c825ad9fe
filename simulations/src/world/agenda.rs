//! What will happen, in the order of time and, at one instant, in the order in which it was put down.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A heap of small keys; what they stand for lies still beside it.
#[derive(Debug)]
pub(super) struct Agenda<T> {
    /// Time, sequence number, place.
    heap: BinaryHeap<Reverse<(u64, u64, u32)>>,
    places: Vec<Option<T>>,
    free: Vec<u32>,
    number: u64,
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), places: Vec::new(), free: Vec::new(), number: 0 }
    }
}

impl<T> Agenda<T> {
    /// Puts something down for a time.
    pub(super) fn push(&mut self, at: u64, what: T) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            u32::try_from(self.places.len() - 1).expect("less than four thousand million things under way")
        });
        self.places[place as usize] = Some(what);
        self.number += 1;
        self.heap.push(Reverse((at, self.number, place)));
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    /// The next thing and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        self.places[place as usize].take().map(|what| (at, what))
    }
}
