//! What a container uses of its image is recorded exactly, read ahead when it is cold, and none of it can be turned against the host.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::layout::{Layout, Tar};
use crate::harness::world::World;
use crate::harness::{Case, fixture, kernel, need, parse, programs};
use crate::oci::hosting::{group, lacks};
use crate::peers::world::eventually;

const PAGE: usize = 4096;
/// Pages of each file of data.
const PAGES: usize = 1024;

/// Whether this host lets eBPF programs be loaded. Everything else that goes wrong is a failure.
fn can_record() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Since then the kernel tells what is used, not only what comes into the page cache.
fn is_exact() -> bool {
    kernel() >= (6, 12)
}

/// An image of the probe and two files of 4 MiB; its reference.
fn image(case: &Case) -> String {
    image_with(case, PAGES)
}

/// The same with files of so many pages.
fn image_with(case: &Case, pages: usize) -> String {
    let text = "x".repeat(pages * PAGE);
    let probe = fs::read(programs::probe()).expect("the probe");
    let mut tar = Tar::new();
    tar.dir("bin")
        .program("bin/probe", &probe)
        .dir("data")
        .file("data/read", &text)
        .file("data/mapped", &text);
    tar.symlink("data/link", "/etc/shadow");
    Layout::image(&case.dir.join("image"), &json!({ "Entrypoint": ["/bin/probe"] }), &[tar.finish()])
}

/// The only profile that there is, as a document.
fn document(case: &Case) -> Value {
    let listed = parse(&case.skiff(&["prefetch", "ls", "--format", "json"]).output().ok());
    parse(&case.skiff(&["prefetch", "show", "--format", "json", id(&listed)]).output().ok())
}

fn id(listed: &Value) -> &str {
    listed["image"].as_str().expect("an image")
}

/// The pages of the file that the profile has.
fn pages(document: &Value, path: &str) -> Vec<u64> {
    let files = document["files"].as_array().expect("files");
    let Some(file) = files.iter().find(|file| file["path"] == path) else { return Vec::new() };
    let ranges = file["ranges"].as_array().expect("ranges").iter();
    let number = |range: &Value, at: usize| range[at].as_u64().expect("a number");
    ranges.flat_map(|range| number(range, 1)..number(range, 1) + number(range, 2)).collect()
}

/// Takes the image's files out of the page cache.
fn chill(case: &Case) {
    fn drop_below(directory: &Path) {
        for entry in fs::read_dir(directory).expect("a layer").map(|entry| entry.expect("an entry")) {
            let kind = entry.file_type().expect("a kind");
            if kind.is_dir() {
                drop_below(&entry.path());
            } else if kind.is_file() {
                let file = File::open(entry.path()).expect("a file");
                file.sync_all().expect("sync");
                posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("drop");
            }
        }
    }
    drop_below(&case.state.join("layers/sha256"));
}

const CAUTION: &str = "of what comes into the page cache";

/// One run that is recorded, of an image that is not in the page cache where that would not be seen.
fn record(case: &Case, image: &str, words: &[&str]) {
    let run = |mode: &str| {
        case.skiff(&[&["run", "--rm", "--prefetch", mode, image, "use"], words].concat()).output()
    };
    if !is_exact() {
        run("off").ok();
        chill(case);
    }
    let output = run("record");
    assert_eq!((output.code, output.stdout.as_str()), (0, "used\n"), "{output}");
    assert_eq!((output.stderr.lines().count(), output.stderr.contains(CAUTION)), caution(), "{output}");
}

/// Lines that a recording says, and whether the one of what this kernel does not tell is there.
fn caution() -> (usize, bool) {
    if is_exact() { (0, false) } else { (1, true) }
}

/// One run with a profile: what that says of prefetching.
fn profiled(case: &Case, flags: &[&str], image: &str, words: &[&str]) -> Value {
    let file = case.dir.join("profile.json");
    let flag = format!("--profile={}", file.display());
    let words = [&["run", "--rm", &flag], flags, &[image], words].concat();
    let output = case.skiff(&words).output();
    assert_eq!((output.code, output.stdout.as_str()), (0, "used\n"), "{output}");
    let document = parse(&fs::read_to_string(&file).expect("the profile"));
    fs::remove_file(file).expect("remove");
    document["prefetch"].clone()
}

