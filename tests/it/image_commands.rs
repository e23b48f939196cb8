//! Commands on images: docker's words, rules and exit codes, with the daemon and without it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::layout::{ARCHITECTURE, Tar};
use crate::harness::{Case, Output, fixture, parse};

/// A command on images says the same with a daemon and without one.
fn worlds() -> [Case; 2] {
    [Case::new(), Case::with_daemon()]
}

fn run(case: &Case, words: &[&str]) -> Output {
    case.skiff(words).output()
}

/// Makes an image of the small root; its id.
fn import(case: &Case, words: &[&str]) -> String {
    let root = fixture::small_root_dir();
    let tar = case.dir.join("root.tar");
    let words_of_tar = ["-C", &root.display().to_string(), "-cf", &tar.display().to_string(), "."];
    fixture::tool("tar", &words_of_tar);
    let tar = tar.display().to_string();
    let [first, rest @ ..] = words else { panic!("a name") };
    let id = run(case, &[&["import"], rest, &[&tar, first]].concat()).ok();
    let id = id.trim_end();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    id.to_owned()
}

fn names(case: &Case, words: &[&str]) -> Vec<String> {
    let words = [&["images", "--format", "{{.Repository}}:{{.Tag}}"], words].concat();
    let mut all: Vec<String> = run(case, &words).ok().lines().map(str::to_owned).collect();
    all.sort();
    all
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn images_are_listed_named_and_removed() {
    for case in worlds() {
        let id = import(
            &case,
            &["web:1", "-c", "CMD [\"echo\", \"from the image\"]", "-c", "LABEL role=front", "-m", "why"],
        );
        let table = run(&case, &["images"]).ok();
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("REPOSITORY   TAG       IMAGE ID       CREATED"), "{table}");
        assert!(
            lines.len() == 2 && lines[1].starts_with(&format!("web          1         {}", &id[7..19])),
            "{table}"
        );
        run(&case, &["tag", "web:1", "localhost:5000/me/web"]).ok();
        run(&case, &["tag", &id[7..15], "other"]).ok();
        assert_eq!(names(&case, &[]), ["localhost:5000/me/web:latest", "other:latest", "web:1"]);
        assert_eq!(names(&case, &["web"]), ["web:1"]);
        assert_eq!(names(&case, &["--filter", "reference=*:latest"]), ["other:latest"]);
        assert_eq!(names(&case, &["--filter", "label=role=back"]), [""; 0]);
        assert_eq!(names(&case, &["--filter", "dangling=true"]), [""; 0]);
        assert_eq!(run(&case, &["images", "-q", "--no-trunc", "web"]).ok(), format!("{id}\n"));
        let json = parse(run(&case, &["images", "--format", "json", "other"]).ok().trim_end());
        assert_eq!((&json["Repository"], &json["Digest"]), (&"other".into(), &"<none>".into()));
        assert_eq!(run(&case, &["run", "--rm", "web:1"]).ok(), "from the image\n");
        assert_eq!(run(&case, &["run", "--rm", &id[7..17], "echo", "by id"]).ok(), "by id\n");
        let history = run(&case, &["history", "--format", "{{.ID}} {{.Comment}}", "web:1"]).ok();
        assert_eq!(history, format!("{} why\n", &id[7..19]));
        let document = parse(&run(&case, &["image", "inspect", "web:1"]).ok());
        assert_eq!(document[0]["Config"]["Labels"]["role"], "front");
        assert_eq!(document[0]["RepoTags"].as_array().map(Vec::len), Some(3));
        assert_eq!(run(&case, &["inspect", "-f", "{{.Id}}", "other"]).ok(), format!("{id}\n"));
        // One name after the other; the last takes the image along.
        assert_eq!(run(&case, &["rmi", "other"]).ok(), "Untagged: other:latest\n");
        assert_eq!(run(&case, &["image", "rm", "web:1"]).ok(), "Untagged: web:1\n");
        let last = run(&case, &["rmi", "localhost:5000/me/web"]).ok();
        let expected = format!("Untagged: localhost:5000/me/web:latest\nDeleted: {id}\nDeleted: sha256:");
        assert!(last.starts_with(&expected), "{last}");
        assert!(names(&case, &[]).is_empty());
        assert_eq!(entries(&case.state.join("layers/sha256")), 0);
    }
}

