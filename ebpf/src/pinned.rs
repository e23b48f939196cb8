//! The programs pinned on a host: loaded once, attached without a process, read by whoever may.
//!
//! What lies where is told in [`skiff_ebpf_abi::pinned`]. Nothing is visible before all of it is there: it is made in a
//! directory of another name and renamed. `on` and `off` take turns by a lock (flock(2)) on the file system's root.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData};
pub use skiff_ebpf_abi::pinned::Owner;
use skiff_ebpf_abi::pinned::{About, DIRECTORY, LAYOUT, Live, MISSING, SOCKET_LINKS};
use skiff_ebpf_abi::waits::column;
use skiff_ebpf_abi::{self as abi};
use skiff_sys::bpf::{self, Kind, Store};
use skiff_sys::clock;

use crate::load::Available;
use crate::maps::{Counters, Counts, EMPTY_ROW};
use crate::record::{Cost, Record};
use crate::tier1::{Probes, Reader, SwitchCost, Tier1, Tier1Cost};
use crate::{Error, Profiler, Waiting, read, sockets, waiting};

/// Where bpffs is mounted.
pub const FILE_SYSTEM: &str = "/sys/fs/bpf";
/// What is being made. bpffs allows no dots in names.
const UNFINISHED: &str = "/sys/fs/bpf/skiff-unfinished";
/// Containers without a slot that are remembered.
const REFUSED: u32 = 4096;
/// Cgroups that can be armed, those below containers' included.
const ARMED: u32 = 4096;
/// A snapshot is taken anew if tasks were settled meanwhile; so often, then it is as good as it gets.
const ATTEMPTS: usize = 5;

/// The programs that are pinned on this host.
pub struct Pinned {
    directory: PathBuf,
    /// Those of system calls, if they are observed.
    counters: Option<Counters>,
    reader: Reader,
    owners: bpf::Map,
    refused: bpf::Map,
    about: About,
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// A container that has a slot.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// Its slot.
    pub slot: u32,
    /// Whose it is.
    pub owner: Owner,
}

impl Taken {
    /// Whether it waits for a program: nobody's container yet.
    #[must_use]
    pub const fn is_made_ahead(&self) -> bool {
        self.owner.stamps[0] == 0
    }
}

/// Loads and attaches the programs of `probes` for `slots` containers at a time, and leaves them pinned. bpffs must be mounted.
///
/// Errors: [`Error::Pinned`] if some are already, [`Error::OtherBuild`] if those of another build are.
pub fn pin(slots: u32, probes: Probes) -> Result<(), Error> {
    let _lock = lock()?;
    if Path::new(DIRECTORY).exists() {
        return Err(Pinned::open()?.map_or(Error::OtherBuild { path: DIRECTORY }, |pinned| pinned.already()));
    }
    remove(UNFINISHED.as_ref())?;
    let directory = Path::new(UNFINISHED).join(layout());
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .map_err(|cause| failed("make", &directory, cause))?;
    let pinned = fill(&directory, slots, probes).and_then(|()| {
        fs::rename(UNFINISHED, DIRECTORY).map_err(|cause| failed("make", DIRECTORY.as_ref(), cause))
    });
    if pinned.is_err() {
        remove(UNFINISHED.as_ref())?;
    }
    pinned
}

/// Removes everything that is pinned, of whichever build; whether there was something. The programs are detached with it.
pub fn unpin() -> Result<bool, Error> {
    if !Path::new(DIRECTORY).exists() && !Path::new(UNFINISHED).exists() {
        return Ok(false);
    }
    let _lock = lock()?;
    let unfinished = remove(UNFINISHED.as_ref())?;
    Ok(remove(DIRECTORY.as_ref())? || unfinished)
}

