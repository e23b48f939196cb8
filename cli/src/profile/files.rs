//! `--files`: what a container opens, which pages of which files it uses, and its processes. docs/profile.md describes the fields.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use serde_json::{Value, json};
use skiff_ebpf::files::{Process, Record, Recorder, UsedFile};
use skiff_observe::perfetto::{Slice, Track};
use skiff_runtime::observe;
use skiff_sys::clock::monotonic_ns;
use skiff_sys::errno;

use super::outputs::Form;
use super::part::{Part, Place, Section};
use super::table::{Align, Table};
use super::text::{plain, size};
use crate::failure::Failure;
use crate::values::cause;

const PAGE: u64 = 4096;
/// What the process is called that reads ahead for a container, in its cgroup: none of its own (`runtime/src/reader.rs`).
const READER: &str = "skiff-reader";
/// A flag of a process that has executed nothing since it was forked. proc_pid_stat(5)
const FORKNOEXEC: u32 = 0x40;
/// Rows of each table of the report.
const ROWS: usize = 20;
/// Processes in the report.
const PROCESSES: usize = 60;

/// The programs, and what was there before them.
#[derive(Debug)]
pub(crate) struct Files {
    recorder: Recorder,
    before: Vec<Process>,
    begin_ns: u64,
}

impl Files {
    pub(crate) fn load() -> Result<Self, Failure> {
        Ok(Self { recorder: Recorder::load().map_err(failed)?, before: Vec::new(), begin_ns: 0 })
    }
}

impl Part for Files {
    fn arm(&mut self, place: Place) -> Result<(), Failure> {
        let opened = observe::find_cgroup(place.cgroup).and_then(|found| {
            let directory = found.ok_or(io::ErrorKind::NotFound)?;
            fs::File::open(directory)
        });
        let directory =
            opened.map_err(|error| Failure::engine(format!("open the cgroup: {}", cause(&error))))?;
        self.begin_ns = monotonic_ns();
        self.recorder.watch(directory.as_fd()).map_err(failed)?;
        Ok(())
    }

    fn follow(&mut self, directory: &Path) -> Result<(), Failure> {
        processes_in(directory, &mut self.before);
        Ok(())
    }

    fn end(self: Box<Self>, wanted: &[Form]) -> Result<Section, Failure> {
        let (begin_ns, end_ns) = (self.begin_ns, monotonic_ns());
        let record = self.recorder.finish(self.before, begin_ns).map_err(failed)?;
        let tracks =
            if wanted.contains(&Form::Perfetto) { tracks(&record, begin_ns, end_ns) } else { Vec::new() };
        Ok(Section {
            key: "files",
            json: document(&record, begin_ns),
            text: render(&record, begin_ns),
            lost: record.lost.sum(),
            missing: (!record.exact)
                .then(|| {
                    "pages used that were in the page cache (no tracepoint mm_filemap_get_pages)".to_owned()
                })
                .into_iter()
                .collect(),
            tracks,
            ..Section::default()
        })
    }
}

/// The processes in a cgroup and below it, but who reads ahead for it.
fn processes_in(directory: &Path, found: &mut Vec<Process>) {
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let pids: Vec<u32> = listed.lines().filter_map(|line| line.parse().ok()).collect();
    for &pid in &pids {
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else { continue };
        let stat = String::from_utf8_lossy(&stat);
        // The name, in parentheses, may hold anything.
        let Some((start, rest)) = stat.rsplit_once(") ") else { continue };
        let comm = start.split_once('(').map_or("", |(_, comm)| comm).to_owned();
        let number =
            |nth: usize| rest.split(' ').nth(nth).and_then(|word| word.parse::<u32>().ok()).unwrap_or(0);
        let (parent, flags) = (number(1), number(6));
        if comm == READER && flags & FORKNOEXEC != 0 && !pids.contains(&parent) {
            continue;
        }
        found.push(Process { pid, parent, comm, ..Process::default() });
    }
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            processes_in(&entry.path(), found);
        }
    }
}

