//! Stacks of a container, sampled while it runs: what a thread reads and names meanwhile.
//!
//! Files are opened when an address in them is first sampled, by the kernel's own link to what is mapped (`/proc/PID/map_files`), else by
//! their path below the container's root. They are the container's, so hostile: nothing but regular files is opened, no look-up leaves
//! the root, and what they hold is read in bounded pieces ([`elf`]).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::fcntl::OFlag;
use serde_json::json;
use skiff_ebpf::stacks::Sampler;
use skiff_observe::stacks::{
    Collector, Host, Kernel, Line, Names, Object, ObjectId, Profile, Summary, elf, parse_maps,
};
use skiff_sys::file::{self, Resolve};

use super::attach::failed;
use super::outputs::Form;
use super::part::{Part, Place, Section};
use super::table::{Align, Table};
use super::text;
use crate::client::now_ns;
use crate::failure::Failure;
use crate::values::cause;

/// Samples per second of CPU time, unless another rate is asked for: not in step with what happens each 10 ms.
pub(crate) const HZ: u32 = 99;
const HZ_MAX: u32 = 10_000;

/// How often buffers are emptied.
const PAUSE: Duration = Duration::from_millis(50);
/// Files that are open at a time.
const FILES_MAX: usize = 512;
/// Bytes of `/proc/PID/maps` that are read.
const MAPS_MAX: u64 = 16 << 20;
/// Bytes of a list of just-in-time compiled functions that are read, of all lists, and functions of all lists that are kept.
const LIST_MAX: u64 = 64 << 20;
const LISTS_MAX: u64 = 256 << 20;
const COMPILED_MAX: usize = 1 << 20;
/// Functions of all files that are kept.
const FUNCTIONS_MAX: usize = 4 << 20;
/// Functions that the report shows.
const SHOWN: usize = 25;

/// The rate that `--stacks[=HZ]` asks for.
pub(crate) fn rate(value: Option<&str>) -> Result<u32, Failure> {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(HZ) };
    let rate = value.parse().ok().filter(|hz| (1..=HZ_MAX).contains(hz));
    rate.ok_or_else(|| Failure::engine(format!("--stacks {value}: not 1 to {HZ_MAX} samples a second")))
}

/// The part of a profile.
#[derive(Debug)]
pub(crate) struct Stacks {
    state: State,
    begin_ns: u64,
}

#[derive(Debug)]
enum State {
    /// Before the container's first process, or right after.
    Ready(Box<Sampler>),
    Running {
        stop: mpsc::Sender<()>,
        thread: JoinHandle<Result<Profile, skiff_ebpf::Error>>,
    },
    Gone,
}

impl Stacks {
    pub(crate) fn load(hz: u32) -> Result<Self, Failure> {
        Ok(Self { state: State::Ready(Box::new(Sampler::load(hz).map_err(failed)?)), begin_ns: 0 })
    }
}

impl Part for Stacks {
    fn arm(&mut self, place: Place) -> Result<(), Failure> {
        let State::Ready(sampler) = &mut self.state else { return Ok(()) };
        self.begin_ns = now_ns();
        sampler.arm(place.cgroup).map_err(failed)
    }

    fn follow(&mut self, directory: &Path) -> Result<(), Failure> {
        let State::Ready(sampler) = std::mem::replace(&mut self.state, State::Gone) else { return Ok(()) };
        let (stop, stopped) = mpsc::channel();
        let mut pids = Vec::new();
        processes(directory, &mut pids);
        let root = pids.first().and_then(|pid| root_of(*pid));
        let thread = std::thread::Builder::new().name("stacks".into());
        let thread = thread.spawn(move || gather(sampler, &stopped, &pids, root));
        let thread =
            thread.map_err(|error| Failure::engine(format!("profile: start a thread: {}", cause(&error))))?;
        self.state = State::Running { stop, thread };
        Ok(())
    }