fn fill(directory: &Path, slots: u32, probes: Probes) -> Result<(), Error> {
    let map = |kind, name: &str, key, value, entries| {
        let path = directory.join(name);
        let map = bpf::Map::create(kind, &format!("skiff_{name}"), key, value, entries)
            .and_then(|map| map.pin(&c_path(&path)).map(|()| map));
        map.map_err(|cause| failed("pin", &path, cause))
    };
    map(Kind::Hash, "armed", 8, size_of::<abi::Armed>(), ARMED)?;
    map(Kind::Hash, "owners", 4, Owner::SIZE, slots)?;
    map(Kind::Hash, "refused", 8, Owner::SIZE, REFUSED)?;
    let first = map(Kind::Array, "about", 4, About::SIZE, 1)?;
    let begun_ns = clock::monotonic_ns();
    let (mut about, mut missing) = (nothing(probes), Vec::new());
    let mut profiler = probes.syscalls.then(|| Profiler::pinned_in(directory, slots)).transpose()?;
    if let Some(profiler) = &profiler {
        let cost = profiler.cost();
        about.counted_ns = cost.ns_per_call.map_or(0, |ns| ns + 1);
        about.others_ns = cost.ns_per_call_of_others.map_or(0, |ns| ns + 1);
        about.map_bytes = cost.map_bytes;
        about.available = profiler.available().bits();
        missing.extend_from_slice(&profiler.available().missing);
    }
    let waits = probes.run_queue || probes.block;
    let mut waiting = waits.then(|| Waiting::new(slots, probes, Some(directory))).transpose()?;
    if let Some(waiting) = &mut waiting {
        about.waits_bytes = waiting.map_bytes();
        let cost = waiting.calibrate()?;
        about.switch_counted_ns = cost.map_or(0, |cost| cost.counted_ns + 1);
        about.switch_others_ns = cost.map_or(0, |cost| cost.others_ns + 1);
        missing.extend_from_slice(waiting.missing());
    }
    if probes.net || probes.tcp {
        let path = directory.join(SOCKET_LINKS);
        DirBuilder::new().mode(0o700).create(&path).map_err(|cause| failed("make", &path, cause))?;
        let pinned = sockets::pin(directory, slots, probes)?;
        about.net_bytes = pinned.bytes;
        missing.extend(pinned.missing);
    }
    about.missing = text_of(&missing);
    about.since_ns = clock::monotonic_ns();
    about.load_ns = about.since_ns - begun_ns;
    first
        .set(&[0; 4], &about.to_bytes(), Store::Any)
        .map_err(|cause| failed("write", &directory.join("about"), cause))?;
    profiler.as_mut().map_or(Ok(()), |profiler| profiler.pin_links(directory))?;
    waiting.as_mut().map_or(Ok(()), |waiting| waiting.pin_links(directory))
}

/// What there is to say of `probes` before anything is loaded.
fn nothing(probes: Probes) -> About {
    About {
        since_ns: 0,
        load_ns: 0,
        counted_ns: 0,
        others_ns: 0,
        map_bytes: 0,
        available: 0,
        probes: probes.bits(),
        waits_bytes: 0,
        net_bytes: 0,
        switch_counted_ns: 0,
        switch_others_ns: 0,
        missing: [0; MISSING],
    }
}

impl Pinned {
    /// Opens what is pinned, if something is.
    ///
    /// Errors: [`Error::OtherBuild`] if it is of other layouts.
    pub fn open() -> Result<Option<Self>, Error> {
        let directory = Path::new(DIRECTORY).join(layout());
        let absent = |path: &Path| {
            fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        if absent(DIRECTORY.as_ref()) {
            return Ok(None);
        }
        if absent(&directory) {
            return Err(Error::OtherBuild { path: DIRECTORY });
        }
        let map = |name: &str| {
            let path = directory.join(name);
            bpf::Map::open(&c_path(&path)).map_err(|cause| failed("open", &path, cause))
        };
        let first =
            map("about")?.get(&[0; 4]).map_err(|cause| failed("read", &directory.join("about"), cause))?;
        let about =
            first.and_then(|bytes| About::from_bytes(&bytes)).ok_or(Error::OtherBuild { path: DIRECTORY })?;
        let probes = Probes::of_bits(about.probes);
        let counters = probes.syscalls.then(|| {
            Counters::take(&mut |name| {
                let path = directory.join(name.to_lowercase());
                let refused = |cause| Error::refused(format!("open {}", path.display()), &cause);
                MapData::from_pin(&path).and_then(Map::from_map_data).map_err(refused)
            })
        });
        let owners = map("owners")?;
        let (slots, missing) = (owners.max_entries(), missing(&about));
        // What this kernel does not give has a map all the same, some with one element.
        let whole = |is_on: bool, name: &str, figure: &str, entries: u32| {
            let map =
                (is_on && !missing.iter().any(|missing| missing.starts_with(figure))).then(|| map(name));
            Ok(map.transpose()?.filter(|map| map.max_entries() >= entries))
        };
        let reader = Reader {
            slots,
            waits: probes.run_queue.then(|| map("waits")).transpose()?,
            blame: whole(probes.run_queue, "blame", waiting::RUN_QUEUE, slots * (slots + column::COUNT))?,
            blocks: whole(probes.block, "blocks", waiting::LATENCY, slots)?,
            net: (probes.net || probes.tcp).then(|| map("net")).transpose()?,
            sockets: [
                probes.net && directory.join("ingress").exists(),
                probes.tcp && directory.join("connections").exists(),
            ],
        };
        let counters = counters.transpose()?;
        Ok(Some(Self { counters, reader, owners, refused: map("refused")?, about, directory }))
    }

    /// Containers that it is made for.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.owners.max_entries()
    }