#[test]
fn an_image_goes_at_once_after_its_last_container() {
    for case in worlds() {
        let id = import(&case, &["web", "-c", "CMD [\"true\"]"]);
        let file = case.dir.join("saved.tar").display().to_string();
        run(&case, &["save", "-o", &file, "web"]).ok();
        for _ in 0..10 {
            run(&case, &["load", "-q", "-i", &file]).ok();
            run(&case, &["run", "--rm", "web"]).ok();
            run(&case, &["run", "--rm", &id]).ok();
            run(&case, &["rmi", "web"]).ok();
            assert_eq!(entries(&case.state.join("layers/sha256")), 0);
        }
    }
}

#[test]
fn an_image_with_several_names_is_not_removed_by_its_id() {
    let case = Case::new();
    let id = import(&case, &["one"]);
    run(&case, &["tag", "one", "two"]).ok();
    let short = &id[7..19];
    let reason =
        format!("unable to delete {short} (must be forced) - image is referenced in multiple repositories");
    run(&case, &["rmi", short]).fails(1, &reason);
    assert_eq!(names(&case, &[]), ["one:latest", "two:latest"]);
    let removed = run(&case, &["rmi", "-f", short]).ok();
    assert!(removed.contains("Untagged: one:latest\nUntagged: two:latest\nDeleted: "), "{removed}");
    run(&case, &["rmi", "one"]).fails(1, "no such image: one");
    let forced = run(&case, &["rmi", "-f", "one"]);
    assert!(forced.code == 0 && forced.stderr.contains("no such image: one"), "{forced}");
}

#[test]
fn an_image_that_a_container_uses_stays() {
    let case = Case::with_daemon();
    let id = import(&case, &["web"]);
    let short = &id[7..19];
    let container = run(&case, &["run", "-d", "--name", "box", "web", "sleep", "1000"]).ok();
    let container = &container[..12];
    run(&case, &["rmi", "web"])
        .fails(1, &format!("(must force) - container {container} is using its referenced image {short}"));
    run(&case, &["rmi", "-f", short])
        .fails(1, &format!("(cannot be forced) - image is being used by running container {container}"));
    assert_eq!(run(&case, &["exec", "box", "cat", "/etc/hostname"]).ok(), format!("{container}\n"));
    run(&case, &["kill", "box"]).ok();
    run(&case, &["wait", "box"]).ok();
    // Its record is written a moment after its end is known.
    let rule = "(must be forced) - image is being used by stopped container";
    let is_said = || run(&case, &["rmi", short]).stderr.contains(&format!("{rule} {container}"));
    assert!(crate::peers::world::eventually(is_said));
    let pruned = run(&case, &["image", "prune", "-af"]).ok();
    assert_eq!(pruned, "Total reclaimed space: 0B\n");
    run(&case, &["start", "box"]).ok();
    run(&case, &["rm", "-f", "box"]).ok();
    // What the daemon has made ahead of it is in nobody's way.
    let removed = run(&case, &["rmi", "web"]).ok();
    assert!(removed.starts_with(&format!("Untagged: web:latest\nDeleted: {id}\n")), "{removed}");
    assert_eq!(entries(&case.state.join("layers/sha256")), 0);
    run(&case, &["run", "--pull", "never", "web"]).fails(125, "no such image: web");
}

