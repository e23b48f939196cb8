//! Counting a container by eBPF programs that are pinned on the host (`skiff observe on`), where they are.
//!
//! A container that is launched takes a **slot** by becoming its owner, and is armed by one map write, `cgroup id → slot`,
//! while its cgroup is still empty. Both are atomic among processes, and no instant between them leaves a slot
//! behind for ever: an owner whose cgroup is gone is dead, and whoever finds all slots taken clears such ones. Where nothing
//! is pinned, all of this is one failed system call.
//!
//! Where sockets are observed, the programs for them are attached to the container's own cgroup; their pins, and with them what
//! is attached, go when the slot is given back.
//!
//! A slot without an owner is empty. It is emptied under a lock (flock(2) on the pins' directory), after the last of its
//! tasks is dead, since a task keeps its slot's number: else its end would be the next container's; and after the last program has ended
//! that was running while tasks still counted there.
//!
//! Nothing here fails a container: what cannot be counted runs uncounted.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use skiff_ebpf_abi::pinned::{DIRECTORY, LAYOUT, Owner, SOCKET_LINKS, SOCKETS, STAMPS};
use skiff_ebpf_abi::waits::{Waits, column};
use skiff_ebpf_abi::{Armed, ROWS, Slot, error_parts};
use skiff_sys::bpf::{self, Hook, Map, Program, Store};
use skiff_sys::clock::monotonic_ns;

use crate::cgroup::Layout;
use crate::launch::Stamps;

/// Tasks switch to their death some microseconds after their parent has learnt of it; on a busy host later.
const DYING: Duration = Duration::from_millis(20);
/// After that tasks are settled that have left their cgroup and live on, and the others get so long.
const LINGERING: Duration = Duration::from_millis(200);
/// Others hold the lock for less than a millisecond each, or for [`LINGERING`] if a task of theirs does not end.
const LOCKED: Duration = Duration::from_millis(500);

/// What became of the wish to count a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counting {
    /// Nothing is pinned, or it is of another build, or this process may not use it.
    Off,
    /// It is counted from its first instruction on.
    Armed,
    /// All slots are taken, or there are too many cgroups in them, which is noted beside the pins.
    Full,
    /// A cgroup above it is counted, and it as a part of that.
    Nested,
}

/// Starts to count what happens in the cgroup2 with the id `cgroup`, still empty, for the container `id`.
///
/// The program begins with the first exec event of the container's first process, or, if that executes an init, after
/// `execs_before` of any process. The launch began at `begin_ns` of CLOCK_MONOTONIC; 0 if the container is made ahead and waits
/// for a program: then nobody sees it before [`begun`].
pub fn arm(cgroup: u64, id: &str, execs_before: u32, begin_ns: u64) -> Counting {
    let Some(pins) = Pins::open() else { return Counting::Off };
    let stamps = [begin_ns, 0, 0, monotonic_ns(), 0, 0, 0, 0, 0];
    let armed = pins.arm(&Owner::new(cgroup, id, stamps), execs_before);
    armed.unwrap_or_else(|error| {
        tracing::warn!("count container {id}: {error}");
        Counting::Off
    })
}

/// Which programs are pinned, told apart from those before and after them; nothing if none are. stat(2).
#[must_use]
pub fn pins() -> Option<u64> {
    std::fs::metadata(format!("{DIRECTORY}/{LAYOUT:016x}")).ok().map(|found| found.ino())
}

/// Notes that the program of a container is about to run that was armed, with no beginning, when it was made ahead.
pub fn begun(cgroup: u64, begin_ns: u64) {
    let Some(pins) = Pins::open() else { return };
    let noted = pins.slot_of(cgroup).and_then(|found| match found {
        Some((slot, mut owner)) => {
            owner.stamps[0] = begin_ns;
            pins.owners.set(&slot.to_ne_bytes(), &owner.to_bytes(), Store::Existing)
        }
        None => Ok(()),
    });
    if let Err(error) = noted {
        tracing::warn!("note when a container was launched: {error}");
    }
}

/// Notes when each part of the launch of a counted container was over.
pub fn note(cgroup: u64, stamps: &Stamps) {
    let Some(pins) = Pins::open() else { return };
    let noted = pins.slot_of(cgroup).and_then(|found| match found {
        Some((slot, owner)) => {
            let owner = Owner { stamps: all_stamps(&owner, stamps), ..owner };
            pins.owners.set(&slot.to_ne_bytes(), &owner.to_bytes(), Store::Existing)
        }
        None => Ok(()),
    });
    if let Err(error) = noted {
        tracing::warn!("note when a container was launched: {error}");
    }
}