    /// The containers that have a slot, in the order in which they began; without those that wait for a program.
    pub fn taken(&self) -> Result<Vec<Taken>, Error> {
        let mut taken = self.owned()?;
        taken.retain(|taken| !taken.is_made_ahead());
        Ok(taken)
    }

    /// All that have a slot, those that wait for a program first.
    pub fn owned(&self) -> Result<Vec<Taken>, Error> {
        let slot = |key: &[u8]| Some(u32::from_ne_bytes(*key.first_chunk()?));
        let all = self.all(&self.owners, "owners")?.into_iter();
        let mut owned: Vec<_> =
            all.filter_map(|(key, owner)| Some(Taken { slot: slot(&key)?, owner })).collect();
        owned.sort_by_key(|taken| (taken.owner.stamps[0], taken.slot));
        Ok(owned)
    }

    /// The containers that found no free slot since the programs were pinned; the first 4,096 of them.
    pub fn refused(&self) -> Result<Vec<Owner>, Error> {
        Ok(self.all(&self.refused, "refused")?.into_iter().map(|(_, owner)| owner).collect())
    }

    fn all(&self, map: &bpf::Map, name: &str) -> Result<Vec<(Vec<u8>, Owner)>, Error> {
        let unread = |cause| failed("read", &self.directory.join(name), cause);
        let mut all = Vec::new();
        for key in map.keys().map_err(unread)? {
            // It may have been given back meanwhile.
            if let Some(owner) = map.get(&key).map_err(unread)?.and_then(|bytes| Owner::from_bytes(&bytes)) {
                all.push((key, owner));
            }
        }
        Ok(all)
    }

    /// What was counted in `slot` so far; tasks that live are counted as they are, calls under way as not returned.
    pub fn snapshot(&self, slot: u32) -> Result<Record, Error> {
        let mut counts = self.counts(slot)?;
        for _ in 1..ATTEMPTS {
            let settled = |counts: &Counts| {
                (counts.slot.alive, counts.slot.phases[0].off_cpu_ns, counts.slot.phases[1].off_cpu_ns)
            };
            let before = settled(&counts);
            let live = self.live()?;
            let after = self.counters()?.slot(slot)?;
            if before == (after.alive, after.phases[0].off_cpu_ns, after.phases[1].off_cpu_ns) {
                live.iter().filter(|live| live.slot == slot).for_each(|live| add_live(&mut counts, live));
                return Ok(self.record(&counts));
            }
            counts = self.counts(slot)?;
        }
        self.live()?.iter().filter(|live| live.slot == slot).for_each(|live| add_live(&mut counts, live));
        Ok(self.record(&counts))
    }

    fn counts(&self, slot: u32) -> Result<Counts, Error> {
        self.counters()?.counts(slot)
    }

    fn record(&self, counts: &Counts) -> Record {
        let mut record = read::record(counts, &Available::of_bits(self.about.available, self.missing()));
        record.cost = Cost { calls: record.calls(), ..self.cost() };
        record
    }

    /// What is switched on.
    #[must_use]
    pub const fn probes(&self) -> Probes {
        Probes::of_bits(self.about.probes)
    }

    /// What the probes beside that of system calls have counted in `slot` so far. Waits and requests count when they end.
    pub fn tier1(&self, slot: u32) -> Result<Tier1, Error> {
        self.reader.read(slot).map_err(|cause| failed("read the maps in", &self.directory, cause))
    }

    /// The figures that this kernel does not give of what is switched on, one phrase each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        missing(&self.about)
    }

    /// What the probes beside that of system calls cost.
    #[must_use]
    pub const fn tier1_cost(&self) -> Tier1Cost {
        let About { switch_counted_ns, switch_others_ns, .. } = self.about;
        let switch = match (switch_counted_ns.checked_sub(1), switch_others_ns.checked_sub(1)) {
            (Some(counted_ns), Some(others_ns)) => Some(SwitchCost { counted_ns, others_ns }),
            _ => None,
        };
        Tier1Cost { switch, waits_bytes: self.about.waits_bytes, net_bytes: self.about.net_bytes }
    }

    /// That they are pinned, as an error.
    #[must_use]
    pub fn already(&self) -> Error {
        Error::Pinned { slots: self.slots(), probes: self.probes().names().join(",") }
    }

    fn counters(&self) -> Result<&Counters, Error> {
        self.counters.as_ref().ok_or(Error::NoCalls)
    }

    /// What the programs cost, but for the number of calls.
    #[must_use]
    pub const fn cost(&self) -> Cost {
        Cost {
            calls: 0,
            ns_per_call: self.about.counted_ns.checked_sub(1),
            ns_per_call_of_others: self.about.others_ns.checked_sub(1),
            map_bytes: self.about.map_bytes,
            load_ns: self.about.load_ns,
        }
    }

    /// How long they have been pinned, ns.
    #[must_use]
    pub fn age_ns(&self) -> u64 {
        clock::monotonic_ns().saturating_sub(self.about.since_ns)
    }

    /// The counted tasks that live, of all slots.
    fn live(&self) -> Result<Vec<Live>, Error> {
        let path = self.directory.join("live");
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
        read.map_err(|cause| failed("read", &path, cause))?;
        Ok(bytes.chunks_exact(Live::SIZE).filter_map(Live::from_bytes).collect())
    }
}

