//! `--files`: known opens, pages and processes are all in the record, and the picture of a run has them in their places.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;

use serde_json::{Value, json};

use crate::harness::{Case, Output, fixture, kernel, need, parse};
use crate::oci::lacks;
use crate::trace::can_trace;

/// Runs a command with `--files`; its record, of which nothing is missing.
fn record(case: &Case, flags: &[&str], command: &[&str]) -> Value {
    let profile = profile(case, flags, command);
    assert_eq!(profile["events_lost"], 0, "{profile}");
    profile["files"].clone()
}

/// The whole profile.
fn profile(case: &Case, flags: &[&str], command: &[&str]) -> Value {
    profile_of(case, flags, command).1
}

/// And what the command has said.
fn profile_of(case: &Case, flags: &[&str], command: &[&str]) -> (Output, Value) {
    let file = case.dir.join("profile.json");
    let flag = format!("--profile={}", file.display());
    let output = case.run(&[flags, &[&flag, "--files"]].concat(), command);
    assert!(output.stderr.contains("files used:") && output.stderr.contains("processes:"), "{output}");
    let profile = parse(&fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {output}")));
    (output, profile)
}

/// Makes a file of 1024 pages. In the page cache its folios are as large as what is written at once.
fn in_folios_of(pages: usize, path: &str) {
    let mut file = File::create(path).expect("a file");
    (0..1024 / pages).for_each(|_| file.write_all(&vec![7; 4096 * pages]).expect("write"));
}

fn listed<'a>(record: &'a Value, what: &str) -> &'a Vec<Value> {
    record[what].as_array().unwrap_or_else(|| panic!("no {what} in {record}"))
}

#[test]
fn every_process_is_in_the_tree_with_its_parent_and_its_end() {
    need!(can_trace(), "a kernel with BTF");
    let case = Case::new();
    let script = "probe exit 3; probe die SIGKILL; for i in 1 2 3 4 5; do probe exit 0 & done; wait; (probe exit 7; exit 8); true";
    let record = record(&case, &[], &["sh", "-c", script]);
    let processes = listed(&record, "processes");
    let program = |process: &Value| {
        let last = process["execs"].as_array().and_then(|execs| execs.last().cloned()).unwrap_or_default();
        last["arguments"].clone()
    };
    let shell = processes.iter().find(|one| program(one)[0] == "sh").expect("the shell");
    assert!(shell["code"] == 0 && shell["signal"].is_null(), "{shell}");
    let of = |words: Value| processes.iter().filter(|one| program(one) == words).collect::<Vec<_>>();
    let mut children = of(json!(["probe", "exit", "3"]));
    assert_eq!((children.len(), &children[0]["code"]), (1, &json!(3)));
    let killed = of(json!(["probe", "die", "SIGKILL"]));
    assert_eq!((killed.len(), &killed[0]["signal"], &killed[0]["code"]), (1, &json!(9), &Value::Null));
    children.extend(killed);
    children.extend(of(json!(["probe", "exit", "0"])));
    assert_eq!(children.len(), 7, "{processes:?}");
    assert!(children.iter().all(|child| child["parent"] == shell["pid"]), "{children:?}");
    // The subshell executes nothing; its child does.
    let inner = of(json!(["probe", "exit", "7"]));
    let subshell = processes.iter().find(|one| one["code"] == 8).expect("the subshell");
    assert_eq!((inner.len(), &inner[0]["parent"], &subshell["parent"]), (1, &subshell["pid"], &shell["pid"]));
    assert_eq!(processes.len(), 10, "{processes:?}");
    for process in processes {
        let (start, end) = (process["start_us"].as_f64(), process["end_us"].as_f64());
        assert!(start.is_some() && start < end, "{process}");
    }
}

#[test]
fn every_open_is_counted_by_what_came_of_it() {
    need!(can_trace(), "a kernel with BTF");
    let case = Case::new();
    let script =
        "for i in 1 2 3; do : < /etc/passwd; done; for i in 1 2; do : < /no/such; done 2> /dev/null; true";
    let record = record(&case, &[], &["sh", "-c", script]);
    let count = |path: &str, error: Value| {
        let found =
            listed(&record, "opens").iter().filter(|open| open["path"] == path && open["error"] == error);
        found.map(|open| open["count"].as_u64().expect("a number")).sum::<u64>()
    };
    assert_eq!(count("/no/such", Value::Null), 0);
    assert_eq!(count("/dev/null", Value::Null), 1);
    let missing = count("/no/such", json!("ENOENT"));
    // A shell gives up where the redirection of a built-in command fails.
    assert!(missing == 1 || missing == 2, "{record}");
    assert!(count("/etc/passwd", Value::Null) >= 3, "{record}");
}