const USES: [&str; 7] = ["use", "/data/read", "r100+4", "r300+1", "m700", "m701", "r1023+1"];

#[test]
fn what_a_program_reads_and_maps_is_recorded_and_nothing_else() {
    need!(can_record(), "a kernel with BTF");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    let image = image(&case);
    record(&case, &image, &USES[1..]);
    let document = document(&case);
    assert_eq!(
        (&document["schema"], &document["lost"]),
        (&"skiff.prefetch/1".into(), &0.into()),
        "{document}"
    );
    let found = pages(&document, "data/read");
    for page in [100, 101, 102, 103, 300, 700, 701, 1023] {
        assert!(found.contains(&page), "{page} of {found:?}");
    }
    assert!(pages(&document, "bin/probe").contains(&0), "the program itself is mapped");
    assert!(pages(&document, "data/mapped").is_empty(), "nobody has used it");
    if is_exact() {
        assert_eq!(document["accuracy"], "used");
        let read: Vec<u64> = found.iter().copied().filter(|page| !(640..768).contains(page)).collect();
        assert_eq!(read, [100, 101, 102, 103, 300, 1023], "readahead does not count");
        let mapped: Vec<u64> = found.into_iter().filter(|page| (640..768).contains(page)).collect();
        // Two faults if the first one finds a folio busy. Each maps 16 pages, and the rest of the folios of 4 that these begin and end in.
        assert!(mapped.len() <= 36 && mapped.iter().all(|page| (684..720).contains(page)), "{mapped:?}");
    }
}

#[test]
fn it_is_said_where_a_kernel_does_not_tell_what_is_used() {
    need!(can_record(), "a kernel with BTF");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    record(&case, &image(&case), &["/data/read", "r0+1"]);
    let mut profile = document(&case);
    let file = profile_file(&case);
    for accuracy in ["used", "added"] {
        profile["accuracy"] = accuracy.into();
        fs::write(&file, profile.to_string()).expect("write");
        let shown = case.skiff(&["prefetch", "show", id(&profile)]).output().ok();
        assert_eq!(shown.contains(CAUTION), accuracy == "added", "{shown}");
    }
}

#[test]
fn what_has_left_the_page_cache_by_the_end_was_used_all_the_same() {
    need!(can_record(), "a kernel with BTF");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    let image = image(&case);
    case.skiff(&["run", "--rm", "--prefetch", "off", &image, "use", "/data/read"]).output().ok();
    // What has not been written to the disk cannot leave.
    chill(&case);
    record(&case, &image, &["/data/read", "r100+4", "m700", "forget"]);
    let found = pages(&document(&case), "data/read");
    for page in [100, 101, 102, 103, 700] {
        assert!(found.contains(&page), "{page} of {found:?}");
    }
}

#[test]
fn runs_that_fail_take_nothing_from_a_profile_and_a_single_short_one_neither() {
    need!(can_record(), "a kernel with BTF");
    if !is_exact() {
        return lacks("tracepoints that tell of mappings, Linux 6.12");
    }
    let case = Case::new();
    let image = image(&case);
    let record = |words: &[&str]| {
        case.skiff(&[&["run", "--rm", "--prefetch", "record", &image, "use"], words].concat()).output()
    };
    let has_all = || pages(&document(&case), "data/read").len() >= 1000;
    record(&["/data/read", "r0+1000"]).ok();
    for _ in 0..3 {
        assert_ne!(record(&["/data/none"]).code, 0);
        assert!(has_all(), "{}", document(&case));
    }
    record(&["/data/read", "r0+1"]).ok();
    assert!(has_all(), "{}", document(&case));
    record(&["/data/read", "r0+1"]).ok();
    assert!(!has_all(), "{}", document(&case));
}