/// The phrases of `missing`, of each its first line; a list that is too long ends with an ellipsis where it is cut.
fn text_of(missing: &[String]) -> [u8; MISSING] {
    const CUT: &str = "…";
    let mut text = missing.iter().filter_map(|phrase| phrase.lines().next()).collect::<Vec<_>>().join("\n");
    if text.len() > MISSING {
        let fits = (0..=MISSING - CUT.len()).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(fits.unwrap_or(0));
        text += CUT;
    }
    let mut bytes = [0; MISSING];
    bytes.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

fn missing(about: &About) -> Vec<String> {
    let text = about.missing.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).lines().map(str::to_owned).collect()
}

/// Adds what a live task has used and not been settled with.
fn add_live(counts: &mut Counts, live: &Live) {
    let sums = &mut counts.slot.phases[live.phase as usize & 1];
    let (to, used, base) = (&mut sums.figures, &live.used, &live.base);
    let cpu_ns = used.cpu_ns.saturating_sub(base.cpu_ns);
    let run_queue_ns = used.run_queue_ns.saturating_sub(base.run_queue_ns);
    to.cpu_ns += cpu_ns;
    to.user_ns += used.user_ns.saturating_sub(base.user_ns);
    to.system_ns += used.system_ns.saturating_sub(base.system_ns);
    to.minor_faults += used.minor_faults.saturating_sub(base.minor_faults);
    to.major_faults += used.major_faults.saturating_sub(base.major_faults);
    to.run_queue_ns += run_queue_ns;
    to.voluntary_switches += used.voluntary_switches.saturating_sub(base.voluntary_switches);
    to.involuntary_switches += used.involuntary_switches.saturating_sub(base.involuntary_switches);
    sums.off_cpu_ns += live.now_ns.saturating_sub(live.since_ns).saturating_sub(cpu_ns + run_queue_ns);
    if live.in_call == 1 {
        counts.rows.push((live.call, abi::Row { unreturned: 1, ..EMPTY_ROW }));
    }
}

/// The name of the directory of this build's layouts.
fn layout() -> String {
    format!("{LAYOUT:016x}")
}

/// Held by whoever pins or unpins.
fn lock() -> Result<File, Error> {
    let file = File::open(FILE_SYSTEM).and_then(|file| file.lock().map(|()| file));
    file.map_err(|cause| failed("lock", FILE_SYSTEM.as_ref(), cause))
}

/// Removes a directory with all that is pinned in it; whether it was there.
fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(failed("remove", path, cause)),
    }
}

fn failed(step: &str, path: &Path, cause: io::Error) -> Error {
    if cause.raw_os_error() == Some(libc::EPERM) {
        return Error::Privilege(vec!["CAP_BPF", "CAP_PERFMON"]);
    }
    Error::Pins { step: format!("{step} {}", path.display()), cause }
}

fn c_path(path: &Path) -> CString {
    // No path here has a NUL: they are made of constants.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(phrases: &[String]) -> Vec<String> {
        missing(&About { missing: text_of(phrases), ..nothing(Probes::default()) })
    }

    #[test]
    fn what_is_missing_comes_back_a_phrase_each() {
        let phrases = ["waits (no field)", "programs at f: load: refused\n0: (79) r6 = 1\nR6 invalid"];
        let told = told(&phrases.map(str::to_owned));
        assert_eq!(told, ["waits (no field)", "programs at f: load: refused"]);
    }

    #[test]
    fn a_list_that_is_too_long_says_so() {
        let fits = "é".repeat(MISSING / 2);
        assert_eq!(told(std::slice::from_ref(&fits)), std::slice::from_ref(&fits));
        let told = told(&["a".to_owned(), fits.clone(), "b".to_owned()]);
        assert_eq!(told.len(), 2);
        let cut = told[1].strip_suffix('…').expect("that it is cut");
        assert!(fits.starts_with(cut) && cut.len() > MISSING - 10, "{}", cut.len());
    }
}