    fn end(self: Box<Self>, wanted: &[Form]) -> Result<Section, Failure> {
        let State::Running { stop, thread } = self.state else {
            return Err(Failure::engine("profile: stacks were never sampled"));
        };
        drop(stop);
        let profile =
            thread.join().map_err(|_| Failure::engine("profile: the thread that samples has failed"))?;
        let profile = profile.map_err(failed)?;
        let summary = profile.summary();
        let mut files = Vec::new();
        for form in wanted {
            let bytes = match form {
                Form::Flame => profile.flame_graph("stacks of a container").into_bytes(),
                Form::Folded => profile.folded().into_bytes(),
                Form::Pprof => profile
                    .pprof(self.begin_ns, now_ns().saturating_sub(self.begin_ns))
                    .map_err(|error| Failure::engine(format!("profile: compress: {}", cause(&error))))?,
                _ => continue,
            };
            files.push((*form, bytes));
        }
        let mut missing = Vec::new();
        if summary.kernel_samples > 0 && profile.kernel_is_unnamed() {
            missing.push(
                "names of the kernel's functions (no addresses in /proc/kallsyms: kptr_restrict)".into(),
            );
        }
        Ok(Section {
            key: "stacks",
            json: document(&profile, &summary),
            text: shown(&summary),
            lost: summary.lost,
            missing,
            files,
            ..Section::default()
        })
    }
}

fn document(profile: &Profile, summary: &Summary) -> serde_json::Value {
    let mut document = serde_json::to_value(summary).unwrap_or_default();
    let stacks = profile.stacks.iter().map(|stack| {
        let frames = stack.frames.iter().filter_map(|frame| profile.frames.get(*frame));
        let frames: Vec<_> = frames.map(|frame| frame.function.as_str()).collect();
        json!({"process": stack.process, "pid": stack.pid, "samples": stack.samples, "frames": frames})
    });
    document["stacks"] = stacks.collect();
    document
}

fn shown(summary: &Summary) -> String {
    let share = |samples: u64| format!("{:.1} %", samples as f64 * 100.0 / summary.samples.max(1) as f64);
    let title = format!("functions, by {} samples at {} Hz", summary.samples, summary.hz);
    let mut table = Table::new([
        (title.as_str(), Align::Left),
        ("self", Align::Right),
        ("total", Align::Right),
        ("", Align::Left),
    ]);
    for function in summary.functions.iter().take(SHOWN) {
        table.row([
            text::plain(&function.function),
            share(function.self_samples),
            share(function.total_samples),
            text::plain(&function.module),
        ]);
    }
    let mut text = table.render();
    if let Some(more) = summary.functions.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        text += &format!("  and {more} more\n");
    }
    let (kernel, unnamed) = (share(summary.kernel_samples), share(summary.unnamed_samples));
    text + &format!("  {kernel} in the kernel; {unnamed} in functions without a name\n")
}

/// Reads events until it is told to stop, then names what was collected.
fn gather(
    mut sampler: Box<Sampler>,
    stopped: &mpsc::Receiver<()>,
    pids: &[u32],
    root: Option<OwnedFd>,
) -> Result<Profile, skiff_ebpf::Error> {
    let mut collector = Collector::default();
    let mut files = Files { root, ..Files::default() };
    pids.iter().for_each(|pid| collector.look_at(*pid, &mut files));
    while stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        sampler.read().into_iter().for_each(|event| collector.take(event, &mut files));
    }
    sampler.stop()?.into_iter().for_each(|event| collector.take(event, &mut files));
    let names = files.names();
    Ok(Profile::new(&collector, &names, sampler.hz()))
}

/// What has been opened of the container.
#[derive(Debug, Default)]
struct Files {
    root: Option<OwnedFd>,
    files: HashMap<ObjectId, File>,
    vdso: Vec<ObjectId>,
    /// Processes with memory of their own making: where they may say what is in it.
    compilers: HashMap<u32, (OwnedFd, String)>,
}

impl Host for Files {
    fn look_at(&mut self, pid: u32) -> Option<(String, Vec<Line>)> {
        let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
        let maps = read_bounded(File::open(format!("/proc/{pid}/maps")).ok()?, MAPS_MAX);
        if self.root.is_none() {
            self.root = root_of(pid);
        }
        Some((text::plain(String::from_utf8_lossy(&name).trim_end()), parse_maps(&maps).collect()))
    }

    fn meet(&mut self, id: ObjectId, object: &Object, pid: u32, start: u64, end: u64) {
        if object.name.starts_with(b"[vdso") {
            self.vdso.push(id);
        } else if object.is_anonymous() {
            if let (Some(root), Some(inner)) = (root_of(pid), inner_pid(pid))
                && self.compilers.len() < FILES_MAX
            {
                self.compilers.insert(pid, (root, inner));
            }
        } else if self.files.len() < FILES_MAX {
            let mapped = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
            let own = CString::new(mapped).ok().and_then(|path| file::open(&path, OFlag::O_PATH, 0).ok());
            let found = own.or_else(|| self.below_root(pid, &object.name));
            if let Some(file) = found.and_then(|found| regular(&found)) {
                self.files.insert(id, file);
            }
        }
    }
}