/// A container that may be counted, until this is dropped.
#[derive(Debug, Default)]
pub struct Counted(Option<u64>);

impl Counted {
    /// As [`arm`]; where the host has no cgroup v2, nothing.
    pub fn arm(&mut self, cgroup: Option<u64>, id: &str, execs_before: u32, begin_ns: u64) {
        if let Some(cgroup) = cgroup
            && arm(cgroup, id, execs_before, begin_ns) == Counting::Armed
        {
            self.0 = Some(cgroup);
        }
    }

    /// As [`note`].
    pub fn note(&self, stamps: &Stamps) {
        if let Some(cgroup) = self.0 {
            note(cgroup, stamps);
        }
    }
}

impl Counted {
    /// Lets the container be counted when this is gone: another gives its slot back.
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0 {
            release(cgroup);
        }
    }
}

/// Gives back the slot of the container whose cgroup had the id `cgroup`, if it has one: its processes have ended.
pub fn release(cgroup: u64) {
    let Some(pins) = Pins::open() else { return };
    let released = pins.slot_of(cgroup).and_then(|found| match found {
        Some((slot, owner)) => pins.clear(slot, &owner),
        None => Ok(true),
    });
    match released {
        Ok(true) => {}
        Ok(false) => tracing::debug!("cgroup {cgroup} is still being counted: its slot is cleared later"),
        Err(error) => tracing::warn!("stop to count cgroup {cgroup}: {error}"),
    }
}

/// As [`release`]; if the cgroup had gone before anybody could ask for its id, as [`reclaim`].
pub fn released(cgroup: Option<u64>) {
    match cgroup {
        Some(cgroup) => release(cgroup),
        None => {
            if let Err(error) = reclaim() {
                tracing::warn!("look for containers that are gone: {error}");
            }
        }
    }
}

/// Gives back the slots of containers that are gone without having done so themselves; how many.
pub fn reclaim() -> io::Result<usize> {
    Pins::open().map_or(Ok(0), |pins| pins.reclaim())
}

/// The directory of the cgroup with the id `cgroup`, `None` if there is none any more.
pub fn find_cgroup(cgroup: u64) -> io::Result<Option<PathBuf>> {
    match Layout::of_host().unified {
        Some(mount) => find_below(&mount, cgroup),
        None => Ok(None),
    }
}

fn find_below(mount: &Path, cgroup: u64) -> io::Result<Option<PathBuf>> {
    let root = File::open(mount)?;
    match skiff_sys::file::open_node(root.as_fd(), cgroup) {
        Ok(found) => path_of(&found).map(Some),
        Err(error) if error.raw_os_error() == Some(nix::libc::ESTALE) => Ok(None),
        Err(error) => match walk(mount, cgroup)? {
            Some(path) => Ok(Some(path)),
            // Not to be found in what is visible here: that is no proof.
            None => Err(error),
        },
    }
}

fn path_of(directory: &OwnedFd) -> io::Result<PathBuf> {
    let link = skiff_sys::file::proc_fd_path(directory.as_fd());
    std::fs::read_link(Path::new(std::ffi::OsStr::new(&*link.to_string_lossy())))
}