#[test]
fn a_container_becomes_an_image() {
    let case = Case::with_daemon();
    import(&case, &["base", "-c", "ENV A=image", "-c", "CMD [\"true\"]"]);
    let script = "echo new > /new; rm /bin/echo; echo more >> /etc/passwd; mkdir /last; sleep 1000";
    run(
        &case,
        &["run", "-d", "--name", "box", "-e", "B=flag", "-v", "/dir/none", "base", "sh", "-c", script],
    )
    .ok();
    let changed = || run(&case, &["diff", "box"]).ok().contains("A /last\n");
    assert!(crate::peers::world::eventually(changed));
    let words = [
        "commit",
        "-a",
        "me",
        "-m",
        "why",
        "-c",
        "WORKDIR /dir",
        "-c",
        "CMD [\"cat\", \"/new\"]",
        "box",
        "made:1",
    ];
    let id = run(&case, &words).ok();
    assert_eq!(run(&case, &["inspect", "-f", "{{.State.Status}}", "box"]).ok(), "running\n");
    assert_eq!(run(&case, &["run", "--rm", "made:1"]).ok(), "new\n");
    assert_eq!(
        run(
            &case,
            &[
                "run",
                "--rm",
                "made:1",
                "sh",
                "-c",
                "pwd; cat /proc/self/environ | tr '\\0' '\\n' | grep ^[AB]="
            ]
        )
        .ok(),
        "/dir\nA=image\nB=flag\n"
    );
    assert_eq!(run(&case, &["run", "--rm", "made:1", "ls", "/bin/echo"]).code, 1);
    let document = parse(&run(&case, &["image", "inspect", "made:1"]).ok());
    assert_eq!((&document[0]["Id"], &document[0]["Author"]), (&id.trim_end().into(), &"me".into()));
    assert_eq!(
        (&document[0]["Comment"], &document[0]["Config"]["WorkingDir"]),
        (&"why".into(), &"/dir".into())
    );
    assert_eq!(document[0]["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
    let diff = run(&case, &["diff", "box"]).ok();
    assert!(diff.contains("D /bin/echo\n") && diff.contains("C /etc\nC /etc/passwd\n"), "{diff}");
    // A stopped one, too.
    run(&case, &["kill", "box"]).ok();
    run(&case, &["wait", "box"]).ok();
    assert_eq!(run(&case, &["diff", "box"]).ok(), diff);
    let tar = case.dir.join("c.tar").display().to_string();
    run(&case, &["export", "-o", &tar, "box"]).ok();
    let listed = run(&case, &["import", &tar, "flat"]).ok();
    assert!(listed.starts_with("sha256:"), "{listed}");
    assert_eq!(run(&case, &["run", "--rm", "flat", "cat", "/new"]).ok(), "new\n");
}

#[test]
fn archives_carry_images_with_their_names() {
    for case in worlds() {
        let id = import(&case, &["web:1"]);
        run(&case, &["tag", "web:1", "web:2"]).ok();
        for (flags, wanted) in [(&[][..], &["web"][..]), (&["--format", "oci-archive"], &["web:1", "web:2"])]
        {
            let file = case.dir.join("saved.tar").display().to_string();
            run(&case, &[&["save", "-o", &file], flags, wanted].concat()).ok();
            run(&case, &["rmi", "web:1", "web:2"]).ok();
            let loaded = run(&case, &["load", "-q", "-i", &file]).ok();
            assert_eq!(loaded, "Loaded image: web:1\nLoaded image: web:2\n", "{flags:?}");
            assert_eq!(run(&case, &["images", "-q", "--no-trunc", "web:2"]).ok(), format!("{id}\n"));
            run(&case, &["rmi", "-f", &id]).ok();
            let bytes = fs::read(&file).expect("an archive");
            let loaded = case.skiff(&["load"]).stdin(&bytes).output().ok();
            assert_eq!(loaded, "Loaded image: web:1\nLoaded image: web:2\n", "{flags:?}");
            assert_eq!(run(&case, &["run", "--rm", "web:2", "echo", "runs"]).ok(), "runs\n");
        }
    }
}

#[test]
fn an_image_for_another_platform_than_is_wanted_is_neither_saved_nor_pushed_nor_loaded() {
    for case in worlds() {
        let id = import(&case, &["here:1"]);
        let host = format!("linux/{ARCHITECTURE}");
        let tar = case.dir.join("root.tar").display().to_string();
        run(&case, &["import", "--platform", "linux/s390x", &tar, "there:1"]).ok();
        let (one, all) = (case.dir.join("one.tar"), case.dir.join("all.tar"));
        let (one, all) = (one.display().to_string(), all.display().to_string());
        let says =
            "image with reference here:1 was found but does not provide the specified platform (linux/s390x)";
        run(&case, &["save", "--platform", "linux/s390x", "-o", &one, "here:1"]).fails(1, says);
        assert!(!Path::new(&one).exists());
        run(&case, &["push", "--platform", "linux/s390x", "here:1"]).fails(1, says);
        run(&case, &["save", "--platform", &host, "-o", &one, "here:1"]).ok();
        for form in ["docker-archive", "oci-archive"] {
            run(&case, &["save", "--format", form, "-o", &all, "here:1", "there:1"]).ok();
            run(&case, &["rmi", "-f", "here:1", "there:1"]).ok();
            let load = |what: &str| run(&case, &["load", "-q", "--platform", what, "-i", &all]);
            assert_eq!(load("linux/s390x").ok(), "Loaded image: there:1\n", "{form}");
            load("linux/mips64le").fails(1, "holds no image for linux/mips64le");
            assert_eq!(load(&host).ok(), "Loaded image: here:1\n", "{form}");
            assert_eq!(run(&case, &["images", "-q", "--no-trunc", "here:1"]).ok(), format!("{id}\n"));
        }
    }
}

#[test]
fn what_cannot_be_done_is_one_line_and_leaves_nothing() {
    let case = Case::new();
    let not_tar = case.file("garbage", "this is no archive");
    let missing = case.dir.join("nowhere/x.tar").display().to_string();
    #[rustfmt::skip] // a table
    let cases: &[(&[&str], i32, &str)] = &[
        (&["pull"], 1, "no image given"),
        (&["pull", "a", "b"], 1, "more than one image given"),
        (&["pull", "UPPER"], 1, "repository name must be lowercase"),
        (&["pull", "a:b:c"], 1, "invalid"),
        (&["pull", "127.0.0.1:1/x"], 1, "127.0.0.1:1"),
        (&["pull", "-a", "x:1"], 1, "tag can't be used with --all-tags/-a"),
        (&["pull", "--platform", "a/b/c/d", "x"], 125, "--platform"),
        (&["push", "nosuch"], 1, "an image does not exist locally with the tag: nosuch"),
        (&["push", "-a", "x:1"], 1, "tag can't be used with --all-tags/-a"),
        (&["images", "a", "b"], 1, "unexpected argument: b"),
        (&["images", "-f", "foo=bar"], 1, "invalid filter 'foo'"),
        (&["images", "--format", "{{.Nope}}"], 1, "Nope"),
        (&["images", "--tree"], 125, "--tree is not supported yet"),
        (&["tag", "nosuch", "x"], 1, "no such image: nosuch"),
        (&["tag", "x"], 1, "an image and its new name are needed"),
        (&["tag", "x", "UPPER"], 1, "repository name must be lowercase"),
        (&["rmi"], 1, "no image given"),
        (&["rmi", "nosuch:1"], 1, "no such image: nosuch:1"),
        (&["history", "nosuch"], 1, "no such image: nosuch"),
        (&["save"], 1, "no image given"),
        (&["save", "nosuch"], 1, "no such image: nosuch"),
        (&["save", "-o", &missing, "nosuch"], 1, "no such image: nosuch"),
        (&["load", "-i", &missing], 1, "no such file or directory"),
        (&["load", "-i", &not_tar], 1, ""),
        (&["load", "x"], 1, "unexpected argument: x"),
        (&["import"], 1, "no archive given"),
        (&["import", &missing], 1, "no such file or directory"),
        (&["import", &not_tar], 1, ""),
        (&["import", "http://example.com/x.tar"], 1, "not fetched here"),
        (&["import", "-c", "RUN x", &not_tar], 1, "RUN"),
        (&["export"], 1, "no container given"),
        (&["commit"], 1, "no container given"),
        (&["diff"], 1, "no container given"),
        (&["login", "--password-stdin"], 1, "must provide --username with --password-stdin"),
        (&["login", "-u", "me"], 1, "non TTY"),
        (&["logout", "a", "b"], 1, "unexpected argument: b"),
        (&["search"], 1, "no term given"),
        (&["search", "--limit", "0", "x"], 125, "--limit"),
        (&["image", "nope"], 125, "unknown command: image nope"),
        (&["image"], 125, "no command given after 'image'"),
        (&["system", "df", "x"], 1, "unexpected argument: x"),
        (&["run", "--pull", "sometimes", "x"], 125, "neither always, missing nor never"),
        (&["run", "--pull", "never", "nosuch"], 125, "no such image: nosuch"),
        (&["run", "UPPER"], 125, "repository name must be lowercase"),
    ];
    for (words, code, needle) in cases {
        run(&case, words).fails(*code, needle);
    }
    for kind in ["layers/sha256", "names", "untagged", "tmp", "leases"] {
        assert_eq!(entries(&case.state.join(kind)), 0, "{kind}");
    }
    // A pull that fails before a container tells what it is for.
    let output = run(&case, &["run", "127.0.0.1:1/x"]);
    let lines: Vec<&str> = output.stderr.lines().collect();
    assert_eq!(output.code, 125, "{output}");
    assert_eq!(lines[0], "Unable to find image '127.0.0.1:1/x:latest' locally", "{output}");
    assert!(lines.len() == 2 && lines[1].starts_with("skiff: pull 127.0.0.1:1/x:latest: "), "{output}");
    let quiet = run(&case, &["run", "-q", "127.0.0.1:1/x"]);
    quiet.fails(125, "127.0.0.1:1");
}

#[test]
fn an_archive_that_cannot_be_written_leaves_no_file() {
    let case = Case::new();
    import(&case, &["web"]);
    let target = case.subdir("taken");
    fs::write(Path::new(&target).join("x"), "x").expect("a file");
    run(&case, &["save", "-o", &target, "web"]).fails(1, "directory");
    let nowhere = case.dir.join("nowhere/x.tar").display().to_string();
    run(&case, &["save", "-o", &nowhere, "web"]).fails(1, "no such file or directory");
    let full = run(&case, &["save", "-o", "/dev/full", "web"]);
    full.fails(1, "no space left");
    assert!(
        !fs::read_dir(&case.dir)
            .expect("the test's")
            .flatten()
            .any(|it| it.file_name().to_string_lossy().contains(".new."))
    );
}

#[test]
fn what_nobody_needs_is_removed_and_counted() {
    let case = Case::with_daemon();
    let id = import(&case, &["web"]);
    let mut layer = Tar::new();
    layer.file("other", "another tree");
    let other = case.dir.join("other.tar");
    fs::write(&other, layer.finish()).expect("a tar");
    // The name moves: what it meant stays without one.
    let new = run(&case, &["import", &other.display().to_string(), "web"]).ok();
    assert_ne!(new.trim_end(), id);
    assert_eq!(run(&case, &["images", "-q", "--no-trunc", "-f", "dangling=true"]).ok(), format!("{id}\n"));
    assert_eq!(names(&case, &[]), ["<none>:<none>", "web:latest"]);
    let row = |kind: &str| {
        let lines = run(&case, &["system", "df", "--format", "json"]).ok();
        let found = lines.lines().map(parse).find(|row| row["Type"] == kind);
        found.expect(kind)
    };
    assert_eq!((&row("Images")["TotalCount"], &row("Images")["Active"]), (&"2".into(), &"0".into()));
    run(&case, &["create", "--name", "box", &id, "true"]).ok();
    assert_eq!((&row("Containers")["TotalCount"], &row("Images")["Active"]), (&"1".into(), &"1".into()));
    let refused = case.skiff(&["system", "prune"]).stdin(b"n\n").output().ok();
    assert!(refused.contains("[y/N] ") && !refused.contains("Deleted"), "{refused}");
    // The dangling one has a container.
    assert_eq!(run(&case, &["image", "prune", "-f"]).ok(), "Total reclaimed space: 0B\n");
    let pruned = run(&case, &["system", "prune", "-f"]).ok();
    assert!(pruned.starts_with("Deleted Containers:\n"), "{pruned}");
    assert!(pruned.contains(&format!("Deleted Images:\ndeleted: {id}\n")), "{pruned}");
    assert!(
        pruned.lines().last().is_some_and(|line| line.starts_with("Total reclaimed space: ")),
        "{pruned}"
    );
    assert_eq!(names(&case, &[]), ["web:latest"]);
    let verbose = run(&case, &["system", "df", "-v"]).ok();
    assert!(verbose.contains("UNIQUE SIZE") && verbose.contains("CONTAINER ID"), "{verbose}");
}

#[test]
fn damage_is_found_and_repaired() {
    let case = Case::new();
    import(&case, &["web"]);
    assert_eq!(run(&case, &["system", "fsck"]).ok(), "");
    let layers = fs::read_dir(case.state.join("layers/sha256")).expect("layers");
    let layer = layers.flatten().next().expect("a layer").path();
    fs::write(layer.join("etc/passwd"), "spoilt").expect("spoil");
    let found = run(&case, &["system", "fsck"]);
    assert!(found.code == 1 && found.stdout.contains("layer"), "{found}");
    run(&case, &["system", "fsck", "--repair"]);
    // What was taken away is said in one line.
    let output = run(&case, &["run", "--pull", "never", "web", "true"]);
    assert!(output.code == 125 && output.stderr.lines().count() == 1, "{output}");
}

#[test]
fn damage_that_a_container_uses_is_repaired_once_it_is_gone() {
    let case = Case::with_daemon();
    import(&case, &["web"]);
    run(&case, &["run", "--name", "user", "web", "true"]).ok();
    let layers = fs::read_dir(case.state.join("layers/sha256")).expect("layers");
    let layer = layers.flatten().next().expect("a layer").path();
    fs::write(layer.join("etc/passwd"), "spoilt").expect("spoil");
    let found = run(&case, &["system", "fsck", "--repair"]);
    assert!(found.code == 1 && found.stdout.lines().count() == 2, "{found}");
    let said = |line: &str| line.contains("; not repaired: container ") && line.ends_with(" uses it");
    assert!(found.stdout.lines().all(said), "{found}");
    // A name that is there stands for an image that is known to be damaged, and not for one pulled anew that is so as well.
    assert_eq!(names(&case, &[]), ["web:latest"]);
    run(&case, &["rm", "user"]).ok();
    let repaired = run(&case, &["system", "fsck", "--repair"]).ok();
    assert!(repaired.lines().all(|line| line.ends_with(": repaired")), "{repaired}");
    assert!(names(&case, &[]).is_empty());
    assert_eq!(run(&case, &["system", "fsck"]).ok(), "");
}

#[test]
fn what_must_not_be_read_is_no_damage() {
    let case = Case::new();
    let tar = case.dir.join("root.tar");
    let mut files = Tar::new();
    files.dir("d").file("d/f", "x");
    fs::write(&tar, files.finish()).expect("write a tar");
    for dir in [&case.dir, &case.state, &case.run, &case.dir.join("tmp")] {
        fixture::tool("chown", &["-R", "1000:1000", &dir.display().to_string()]);
    }
    let run = |words: &[&str]| case.skiff(words).with(&["uid=1000"]).output();
    run(&["import", &tar.display().to_string(), "web"]).ok();
    let names = run(&["images", "-q"]).ok();
    let only = |kind: &str| {
        let found = fs::read_dir(case.state.join(kind)).expect("a directory").flatten().next();
        found.expect("something").path()
    };
    for path in [only("names"), only("blobs/sha256"), only("tars/sha256"), only("sources/sha256")] {
        let may = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        may(0);
        let found = run(&["system", "fsck", "--repair"]);
        may(0o600);
        assert!(found.code == 1 && found.stdout.contains("cannot be read"), "{}: {found}", path.display());
        assert!(!found.stdout.contains("repaired"), "{found}");
        assert_eq!(run(&["system", "fsck"]).ok(), "", "{}", path.display());
        assert_eq!(run(&["images", "-q"]).ok(), names);
    }
}

#[test]
fn a_document_is_of_a_container_or_else_of_an_image() {
    let case = Case::with_daemon();
    let id = import(&case, &["both"]);
    run(&case, &["create", "--name", "both", "both", "true"]).ok();
    let named = |words: &[&str]| parse(&run(&case, words).ok())[0]["Name"].clone();
    assert_eq!(named(&["inspect", "both"]), Value::from("/both"));
    assert_eq!(run(&case, &["inspect", "--type", "image", "-f", "{{.Id}}", "both"]).ok(), format!("{id}\n"));
    assert_eq!(
        run(&case, &["inspect", "-f", "{{.Image}} {{.Config.Image}}", "both"]).ok(),
        format!("{id} both\n")
    );
    let none = run(&case, &["inspect", "nosuch"]);
    assert_eq!((none.code, none.stdout.as_str()), (1, "[]\n"), "{none}");
    assert_eq!(none.stderr, "skiff: no such object: nosuch\n");
    let ps = run(&case, &["ps", "-a", "--format", "{{.Image}}"]).ok();
    assert_eq!(ps, "both\n");
}
