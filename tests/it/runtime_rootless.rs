//! The OCI runtime in the hands of an ordinary user: one id, or the subordinate ones by newuidmap(1).

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::harness::{Output, fixture, installed, need, parse, programs};
use crate::peers::world::{HOME, RUNTIME, USER, World, eventually};

/// Where there is a user with subordinate ids; `None` where something that this takes is missing.
fn world() -> Option<&'static World> {
    static WORLD: OnceLock<Option<World>> = OnceLock::new();
    let tools = ["newuidmap", "newgidmap", "nsenter", "setpriv"];
    let possible = || tools.into_iter().all(installed) && programs::has_runtime();
    WORLD.get_or_init(|| possible().then(start)).as_ref()
}

fn start() -> World {
    let world = World::start("user");
    world.bring(&fixture::small_tar(), "/run/small.tar");
    let script = format!("mkdir {HOME}/rootfs && tar -C {HOME}/rootfs --no-same-owner -xf /run/small.tar");
    world.users_command(&["sh", "-ec", &script]).output().ok();
    world
}

/// A bundle of the user's.
struct Bundle {
    world: &'static World,
    id: String,
    config: Value,
}

impl Bundle {
    /// What `spec --rootless` writes, with the ids of the user alone.
    fn new(world: &'static World, id: &str) -> Self {
        let dir = format!("{HOME}/{id}");
        let script = format!("mkdir -p {dir} && cd {dir} && exec {RUNTIME} spec --rootless");
        world.users_command(&["sh", "-ec", &script]).output().ok();
        let text =
            std::fs::read_to_string(world.path(&format!("{dir}/config.json"))).expect("a configuration");
        let mut config = parse(&text);
        config["root"] = json!({ "path": format!("{HOME}/rootfs") });
        config["process"]["terminal"] = json!(false);
        Self { world, id: id.into(), config }
    }

    /// The same with all ids that the user may give away.
    fn with_subordinates(mut self) -> Self {
        let map = json!([
            { "containerID": 0, "hostID": USER, "size": 1 }, { "containerID": 1, "hostID": 200_000, "size": 65535 },
        ]);
        self.config["linux"]["uidMappings"] = map.clone();
        self.config["linux"]["gidMappings"] = map;
        self
    }

    fn args(&mut self, args: &[&str]) -> &mut Self {
        self.config["process"]["args"] = args.into();
        self
    }

    /// A command of the runtime on the container. What it and the container print comes out, unless they are to stay.
    fn does(&self, verb: &str, more: &[&str]) -> Output {
        let dir = format!("{HOME}/{}", self.id);
        let config = self.world.path(&format!("{dir}/config.json"));
        std::fs::write(config, self.config.to_string()).expect("write the configuration");
        let place: &[&str] = if ["create", "run"].contains(&verb) { &["--bundle", &dir] } else { &[] };
        let state = format!("{HOME}/state");
        let words = [&[RUNTIME, "--root", &state, verb], place, &[&self.id], more].concat();
        if verb != "create" {
            return self.world.users_command(&words).output();
        }
        let quiet = ["sh", "-c", "exec \"$@\" > /dev/null 2>&1", "sh"];
        self.world.users_command(&[&quiet, &words[..]].concat()).output()
    }