#[test]
fn runs_of_a_daemons_that_fail_take_nothing_from_a_profile() {
    need!(can_record(), "a kernel with BTF");
    if kernel() < (6, 15) {
        return lacks("a kernel that tells how a process has ended that somebody else reaps, Linux 6.15");
    }
    let world = World::new();
    let image = image(&world.0);
    let listed = || world.ok(&["prefetch", "ls", "--format", "json"]);
    world.ok(&["run", "--rm", "--prefetch", "record", &image, "use", "/data/read", "r0+1000"]);
    assert!(eventually(|| !listed().is_empty()));
    let runs = || document(&world.0)["runs"].as_u64();
    for nth in 2..5 {
        let words = ["run", "--rm", "--prefetch", "record", &image, "use", "/data/none"];
        assert_ne!(world.0.skiff(&words).output().code, 0);
        assert!(eventually(|| runs() >= Some(nth)), "{}", document(&world.0));
    }
    assert!(pages(&document(&world.0), "data/read").len() >= 1000, "{}", document(&world.0));
}

#[test]
fn a_file_that_is_only_mapped_appears_with_its_ranges() {
    need!(can_record(), "a kernel with BTF");
    if !is_exact() {
        return lacks("tracepoints that tell of mappings, Linux 6.12");
    }
    let case = Case::new();
    let image = image(&case);
    for state in ["warm", "cold"] {
        let words = ["run", "--rm", "--prefetch", "record", &image, "use", "/data/mapped", "m64", "m512"];
        case.skiff(&words).output().ok();
        let document = document(&case);
        let found = pages(&document, "data/mapped");
        assert!(found.contains(&64) && found.contains(&512), "{state}: {found:?}");
        assert!(found.len() <= 64 && !found.contains(&256), "{state}: not the whole file: {found:?}");
        chill(&case);
    }
}

#[test]
fn a_cold_image_is_read_ahead_and_a_warm_one_is_not() {
    need!(can_record(), "a kernel with BTF");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    let image = image(&case);
    let first = profiled(&case, &[], &image, &USES);
    assert_eq!((&first["replayed"], &first["profile_bytes"]), (&false.into(), &Value::Null), "{first}");
    assert_eq!(first["class"], "probe use");
    if !is_exact() {
        chill(&case);
        profiled(&case, &["--prefetch", "record"], &image, &USES);
    }
    let warm = profiled(&case, &[], &image, &USES);
    assert_eq!((&warm["replayed"], &warm["read_bytes"]), (&false.into(), &Value::Null), "{warm}");
    chill(&case);
    let cold = profiled(&case, &[], &image, &USES);
    assert_eq!(cold["replayed"], true, "{cold}");
    // The program may have been quicker.
    let there = |figure: &str| cold[figure].as_u64().unwrap_or(0);
    assert!(there("read_bytes") + there("resident_bytes") >= 8 * PAGE as u64, "{cold}");
    if is_exact() {
        // What is mapped around a fault differs from run to run, and the probe has few pages beside that.
        assert!(cold["precision"].as_f64() >= Some(0.7), "{cold}");
        assert!(cold["recall"].as_f64() >= Some(0.5), "{cold}");
    }
    let listed = parse(&case.skiff(&["prefetch", "ls", "--format", "json"]).output().ok());
    assert_eq!((&listed["replays"], &listed["class"]), (&1.into(), &"probe use".into()), "{listed}");
}

#[test]
fn what_a_replay_saves_is_told_beside_the_longest_wait() {
    need!(can_record(), "a kernel with BTF");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    let image = image(&case);
    let waited = |said: &Value| said["waited_ms"].as_f64().unwrap_or(0.0);
    let longest = (0..3).map(|_| {
        let learnt = profiled(&case, &["--prefetch", "record"], &image, &USES);
        assert_eq!((&learnt["replayed"], &learnt["saved_ms"]), (&false.into(), &Value::Null), "{learnt}");
        chill(&case);
        waited(&learnt)
    });
    let longest = longest.fold(0.0, f64::max);
    let cold = profiled(&case, &[], &image, &USES);
    assert_eq!(cold["replayed"], true, "{cold}");
    // Nobody counts where the kernel does not, and a fast disk keeps nobody waiting.
    let saved = (longest >= 1.0).then(|| longest - waited(&cold));
    assert_eq!(saved.is_some(), cold["saved_ms"].is_number(), "{longest} {cold}");
    assert!(
        (cold["saved_ms"].as_f64().unwrap_or(0.0) - saved.unwrap_or(0.0)).abs() < 0.01,
        "{longest} {cold}"
    );
}

