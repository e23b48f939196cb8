//! What containers that are made ahead depend on.
//!
//! Containers share a *key* if they differ in nothing but id, name, labels, program, arguments, environment, and whether
//! input is passed on.

use std::cell::Cell;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use skiff_runtime::Options;
use skiff_runtime::options::{Mount, Namespace, Rootfs};

/// So many plans are remembered beyond those that have pools.
const PLANS_MAX: usize = 256;

/// The plans that are known, by what they are made from.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    by_text: HashMap<Vec<u8>, Rc<Plan>>,
    last_key: u64,
}

/// What a container is to be, but for what differs between those of one key.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Its number.
    pub(crate) key: u64,
    /// What is asked for.
    pub(crate) options: Options,
    /// Whether containers of it may be made ahead.
    pub(crate) is_ahead: bool,
    /// Which spawner knows it.
    pub(crate) told: Cell<u64>,
    /// What of the host it depends on.
    watched: Vec<PathBuf>,
    /// What that was like when the plan was made.
    stamps: Stamps,
}

fn stamps(watched: &[PathBuf]) -> Stamps {
    watched.iter().map(|path| stamp(path)).collect()
}

/// What a part of the host was like: device, inode, change time (s, ns) and size; absent where there is nothing.
type Stamps = Vec<Option<(u64, u64, i64, i64, u64)>>;

impl Plans {
    /// The plan of a container with these options. Keys in use are those that `is_used` says.
    pub(crate) fn of(&mut self, options: &Options, is_used: &dyn Fn(u64) -> bool) -> Rc<Plan> {
        let (argv, env) = (&options.argv, &options.env);
        let options = Options {
            id: String::new(),
            name: None,
            argv: Vec::new(),
            env: Vec::new(),
            labels: Vec::new(),
            interactive: false,
            ..options.clone()
        };
        // Options are plain data: writing them cannot fail, and if it did they would share a plan with nobody.
        let text = serde_json::to_vec(&options).unwrap_or_default();
        if let Some(plan) = self.by_text.get(&text).filter(|_| !text.is_empty()) {
            return plan.clone();
        }
        if self.by_text.len() >= PLANS_MAX {
            self.by_text.retain(|_, plan| is_used(plan.key));
        }
        self.last_key += 1;
        // The program of the first one is likely to be that of others.
        let program = argv.iter().take(1).cloned().collect();
        let path = env.iter().filter(|entry| entry.as_encoded_bytes().starts_with(b"PATH=")).cloned();
        let options = Options { argv: program, env: path.collect(), ..options };
        let plan = Rc::new(Plan::new(self.last_key, options));
        self.by_text.insert(text, plan.clone());
        plan
    }

    /// Forgets the plan of this number: the next container of its kind has another.
    pub(crate) fn forget(&mut self, key: u64) {
        self.by_text.retain(|_, plan| plan.key != key);
    }

    /// The numbers of the plans of containers whose root is made of `layers`.
    pub(crate) fn with_layers(&self, layers: &[PathBuf]) -> Vec<u64> {
        let is_of = |plan: &&Rc<Plan>| match &plan.options.rootfs {
            Rootfs::Layers(own) => own == layers,
            Rootfs::Host => false,
        };
        self.by_text.values().filter(is_of).map(|plan| plan.key).collect()
    }

    /// The plan of this number, if it is still known.
    pub(crate) fn get(&self, key: u64) -> Option<Rc<Plan>> {
        self.by_text.values().find(|plan| plan.key == key).cloned()
    }
}

impl Plan {
    fn new(key: u64, options: Options) -> Self {
        let names_host = |mount: &Mount| matches!(mount, Mount::Bind { .. });
        let is_ahead =
            !options.privileged && options.devices.is_empty() && !options.mounts.iter().any(names_host);
        let watched = watched(&options);
        let stamps = stamps(&watched);
        Self { key, options, is_ahead, told: Cell::new(0), watched, stamps }
    }

    /// Whether the host is still what it was when the plan was made.
    pub(crate) fn holds(&self) -> bool {
        stamps(&self.watched) == self.stamps
    }

