//! `exec`: one more program in a container that runs.

use std::io;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use skiff_runtime::cgroup::{Cgroup, Paths};
use skiff_runtime::container::{Container, Process};
use skiff_runtime::launch::{self, Running};
use skiff_runtime::oci::spec::{self, Spec, Status};
use skiff_runtime::oci::{self, Facts, Terms};
use skiff_runtime::supervise::Signals;
use skiff_runtime::{rdt, seal};

use crate::args::{Args, Exec, Global};
use crate::create::{self, exit_code, stand_by};
use crate::failure::{Context, Failure};
use crate::pidfd_socket::{self, Socket};
use crate::root::root;
use crate::{config, pid_file};

/// What runc exits with if the program could not be run.
const FAILED: u8 = 255;

/// `exec CONTAINER [PROGRAM [ARGUMENT…]]`.
pub(crate) fn exec(global: &Global, args: &Args) -> Result<u8, Failure> {
    try_exec(global, args)
        .map_err(|failure| Failure { code: FAILED, message: format!("exec failed: {}", failure.message) })
}

fn try_exec(global: &Global, args: &Args) -> Result<u8, Failure> {
    seal::seal_for_one(c"skiff-runtime")?;
    let container = Container::open(&root(global), args.id())?;
    let (status, init) = running(&container, args.exec.ignore_paused)?;
    let bundle = config::bundle(&container)?;
    let given = asked_for(&bundle.spec, args)?;
    let facts = Facts::probe_exec(&given, &Path::new("/proc").join(init.pid.to_string()).join("root"))?;
    let terms = Terms { descriptors: create::passed(args.launch.preserve_fds)?, ..Terms::default() };
    let mut process = oci::process(&given, bundle.spec.linux.as_ref(), &facts, &terms)?;
    create::tell(&process);
    if !may_set_groups(init.pid)? {
        oci::forbid_groups(&mut process)?;
    }
    let flags = &args.launch;
    create::check_terminal(&process, flags, flags.detach)?;
    create::fit_terminal(&mut process, flags.detach);
    let cgroup = Cgroup::open_to_join(&below(&container.record().cgroups, &args.exec.cgroups)?)?;
    let group = container.record().rdt.as_ref();
    // While the container is paused, what ends a process ends this one: the child does no more then when it goes on.
    let signals = if status == Status::Paused { None } else { signals(flags.detach)? };
    let pidfd_socket = Socket::connect(flags.pidfd_socket.as_deref())?;
    let running = launch::exec(&launch::exec::Plan {
        init: init.pid,
        init_fd: init.pidfd.as_fd(),
        cgroup: &cgroup,
        rdt_tasks: group.map_or(Ok(Vec::new()), |group| group.open_tasks(Path::new(rdt::ROOT)))?,
        process,
        subject: oci::hooks(&bundle, &container.record().id)?.subject,
        console_socket: flags.console_socket.as_deref(),
    })?;
    let signals = signals.map_or_else(|| self::signals(flags.detach), |signals| Ok(Some(signals)))?;
    create::tell_of(&running);
    pidfd_socket.send(running.pidfd(), pidfd_socket::ANOTHER)?;
    pid_file::write(flags.pid_file.as_deref(), running.pid())?;
    finish(running, signals)
}

/// Those that are passed on to the program, unless nobody stays with it.
fn signals(detach: bool) -> Result<Option<Signals>, Failure> {
    if detach { Ok(None) } else { Ok(Some(Signals::block().context(|| "block signals".into())?)) }
}

/// Stays with the program, or lets go of it.
fn finish(mut running: Running, signals: Option<Signals>) -> Result<u8, Failure> {
    let Some(signals) = signals else {
        running.release();
        return Ok(0);
    };
    stand_by(&mut running, &signals, None).map(exit_code)
}

/// The first process of a container that can take another.
fn running(container: &Container, ignore_paused: bool) -> Result<(Status, Process), Failure> {
    // In runc's words.
    match container.look()? {
        (Status::Paused, _) if !ignore_paused => {
            Err(Failure::new("cannot exec in a paused container (use --ignore-paused to override)"))
        }
        (Status::Creating, _) => Err(Failure::new("cannot exec in a container that is being created")),
        (status, Some(init)) => Ok((status, init)),
        (_, None) => Err(Failure::new("cannot exec in a stopped container")),
    }
}