    fn status(&self) -> String {
        parse(&self.does("state", &[]).ok())["status"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _gone = self.does("delete", &["--force"]);
    }
}

const NEEDS: &str = "newuidmap, newgidmap, nsenter and setpriv";

#[test]
fn a_user_runs_a_container() {
    need!(world().is_some(), "{NEEDS}");
    let mut bundle = Bundle::new(world().expect("there is one"), "plain");
    bundle.args(&["sh", "-c", "id -u; tr -s ' ' < /proc/self/uid_map; echo x > /tmp/x && cat /tmp/x"]);
    bundle.config["root"]["readonly"] = json!(false);
    assert_eq!(bundle.does("run", &[]).ok(), format!("0\n 0 {USER} 1\nx\n"));
}

#[test]
fn a_user_gives_subordinate_ids_to_a_container() {
    need!(world().is_some(), "{NEEDS}");
    let mut bundle = Bundle::new(world().expect("there is one"), "mapped").with_subordinates();
    bundle.args(&["cat", "/proc/self/uid_map", "/proc/self/gid_map"]);
    let maps = bundle.does("run", &[]).ok();
    let (user, map) =
        (USER.to_string(), |user: &str| [["0", user, "1"], ["1", "200000", "65535"]].concat().join(" "));
    let expected = [map(&user), map(&user)].join(" ");
    assert_eq!(maps.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    bundle.config["process"]["user"] = json!({ "uid": 1234, "gid": 4321, "additionalGids": [777] });
    let seen = parse(&bundle.args(&["probe", "see"]).does("run", &[]).ok());
    assert_eq!((&seen["ids"]["uid"], &seen["ids"]["gid"]), (&json!(1234), &json!(4321)));
    assert_eq!(seen["status"]["Groups"], "777");
}

#[test]
fn a_users_container_has_a_whole_life() {
    need!(world().is_some(), "{NEEDS}");
    for name in ["life", "life-mapped"] {
        let bundle = Bundle::new(world().expect("there is one"), name);
        let mut bundle = if name == "life" { bundle } else { bundle.with_subordinates() };
        let created = bundle.args(&["probe", "trap"]).does("create", &[]);
        assert_eq!(created.code, 0, "{created}");
        assert_eq!(bundle.status(), "created");
        bundle.does("start", &[]).ok();
        assert_eq!(bundle.status(), "running");
        assert_eq!(bundle.does("exec", &["sh", "-c", "echo $$; exit 9"]).code, 9);
        assert!(bundle.does("exec", &["ps", "-o", "args"]).ok().contains("probe trap"));
        // Where the user may make cgroups, its containers can be frozen.
        let paused = bundle.does("pause", &[]);
        assert!(paused.code == 0 || paused.stderr.contains("the container is in no cgroup"), "{paused}");
        assert_eq!(bundle.does("resume", &[]).code, paused.code);
        bundle.does("kill", &["TERM"]).ok();
        assert!(eventually(|| bundle.status() == "stopped"), "{}", bundle.status());
        bundle.does("delete", &[]).ok();
        assert!(bundle.does("state", &[]).code > 0);
    }
}

#[test]
fn a_users_exec_has_the_oom_score_of_its_container() {
    need!(world().is_some(), "{NEEDS}");
    let mut bundle = Bundle::new(world().expect("there is one"), "score").with_subordinates();
    bundle.config["process"]["oomScoreAdj"] = json!(321);
    let created = bundle.args(&["probe", "trap"]).does("create", &[]);
    assert_eq!(created.code, 0, "{created}");
    bundle.does("start", &[]).ok();
    let script = "cat /proc/1/oom_score_adj /proc/self/oom_score_adj";
    assert_eq!(bundle.does("exec", &["sh", "-c", script]).ok(), "321\n321\n");
}

#[test]
fn ids_that_are_not_the_users_are_refused() {
    need!(world().is_some(), "{NEEDS}");
    let mut bundle = Bundle::new(world().expect("there is one"), "greedy");
    for map in [
        json!([{ "containerID": 0, "hostID": 0, "size": 1 }]),
        json!([{ "containerID": 0, "hostID": 200_000, "size": 70000 }]),
        json!([{ "containerID": 0, "hostID": USER, "size": 2 }]),
    ] {
        bundle.config["linux"]["uidMappings"] = map;
        let output = bundle.args(&["true"]).does("run", &[]);
        assert!(output.code > 0 && output.stderr.lines().count() == 1, "{output}");
        assert!(bundle.does("state", &[]).code > 0);
    }
}