impl Files {
    fn below_root(&self, pid: u32, path: &[u8]) -> Option<OwnedFd> {
        let path = CString::new(path.strip_suffix(b" (deleted)").unwrap_or(path)).ok()?;
        let open =
            |root: &OwnedFd| file::open_beneath(root.as_fd(), &path, OFlag::O_PATH, 0, Resolve::InRoot).ok();
        let own = root_of(pid).and_then(|root| open(&root));
        own.or_else(|| open(self.root.as_ref()?))
    }

    fn names(self) -> Named {
        let kernel = fs::read_to_string("/proc/kallsyms").ok().and_then(Kernel::parse);
        let vdso = if self.vdso.is_empty() { None } else { own_vdso() };
        let mut lists = HashMap::new();
        let (mut bytes_left, mut room, mut lost) = (LISTS_MAX, COMPILED_MAX, 0);
        for (pid, (root, inner)) in self.compilers {
            let path = CString::new(format!("tmp/perf-{inner}.map")).unwrap_or_default();
            let found = file::open_beneath(root.as_fd(), &path, OFlag::O_PATH, 0, Resolve::InRoot);
            if let Some(list) = found.ok().and_then(|found| regular(&found)) {
                let most = LIST_MAX.min(bytes_left);
                let is_cut = list.metadata().is_ok_and(|of| of.len() > most);
                let text = read_bounded(list, most);
                let (list, left_out) = List::new(text, room);
                bytes_left -= list.text.len() as u64;
                room -= list.functions.len();
                lost += left_out + u64::from(is_cut);
                lists.insert(pid, list);
            }
        }
        Named {
            kernel,
            vdso,
            vdso_ids: self.vdso,
            lists,
            files: self.files,
            symbols: RefCell::default(),
            room: Cell::new(FUNCTIONS_MAX),
            lost: Cell::new(lost),
        }
    }
}

/// Names of all that was met.
#[derive(Debug)]
struct Named {
    kernel: Option<Kernel>,
    vdso: Option<(Vec<u8>, elf::Symbols)>,
    vdso_ids: Vec<ObjectId>,
    lists: HashMap<u32, List>,
    files: HashMap<ObjectId, File>,
    symbols: RefCell<HashMap<ObjectId, elf::Symbols>>,
    /// For so many more functions.
    room: Cell<usize>,
    lost: Cell<u64>,
}

impl Named {
    fn with<T>(&self, id: ObjectId, ask: impl FnOnce(&elf::Symbols, &File) -> Option<T>) -> Option<T> {
        let file = self.files.get(&id)?;
        let mut all = self.symbols.borrow_mut();
        let symbols = all.entry(id).or_insert_with(|| {
            // One that makes no sense has no names.
            let symbols = elf::Symbols::read(file, self.room.get()).unwrap_or_default();
            self.room.set(self.room.get() - symbols.len());
            self.lost.set(self.lost.get() + symbols.left_out());
            symbols
        });
        ask(symbols, file)
    }
}

impl Names for Named {
    fn kernel(&self, address: u64) -> Option<String> {
        self.kernel.as_ref()?.name(address).map(str::to_owned)
    }

    fn object(&self, object: ObjectId, offset: u64) -> Option<String> {
        if self.vdso_ids.contains(&object) {
            let (bytes, symbols) = self.vdso.as_ref()?;
            return symbols.name(bytes.as_slice(), offset);
        }
        self.with(object, |symbols, file| symbols.name(file, offset))
    }

    fn anonymous(&self, pid: u32, address: u64) -> Option<String> {
        self.lists.get(&pid)?.name(address)
    }

    fn build_id(&self, object: ObjectId) -> Option<String> {
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect();
        self.with(object, |symbols, _| symbols.build_id().map(hex))
    }

    fn lost(&self) -> u64 {
        self.lost.get()
    }
}

/// A function that a process has compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Compiled {
    start: u64,
    size: u64,
    /// Where its name is in the list.
    name: Range<usize>,
}

/// A list that just-in-time compilers write for perf.
#[derive(Debug)]
struct List {
    text: Vec<u8>,
    /// By their first address.
    functions: Vec<Compiled>,
}

