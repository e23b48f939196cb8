//! How the spawner goes on as another executable: in the same process, so that its children stay its own.
//!
//! What it knows is written to a file in memory, with the numbers of the descriptors that it holds; these stay open over the
//! exec. Plans are not handed over: another version may plan otherwise.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::fcntl::FdFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::accounts::{Accounts, Whose};
use super::{End, NAME};

/// What is handed over.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Handover {
    /// The socket that daemons find it by.
    pub(super) listening: RawFd,
    /// The daemon's connection, with its number.
    pub(super) link: Option<(RawFd, u64)>,
    /// The limit of open files that containers inherit, soft and hard.
    pub(super) open_files: (u64, u64),
    containers: Vec<Kept>,
    processes: Vec<(i32, Whose)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    id: String,
    pid: i32,
    note: String,
    end: Option<End>,
    descriptors: Vec<RawFd>,
}

impl Handover {
    pub(super) fn new(
        listening: &OwnedFd,
        link: Option<(RawFd, u64)>,
        open_files: (u64, u64),
        accounts: &Accounts,
    ) -> Self {
        let kept = |(id, account): (&String, &super::accounts::Account)| Kept {
            id: id.clone(),
            pid: account.pid,
            note: account.note.clone(),
            end: account.end,
            descriptors: account.kept.iter().map(AsRawFd::as_raw_fd).collect(),
        };
        let containers = accounts.containers().map(kept).collect();
        let processes = accounts.processes().map(|(pid, whose)| (*pid, whose.clone())).collect();
        Self { listening: listening.as_raw_fd(), link, open_files, containers, processes }
    }

    /// Goes on as `executable`; returns only on failure, and then as if nothing had been tried.
    pub(super) fn exec(&self, executable: &OwnedFd, state_root: &Path, run_root: &Path) -> io::Error {
        let flags = FdFlag::empty();
        let failed = match self.pass_on(flags) {
            Ok(file) => {
                let environment = environment();
                let word = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
                let number = file.as_raw_fd().to_string();
                let words = [
                    word(NAME.as_bytes()),
                    word(state_root.as_os_str().as_bytes()),
                    word(run_root.as_os_str().as_bytes()),
                    word(self.open_files.0.to_string().as_bytes()),
                    word(number.as_bytes()),
                ];
                skiff_sys::process::exec_fd(executable.as_fd(), &words, &environment)
            }
            Err(error) => error,
        };
        self.set_flags(FdFlag::FD_CLOEXEC).err().unwrap_or(failed)
    }

    /// Writes it down, in a file that stays open.
    fn pass_on(&self, flags: FdFlag) -> io::Result<OwnedFd> {
        let mut file = File::from(memfd_create(c"skiff-handover", MFdFlags::empty())?);
        file.write_all(&serde_json::to_vec(self)?)?;
        self.set_flags(flags)?;
        Ok(file.into())
    }

    fn set_flags(&self, flags: FdFlag) -> io::Result<()> {
        let kept = self.containers.iter().flat_map(|kept| &kept.descriptors);
        let link = self.link.iter().map(|(fd, _)| fd);
        for number in kept.chain(link).chain([&self.listening]) {
            skiff_sys::process::set_descriptor_flags(*number, flags)?;
        }
        Ok(())
    }

    /// Reads what the executable before has left at the descriptor `number`.
    pub(super) fn read(number: RawFd) -> io::Result<Self> {
        skiff_sys::process::descriptor_flags(number)?;
        let mut file = File::from(skiff_sys::file::received(number));
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut text))?;
        let handover: Self = serde_json::from_slice(&text)?;
        handover.set_flags(FdFlag::FD_CLOEXEC)?;
        Ok(handover)
    }

    /// Takes over the containers. To be called once.
    pub(super) fn take_accounts(&mut self) -> Accounts {
        let mut accounts = Accounts::default();
        for Kept { id, pid, note, end, descriptors } in self.containers.drain(..) {
            accounts.open(&id, pid);
            accounts.keep(&id, note, descriptors.into_iter().map(skiff_sys::file::received).collect());
            if let Some(end) = end {
                accounts.close(pid, end);
            }
        }
        for (pid, whose) in self.processes.drain(..) {
            accounts.add(pid, whose);
        }
        accounts
    }
}

/// This process's own, as it is.
fn environment() -> Vec<CString> {
    let entry = |(mut name, value): (std::ffi::OsString, std::ffi::OsString)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec()).ok()
    };
    std::env::vars_os().filter_map(entry).collect()
}

/// Whether `fd` is kept open by an exec.
#[cfg(test)]
fn is_passed_on(fd: &OwnedFd) -> bool {
    let flags = skiff_sys::process::descriptor_flags(fd.as_raw_fd());
    flags.is_ok_and(|flags| !flags.contains(FdFlag::FD_CLOEXEC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_sys::process::Exit;

    fn null() -> OwnedFd {
        File::open("/dev/null").expect("open").into()
    }

    #[test]
    fn accounts_survive_a_handover() {
        let mut accounts = Accounts::default();
        let end = End { exit: Exit::Signal(9), at_ns: 5 };
        accounts.open("a", 10);
        accounts.keep("a", "note".into(), vec![null(), null()]);
        accounts.open("b", 11);
        accounts.close(11, end);
        accounts.add(12, Whose::Exec { id: "a".into(), ticket: 3, connection: 4 });
        let (listening, link) = (null(), null());
        let handover = Handover::new(&listening, Some((link.as_raw_fd(), 7)), (1, 2), &accounts);
        let file = handover.pass_on(FdFlag::empty()).expect("write");
        assert!([&listening, &link, &file].into_iter().all(is_passed_on));
        std::mem::forget(accounts);

        let mut read = Handover::read(std::os::fd::IntoRawFd::into_raw_fd(file)).expect("read");
        assert!(!is_passed_on(&listening) && !is_passed_on(&link));
        assert_eq!((read.link, read.open_files), (Some((link.as_raw_fd(), 7)), (1, 2)));
        let mut accounts = read.take_accounts();
        let a = accounts.get("a").expect("a");
        assert_eq!((a.pid, a.note.as_str(), a.kept.len(), a.end), (10, "note", 2, None));
        assert_eq!(accounts.get("b").and_then(|account| account.end), Some(end));
        assert!(accounts.close(12, end).is_some() && accounts.close(11, end).is_none());
    }
}
