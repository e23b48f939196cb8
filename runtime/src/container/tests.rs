//! Containers without containers: directories, records and plain processes.

use std::process::{Child, Command, Stdio};

use super::*;

/// A root of the test's own; gone when dropped.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("skiff-containers-{}-{name}", std::process::id())))
    }

    fn record(&self, id: &str, child: Option<&Child>) -> Record {
        let init = child.map(|child| {
            let pid = child.id().cast_signed();
            Init { pid, start_time: process::stat(pid).expect("stat").start_time }
        });
        Record { id: id.into(), oci_version: "1.2.0".into(), init, ..Record::default() }
    }

    /// A container whose first process is `child`.
    fn container(&self, id: &str, child: Option<&Child>) -> Container {
        let mut claim = claim(&self.0, id).expect("claim");
        let record = self.record(id, child);
        claim.write(&record).expect("write");
        claim.write_config(b"{}").expect("write");
        claim.keep(record).expect("keep")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("spawn")
}

fn status(root: &Root, id: &str) -> Status {
    Container::open(&root.0, id).expect("open").status().expect("status")
}

#[test]
fn ids_are_file_names_without_tricks() {
    for id in ["a", "A-1_b+c.d", "..a", "...", &"x".repeat(200)] {
        check_id(id).expect(id);
    }
    for id in ["", ".", "..", "a/b", "/", "a b", "ä", "a\n", "a\0", "a:b", &"x".repeat(201)] {
        assert!(check_id(id).is_err(), "{id:?}");
        assert!(claim(Path::new("/nonexistent"), id).is_err(), "{id:?}");
        assert!(Container::find(Path::new("/nonexistent"), id).is_err(), "{id:?}");
    }
}

#[test]
fn of_many_who_claim_an_id_one_gets_it() {
    let root = Root::new("many");
    for round in 0..20 {
        let id = format!("c{round}");
        let claims: Vec<Result<Claim, Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| claim(&root.0, &id))).collect();
            threads.into_iter().map(|thread| thread.join().expect("join")).collect()
        });
        assert_eq!(claims.iter().filter(|claim| claim.is_ok()).count(), 1, "{claims:?}");
        drop(claims);
        assert!(!root.0.join(&id).exists(), "a claim that is given up leaves nothing");
    }
}

#[test]
fn what_is_on_record_is_taken() {
    let root = Root::new("taken");
    root.container("c", None);
    let error = claim(&root.0, "c").expect_err("taken");
    assert_eq!(error.to_string(), "container with given ID already exists: c");
}

#[test]
fn remains_without_a_record_are_taken_over_or_removed() {
    let root = Root::new("remains");
    fs::create_dir_all(root.0.join("c")).expect("make");
    fs::write(root.0.join("c").join(NEW_STATE), "{").expect("write");
    assert!(all(&root.0).expect("all").is_empty());
    assert!(Container::open(&root.0, "c").is_err());
    drop(claim(&root.0, "c").expect("nobody has it"));
    assert!(!root.0.join("c").exists());

    fs::create_dir_all(root.0.join("c")).expect("make");
    remove_remains(&root.0, "c").expect("remove");
    assert!(!root.0.join("c").exists());
    remove_remains(&root.0, "c").expect("there is nothing");
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let root = Root::new("record");
    let mut record = root.record("c", None);
    record.annotations.insert("key".into(), "välue".into());
    record.cgroups.unified = Some("/sys/fs/cgroup/c".into());
    record.init = Some(Init { pid: 7, start_time: u64::MAX });
    let mut claim = claim(&root.0, "c").expect("claim");
    claim.write(&record).expect("write");
    assert_eq!(*Container::open(&root.0, "c").expect("open").record(), record);
    assert!(!root.0.join("c").join(NEW_STATE).exists());
}