/// Looks for a directory with the inode number `id`.
fn walk(directory: &Path, id: u64) -> io::Result<Option<PathBuf>> {
    use std::os::unix::fs::DirEntryExt;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if entry.ino() == id {
            return Ok(Some(entry.path()));
        }
        // It may go while this looks.
        if let Ok(Some(found)) = walk(&entry.path(), id) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The pins of this build's layouts.
struct Pins {
    directory: PathBuf,
    owners: Map,
}

impl Pins {
    /// Nothing if nothing is pinned, or this process may not see it.
    fn open() -> Option<Self> {
        let directory = PathBuf::from(format!("{DIRECTORY}/{LAYOUT:016x}"));
        let owners = Map::open(&c_path(&directory, "owners").ok()?).ok()?;
        Some(Self { directory, owners })
    }

    fn map(&self, name: &str) -> io::Result<Map> {
        Map::open(&c_path(&self.directory, name)?)
    }

    /// A map of a probe; nothing if that is off.
    fn map_if_on(&self, name: &str) -> io::Result<Option<Map>> {
        if_there(self.map(name))
    }

    fn arm(&self, owner: &Owner, execs_before: u32) -> io::Result<Counting> {
        let slot = match self.take(owner)? {
            Some(slot) => slot,
            None if self.reclaim()? > 0 => match self.take(owner)? {
                Some(slot) => slot,
                None => return self.refuse(owner),
            },
            None => return self.refuse(owner),
        };
        let armed = Armed { slot, execs_before };
        let written = self
            .map("armed")
            .and_then(|map| map.set(&owner.cgroup.to_ne_bytes(), &armed.to_bytes(), Store::New));
        let Err(error) = written else {
            if let Err(error) = self.attach(owner.cgroup, slot) {
                tracing::warn!("count what the sockets of cgroup {} do: {error}", owner.cgroup);
            }
            return Ok(Counting::Armed);
        };
        // Never counted in, so it is still empty.
        self.owners.remove(&slot.to_ne_bytes())?;
        match error.raw_os_error() {
            Some(nix::libc::EEXIST) => Ok(Counting::Nested),
            // Cgroups below armed ones have taken all of the room.
            Some(nix::libc::E2BIG) => self.refuse(owner),
            _ => Err(error),
        }
    }

    /// Attaches the programs for sockets, if they are on, to the cgroup, and says whose it is.
    fn attach(&self, cgroup: u64, slot: u32) -> io::Result<()> {
        let Some(cgroups) = self.map_if_on("cgroups")? else { return Ok(()) };
        let mount = Layout::of_host().unified.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let directory = skiff_sys::file::open_node(File::open(mount)?.as_fd(), cgroup)?;
        for (name, hook) in SOCKETS.into_iter().zip([Hook::Ingress, Hook::Egress, Hook::SockOps]) {
            if let Some(program) = if_there(Program::open(&c_path(&self.directory, name)?))? {
                program.attach(directory.as_fd(), hook, &self.link(slot, name)?)?;
            }
        }
        // The storage is there since the first was attached.
        cgroups.set(&cgroup.to_ne_bytes(), &u64::from(slot + 1).to_ne_bytes(), Store::Any)
    }

    fn link(&self, slot: u32, name: &str) -> io::Result<CString> {
        c_path(&self.directory, &format!("{SOCKET_LINKS}/{slot}-{name}"))
    }

    /// The reverse of [`Pins::attach`].
    fn detach(&self, slot: u32) -> io::Result<()> {
        for name in SOCKETS {
            let link = self.directory.join(SOCKET_LINKS).join(format!("{slot}-{name}"));
            if_there(std::fs::remove_file(link))?;
        }
        Ok(())
    }

    /// Becomes the owner of a slot that has none, beginning where few others do.
    fn take(&self, owner: &Owner) -> io::Result<Option<u32>> {
        let slots = self.owners.max_entries();
        let first = u32::try_from(owner.cgroup % u64::from(slots.max(1))).unwrap_or(0);
        for slot in (first..slots).chain(0..first) {
            match self.owners.set(&slot.to_ne_bytes(), &owner.to_bytes(), Store::New) {
                Ok(()) => return Ok(Some(slot)),
                Err(error) if error.raw_os_error() == Some(nix::libc::EEXIST) => {}
                Err(error) if error.raw_os_error() == Some(nix::libc::E2BIG) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Notes that there is no slot for `owner`.
    fn refuse(&self, owner: &Owner) -> io::Result<Counting> {
        match self.map("refused")?.set(&owner.cgroup.to_ne_bytes(), &owner.to_bytes(), Store::Any) {
            // There are more than are remembered, which those who read it see.
            Err(error) if error.raw_os_error() != Some(nix::libc::E2BIG) => Err(error),
            _ => Ok(Counting::Full),
        }
    }

    fn all(&self) -> io::Result<Vec<(u32, Owner)>> {
        let mut all = Vec::new();
        for key in self.owners.keys()? {
            let owner = self.owners.get(&key)?.and_then(|bytes| Owner::from_bytes(&bytes));
            let slot = key.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            all.extend(slot.zip(owner));
        }
        Ok(all)
    }

    fn slot_of(&self, cgroup: u64) -> io::Result<Option<(u32, Owner)>> {
        Ok(self.all()?.into_iter().find(|(_, owner)| owner.cgroup == cgroup))
    }

    fn reclaim(&self) -> io::Result<usize> {
        let mut cleared = 0;
        let Some(mount) = Layout::of_host().unified else { return Ok(0) };
        for (slot, owner) in self.all()? {
            // A cgroup of which nothing is known stays.
            if matches!(find_below(&mount, owner.cgroup), Ok(None)) && self.clear(slot, &owner)? {
                cleared += 1;
            }
        }
        Ok(cleared)
    }

    /// Empties `slot`, whose owner's processes have ended, and gives it back. `false` if some have not: then another must.
    ///
    /// Another may have done so since `owner` was read, and a container may have taken the slot: only under the lock is it certain
    /// whose it is, since nobody becomes its owner before the last one is removed there. Nothing is changed before that; most of
    /// the waiting is over by then, so that nobody else waits for it.
    fn clear(&self, slot: u32, owner: &Owner) -> io::Result<bool> {
        self.clear_after(slot, owner, bpf::await_programs)
    }

    /// As [`Pins::clear`]; `await_programs` returns when those have ended that were running.
    fn clear_after(&self, slot: u32, owner: &Owner, await_programs: impl FnOnce()) -> io::Result<bool> {
        self.await_deaths(slot, DYING)?;
        match self.lock()? {
            None => return Ok(false),
            Some(_lock) if !self.is_of(slot, owner)? => return Ok(true),
            Some(_lock) if !self.close(slot)? => return Ok(false),
            Some(_lock) => {}
        }
        // One that runs may have found the slot before it was closed, and be about to count there. Without the lock: others may wait as well.
        if self.map_if_on("waits")?.is_some() || self.map_if_on("net")?.is_some() {
            await_programs();
        }
        let Some(_lock) = self.lock()? else { return Ok(false) };
        if self.is_of(slot, owner)? {
            self.empty(slot)?;
            self.owners.remove(&slot.to_ne_bytes())?;
        }
        Ok(true)
    }

    fn is_of(&self, slot: u32, owner: &Owner) -> io::Result<bool> {
        let now = self.owners.get(&slot.to_ne_bytes())?.and_then(|bytes| Owner::from_bytes(&bytes));
        Ok(now.is_some_and(|now| now.cgroup == owner.cgroup))
    }

    /// Sees to it that nothing is counted in `slot` by programs that begin from now on. `false` if tasks cannot be settled. The lock is
    /// held.
    fn close(&self, slot: u32) -> io::Result<bool> {
        self.disarm(slot)?;
        self.detach(slot)?;
        if !self.await_deaths(slot, Duration::ZERO)? {
            self.settle(slot)?;
            if !self.await_deaths(slot, LINGERING)? {
                return Ok(false);
            }
        }
        if let Some(waits) = self.map_if_on("waits")? {
            // From then on nothing is counted for tasks that live on.
            let generation = word(&waits, slot, offset_of!(Waits, generation))?;
            set_waits(&waits, slot, generation.wrapping_add(1))?;
        }
        Ok(true)
    }

    /// From here on nothing new is counted in `slot`. Those made below a cgroup are armed with it; they go by themselves when
    /// they are removed, so that there is rarely one to be found.
    fn disarm(&self, slot: u32) -> io::Result<()> {
        let armed = self.map("armed")?;
        for key in armed.keys()? {
            let value = armed.get(&key)?;
            let of =
                value.as_ref().and_then(|value| value.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
            if of == Some(slot) {
                armed.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Waits until every task of `slot` is settled.
    fn await_deaths(&self, slot: u32, most: Duration) -> io::Result<bool> {
        let Some(slots) = self.map_if_on("slots")? else { return Ok(true) };
        let begun = Instant::now();
        loop {
            if word(&slots, slot, offset_of!(Slot, alive))? == 0 {
                return Ok(true);
            }
            if begun.elapsed() > most {
                return Ok(false);
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Settles the tasks of `slot` that live, for good. The lock is held.
    fn settle(&self, slot: u32) -> io::Result<()> {
        let closing = self.map("closing")?;
        closing.set(&[0; 4], &(slot + 1).to_ne_bytes(), Store::Any)?;
        let settled =
            File::open(self.directory.join("close")).and_then(|mut all| io::copy(&mut all, &mut io::sink()));
        closing.set(&[0; 4], &[0; 4], Store::Any)?;
        settled.map(drop)
    }

    /// Forgets what was counted in `slot`, which is closed. The lock is held, and no program counts there.
    fn empty(&self, slot: u32) -> io::Result<()> {
        if let Some(slots) = self.map_if_on("slots")? {
            self.empty_calls(&slots, slot)?;
        }
        if let Some(waits) = self.map_if_on("waits")? {
            self.empty_waits(&waits, slot)?;
        }
        for name in ["blocks", "net"] {
            // Where block devices are not observed, the map is there with one element.
            if let Some(map) = self.map_if_on(name)?.filter(|map| slot < map.max_entries()) {
                map.set(&slot.to_ne_bytes(), &vec![0; map.value_len()], Store::Any)?;
            }
        }
        Ok(())
    }

    /// What others have waited for the container is from now on for one that has ended.
    fn empty_waits(&self, waits: &Map, slot: u32) -> io::Result<()> {
        set_waits(waits, slot, word(waits, slot, offset_of!(Waits, generation))?)?;
        let (blame, slots) = (self.map("blame")?, self.owners.max_entries());
        let row = slots + column::COUNT;
        if blame.max_entries() < slots * row {
            return Ok(());
        }
        let own = blame.range(slot * row, row)?;
        let counted = (0..).zip(own.chunks_exact(8)).filter(|(_, ns)| **ns != [0; 8]);
        for (column, _) in counted {
            blame.set(&(slot * row + column).to_ne_bytes(), &[0; 8], Store::Any)?;
        }
        for (other, _) in self.all()?.into_iter().filter(|(other, _)| *other != slot) {
            let waited = word(&blame, other * row + slot, 0)?;
            if waited > 0 {
                let moved = other * row + slots + column::MOVED;
                let sum = word(&blame, moved, 0)? + waited;
                blame.set(&moved.to_ne_bytes(), &sum.to_ne_bytes(), Store::Any)?;
                blame.set(&(other * row + slot).to_ne_bytes(), &[0; 8], Store::Any)?;
            }
        }
        Ok(())
    }

    fn empty_calls(&self, slots: &Map, slot: u32) -> io::Result<()> {
        let (rows, calls) = (self.map("rows")?, self.map("calls")?);
        let claimed = word(slots, slot, offset_of!(Slot, rows))?.min(u64::from(ROWS));
        let nothing = vec![0; rows.value_len()];
        for row in 0..u32::try_from(claimed).unwrap_or(ROWS) {
            rows.set(&(slot * ROWS + row).to_ne_bytes(), &nothing, Store::Any)?;
        }
        let errors = self.map("errors")?;
        for key in errors.keys()? {
            let of = key.first_chunk().map(|bytes| error_parts(u64::from_ne_bytes(*bytes)).0);
            if of == Some(slot) {
                errors.remove(&key)?;
            }
        }
        calls.set(&slot.to_ne_bytes(), &vec![0; calls.value_len()], Store::Any)?;
        slots.set(&slot.to_ne_bytes(), &vec![0; slots.value_len()], Store::Any)
    }

    /// `None` if others hold it for longer than they should.
    fn lock(&self) -> io::Result<Option<Flock<File>>> {
        let (mut file, begun) = (File::open(&self.directory)?, Instant::now());
        loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Some(lock)),
                Err((_, error)) if error != nix::Error::EWOULDBLOCK => return Err(error.into()),
                Err(_) if begun.elapsed() > LOCKED => return Ok(None),
                Err((again, _)) => file = again,
            }
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Empties the waits of a slot, but for its generation.
fn set_waits(waits: &Map, slot: u32, generation: u64) -> io::Result<()> {
    let mut value = vec![0; waits.value_len()];
    value.iter_mut().zip(generation.to_ne_bytes()).for_each(|(to, from)| *to = from);
    waits.set(&slot.to_ne_bytes(), &value, Store::Any)
}

/// What was opened or removed, if it was there.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// In the order of [`Owner::stamps`]; the first and the fourth are known since it was armed.
const fn all_stamps(owner: &Owner, stamps: &Stamps) -> [u64; STAMPS] {
    let Stamps { start, rootfs_done, cgroup_done, child, mounts_done, security_done, exec_seen } = *stamps;
    let [begin, _, _, arm, ..] = owner.stamps;
    [begin, start, rootfs_done, arm, cgroup_done, child, mounts_done, security_done, exec_seen]
}

/// The word at `offset` of an element of a map.
fn word(map: &Map, index: u32, offset: usize) -> io::Result<u64> {
    let value = map.get(&index.to_ne_bytes())?.unwrap_or_default();
    let word =
        value.get(offset..).and_then(|rest| rest.first_chunk()).map(|bytes| u64::from_ne_bytes(*bytes));
    word.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::EINVAL))
}

fn c_path(directory: &Path, name: &str) -> io::Result<CString> {
    Ok(CString::new(format!("{}/{name}", directory.display()))?)
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use skiff_sys::bpf::Kind;

    use super::*;

    const SLOTS: u32 = 2;

    /// Pins with maps of waiting, on a bpffs that is only this thread's; nothing where that may not be.
    fn pins() -> Option<Pins> {
        if unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).is_err() {
            println!("skip: needs root");
            return None;
        }
        let directory = std::env::temp_dir();
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .expect("private mounts");
        mount(Some("bpf"), &directory, Some("bpf"), MsFlags::empty(), None::<&str>).expect("a bpffs");
        let row = SLOTS + column::COUNT;
        for (name, kind, value, entries) in [
            ("owners", Kind::Hash, size_of::<Owner>(), SLOTS),
            ("armed", Kind::Hash, size_of::<Armed>(), 8),
            ("waits", Kind::Array, size_of::<Waits>(), SLOTS),
            ("blame", Kind::Array, 8, SLOTS * row),
        ] {
            let key = if name == "armed" { 8 } else { 4 };
            let map = Map::create(kind, name, key, value, entries).expect("a map");
            map.pin(&c_path(&directory, name).expect("a path")).expect("pin it");
        }
        let owners = Map::open(&c_path(&directory, "owners").expect("a path")).expect("the owners");
        Some(Pins { directory, owners })
    }

    fn owner(cgroup: u64) -> Owner {
        let mut bytes = [0; size_of::<Owner>()];
        bytes[..8].copy_from_slice(&cgroup.to_ne_bytes());
        let owner = Owner::from_bytes(&bytes).expect("an owner");
        assert_eq!(owner.cgroup, cgroup);
        owner
    }

    #[test]
    fn what_a_program_adds_while_a_slot_is_given_back_is_not_the_next_containers() {
        let test = || {
            let Some(pins) = pins() else { return };
            let (gone, other) = (owner(7), owner(8));
            for (slot, owner) in (0_u32..).zip([&gone, &other]) {
                pins.owners.set(&slot.to_ne_bytes(), &owner.to_bytes(), Store::New).expect("an owner");
            }
            let [waits, blame] = ["waits", "blame"].map(|name| pins.map(name).expect("a map"));
            let row = SLOTS + column::COUNT;
            let at = |waiter: u32, culprit: u32| (waiter * row + culprit).to_ne_bytes();
            let ns = |waiter, culprit| word(&blame, waiter * row + culprit, 0).expect("a sum");
            let add = |waiter, culprit, more: u64| {
                let sum = ns(waiter, culprit) + more;
                blame.set(&at(waiter, culprit), &sum.to_ne_bytes(), Store::Any).expect("add");
            };
            add(1, 0, 500);
            let generation = || word(&waits, 0, offset_of!(Waits, generation)).expect("a number");
            let before = generation();
            // One that was running adds to what it had found: waits of the container, and for it.
            let late = || {
                assert_eq!(generation(), before + 1, "whoever begins now finds another");
                let mut value = waits.get(&[0; 4]).expect("read").expect("waits");
                value[offset_of!(Waits, run_queue)] = 9;
                waits.set(&[0; 4], &value, Store::Any).expect("add");
                add(0, 1, 30);
                add(1, 0, 40);
            };
            assert!(pins.clear_after(0, &gone, late).expect("give it back"));
            assert!(pins.slot_of(7).expect("read").is_none());
            assert_eq!((ns(0, 1), ns(1, 0), ns(1, SLOTS + column::MOVED)), (0, 0, 540));
            let kept = waits.get(&[0; 4]).expect("read").expect("waits");
            assert!(kept[8..].iter().all(|byte| *byte == 0));
            assert_eq!(generation(), before + 1);
        };
        std::thread::spawn(test).join().expect("the test");
    }
}
