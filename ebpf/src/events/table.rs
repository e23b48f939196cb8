//! The table of containers, in memory that the programs share (`ebpf/progs/src/events/containers.rs`).
//!
//! A place is taken here, by one process: first the counts are written, then the id by which the programs find them. They take the id
//! away when the cgroup goes; then the place is free.

use std::io;
use std::ops::{Deref, Range};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use skiff_ebpf_abi::events::{ALL_ROWS, Counts, MOVED, REACH, ROW, row_of};

const PLACES: usize = (ALL_ROWS * ROW) as usize;

#[derive(Debug)]
pub(super) struct Table<W> {
    /// Ids, row after row, and then the numbers.
    keys: W,
    counts: W,
    /// Held by whoever looks for a free place.
    entering: Mutex<()>,
}

impl<W: Deref<Target = [AtomicU64]>> Table<W> {
    /// `None` if the memory has another layout.
    pub(super) fn new(keys: W, counts: W) -> Option<Self> {
        let is_own = keys.len() == PLACES + ROW as usize && counts.len() == PLACES * Counts::WORDS;
        is_own.then(|| Self { keys, counts, entering: Mutex::new(()) })
    }

    /// Has the cgroup `id` counted, from `counts` on.
    ///
    /// Errors: `EEXIST` if it is, `ENOSPC` if there is no room where it may stand.
    pub(super) fn enter(&self, id: u64, counts: &Counts) -> io::Result<()> {
        let _entering = self.entering.lock().unwrap_or_else(PoisonError::into_inner);
        if self.find(id).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let free = |place: &usize| self.keys[*place].load(Ordering::Acquire) == 0;
        let place = reach(id).find(free).ok_or(io::ErrorKind::StorageFull)?;
        for (to, word) in self.counts[words(place)].iter().zip(counts.words()) {
            to.store(word, Ordering::Relaxed);
        }
        if is_moved(id, place) {
            self.moved().fetch_add(1, Ordering::SeqCst);
        }
        self.keys[place].store(id, Ordering::SeqCst);
        Ok(())
    }

    /// What is counted of the cgroup `id`; `None` if it is not.
    pub(super) fn counts(&self, id: u64) -> Option<Counts> {
        let place = self.find(id)?;
        let mut read = [0; Counts::WORDS];
        for (to, word) in read.iter_mut().zip(&self.counts[words(place)]) {
            *to = word.load(Ordering::Acquire);
        }
        // Else the place was given away meanwhile.
        (self.keys[place].load(Ordering::Acquire) == id).then(|| Counts::of_words(read))
    }

    /// Has the cgroup `id` counted no more.
    pub(super) fn remove(&self, id: u64) {
        let Some(place) = self.find(id) else { return };
        let removed = self.keys[place].compare_exchange(id, 0, Ordering::SeqCst, Ordering::Relaxed);
        if removed.is_ok() && is_moved(id, place) {
            self.moved().fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn find(&self, id: u64) -> Option<usize> {
        reach(id).find(|place| self.keys[*place].load(Ordering::Acquire) == id)
    }

    /// How many are not in their own row.
    fn moved(&self) -> &AtomicU64 {
        &self.keys[PLACES + MOVED as usize]
    }
}

/// The places where the cgroup `id` may stand.
fn reach(id: u64) -> Range<usize> {
    let first = (row_of(id) * ROW) as usize;
    first..first + (REACH * ROW) as usize
}

/// Whether that is not in the row that the cgroup chose.
fn is_moved(id: u64, place: usize) -> bool {
    place - reach(id).start >= ROW as usize
}

fn words(place: usize) -> Range<usize> {
    place * Counts::WORDS..(place + 1) * Counts::WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<Vec<AtomicU64>> {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Table::new(zeros(PLACES + ROW as usize), zeros(PLACES * Counts::WORDS)).expect("its layout")
    }

    /// Cgroups that choose one row, the last.
    fn together() -> impl Iterator<Item = u64> {
        (1..).filter(|id| row_of(*id) == row_of(u64::MAX >> 1))
    }

    #[test]
    fn a_cgroup_is_counted_until_it_is_removed() {
        let table = table();
        let counts = Counts { execs: 3, reader: 9, ..Counts::default() };
        table.enter(7, &counts).expect("room");
        assert_eq!((table.counts(7), table.counts(8)), (Some(counts), None));
        assert_eq!(table.enter(7, &counts).map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
        table.remove(7);
        table.remove(7);
        assert_eq!(table.counts(7), None);
        table.enter(7, &Counts::default()).expect("room");
        assert_eq!(table.counts(7), Some(Counts::default()), "nothing is left of whoever was there");
    }

    #[test]
    fn a_full_row_has_others_move_on_and_those_that_did_are_counted() {
        let table = table();
        let most = (REACH * ROW) as usize;
        let ids: Vec<u64> = together().take(most + 1).collect();
        for (nth, id) in (0..).zip(&ids[..most]) {
            table.enter(*id, &Counts { execs: nth, ..Counts::default() }).expect("room");
            assert_eq!(table.moved().load(Ordering::Relaxed), (nth + 1).saturating_sub(u64::from(ROW)));
        }
        let refused = table.enter(ids[most], &Counts::default()).map_err(|error| error.kind());
        assert_eq!((refused, table.counts(ids[most])), (Err(io::ErrorKind::StorageFull), None));
        for (nth, id) in (0..).zip(&ids[..most]) {
            assert_eq!(table.counts(*id).map(|counts| counts.execs), Some(nth));
        }
        ids.iter().for_each(|id| table.remove(*id));
        assert_eq!(table.moved().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn there_is_room_for_all_containers_that_are_promised() {
        for stride in [1, 7, 31, 64] {
            let table = table();
            let ids = (0..u64::from(skiff_ebpf_abi::events::CONTAINERS)).map(|nth| 1_000 + nth * stride);
            ids.for_each(|id| table.enter(id, &Counts::default()).expect("room"));
        }
    }
}
