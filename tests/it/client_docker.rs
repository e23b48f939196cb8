//! The same stories told by docker's client and by skiff's: what is printed, and what commands exit with, must be the same.

use std::cell::RefCell;

use crate::harness::{Case, Output, Skiff, fixture, need};
use crate::peers::docker::docker;
use crate::peers::engine::{Engine, without_ids};
use crate::peers::world::eventually;

/// Whoever is told to do things with containers.
enum Teller<'a> {
    Docker(&'a Engine),
    Skiff(Case),
}

/// One side of a story.
struct Side<'a> {
    teller: Teller<'a>,
    transcript: RefCell<Vec<String>>,
}

impl Side<'_> {
    /// A command line; `IMAGE` is the image.
    fn command(&self, words: &[&str]) -> Skiff {
        let image = match &self.teller {
            Teller::Docker(_) => "small",
            Teller::Skiff(_) => fixture::small_root(),
        };
        let words: Vec<&str> =
            words.iter().map(|word| if *word == "IMAGE" { image } else { *word }).collect();
        match &self.teller {
            Teller::Skiff(case) => case.skiff(&words),
            Teller::Docker(engine) => {
                let begin: Vec<&str> = engine.words.iter().map(String::as_str).collect();
                let own: &[&str] =
                    if let "run" | "create" = words[0] { &["--network=none", "--runtime=runc"] } else { &[] };
                engine.world.command(&[&begin[..], &words[..1], own, &words[1..]].concat())
            }
        }
    }

    /// What it prints and exits with is compared.
    fn does(&self, words: &[&str]) -> Output {
        let output = self.command(words).output();
        let text = format!("{}\n{}\n{}", words.join(" "), output.code, output.stdout);
        self.transcript.borrow_mut().push(without_ids(&text.replace(fixture::small_root(), "small")));
        output
    }

    /// Only its code is compared: failures are worded differently.
    fn ends(&self, words: &[&str]) {
        let code = self.command(words).output().code;
        self.transcript.borrow_mut().push(format!("{}\n{code}", words.join(" ")));
    }

    /// Waits until a command prints this.
    fn awaits(&self, words: &[&str], expected: &str) {
        let holds = || self.command(words).output().stdout.trim_end() == expected;
        assert!(eventually(holds), "{words:?}: not {expected:?}, but {:?}", self.command(words).output());
    }

    /// Starts a container that tells of signals and ends at SIGTERM.
    fn starts_trap(&self, name: &str, flags: &[&str]) {
        self.does(&[&["run", "-d", "--name", name], flags, &["IMAGE", "probe", "trap"]].concat());
        self.awaits(&["logs", name], "ready");
    }
}