/// What is to be run: as the file says, or as the container's own program with what flags change.
fn asked_for(spec: &Spec, args: &Args) -> Result<spec::Process, Failure> {
    let program = &args.operands[1..];
    if let Some(file) = &args.exec.process {
        return match program {
            [] => Ok(oci::read_file(file)?),
            _ => Err(Failure::new("--process says what is run: leave out PROGRAM")),
        };
    }
    if program.is_empty() {
        return Err(Failure::new("no program given, see 'skiff-runtime help exec'"));
    }
    let texts: Option<Vec<String>> = program.iter().map(|word| word.to_str().map(str::to_owned)).collect();
    let args_given = texts.ok_or_else(|| Failure::new("an argument is not valid UTF-8"))?;
    let process = spec::Process { args: args_given, ..spec.process.clone().unwrap_or_default() };
    changed(process, &args.exec)
}

fn changed(mut process: spec::Process, flags: &Exec) -> Result<spec::Process, Failure> {
    process.terminal = flags.tty;
    process.console_size = None;
    if let Some((uid, gid)) = flags.user.as_deref().map(user).transpose()?.flatten() {
        process.user.uid = uid;
        process.user.gid = gid.unwrap_or(process.user.gid);
    }
    process.user.additional_gids.extend(&flags.additional_gids);
    // An empty word says nothing, as with runc: a label is not to be lost by it.
    let said = |flag: &Option<String>| flag.clone().filter(|text| !text.is_empty());
    if let Some(cwd) = said(&flags.cwd) {
        process.cwd = cwd;
    }
    for entry in &flags.env {
        set_variable(&mut process.env, entry);
    }
    if !flags.caps.is_empty() {
        let sets = process.capabilities.get_or_insert_default();
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.extend_from_slice(&flags.caps);
        }
    }
    if let Some(profile) = said(&flags.apparmor) {
        process.apparmor_profile = profile;
    }
    if let Some(label) = said(&flags.process_label) {
        process.selinux_label = label;
    }
    process.no_new_privileges |= flags.no_new_privs;
    Ok(process)
}

/// User and group, where they are not to stay as they are.
fn user(text: &str) -> Result<Option<(u32, Option<u32>)>, Failure> {
    let id = |id: &str| id.parse().map_err(|_| Failure::new(format!("--user {text:?}: not UID[:GID]")));
    match text.split_once(':') {
        _ if text.is_empty() => Ok(None),
        Some((uid, gid)) => Ok(Some((id(uid)?, Some(id(gid)?)))),
        None => Ok(Some((id(text)?, None))),
    }
}

/// Sets `NAME=value` in the place of what NAME was: getenv(3) would find the first.
fn set_variable(environment: &mut Vec<String>, entry: &str) {
    let name = entry.split('=').next().unwrap_or_default();
    environment.retain(|known| known.split('=').next() != Some(name));
    environment.push(entry.to_owned());
}

/// Whether the container's user namespace allows setgroups(2). user_namespaces(7).
fn may_set_groups(pid: i32) -> Result<bool, Failure> {
    let file = format!("/proc/{pid}/setgroups");
    match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        other => Ok(other.context(|| format!("read {file}"))?.trim() != "deny"),
    }
}

