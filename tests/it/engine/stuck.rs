//! What never answers holds up nobody but whoever asked for it.

use crate::harness::hung::{Hung, Shared};
use crate::harness::world::World;
use crate::harness::{fixture, need, v1};
use crate::peers::world::eventually;

#[test]
fn a_bind_source_that_does_not_answer_fails_its_container_alone() {
    let world = World::new();
    let path = world.0.dir.join("hung");
    let hung = Hung::mount(&path);
    need!(hung.is_some(), "FUSE");
    let volume = format!("{}/data:/data", path.display());
    let words = ["run", "--rm", "-v", &volume, fixture::small_root(), "true"];
    let waiting = world.0.skiff(&words).start();
    for _beside_it in 0..3 {
        assert_eq!(world.ok(&["run", "--rm", fixture::small_root(), "echo", "fine"]), "fine");
    }
    waiting.finish().fails(125, "does not answer");
    assert!(eventually(|| world.ok(&["ps", "-aq"]).is_empty()));
}

/// Whether a process of this name in the container cannot be interrupted. proc_pid_stat(5).
fn is_stuck(id: &str, name: &str) -> bool {
    let of =
        |pid: &str, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let processes = std::fs::read_dir("/proc").expect("procfs").flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    pids.any(|pid| of(&pid, "stat").contains(&format!("({name}) D ")) && of(&pid, "cgroup").contains(id))
}

#[test]
fn a_container_that_does_not_stand_still_is_killed_all_the_same() {
    let world = World::new();
    let path = world.0.dir.join("shared");
    let _shared = Shared::mount(&path);
    let id = world.start("web", &["-v", &format!("{}:/shared:rslave", path.display())], &["probe", "trap"]);
    // What is mounted there from now on is seen in the container, too.
    let hung = Hung::mount(&path.join("hung"));
    need!(hung.is_some(), "FUSE");
    world.ok(&["exec", "-d", "web", "ls", "/shared/hung"]);
    assert!(eventually(|| is_stuck(&id, "ls")));
    let paused = world.0.skiff(&["pause", "web"]).start();
    assert!(eventually(|| frozen(&id) == "1\n"), "it is being frozen");
    assert_eq!(world.state("web"), "running");
    world.ok(&["kill", "web"]);
    paused.finish().fails(1, "web");
    assert_eq!(world.ended("web"), 137);
}

#[test]
fn whoever_waits_for_the_end_of_what_cannot_end_is_told() {
    let world = World::new();
    world.start("web", &[], &["sh", "-c", "sleep 1000; true"]);
    let child = || {
        let pid = world.inspect("web")["State"]["Pid"].to_string();
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children")
    };
    assert!(eventually(|| !child().is_empty()));
    let child: i32 = child().trim().parse().expect("one child");
    // A process that is traced is there until its tracer has seen its end, and process 1 cannot end before. ptrace(2).
    // SAFETY: takes numbers alone.
    assert_eq!(unsafe { libc::ptrace(libc::PTRACE_SEIZE, child, 0, 0) }, 0, "it can be traced");
    for words in [&["stop", "-t", "0", "web"][..], &["rm", "-f", "web"]] {
        world.skiff(words).fails(1, "container web was killed and has not ended");
        assert_eq!(world.state("web"), "running");
    }
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).expect("it is dead");
    assert_eq!(world.ended("web"), 137);
    world.ok(&["rm", "web"]);
}

/// Whether all processes of the container are to stand still. cgroups(7).
fn frozen(id: &str) -> String {
    let file =
        if v1("freezer") { "freezer/skiff-ID/freezer.self_freezing" } else { "skiff-ID/cgroup.freeze" };
    let files = [file, "unified/skiff-ID/cgroup.freeze"].map(|file| file.replace("ID", id));
    let read = |file: &String| std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok();
    files.iter().filter_map(read).find(|text| text == "1\n").unwrap_or_default()
}

#[test]
fn a_container_that_cannot_be_removed_is_seen_and_can_be_removed_later() {
    let world = World::new();
    let id = world.start("web", &["--rm"], &["probe", "trap"]);
    // Nothing that is mounted on can be removed.
    let inside = world.0.state.join("containers").join(&id).join("upper/busy");
    let busy = Shared::mount(&inside);
    world.skiff(&["stop", "web"]);
    let listed = || world.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
    assert!(eventually(|| listed() == "web dead"), "{}", listed());
    world.skiff(&["rm", "web"]).fails(1, "web");
    assert_eq!(listed(), "web dead");
    drop(busy);
    world.ok(&["rm", "web"]);
    assert_eq!(listed(), "");
}