/// Pages of the folio that the page frame `frame` is part of.
fn folio_pages(flags: &File, frame: u64) -> usize {
    const HEAD: u64 = 1 << 15;
    const TAIL: u64 = 1 << 16;
    let flags_of = |frame: u64| {
        let mut word = [0; 8];
        flags.read_exact_at(&mut word, frame * 8).expect("the flags of a page");
        u64::from_ne_bytes(word)
    };
    let mut first = frame;
    while flags_of(first) & TAIL != 0 {
        first -= 1;
    }
    if flags_of(first) & HEAD == 0 {
        return 1;
    }
    1 + (first + 1..).take_while(|frame| flags_of(*frame) & TAIL != 0).count()
}

#[test]
fn what_was_just_unpacked_lies_in_the_page_cache_in_small_folios() {
    let flags = File::open("/proc/kpageflags");
    need!(flags.is_ok(), "root, and a kernel that tells of its pages");
    let flags = flags.expect("it was there");
    let world = World::new();
    let image = image(&world.0);
    // Its program is what was unpacked for it.
    let container = world.ok(&["run", "-d", &image, "trap"]);
    let pid = world.told(&container, "{{.State.Pid}}");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
    let frames = File::open(format!("/proc/{pid}/pagemap")).expect("its pages");
    let mut sizes = Vec::new();
    for line in maps.lines().filter(|line| line.ends_with("/bin/probe") && line.contains(" r-xp ")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let page = |end: &str| u64::from_str_radix(end, 16).expect("an address") / PAGE as u64;
        for page in page(range.0)..page(range.1) {
            let mut word = [0; 8];
            frames.read_exact_at(&mut word, page * 8).expect("an entry");
            let entry = u64::from_ne_bytes(word);
            // Those that are there.
            if entry >> 63 == 1 {
                sizes.push(folio_pages(&flags, entry & ((1 << 55) - 1)));
            }
        }
    }
    world.ok(&["rm", "-f", &container]);
    assert!(sizes.len() >= 16, "{maps}");
    // 16 KiB: a fault maps no more than it would anyway.
    assert!(sizes.iter().all(|pages| *pages <= 4), "{sizes:?}");
}

#[test]
fn off_leaves_nothing_and_records_nothing() {
    let case = Case::new();
    let image = image(&case);
    for mode in ["off", "on"] {
        case.skiff(&["run", "--rm", "--prefetch", mode, &image, "use", "/data/read", "r0+1"]).output().ok();
        assert!(
            !case.state.join("prefetch").exists(),
            "{mode}: without a daemon nothing is recorded unasked"
        );
    }
    need!(can_record(), "a kernel with BTF");
    let off = profiled(&case, &["--prefetch", "off"], &image, &["use", "/data/read", "r0+1"]);
    assert_eq!(off, Value::Null);
    assert!(!case.state.join("prefetch").exists());
}

#[test]
fn a_profile_from_hostile_hands_does_no_harm() {
    need!(can_record(), "a kernel with BTF");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    let image = image(&case);
    record(&case, &image, &["/data/read", "r0+4"]);
    let good = document(&case);
    let file = profile_file(&case);
    let layer = good["files"][0]["layer"].clone();
    let with = |path: &str, size: u64, ranges: Value| {
        let file = json!({ "layer": layer, "path": path, "size": size, "ranges": ranges });
        let mut document = good.clone();
        document["files"] = json!([file]);
        document.to_string()
    };
    let shadow = fs::metadata("/etc/shadow").map_or(1, |found| found.len().max(1));
    let whole = (PAGES * PAGE) as u64;
    for (what, text) in [
        ("no JSON", "{".repeat(100_000)),
        ("another kind of document", json!({ "schema": "other" }).to_string()),
        ("too much of it", format!("{}{}", " ".repeat(5 << 20), good)),
        ("a path out of the layer", with("../../../../../../etc/shadow", shadow, json!([[0, 0, 1]]))),
        ("an absolute path", with("/etc/shadow", shadow, json!([[0, 0, 1]]))),
        ("pages beyond the end", with("data/read", whole, json!([[0, 1000, 1000]]))),
        ("ranges on each other", with("data/read", whole, json!([[0, 0, 9], [0, 3, 9]]))),
    ] {
        fs::write(&file, text).expect("write");
        let words = ["run", "--rm", &image, "use", "/data/read", "r0+4"];
        let output = case.skiff(&words).output();
        assert_eq!((output.code, output.stdout.as_str()), (0, "used\n"), "{what}: {output}");
    }
    // These are documents, but what they name is not read.
    for (what, text) in [
        ("a link", with("data/link", shadow, json!([[0, 0, 1]]))),
        ("a directory", with("data", 4096, json!([[0, 0, 1]]))),
        ("a file of another size", with("data/read", 4096, json!([[0, 0, 1]]))),
        ("nothing", with("data/gone", 4096, json!([[0, 0, 1]]))),
    ] {
        fs::write(&file, text).expect("write");
        chill(&case);
        let said = profiled(&case, &[], &image, &["use", "/data/read", "r0+4"]);
        assert!(said["read_bytes"].as_u64().unwrap_or(0) == 0, "{what}: {said}");
    }
}