#[test]
fn paths_that_begin_alike_are_counted_apart() {
    need!(can_trace(), "a kernel with BTF");
    let case = Case::new();
    let long = format!("/{}/{}", "d".repeat(120), "e".repeat(120));
    let script = format!("for i in 1 2 2 3 3 3; do read x < {long}$i; done 2> /dev/null; true");
    let record = record(&case, &[], &["sh", "-c", &script]);
    let mut counts: Vec<u64> = listed(&record, "opens")
        .iter()
        .filter(|open| open["path"] == long[..191] && open["path_cut"] == true && open["error"] == "ENOENT")
        .map(|open| open["count"].as_u64().expect("a number"))
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2, 3], "{record}");
}

#[test]
fn opens_without_room_are_counted_as_lost() {
    need!(can_trace(), "a kernel with BTF");
    let case = Case::new();
    let script = "i=0; while [ $i -lt 4400 ]; do read x < /no/$i; i=$((i + 1)); done 2> /dev/null; true";
    let profile = profile(&case, &[], &["sh", "-c", script]);
    let record = &profile["files"];
    let of = |open: &&Value| open["path"].as_str().is_some_and(|path| path.starts_with("/no/"));
    let opens = listed(record, "opens");
    let counted: u64 = opens.iter().filter(of).filter_map(|open| open["count"].as_u64()).sum();
    let lost = record["lost"]["opens"].as_u64().expect("a number");
    assert!(lost >= 4400 - 4096, "{}", record["lost"]);
    assert!(profile["events_lost"].as_u64() >= Some(lost), "{}", record["lost"]);
    let elsewhere = lost - (4400 - counted);
    assert!(opens.len() == 4096 && elsewhere < 100, "{elsewhere}: {}", record["lost"]);
}

#[test]
fn known_pages_are_the_working_set() {
    need!(can_trace(), "a kernel with BTF");
    let case = Case::new();
    let data = case.subdir("data");
    in_folios_of(1, &format!("{data}/known"));
    let volume = format!("{data}:/data");
    let words = ["probe", "use", "/data/known", "r100+4", "r300+1", "m700", "r1023+1"];
    let record = record(&case, &["-v", &volume], &words);
    let set = &record["working_set"];
    // What is in the cache already is not seen elsewhere.
    need!(set["accuracy"] == "used", "Linux >= 6.12");
    // What is read of a file in memory passes by the page cache.
    let on_disk = fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.contains(" - ext4 "));
    need!(on_disk, "a disk");
    let file = listed(set, "listed")
        .iter()
        .find(|file| file["path"].as_str().is_some_and(|path| path.ends_with("/data/known")));
    let file = file.unwrap_or_else(|| panic!("not there: {set}"));
    assert_eq!(file["bytes"], 4096 * 1024);
    assert_eq!(file["read"], json!([[100, 4], [300, 1], [1023, 1]]), "{file}");
    let mapped: Vec<(u64, u64)> = serde_json::from_value(file["mapped"].clone()).expect("ranges");
    assert!(mapped.iter().any(|(first, count)| (*first..first + count).contains(&700)), "{file}");
    assert!(
        mapped.iter().map(|(_, count)| count).sum::<u64>() <= 16,
        "a fault maps 16 pages at most: {file}"
    );
    let program = |file: &&Value| file["path"].as_str().is_some_and(|path| path.ends_with("/bin/probe"));
    let program = listed(set, "listed").iter().find(program).expect("the program itself");
    assert!(program["mapped"].as_array().is_some_and(|ranges| !ranges.is_empty()), "{program}");
}

