//! An allocator for programs that live briefly.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is handed out before the C library is asked: more than a launch needs, of which only what is used takes memory.
const ROOM: usize = 512 << 10;

/// Hands out one piece after the other and takes back only the last, which is most of them; what is in between stays until the
/// program ends. Beyond its [room](ROOM) it is the C library's allocator.
///
/// Without a lock, so a child that shares the memory and is killed in the midst leaves nothing behind that others wait for.
#[derive(Debug)]
pub struct Arena {
    room: UnsafeCell<Room>,
    /// What of the room has been handed out, in bytes.
    used: AtomicUsize,
}

/// How every piece is aligned, also what asks for less: `Vec<u8>`s are used as room for the kernel's structures, such as control messages, by
/// those who rely on it that malloc(3) aligns.
const LEAST: usize = align_of::<usize>();

#[repr(C, align(4096))]
#[derive(Debug)]
struct Room([u8; ROOM]);

// SAFETY: the room is only touched by whom a piece of it belongs to, and pieces are given away by atomic operations.
unsafe impl Sync for Arena {}

impl Arena {
    /// With all of its room to be handed out.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "for a static alone")]
    pub const fn new() -> Self {
        Self { room: UnsafeCell::new(Room([0; ROOM])), used: AtomicUsize::new(0) }
    }

    const fn start(&self) -> *mut u8 {
        self.room.get().cast()
    }

    /// Where in the room a piece begins, if it is one of the room's.
    fn offset(&self, piece: *mut u8) -> Option<usize> {
        let offset = piece.addr().wrapping_sub(self.start().addr());
        (offset < ROOM).then_some(offset)
    }

    /// Moves the end of the last piece from `from` to `to`, if nobody has taken one since.
    fn moves_end(&self, from: usize, to: usize) -> bool {
        to <= ROOM && self.used.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

// SAFETY: a piece lies within the room, is aligned as asked for, and belongs to one alone until it is given back.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut used = self.used.load(Ordering::Acquire);
        loop {
            let begin = used.next_multiple_of(layout.align().max(LEAST));
            let end = begin.saturating_add(layout.size());
            if end > ROOM || layout.align() > align_of::<Room>() {
                // SAFETY: as the caller promises.
                return unsafe { System.alloc(layout) };
            }
            match self.used.compare_exchange_weak(used, end, Ordering::AcqRel, Ordering::Acquire) {
                // SAFETY: within the room.
                Ok(_) => return unsafe { self.start().add(begin) },
                Err(now) => used = now,
            }
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match self.offset(piece) {
            Some(begin) => {
                self.moves_end(begin + layout.size(), begin);
            }
            // SAFETY: as the caller promises; it came from there.
            None => unsafe { System.dealloc(piece, layout) },
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(begin) = self.offset(piece) else {
            // SAFETY: as the caller promises; it came from there.
            return unsafe { System.realloc(piece, layout, size) };
        };
        if self.moves_end(begin + layout.size(), begin + size) || size <= layout.size() {
            return piece;
        }
        // SAFETY: the caller has seen to it that the size can be one.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as the caller promises.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both are at least as long, and are different pieces.
            unsafe { ptr::copy_nonoverlapping(piece, new, layout.size()) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for `size` bytes, and fills them with `byte`.
    fn piece(arena: &Arena, size: usize, byte: u8) -> (*mut u8, Layout) {
        let layout = Layout::from_size_align(size, 8).expect("a layout");
        // SAFETY: of a size that is not 0.
        let piece = unsafe { arena.alloc(layout) };
        assert!(!piece.is_null() && piece.addr().is_multiple_of(8));
        // SAFETY: as long as was asked for.
        unsafe { piece.write_bytes(byte, size) };
        (piece, layout)
    }

    fn holds(piece: *mut u8, size: usize, byte: u8) -> bool {
        // SAFETY: the tests pass pieces that are as long and live.
        unsafe { std::slice::from_raw_parts(piece, size) }.iter().all(|found| *found == byte)
    }

    #[test]
    fn the_last_piece_grows_and_goes_where_it_is_and_another_moves() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        let ((first, of_first), (last, of_last)) = (piece(arena, 24, 1), piece(arena, 40, 2));
        // SAFETY: `last` has this layout.
        let grown = unsafe { arena.realloc(last, of_last, 400) };
        assert_eq!(grown, last);
        // SAFETY: `first` has this layout.
        let moved = unsafe { arena.realloc(first, of_first, 64) };
        assert!(moved != first && holds(moved, 24, 1) && holds(grown, 40, 2));
        // SAFETY: `moved` is of this layout.
        unsafe { arena.dealloc(moved, Layout::from_size_align(64, 8).expect("a layout")) };
        assert_eq!(piece(arena, 8, 3).0, moved);
    }

    #[test]
    fn what_does_not_fit_is_the_c_librarys() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        let (small, _) = piece(arena, 16, 1);
        let (large, of_large) = piece(arena, ROOM, 2);
        assert!(arena.offset(small).is_some() && arena.offset(large).is_none());
        // SAFETY: `large` has this layout.
        let larger = unsafe { arena.realloc(large, of_large, 2 * ROOM) };
        assert!(holds(larger, ROOM, 2) && holds(small, 16, 1));
        // SAFETY: `larger` is of this layout.
        unsafe { arena.dealloc(larger, Layout::from_size_align(2 * ROOM, 8).expect("a layout")) };
    }

    #[test]
    fn bytes_are_aligned_as_words_are() {
        static ARENA: Arena = Arena::new();
        for size in [1, 3, 16, 24] {
            // SAFETY: of a size that is not 0.
            let piece = unsafe { ARENA.alloc(Layout::array::<u8>(size).expect("a layout")) };
            assert!(piece.addr().is_multiple_of(align_of::<usize>()));
        }
    }

    #[test]
    fn threads_get_pieces_of_their_own() {
        static ARENA: Arena = Arena::new();
        let arena = &ARENA;
        std::thread::scope(|scope| {
            for byte in 0..4 {
                scope.spawn(move || {
                    let mine: Vec<_> = (1..100).map(|size| piece(arena, size, byte)).collect();
                    assert!(mine.iter().all(|(piece, layout)| holds(*piece, layout.size(), byte)));
                });
            }
        });
    }
}
