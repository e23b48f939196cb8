//! What the spawner knows of the containers whose parent it is, and what it keeps for the next daemon. Pure but for the descriptors.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use super::{ENGINE, End};

/// One container.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) pid: i32,
    pub(super) note: String,
    pub(super) kept: Vec<OwnedFd>,
    pub(super) end: Option<End>,
}

/// All that are not forgotten, and the processes that are this one's children.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    containers: HashMap<String, Account>,
    processes: HashMap<i32, Whose>,
}

/// Whose process one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Whose {
    /// A container's first one.
    Container(String),
    /// One more of a container's, with the ticket of its order and the connection that it came by.
    Exec { id: String, ticket: u64, connection: u64 },
}

impl Accounts {
    /// Whether the container is there and its first process runs.
    pub(super) fn is_alive(&self, id: &str) -> bool {
        self.containers.get(id).is_some_and(|account| account.end.is_none())
    }

    /// Opens the account of a container, in the place of what was known of an earlier one with that id.
    pub(super) fn open(&mut self, id: &str, pid: i32) {
        let account = Account { pid, note: String::new(), kept: Vec::new(), end: None };
        self.containers.insert(id.to_owned(), account);
        if id == ENGINE {
            return;
        }
        self.processes.insert(pid, Whose::Container(id.to_owned()));
    }

    /// Notes a process that runs in a container beside its first.
    pub(super) fn add(&mut self, pid: i32, whose: Whose) {
        self.processes.insert(pid, whose);
    }

    /// Notes how a process has ended; returns whose it was.
    pub(super) fn close(&mut self, pid: i32, end: End) -> Option<Whose> {
        let whose = self.processes.remove(&pid)?;
        if let Whose::Container(id) = &whose
            && let Some(account) = self.containers.get_mut(id).filter(|account| account.pid == pid)
        {
            account.end = Some(end);
        }
        Some(whose)
    }

    /// Keeps this of a container, if it is known, or of the engine.
    pub(super) fn keep(&mut self, id: &str, note: String, kept: Vec<OwnedFd>) {
        if id == ENGINE {
            self.open(ENGINE, 0);
        }
        if let Some(account) = self.containers.get_mut(id) {
            account.note = note;
            account.kept = kept;
        }
    }

    /// Gives up what is known of a container. Its process is still reaped.
    pub(super) fn forget(&mut self, id: &str) {
        self.containers.remove(id);
    }

    pub(super) fn get(&self, id: &str) -> Option<&Account> {
        self.containers.get(id)
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = (&String, &Account)> {
        self.containers.iter()
    }

    pub(super) fn processes(&self) -> impl Iterator<Item = (&i32, &Whose)> {
        self.processes.iter()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        self.containers.keys()
    }

    /// Whether there is anything that a next daemon could miss.
    pub(super) fn are_needed(&self) -> bool {
        let is_kept = |account: &Account| !account.note.is_empty() || !account.kept.is_empty();
        let mut containers = self.containers.iter().filter(|(id, _)| *id != ENGINE);
        !self.processes.is_empty() || containers.any(|(_, account)| is_kept(account))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_sys::process::Exit;

    const END: End = End { exit: Exit::Code(3), at_ns: 7 };

    #[test]
    fn an_end_is_kept_until_it_is_forgotten() {
        let mut accounts = Accounts::default();
        accounts.open("a", 10);
        accounts.keep("a", "note".into(), Vec::new());
        accounts.keep("b", "note".into(), Vec::new());
        assert!(accounts.is_alive("a") && !accounts.is_alive("b"));
        assert_eq!(accounts.close(10, END), Some(Whose::Container("a".into())));
        assert_eq!(accounts.close(10, END), None);
        assert!(!accounts.is_alive("a") && accounts.are_needed());
        assert_eq!(accounts.get("a").and_then(|account| account.end), Some(END));
        accounts.forget("a");
        assert!(!accounts.are_needed() && accounts.ids().next().is_none());
    }

    #[test]
    fn what_is_the_engines_is_kept_and_keeps_nobody_here() {
        let mut accounts = Accounts::default();
        accounts.keep(ENGINE, "note".into(), Vec::new());
        assert_eq!(accounts.get(ENGINE).map(|account| account.note.as_str()), Some("note"));
        assert!(!accounts.are_needed());
    }

    #[test]
    fn a_container_that_is_made_again_has_its_own_end() {
        let mut accounts = Accounts::default();
        accounts.open("a", 10);
        accounts.forget("a");
        accounts.open("a", 11);
        accounts.close(10, END);
        assert!(accounts.is_alive("a"));
    }

    #[test]
    fn processes_beside_the_first_end_nothing() {
        let mut accounts = Accounts::default();
        let whose = Whose::Exec { id: "a".into(), ticket: 1, connection: 2 };
        accounts.open("a", 10);
        accounts.add(12, whose.clone());
        assert_eq!(accounts.close(12, END), Some(whose));
        assert!(accounts.is_alive("a"));
    }
}