impl List {
    /// Understands the lines `START SIZE NAME`, `most` of them; and how many found no room.
    fn new(text: Vec<u8>, most: usize) -> (Self, u64) {
        let (mut functions, mut left_out, mut at) = (Vec::new(), 0, 0);
        for line in text.split(|byte| *byte == b'\n') {
            if let Some(function) = compiled(line, at) {
                if functions.len() < most { functions.push(function) } else { left_out += 1 }
            }
            at += line.len() + 1;
        }
        // Of what was compiled in the same place, the last.
        functions.reverse();
        functions.sort_by_key(|function| function.start);
        functions.dedup_by_key(|function| function.start);
        functions.shrink_to_fit();
        (Self { text, functions }, left_out)
    }

    fn name(&self, address: u64) -> Option<String> {
        let after = self.functions.partition_point(|function| function.start <= address);
        let function = self.functions.get(after.checked_sub(1)?)?;
        if address - function.start >= function.size {
            return None;
        }
        let name = String::from_utf8_lossy(self.text.get(function.name.clone())?);
        Some(text::plain(&name).chars().take(512).collect())
    }
}

/// What a line says that is `at` so many bytes from the beginning.
fn compiled(line: &[u8], at: usize) -> Option<Compiled> {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let mut hex = || {
        let word = std::str::from_utf8(words.next()?).ok()?;
        u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()
    };
    let (start, size) = (hex()?, hex()?);
    let name = words.next()?.len();
    Some(Compiled { start, size, name: at + line.len() - name..at + line.len() })
}

/// What `found`, which is not open for reading, refers to, if it is a regular file: to open another may wait, or act.
fn regular(found: &OwnedFd) -> Option<File> {
    let found = File::from(found.try_clone().ok()?);
    if !found.metadata().ok()?.is_file() {
        return None;
    }
    let opened = file::open(&file::proc_fd_path(found.as_fd()), OFlag::O_RDONLY | OFlag::O_NONBLOCK, 0);
    opened.ok().map(File::from)
}

fn root_of(pid: u32) -> Option<OwnedFd> {
    let path = CString::new(format!("/proc/{pid}/root")).ok()?;
    file::open(&path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).ok()
}

/// The process's number in its own process namespace. proc_pid_status(5), Linux ≥ 4.1.
fn inner_pid(pid: u32) -> Option<String> {
    // Its name may be no UTF-8.
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().last().map(str::to_owned)
}

/// The code that the kernel maps into every process, as this one has it.
fn own_vdso() -> Option<(Vec<u8>, elf::Symbols)> {
    let maps = fs::read("/proc/self/maps").ok()?;
    let line = parse_maps(&maps).find(|line| line.name == b"[vdso]")?;
    let mut bytes = vec![0; usize::try_from(line.end - line.start).ok()?];
    File::open("/proc/self/mem").ok()?.read_exact_at(&mut bytes, line.start).ok()?;
    let symbols = elf::Symbols::read(bytes.as_slice(), FUNCTIONS_MAX).ok()?;
    Some((bytes, symbols))
}

fn read_bounded(file: File, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What cannot be read is not there.
    let _read = file.take(most).read_to_end(&mut bytes);
    bytes
}

/// The processes in a cgroup and those below it.
fn processes(directory: &Path, found: &mut Vec<u32>) {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid > 0));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes(&entry.path(), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers() {
        assert_eq!([rate(None), rate(Some("")), rate(Some("49"))], [Ok(HZ), Ok(HZ), Ok(49)]);
        for wrong in ["0", "10001", "x", "-1"] {
            assert!(rate(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_of_compiled_functions_are_understood() {
        let text = b"2000 10 later one\n1000 20 first\nnonsense\n1000 30 again\n0x3000 zz bad\n\xff 1 x\n";
        let (list, left_out) = List::new(text.to_vec(), 3);
        let found = [0xfff, 0x1000, 0x102f, 0x1030, 0x200f, 0x2010, 0x3000].map(|address| list.name(address));
        let expected = [None, Some("again"), Some("again"), None, Some("later one"), None, None];
        assert_eq!(found, expected.map(|name| name.map(str::to_owned)));
        assert_eq!((list.functions.len(), left_out), (2, 0));
        let (list, left_out) = List::new(text.to_vec(), 1);
        assert_eq!((list.name(0x1000), left_out), (None, 2));
    }

    #[test]
    fn the_kernel_s_own_code_in_processes_has_names() {
        let (_, symbols) = own_vdso().expect("a vdso");
        assert!(!symbols.is_empty());
    }
}