/// Tells the story to both. Names of containers are the story's own.
fn same(names: &[&str], story: fn(&Side<'_>)) {
    need!(docker().is_some(), "docker, containerd, crun and runc");
    let Some(engine) = docker() else { return };
    let tell = |teller| {
        let side = Side { teller, transcript: RefCell::default() };
        story(&side);
        let _removed = side.command(&[&["rm", "-f"], names].concat()).output();
        side.transcript.into_inner()
    };
    let theirs = tell(Teller::Docker(engine));
    let ours = tell(Teller::Skiff(Case::with_daemon()));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "skiff's is on the left");
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn a_container_lives_alike() {
    same(&["life"], |side| {
        side.does(&["create", "--name", "life", "IMAGE", "probe", "trap"]);
        side.does(&["ps", "-a", "--filter", "name=life", "--format", "{{.Names}} {{.State}} {{.Status}}"]);
        side.does(&["start", "life"]);
        side.awaits(&["logs", "life"], "ready");
        side.does(&["start", "life"]);
        side.does(&["pause", "life"]);
        side.does(&["inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.State.Paused}}", "life"]);
        side.ends(&["pause", "life"]);
        side.ends(&["exec", "life", "true"]);
        side.does(&["unpause", "life"]);
        side.ends(&["unpause", "life"]);
        side.ends(&["rm", "life"]);
        side.does(&["kill", "-s", "USR1", "life"]);
        side.awaits(&["logs", "life"], "ready\nSIGUSR1");
        side.does(&["stop", "life"]);
        side.does(&["stop", "life"]);
        side.ends(&["kill", "life"]);
        side.does(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}", "life"]);
        side.does(&["restart", "life"]);
        side.awaits(&["inspect", "-f", "{{.State.Status}}", "life"], "running");
        side.does(&["rm", "-f", "life"]);
        side.does(&["ps", "-aq", "--filter", "name=life"]);
    });
}

#[test]
fn codes_are_alike() {
    same(&["codes"], |side| {
        for command in
            [&["true"][..], &["sh", "-c", "echo out; exit 7"], &["nope"], &["/etc/plain"], &["/bin"]]
        {
            side.ends(&[&["run", "--rm", "IMAGE"], command].concat());
            side.ends(&[&["run", "--rm", "-d", "IMAGE"], command].concat());
        }
        side.does(&["run", "--rm", "IMAGE", "sh", "-c", "echo out; exit 7"]);
        side.starts_trap("codes", &[]);
        for command in [
            &["codes", "true"][..],
            &["codes", "sh", "-c", "exit 7"],
            &["codes", "/etc/plain"],
            &["codes", "sh", "-c", "kill -9 $$"],
            &["--workdir=/nowhere", "codes", "true"],
            &["--user=nobody-here", "codes", "true"],
        ] {
            side.ends(&[&["exec"], command].concat());
        }
        for words in [
            &["start", "nothing"][..],
            &["stop", "nothing"],
            &["kill", "nothing"],
            &["rm", "nothing"],
            &["wait", "nothing"],
            &["logs", "nothing"],
            &["inspect", "nothing"],
            &["exec", "nothing", "true"],
            &["rename", "nothing", "other"],
            &["rename", "codes", "codes"],
            &["create", "--name=codes", "IMAGE", "true"],
            &["create", "--nope", "IMAGE", "true"],
            &["rm", "-f", "nothing"],
            &["stop", "nothing", "codes"],
            &["exec", "codes", "true"],
            &["run", "--nope", "IMAGE"],
            &["ps", "--nope"],
            &["ps", "--filter", "status=up"],
            &["start"],
            &["rename", "codes"],
        ] {
            side.ends(words);
        }
        side.does(&["wait", "codes"]);
    });
}

#[test]
fn attached_starts_are_alike() {
    same(&["again"], |side| {
        side.does(&["create", "-i", "--name", "again", "IMAGE", "sh", "-c", "cat; echo end; exit 3"]);
        side.does(&["start", "-ai", "again"]);
        side.does(&["start", "-ai", "again"]);
        side.does(&["inspect", "-f", "{{.State.ExitCode}} {{.RestartCount}}", "again"]);
        side.does(&["wait", "again"]);
    });
}

#[test]
fn logs_are_alike() {
    same(&["talk"], |side| {
        side.does(&[
            "run",
            "-d",
            "--name",
            "talk",
            "IMAGE",
            "sh",
            "-c",
            "for n in 1 2 3 4; do echo line $n; done; printf rest",
        ]);
        side.does(&["wait", "talk"]);
        side.does(&["logs", "talk"]);
        side.does(&["logs", "-f", "talk"]);
        side.does(&["logs", "--tail", "2", "talk"]);
        side.does(&["logs", "-n0", "talk"]);
        side.does(&["logs", "--tail", "all", "talk"]);
        side.does(&["logs", "--since", "1h", "talk"]);
        side.does(&["logs", "--until", "2001-01-01", "talk"]);
    });
}

#[test]
fn lists_are_alike() {
    same(&["list-one", "list-two"], |side| {
        side.starts_trap("list-one", &["-l", "kind=service", "-l", "lone"]);
        side.does(&["run", "--name", "list-two", "-l", "kind=batch", "IMAGE", "sh", "-c", "exit 3"]);
        let mine = ["ps", "-a", "--filter", "name=list-"];
        for more in [
            &["--format", "{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Ports}}|"][..],
            &["--format", "{{.ID}} {{.Label \"kind\"}} {{.Networks}} {{.LocalVolumes}}|{{.Mounts}}|"],
            &["--format", "table {{.Names}}\t{{.State}}\t{{.Label \"kind\"}}"],
            &["--format", "{{json .Names}} {{upper .Names}} {{.Names | printf \"%q\"}}"],
            &["-q"],
            &["-q", "--no-trunc"],
            &["--filter", "status=exited", "--format", "{{.Names}}"],
            &["--filter", "label=kind=batch", "--format", "{{.Names}}"],
            &["--filter", "exited=3", "--format", "{{.Names}}"],
            &["--filter", "before=list-two", "--format", "{{.Names}}"],
            &["--filter", "since=list-one", "--format", "{{.Names}}"],
            &["--no-trunc", "--format", "{{.Command}}"],
        ] {
            side.does(&[&mine[..], more].concat());
        }
        side.does(&["ps", "--filter", "name=list-", "--format", "{{.Names}}"]);
        side.does(&["ps", "--filter", "name=list-none"]);
        side.ends(&["ps", "--format", "{{.Nope}}"]);
        side.ends(&["ps", "--format", "{{"]);
    });
}

#[test]
fn documents_are_alike() {
    same(&["document"], |side| {
        side.does(&[
            "run",
            "-d",
            "--name",
            "document",
            "-l",
            "a=b",
            "-e",
            "X=y",
            "-w",
            "/tmp",
            "-u",
            "1234:777",
            "--hostname",
            "box",
            "-m",
            "64m",
            "--pids-limit",
            "50",
            "--cap-add",
            "NET_ADMIN",
            "--restart",
            "on-failure:4",
            "--read-only",
            "--tmpfs",
            "/scratch:size=1m",
            "--stop-signal",
            "SIGINT",
            "IMAGE",
            "sleep",
            "1000",
        ]);
        for field in [
            "{{.Name}} {{.Path}} {{json .Args}}",
            "{{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.Restarting}} {{.State.OOMKilled}} {{.State.Dead}}",
            "{{.State.ExitCode}} {{json .State.Error}} {{.State.FinishedAt}}",
            "{{.RestartCount}} {{.Platform}}",
            "{{.Config.Hostname}} {{.Config.User}} {{.Config.WorkingDir}} {{.Config.Tty}} {{.Config.OpenStdin}} {{.Config.StopSignal}}",
            "{{json .Config.Cmd}} {{json .Config.Entrypoint}} {{json .Config.Labels}}",
            "{{index .Config.Env 0}}",
            "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}} {{json .HostConfig.CapAdd}} {{.HostConfig.ReadonlyRootfs}}",
            "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.HostConfig.NetworkMode}}",
            "{{.HostConfig.Privileged}} {{.HostConfig.AutoRemove}}",
            "{{json .HostConfig.Binds}} {{json .Mounts}}",
        ] {
            side.does(&["inspect", "--format", field, "document"]);
        }
        side.ends(&["inspect", "--format", "{{.Nope}}", "document"]);
    });
}

#[test]
fn restarts_are_alike() {
    same(&["flaky"], |side| {
        side.does(&[
            "run",
            "-d",
            "--name",
            "flaky",
            "--restart",
            "on-failure:2",
            "IMAGE",
            "sh",
            "-c",
            "echo again; exit 5",
        ]);
        side.awaits(&["inspect", "-f", "{{.RestartCount}} {{.State.Status}}", "flaky"], "2 exited");
        side.does(&["logs", "flaky"]);
        side.does(&["inspect", "-f", "{{.State.ExitCode}}", "flaky"]);
        side.ends(&["run", "--rm", "--restart", "always", "IMAGE", "true"]);
    });
}

#[test]
fn processes_in_containers_are_alike() {
    same(&["inside"], |side| {
        side.starts_trap("inside", &["-e", "COLOUR=blue", "-w", "/etc", "-u", "alice"]);
        for words in [
            &["exec", "inside", "sh", "-c", "echo $COLOUR; pwd; id -u; echo err >&2"][..],
            &["exec", "-e", "COLOUR=red", "inside", "sh", "-c", "echo $COLOUR"],
            &["exec", "-w", "/tmp", "-u", "0", "inside", "sh", "-c", "pwd; id -u"],
            &["exec", "-d", "inside", "true"],
            &["exec", "-i", "inside", "cat"],
            &["exec", "inside", "sh", "-c", "echo $HOME; echo $HOSTNAME | wc -c"],
        ] {
            side.does(words);
        }
    });
}