fn document(record: &Record, begin_ns: u64) -> Value {
    let micros = |at: Option<u64>| at.map(|at| (at as f64 - begin_ns as f64) / 1e3);
    let name = |number: i32| errno::name(number).map_or_else(|| number.to_string(), str::to_owned);
    let processes = record.processes.iter().map(|process| {
        let execs = process.execs.iter().map(|exec| {
            json!({"at_us": micros(Some(exec.at_ns)), "file": exec.path, "arguments": exec.argv, "arguments_cut": exec.cut})
        });
        json!({
            "pid": process.pid, "parent": process.parent, "name": process.comm,
            "start_us": micros(process.start_ns), "end_us": micros(process.end_ns),
            "code": process.code(), "signal": process.signal(), "execs": execs.collect::<Vec<_>>(),
        })
    });
    let opens = record
        .opens
        .iter()
        .map(|open| json!({"path": open.path, "path_cut": open.is_cut, "error": open.errno.map(name), "count": open.count}));
    let used = record.files.iter().map(|file| {
        json!({
            "path": path(file), "bytes": file.bytes, "used_bytes": file.pages * PAGE,
            "read": file.read, "mapped": file.mapped,
        })
    });
    json!({
        "processes": processes.collect::<Vec<_>>(),
        "opens": opens.collect::<Vec<_>>(),
        "working_set": {
            "accuracy": if record.exact { "used" } else { "added" },
            "files": record.files.len(),
            "used_bytes": pages(record) * PAGE,
            "listed": used.collect::<Vec<_>>(),
        },
        "lost": {
            "processes": record.lost.processes, "opens": record.lost.opens, "pages": record.lost.pages,
            "names": record.lost.names,
        },
    })
}

fn pages(record: &Record) -> u64 {
    record.files.iter().map(|file| file.pages).sum()
}

/// As the container knows it, where its file system is a layer of an image.
fn path(file: &UsedFile) -> &str {
    // ROOT/layers/sha256/HEX/tree/…
    let inside = file.path.split_once("/layers/sha256/").and_then(|(_, rest)| {
        let (digest, rest) = rest.split_once('/')?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let at = rest.find('/')?;
        is_digest.then(|| &rest[at..])
    });
    inside.unwrap_or(&file.path)
}

fn render(record: &Record, begin_ns: u64) -> String {
    let mut table = Table::new([
        (&*format!("files used: {}, {}", record.files.len(), size(pages(record) * PAGE)), Align::Left),
        ("read", Align::Right),
        ("mapped", Align::Right),
        ("size", Align::Right),
    ]);
    let bytes = |ranges: &[(u64, u64)]| size(ranges.iter().map(|(_, count)| count * PAGE).sum());
    for file in record.files.iter().take(ROWS) {
        table.row([plain(path(file)), bytes(&file.read), bytes(&file.mapped), size(file.bytes)]);
    }
    let mut text = table.render() + &rest(record.files.len(), ROWS);
    let total: u64 = record.opens.iter().map(|open| open.count).sum();
    let failed: u64 = record.opens.iter().filter(|open| open.errno.is_some()).map(|open| open.count).sum();
    let mut table = Table::new([
        (&*format!("opens: {total}, {failed} of them failed"), Align::Left),
        ("times", Align::Right),
        ("error", Align::Left),
    ]);
    for open in record.opens.iter().take(ROWS) {
        let error = open.errno.and_then(errno::name).unwrap_or_default();
        let path = plain(&open.path) + if open.is_cut { "…" } else { "" };
        table.row([path, open.count.to_string(), error.to_owned()]);
    }
    text = text + "\n" + &table.render() + &rest(record.opens.len(), ROWS);
    if record.lost.opens > 0 {
        text +=
            &format!("  … and {} opens of further paths, for which there was no room\n", record.lost.opens);
    }
    text + "\n" + &tree(record, begin_ns)
}

fn rest(all: usize, shown: usize) -> String {
    if all > shown { format!("  … and {} more\n", all - shown) } else { String::new() }
}

/// Processes below their parents.
fn tree(record: &Record, begin_ns: u64) -> String {
    let mut table = Table::new([
        (&*format!("processes: {}", record.processes.len()), Align::Left),
        ("start ms", Align::Right),
        ("end ms", Align::Right),
        ("exit", Align::Left),
        ("command", Align::Left),
    ]);
    let ms = |at: Option<u64>| {
        at.map_or_else(String::new, |at| format!("{:.1}", (at as f64 - begin_ns as f64) / 1e6))
    };
    for (depth, process) in nested(&record.processes).into_iter().take(PROCESSES) {
        let exit = match (process.code(), process.signal()) {
            (Some(code), _) => code.to_string(),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => String::new(),
        };
        let command = process.execs.last().map_or_else(String::new, |exec| exec.argv.join(" "));
        table.row([
            format!("{:indent$}{} {}", "", process.pid, plain(&process.comm), indent = depth * 2),
            ms(process.start_ns),
            ms(process.end_ns),
            exit,
            plain(&command).chars().take(60).collect(),
        ]);
    }
    table.render() + &rest(record.processes.len(), PROCESSES)
}