/// The file of the only profile.
fn profile_file(case: &Case) -> PathBuf {
    let only = |directory: &Path| {
        let mut entries =
            fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
        entries.next().expect("something")
    };
    only(&only(&case.state.join("prefetch")))
}

#[test]
fn without_privilege_it_is_said_what_is_missing() {
    let case = Case::new();
    let image = image(&case);
    for dir in [&case.dir, &case.state, &case.run, &case.dir.join("tmp")] {
        fixture::tool("chown", &["-R", "1000:1000", &dir.display().to_string()]);
    }
    let run = |mode: &str| {
        let words = ["run", "--rm", "--prefetch", mode, &image, "use", "/data/read", "r0+1"];
        case.skiff(&words).with(&["uid=1000"]).output()
    };
    run("record").fails(125, "prefetch: eBPF programs need");
    assert_eq!(run("on").ok(), "used\n");
    assert!(!case.state.join("prefetch").exists());
}

#[test]
fn images_without_layers_cannot_be_recorded() {
    let case = Case::new();
    let words = ["run", "--rm", "--prefetch", "record", fixture::small_root(), "true"];
    case.skiff(&words).output().fails(125, "only images that have layers");
    case.skiff(&["run", "--prefetch", "perhaps", "host", "true"])
        .output()
        .fails(125, "neither on, off nor record");
}

#[test]
fn profiles_are_listed_shown_exported_and_removed() {
    need!(can_record(), "a kernel with BTF");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    let image = image(&case);
    let skiff = |words: &[&str]| case.skiff(&[&["prefetch"], words].concat()).output();
    assert_eq!(skiff(&["ls"]).ok().lines().count(), 1);
    record(&case, &image, &["/data/read", "r0+4"]);
    let listed = parse(&skiff(&["ls", "--format", "json"]).ok());
    let image_id = id(&listed);
    assert!(skiff(&["ls"]).ok().contains("probe use"));
    assert!(skiff(&["show", &image_id[..15]]).ok().contains("/data/read"));
    let exported = parse(&skiff(&["export", image_id, "probe use"]).ok());
    let digest = exported["files"][0]["sha256"].as_str().expect("a digest");
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    skiff(&["show", image_id, "other"]).fails(1, "no prefetch profile");
    skiff(&["show", "0000"]).fails(1, "no prefetch profile");
    skiff(&["paint"]).fails(125, "skiff prefetch --help");
    assert!(skiff(&["rm", image_id]).ok().starts_with("removed "));
    assert_eq!(skiff(&["ls"]).ok().lines().count(), 1);
}

/// Pages that are read ahead for a program that uses none of them.
const AHEAD: usize = 4 * PAGES;