/// The cgroups to join: the container's, or some below them as `[CONTROLLER[,CONTROLLER]:]PATH` says.
fn below(paths: &Paths, wanted: &[String]) -> Result<Paths, Failure> {
    let mut paths = paths.clone();
    for text in wanted {
        let (controllers, path) = match text.split_once(':') {
            Some((names, path)) => (Some(names.split(',').collect::<Vec<_>>()), path),
            None => (None, text.as_str()),
        };
        let path: PathBuf = path.trim_start_matches('/').into();
        if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(Failure::new(format!("--cgroup {text:?} does not lie below the container's cgroup")));
        }
        for name in controllers.iter().flatten() {
            if !paths.legacy.keys().any(|controller| controller.name() == *name) {
                return Err(Failure::new(format!(
                    "--cgroup {text:?}: the container is in no cgroup v1 of {name:?}"
                )));
            }
        }
        let is_meant = |name: &str| controllers.as_ref().is_none_or(|names| names.contains(&name));
        for (controller, directory) in &mut paths.legacy {
            if is_meant(controller.name()) {
                directory.push(&path);
            }
        }
        if let (Some(directory), None) = (&mut paths.unified, &controllers) {
            directory.push(&path);
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use skiff_runtime::cgroup::Controller;

    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn flags_change_the_container_s_own_program() {
        let given = spec::Process {
            env: strings(&["PATH=/bin", "A=1", "AB=2"]),
            cwd: "/".into(),
            user: spec::User { uid: 1, gid: 2, additional_gids: vec![3], ..spec::User::default() },
            no_new_privileges: true,
            ..spec::Process::default()
        };
        let flags = Exec {
            tty: true,
            user: Some("5".into()),
            cwd: Some("/tmp".into()),
            env: strings(&["A=3", "B=4", "AB"]),
            additional_gids: vec![7],
            caps: strings(&["CAP_KILL"]),
            ..Exec::default()
        };
        let process = changed(given, &flags).expect("a process");
        assert!(process.terminal && process.no_new_privileges);
        assert_eq!((process.user.uid, process.user.gid), (5, 2));
        assert_eq!(process.user.additional_gids, [3, 7]);
        assert_eq!(process.env, ["PATH=/bin", "A=3", "B=4", "AB"]);
        assert_eq!(process.cwd, "/tmp");
        let sets = process.capabilities.expect("capabilities");
        assert_eq!((sets.bounding.as_slice(), sets.ambient.len()), (&["CAP_KILL".to_owned()][..], 0));
    }

    #[test]
    fn flags_without_a_word_change_nothing() {
        let given = || spec::Process {
            cwd: "/tmp".into(),
            apparmor_profile: "profile".into(),
            selinux_label: "label".into(),
            ..spec::Process::default()
        };
        let empty = || Some(String::new());
        let flags = Exec {
            user: empty(),
            cwd: empty(),
            apparmor: empty(),
            process_label: empty(),
            ..Exec::default()
        };
        assert_eq!(changed(given(), &flags), Ok(given()));
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!(user("1000"), Ok(Some((1000, None))));
        assert_eq!(user("0:5"), Ok(Some((0, Some(5)))));
        assert_eq!(user(""), Ok(None));
        for text in ["root", "1:", ":1", ":", "-1", "1:2:3", "4294967296"] {
            assert!(user(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cgroups_below_the_container_s_are_found_by_controller() {
        let paths = Paths {
            unified: Some("/u/c".into()),
            legacy: [(Controller::Cpu, "/cpu/c".into()), (Controller::Pids, "/pids/c".into())].into(),
            ..Paths::default()
        };
        let check = |wanted: &[&str], expected: Result<[&str; 3], &str>| {
            let found = below(&paths, &strings(wanted)).map_err(|failure| failure.message);
            let expected = expected.map(|[unified, cpu, pids]| Paths {
                unified: Some(unified.into()),
                legacy: [(Controller::Cpu, cpu.into()), (Controller::Pids, pids.into())].into(),
                ..Paths::default()
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{wanted:?}");
        };
        check(&[], Ok(["/u/c", "/cpu/c", "/pids/c"]));
        check(&["/a"], Ok(["/u/c/a", "/cpu/c/a", "/pids/c/a"]));
        check(&["cpu:a/b"], Ok(["/u/c", "/cpu/c/a/b", "/pids/c"]));
        check(&["cpu:a", "pids:b"], Ok(["/u/c", "/cpu/c/a", "/pids/c/b"]));
        check(&["cpu,pids:a"], Ok(["/u/c", "/cpu/c/a", "/pids/c/a"]));
        check(&["../a"], Err("--cgroup \"../a\" does not lie below the container's cgroup"));
        check(&["cpu:a/../.."], Err("--cgroup \"cpu:a/../..\" does not lie below the container's cgroup"));
        check(&["io:a"], Err("--cgroup \"io:a\": the container is in no cgroup v1 of \"io\""));
    }
}