    /// Where its files come from, for people.
    pub(crate) fn image(&self) -> String {
        match &self.options.rootfs {
            Rootfs::Host => "host".into(),
            Rootfs::Layers(layers) => {
                layers.first().map_or_else(String::new, |top| top.display().to_string())
            }
        }
    }
}

/// The layers, the account files in them, and the host's files that a container gets copies of.
fn watched(options: &Options) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Rootfs::Layers(layers) = &options.rootfs {
        paths.extend(layers.iter().cloned());
        // A directory that the caller names may change; layers of the store never do.
        if let [layer] = layers.as_slice() {
            paths.extend(["etc/passwd", "etc/group"].map(|file| layer.join(file)));
        }
    }
    paths.push("/etc/resolv.conf".into());
    if options.network == Namespace::Host {
        paths.push("/etc/hosts".into());
    }
    paths
}

fn stamp(path: &Path) -> Option<(u64, u64, i64, i64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    // A directory's times and size change with every file that is made in it, which is no other directory then.
    let (time_s, time_ns, size) =
        if found.is_dir() { (0, 0, 0) } else { (found.ctime(), found.ctime_nsec(), found.size()) };
    Some((found.dev(), found.ino(), time_s, time_ns, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_that_differ_in_words_alone_share_a_plan() {
        let mut plans = Plans::default();
        let mut key = |options: Options| plans.of(&options, &|_| true).key;
        let plain = key(Options::default());
        let same = Options {
            id: "a".into(),
            name: Some("web".into()),
            argv: vec!["true".into()],
            env: vec!["A=1".into()],
            labels: vec![("a".into(), "b".into())],
            interactive: true,
            ..Options::default()
        };
        assert_eq!(key(same), plain);
        for other in [
            Options { tty: true, ..Options::default() },
            Options { hostname: Some("web".into()), ..Options::default() },
            Options { rootfs: Rootfs::Layers(vec!["/layer".into()]), ..Options::default() },
            Options { user: "alice".into(), ..Options::default() },
        ] {
            assert_ne!(key(other), plain);
        }
    }

    #[test]
    fn what_names_host_paths_is_not_made_ahead() {
        let mut plans = Plans::default();
        let mut is_ahead = |options: Options| plans.of(&options, &|_| true).is_ahead;
        assert!(is_ahead(Options::default()));
        assert!(is_ahead(Options {
            mounts: vec![Mount::Volume { target: "/data".into(), read_only: false }],
            ..Options::default()
        }));
        assert!(!is_ahead(Options { privileged: true, ..Options::default() }));
        let bind = Mount::Bind {
            source: "/etc".into(),
            target: "/host".into(),
            read_only: true,
            recursive: true,
            propagation: skiff_runtime::options::Propagation::Private,
            create_source: false,
        };
        assert!(!is_ahead(Options { mounts: vec![bind], ..Options::default() }));
    }

    #[test]
    fn a_layer_that_was_replaced_is_noticed() {
        let root = std::env::temp_dir().join(format!("skiff-plans-{}", std::process::id()));
        let layer = root.join("layer");
        std::fs::create_dir_all(&layer).expect("mkdir");
        let rootfs = Rootfs::Layers(vec![layer.clone()]);
        let plan = Plans::default().of(&Options { rootfs, ..Options::default() }, &|_| true);
        assert!(plan.holds());
        std::fs::create_dir(layer.join("etc")).expect("mkdir");
        assert!(plan.holds());
        std::fs::write(layer.join("etc/passwd"), "").expect("write");
        assert!(!plan.holds());
        std::fs::remove_file(layer.join("etc/passwd")).expect("remove");
        assert!(plan.holds());
        std::fs::rename(&layer, root.join("old")).expect("rename");
        assert!(!plan.holds());
        std::fs::remove_dir_all(root).expect("clean up");
    }

    #[test]
    fn plans_without_pools_are_forgotten_when_there_are_many() {
        let mut plans = Plans::default();
        for number in 0..2 * PLANS_MAX {
            let options = Options { hostname: Some(format!("h{number}")), ..Options::default() };
            plans.of(&options, &|key| key == 1);
        }
        assert!(plans.by_text.len() <= PLANS_MAX + 1 && plans.get(1).is_some());
    }
}
