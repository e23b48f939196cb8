//! Mount namespaces of containers that run, held so that their ends are told at once.
//!
//! Taking a mount namespace down makes the end of the last process in it wait; whoever has a descriptor of it waits in its place. That is
//! a descriptor for each container, and worth it for those that end soon: it is held of the youngest only.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

/// What is held of one container.
type Slot = RefCell<Option<OwnedFd>>;

/// The youngest containers' mount namespaces.
#[derive(Debug)]
pub(crate) struct Mounts {
    max: usize,
    /// The youngest last.
    held: RefCell<VecDeque<Weak<Slot>>>,
}

impl Mounts {
    /// At most `max` are held.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, held: RefCell::default() }
    }

    /// Holds one more, and lets the oldest go that are too many; where the kernel hands none out, nothing.
    pub(crate) fn hold(&self, mounts: Option<OwnedFd>) -> Rc<Slot> {
        let slot = Rc::new(RefCell::new(mounts));
        let mut held = self.held.borrow_mut();
        held.push_back(Rc::downgrade(&slot));
        while held.len() > self.max {
            let oldest = held.pop_front().and_then(|slot| slot.upgrade());
            drop(oldest.and_then(|slot| slot.take()));
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_the_youngest_are_held() {
        let null = || Some(std::fs::File::open("/dev/null").expect("open").into());
        let mounts = Mounts::new(2);
        let all: Vec<_> = (0..3).map(|_| mounts.hold(null())).collect();
        let held: Vec<bool> = all.iter().map(|slot| slot.take().is_some()).collect();
        assert_eq!(held, [false, true, true]);
        assert!(Mounts::new(0).hold(null()).take().is_none());
    }
}