/// 16 pages are looked at by a fault, which maps more of them where folios are larger than pages, and less where the cache has not all.
#[test]
fn pages_are_mapped_as_the_process_has_them() {
    need!(can_trace(), "a kernel with BTF");
    if kernel() < (6, 18) {
        return lacks("faults that map folios as a whole, of Linux 6.18");
    }
    let on_disk = fs::read_to_string("/proc/self/mountinfo").is_ok_and(|table| table.contains(" - ext4 "));
    need!(on_disk, "a disk");
    let case = Case::new();
    let data = case.subdir("data");
    let volume = format!("{data}:/data");
    for pages in [1, 4, 16] {
        in_folios_of(pages, &format!("{data}/known"));
        let words = ["probe", "use", "/data/known", "m100", "m300", "m700", "told"];
        let (output, profile) = profile_of(&case, &["-v", &volume], &words);
        let known = |file: &&Value| file["path"].as_str().is_some_and(|path| path.ends_with("/data/known"));
        let set = listed(&profile["files"]["working_set"], "listed").iter().find(known).expect("the file");
        let mapped: Vec<(u64, u64)> = serde_json::from_value(set["mapped"].clone()).expect("ranges");
        let told: Vec<u64> = mapped.iter().flat_map(|(first, count)| *first..first + count).collect();
        let there = output.stdout.lines().next().unwrap_or_default().split(' ');
        let there: Vec<u64> = there.map(|page| page.parse().expect("a page")).collect();
        assert!(there.iter().all(|page| told.contains(page)), "{there:?}: {told:?}");
        // Not across the end of a page table, of which nobody tells.
        let folios: Vec<u64> = there.iter().map(|page| page / pages as u64).collect();
        assert!(told.iter().all(|page| folios.contains(&(page / pages as u64))), "{there:?}: {told:?}");
    }
}

/// Fields of a protocol buffer by their numbers: a number, or bytes.
fn fields(mut bytes: &[u8]) -> BTreeMap<u64, Vec<(u64, Vec<u8>)>> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (first, rest) = bytes.split_first().expect("a byte");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut all: BTreeMap<u64, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = varint(&mut bytes);
        let mut inner = Vec::new();
        if tag & 7 == 2 {
            let (taken, rest) = bytes.split_at(usize::try_from(value).expect("short"));
            (inner, bytes) = (taken.to_vec(), rest);
        } else {
            assert_eq!(tag & 7, 0, "wire type");
        }
        all.entry(tag >> 3).or_default().push((value, inner));
    }
    all
}

#[test]
fn the_picture_has_the_launch_and_the_processes() {
    need!(can_trace(), "a kernel with BTF");
    let case = Case::new();
    let file = case.dir.join("run.perfetto-trace");
    let flag = format!("--profile={}", file.display());
    let output = case
        .skiff(&["run", "--rm", &flag, fixture::small_root(), "sh", "-c", "probe exit 3; echo out"])
        .output();
    assert_eq!((output.code, output.stdout.as_str()), (0, "out\n"), "{output}");
    let bytes = fs::read(&file).expect("the trace");
    let trace = fields(&bytes);
    assert_eq!(trace.keys().copied().collect::<Vec<_>>(), [1], "packets only");
    let (mut names, mut open, mut seen, mut latest) =
        (BTreeMap::new(), BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (_, packet) in &trace[&1] {
        let packet = fields(packet);
        assert_eq!(packet[&10][0].0, 1, "one sequence");
        if let Some(descriptor) = packet.get(&60) {
            let descriptor = fields(&descriptor[0].1);
            names
                .insert(descriptor[&1][0].0, String::from_utf8(descriptor[&2][0].1.clone()).expect("a name"));
            continue;
        }
        let (at, event) = (packet[&8][0].0, fields(&packet[&11][0].1));
        let track = event[&11][0].0;
        assert!(names.contains_key(&track), "a track is described before its events");
        // Each track goes forward in time.
        assert!(latest.insert(track, at).is_none_or(|before| before <= at));
        let stack: &mut Vec<(String, u64)> = open.entry(track).or_default();
        match event[&9][0].0 {
            1 => {
                let name = String::from_utf8(event[&23][0].1.clone()).expect("a name");
                let above: Vec<_> = stack.iter().map(|(name, _)| name.clone()).collect();
                seen.push((above.join("/"), name.clone()));
                stack.push((name, at));
            }
            2 => assert!(stack.pop().is_some_and(|(_, begin)| begin <= at), "an end has its begin"),
            kind => assert_eq!(kind, 3),
        }
    }
    assert!(open.values().all(Vec::is_empty), "every slice ends: {open:?}");
    let has = |above: &str, name: &str| seen.iter().any(|(path, found)| path == above && found == name);
    for phase in ["plan", "rootfs", "cgroup", "clone", "mounts", "security", "exec"] {
        assert!(has("container/launch", phase), "{phase}: {seen:?}");
    }
    assert!(has("container", "program") && has("container/program", "until the first output"), "{seen:?}");
    assert!(has("probe", "probe") && has("sh", "sh"), "processes and their programs: {seen:?}");
}