#[test]
fn the_last_whole_record_holds() {
    let root = Root::new("latest");
    let (first, mut second) = (root.record("c", None), root.record("c", None));
    second.init = Some(Init { pid: 7, start_time: 8 });
    let mut claim = claim(&root.0, "c").expect("claim");
    claim.write(&first).expect("write");
    let path = claim.directory().join(STATE);
    let alone = fs::read(&path).expect("read").len();
    claim.write(&second).expect("write");
    let text = fs::read(&path).expect("read");
    for length in alone..=text.len() {
        fs::write(&path, &text[..length]).expect("write");
        let holds = if length == text.len() { &second } else { &first };
        assert_eq!(Container::open(&root.0, "c").expect("open").record(), holds, "{length}");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_of_its_own_container_only() {
    let root = Root::new("broken");
    root.container("good", None);
    for text in ["", "{", "[]", "{\"init\": 5}", "\u{0}"] {
        fs::create_dir_all(root.0.join("bad")).expect("make");
        fs::write(root.0.join("bad").join(STATE), text).expect("write");
        let error = Container::open(&root.0, "bad").expect_err(text).to_string();
        assert!(error.contains("state.json: ") && error.lines().count() == 1, "{error}");
        let ids: Vec<_> = all(&root.0).expect("all").into_iter().map(|found| found.record.id).collect();
        assert_eq!(ids, ["good"]);
        remove_remains(&root.0, "bad").expect("remove");
    }
}

#[test]
fn a_container_is_creating_as_long_as_somebody_makes_it() {
    let root = Root::new("creating");
    let mut claim = claim(&root.0, "c").expect("claim");
    claim.write(&root.record("c", None)).expect("write");
    assert_eq!(status(&root, "c"), Status::Creating);
    // Its maker is killed: the lock goes, the directory stays.
    let directory = claim.directory().to_owned();
    std::mem::forget(Claim { directory: directory.clone(), lock: None, state: None });
    drop(claim.lock.take());
    assert_eq!(status(&root, "c"), Status::Stopped);
}

#[test]
fn a_container_runs_as_long_as_its_first_process() {
    let root = Root::new("runs");
    let mut child = sleeper();
    root.container("c", Some(&child));
    assert_eq!(status(&root, "c"), Status::Running);
    child.kill().expect("kill");
    // Not reaped yet: it has ended all the same.
    while !matches!(process::stat(child.id().cast_signed()), Ok(stat) if stat.state == b'Z') {
        std::thread::yield_now();
    }
    assert_eq!(status(&root, "c"), Status::Stopped);
    child.wait().expect("wait");
    assert_eq!(status(&root, "c"), Status::Stopped);
}

#[test]
fn another_process_with_the_same_id_is_not_the_container_s() {
    let root = Root::new("reused");
    let mut child = sleeper();
    let mut claim = claim(&root.0, "c").expect("claim");
    let mut record = root.record("c", Some(&child));
    if let Some(init) = &mut record.init {
        init.start_time -= 1;
    }
    claim.write(&record).expect("write");
    let container = Container::open(&root.0, "c").expect("open");
    assert!(container.process().expect("look").is_none());
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn a_lock_is_waited_for_and_a_container_that_is_gone_is_noticed() {
    let root = Root::new("lock");
    let mut one = root.container("c", None);
    let mut other = Container::open(&root.0, "c").expect("open");
    let held = one.lock().expect("lock").expect("it is there");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.lock().expect("lock").is_none());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        one.forget(held).expect("forget");
        assert!(waiting.join().expect("join"), "it has been removed meanwhile");
    });
}

#[test]
fn the_seed_of_the_fuzz_target_is_a_record_with_everything() {
    let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/state/record.json");
    let record = Record::read(&seed).expect("of that form").expect("it is there");
    assert!(record.rdt.is_some() && record.cgroups.mark.is_some() && record.cgroups.unit.is_some());
    let line = record.to_line().expect("written");
    assert_eq!(line.strip_suffix(b"\n"), Some(&*fs::read(&seed).expect("read")));
}
