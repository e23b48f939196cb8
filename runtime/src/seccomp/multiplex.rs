//! The two system calls of i386 that stand for many: socketcall(2) and ipc(2).
//!
//! A 32-bit program reaches `socket` by its own number or as sub-call 1 of `socketcall`, so a rule for `socket`
//! must meet both ways or it is no barrier.

use super::rules::{Condition, Operator};

/// A second way to a system call.
#[derive(Debug)]
pub(super) struct Way {
    name: &'static str,
    /// i386 number of the multiplexer.
    pub(super) number: u16,
    /// Holds for the calls of the multiplexer that mean `name`.
    pub(super) condition: Condition,
}

/// The way to `name` through a multiplexer. `direct` is the i386 number of `name` itself.
pub(super) fn way(name: &str, direct: Option<u16>) -> Option<&'static Way> {
    // Multiplexed calls have no number of their own or got one late: this spares the search for all others.
    if direct.is_some_and(|number| !(337..=402).contains(&number)) {
        return None;
    }
    WAYS.iter().find(|way| way.name == name)
}

const SOCKETCALL: u16 = 102;
const IPC: u16 = 117;

const fn socketcall(name: &'static str, value: u64) -> Way {
    Way { name, number: SOCKETCALL, condition: Condition { argument: 0, operator: Operator::Equal, value } }
}

/// The upper half of `ipc`'s first argument is a version, which does not change the call's meaning.
const fn ipc(name: &'static str, value: u64) -> Way {
    let operator = Operator::MaskedEqual(0xffff);
    Way { name, number: IPC, condition: Condition { argument: 0, operator, value } }
}

static WAYS: [Way; 32] = [
    socketcall("socket", 1),
    socketcall("bind", 2),
    socketcall("connect", 3),
    socketcall("listen", 4),
    socketcall("accept", 5),
    socketcall("getsockname", 6),
    socketcall("getpeername", 7),
    socketcall("socketpair", 8),
    socketcall("send", 9),
    socketcall("recv", 10),
    socketcall("sendto", 11),
    socketcall("recvfrom", 12),
    socketcall("shutdown", 13),
    socketcall("setsockopt", 14),
    socketcall("getsockopt", 15),
    socketcall("sendmsg", 16),
    socketcall("recvmsg", 17),
    socketcall("accept4", 18),
    socketcall("recvmmsg", 19),
    socketcall("sendmmsg", 20),
    ipc("semop", 1),
    ipc("semget", 2),
    ipc("semctl", 3),
    ipc("semtimedop", 4),
    ipc("msgsnd", 11),
    ipc("msgrcv", 12),
    ipc("msgget", 13),
    ipc("msgctl", 14),
    ipc("shmat", 21),
    ipc("shmdt", 22),
    ipc("shmget", 23),
    ipc("shmctl", 24),
];