/// An image with a profile of all of `data/read`, for containers that wait; its reference.
fn image_of_a_waiting_program(case: &Case) -> String {
    let image = image_with(case, AHEAD);
    let whole = format!("r0+{AHEAD}");
    record(case, &image, &["/data/read", &whole]);
    let listed = || case.skiff(&["prefetch", "ls", "--format", "json"]).output().ok();
    // A daemon takes its time to write it.
    assert!(eventually(|| !listed().is_empty()));
    let listed = parse(&listed());
    let mut exported = parse(&case.skiff(&["prefetch", "export", id(&listed)]).output().ok());
    exported["class"] = "probe trap".into();
    let file = case.dir.join("exported.json");
    fs::write(&file, exported.to_string()).expect("write");
    case.skiff(&["prefetch", "import", &image, &file.display().to_string()]).output().ok();
    chill(case);
    image
}

/// The page cache that is charged to a container that runs, in pages, and how many processes are in its cgroup.
fn charged(container: &str) -> (usize, usize) {
    let cgroup = format!("skiff-{container}");
    let directory = group("memory", &cgroup).expect("memory control");
    let read = |file: &str| fs::read_to_string(directory.join(file)).expect("an account");
    let cached = read("memory.stat");
    let cached = cached.lines().find_map(|line| line.strip_prefix("cache ").or(line.strip_prefix("file ")));
    let bytes: usize = cached.and_then(|bytes| bytes.parse().ok()).expect("a number");
    (bytes / PAGE, read("cgroup.procs").lines().count())
}

#[test]
fn what_is_read_ahead_is_charged_to_the_container_up_to_half_of_its_memory() {
    need!(can_record(), "a kernel with BTF");
    need!(group("memory", "").is_some(), "memory control");
    // The program itself has some hundred pages.
    for (memory, least, most) in [("256m", AHEAD, AHEAD * 2), ("16m", AHEAD * 3 / 8, AHEAD * 3 / 4)] {
        // One run each: what comes of it is that the profile is of no use.
        let world = World::new();
        need!(is_on_disk(&world.0), "a disk");
        let image = image_of_a_waiting_program(&world.0);
        let container = world.ok(&["run", "-d", "-m", memory, &image, "trap"]);
        let come = || charged(&container).0 >= least;
        assert!(eventually(come), "{memory}: {:?}", charged(&container));
        // The reader leaves when it has done.
        assert!(eventually(|| charged(&container).1 == 1), "{memory}: {:?}", charged(&container));
        assert!(charged(&container).0 <= most, "{memory}: {:?}", charged(&container));
        world.ok(&["rm", "-f", &container]);
    }
}

#[test]
fn without_a_daemon_it_is_charged_to_the_container_too() {
    need!(can_record(), "a kernel with BTF");
    need!(group("memory", "").is_some(), "memory control");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    let image = image_of_a_waiting_program(&case);
    let file = case.dir.join("id");
    let flags = ["--rm", "-m", "256m", "--cidfile", &file.display().to_string()];
    let words = [&["run"], &flags[..], &[&image, "trap"]].concat();
    let mut running = case.skiff(&words).start();
    running.until("ready");
    let container = fs::read_to_string(&file).expect("an id");
    assert!(eventually(|| charged(&container).0 >= AHEAD), "{:?}", charged(&container));
    assert!(eventually(|| charged(&container).1 == 1), "{:?}", charged(&container));
    running.signal(Signal::SIGTERM);
    running.finish().ok();
}

#[test]
fn who_reads_ahead_is_none_of_the_containers_processes() {
    need!(can_record(), "a kernel with BTF");
    need!(group("memory", "").is_some(), "memory control");
    let world = World::new();
    need!(is_on_disk(&world.0), "a disk");
    let image = image_of_a_waiting_program(&world.0);
    world.await_programs();
    let container = world.ok(&["run", "-d", "--name", "none-of-it", "-m", "256m", &image, "trap"]);
    assert!(eventually(|| charged(&container).0 >= AHEAD), "{:?}", charged(&container));
    assert!(eventually(|| charged(&container).1 == 1), "{:?}", charged(&container));
    let processes = |figures: &Value| {
        let processes = &figures["processes"];
        ["created", "executed", "ended"].map(|what| processes[what].as_u64().expect("a number"))
    };
    let figures = || parse(&world.ok(&["inspect", "-f", "{{json .Figures}}", "none-of-it"]));
    assert_eq!(processes(&figures()), [1, 1, 0], "{}", figures());
    // What it has read is the container's; at the moment of its end it may be nobody's.
    let read = || figures()["block"]["read_bytes"].as_u64();
    assert!(eventually(|| read() >= Some((AHEAD * PAGE) as u64)), "{}", figures());
    world.ok(&["rm", "-f", "none-of-it"]);
    let end = || world.ok(&["history", "--format", "json", "--filter", "name=none-of-it"]);
    assert!(eventually(|| !end().is_empty()));
    let figures = parse(&end())["figures"].clone();
    assert_eq!(processes(&figures), [1, 1, 1], "{figures}");
}