/// Each process with how many of its ancestors are among them, children after their parents.
fn nested(all: &[Process]) -> Vec<(usize, &Process)> {
    let mut children: BTreeMap<u32, Vec<&Process>> = BTreeMap::new();
    let pids: Vec<u32> = all.iter().map(|process| process.pid).collect();
    // Of processes that are each other's parents, by ids that were given again, none is below the other.
    let is_root = |process: &Process| !pids.contains(&process.parent) || process.parent == process.pid;
    for process in all.iter().filter(|process| !is_root(process)) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut left: Vec<(usize, &Process)> =
        all.iter().rev().filter(|process| is_root(process)).map(|one| (0, one)).collect();
    let mut found = Vec::new();
    while let Some((depth, process)) = left.pop() {
        found.push((depth, process));
        let below = children.remove(&process.pid).unwrap_or_default();
        left.extend(below.into_iter().rev().map(|child| (depth + 1, child)));
    }
    found.extend(children.into_values().flatten().map(|process| (0, process)));
    found
}

/// A line of the picture for each process: its life, and in it the programs.
fn tracks(record: &Record, begin_ns: u64, end_ns: u64) -> Vec<Track> {
    record
        .processes
        .iter()
        .map(|process| {
            let (start, end) = (process.start_ns.unwrap_or(begin_ns), process.end_ns.unwrap_or(end_ns));
            let mut life = Slice::new(&*process.comm, start, end);
            life.notes =
                vec![("pid".into(), process.pid.to_string()), ("parent".into(), process.parent.to_string())];
            life.notes.extend(process.code().map(|code| ("exit code".into(), code.to_string())));
            life.notes.extend(process.signal().map(|signal| ("signal".into(), signal.to_string())));
            let ends = process.execs.iter().skip(1).map(|next| next.at_ns).chain([end]);
            let programs = process.execs.iter().zip(ends).map(|(exec, end)| {
                let mut program =
                    Slice::new(exec.path.rsplit('/').next().unwrap_or_default(), exec.at_ns, end);
                program.notes =
                    vec![("arguments".into(), exec.argv.join(" ")), ("file".into(), exec.path.clone())];
                program
            });
            life.inner = programs.collect();
            let words = process.execs.last().map(|exec| exec.argv.clone()).unwrap_or_default();
            Track { name: process.comm.clone(), process: Some((process.pid, words)), slices: vec![life] }
        })
        .collect()
}

#[expect(clippy::needless_pass_by_value, reason = "what `map_err` passes")]
fn failed(error: skiff_ebpf::Error) -> Failure {
    Failure::engine(format!("files: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32) -> Process {
        Process { pid, parent, start_ns: Some(u64::from(pid)), ..Process::default() }
    }

    #[test]
    fn children_come_below_their_parents() {
        let all = [process(7, 1), process(8, 7), process(9, 7), process(10, 8), process(11, 1)];
        let found: Vec<_> = nested(&all).into_iter().map(|(depth, process)| (depth, process.pid)).collect();
        assert_eq!(found, [(0, 7), (1, 8), (2, 10), (1, 9), (0, 11)]);
        let circle = [process(7, 8), process(8, 7)];
        assert_eq!(nested(&circle).len(), 2);
    }

    #[test]
    fn files_of_layers_are_named_as_in_the_container() {
        let of = |text: &str| {
            let file = UsedFile {
                device: 1,
                inode: 1,
                path: text.to_owned(),
                bytes: 1,
                read: vec![],
                mapped: vec![],
                pages: 1,
            };
            path(&file).to_owned()
        };
        let layer = format!("/var/lib/skiff/layers/sha256/{}/tree/usr/bin/sh", "0".repeat(64));
        assert_eq!(of(&layer), "/usr/bin/sh");
        assert_eq!(of("/srv/layers/sha256/x/y"), "/srv/layers/sha256/x/y");
        assert_eq!(of(""), "");
    }
}