#[test]
fn who_reads_ahead_is_in_no_profile() {
    need!(can_record(), "a kernel with BTF");
    need!(group("memory", "").is_some(), "memory control");
    let case = Case::new();
    need!(is_on_disk(&case), "a disk");
    let image = image_of_a_waiting_program(&case);
    let (file, profile) = (case.dir.join("id"), case.dir.join("profile.json"));
    let flag = format!("--profile={}", profile.display());
    let flags = ["--rm", "-m", "256m", &flag, "--files", "--cidfile", &file.display().to_string()];
    let words = [&["run"], &flags[..], &[&image, "trap"]].concat();
    let mut running = case.skiff(&words).start();
    running.until("ready");
    let container = fs::read_to_string(&file).expect("an id");
    assert!(eventually(|| charged(&container).0 >= AHEAD), "{:?}", charged(&container));
    assert!(eventually(|| charged(&container).1 == 1), "{:?}", charged(&container));
    running.signal(Signal::SIGTERM);
    assert_eq!(running.finish().code, 0);
    let document = parse(&fs::read_to_string(&profile).expect("the profile"));
    let sums = &document["resources"];
    let created = ["init", "workload"].map(|phase| sums[phase]["processes_created"].clone());
    assert_eq!(created, [1, 0], "{sums}");
    let calls = document["system_calls"].to_string();
    assert!(calls.contains("exit_group") && !calls.contains("readahead"), "{calls}");
    assert_eq!(document["uses"]["tasks_peak"], 1, "{}", document["uses"]["reasons"]);
    let of = |what: &str| document["files"][what].as_array().expect("a list");
    assert_eq!(of("processes").len(), 1, "{:?}", of("processes"));
    assert!(!of("opens").iter().any(|open| open["path"] == "/dev/null"), "{:?}", of("opens"));
    let used = document["files"]["working_set"]["listed"].as_array().expect("a list");
    let own = |file: &Value| file["path"].as_str().expect("a path").ends_with("/bin/probe");
    // Beside what the set-up has used of skiff's own program, where its process has a copy of the memory.
    assert!(used.iter().any(own), "{used:?}");
    // What it has read is the container's, and in the one phase or the other.
    let read = ["init", "workload"].map(|phase| sums[phase]["block_read_bytes"].as_u64().expect("a number"));
    assert!(read.iter().sum::<u64>() >= (AHEAD * PAGE) as u64, "{sums}");
}

/// Whether what is dropped of the page cache comes back from a disk: major 0 is no device.
fn is_on_disk(case: &Case) -> bool {
    nix::sys::stat::major(fs::metadata(&case.dir).map_or(0, |found| found.dev())) != 0
}

#[test]
fn a_daemon_records_and_replays_by_itself() {
    need!(can_record(), "a kernel with BTF");
    if !is_exact() {
        return lacks("tracepoints that tell of mappings, Linux 6.12");
    }
    let world = World::new();
    let image = image(&world.0);
    let run = || world.ok(&["run", "--rm", &image, "use", "/data/read", "r100+4"]);
    let listed = || world.ok(&["prefetch", "ls", "--format", "json"]);
    // The first one finds no recorder, and has it loaded.
    assert!(eventually(|| {
        run();
        !listed().is_empty()
    }));
    assert!(pages(&document(&world.0), "data/read").contains(&103));
    assert!(eventually(|| {
        chill(&world.0);
        run();
        parse(&listed())["replays"].as_u64() >= Some(1)
    }));
    assert!(
        eventually(|| {
            chill(&world.0);
            run();
            parse(&listed())["precision_permille"].as_u64() >= Some(500)
        }),
        "{}",
        listed()
    );
}
