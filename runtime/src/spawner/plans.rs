//! What containers are to be, and what of that can be found out before one is asked for.
//!
//! The facts about the host are gathered once for all containers of a kind; those that change while it runs are looked at
//! each time, by the times of the files that they come from.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::Resource;
use skiff_sys::device_filter::Filter;

use crate::cgroup::Devices;
use crate::launch::Preparer;
use crate::options::{Mount, Options, Rootfs};
use crate::plan::{Bond, Plan};
use crate::{Error, Host};

/// How many kinds are remembered: the one that was not asked for for longest goes.
const KINDS_MAX: usize = 256;

/// Where facts come from that a host changes while it runs.
const CHANGING: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// Where the users and groups of a file tree are.
const ACCOUNTS: [&str; 2] = ["etc/passwd", "etc/group"];

/// The kinds of containers that are known.
#[derive(Debug)]
pub(super) struct Plans {
    state_root: PathBuf,
    run_root: PathBuf,
    /// The limit of open files that containers inherit, soft and hard.
    open_files: (u64, u64),
    kinds: Vec<Kind>,
    uses: u64,
}

#[derive(Debug)]
struct Kind {
    key: u64,
    options: Options,
    ready: Option<Ready>,
    used: u64,
}

/// What has been found out about a kind.
#[derive(Debug)]
struct Ready {
    host: Host,
    stamp: Stamp,
    /// Of the container that was asked for last.
    plan: Plan,
    /// Its device filter, if it could be loaded.
    filter: Option<Filter>,
    /// Who prepares the next container of it.
    preparer: Preparer,
    /// Whether one that prepared itself has failed.
    is_for_parent: bool,
}

/// What changes with the content of files: inode, seconds and nanoseconds of the last change.
type Stamp = [Option<(u64, i64, i64)>; 4];

impl Plans {
    /// `open_files` is the limit that containers inherit, soft and hard.
    pub(super) fn new(state_root: &Path, run_root: &Path, open_files: (u64, u64)) -> Self {
        let (state_root, run_root) = (state_root.to_owned(), run_root.to_owned());
        Self { state_root, run_root, open_files, kinds: Vec::new(), uses: 0 }
    }

    /// Remembers what `key` stands for.
    pub(super) fn learn(&mut self, key: u64, mut options: Options) {
        // What is likely to be run, to look for it beforehand. The rest of the words are none of this process's business.
        options.argv.truncate(1);
        if options.argv.is_empty() {
            options.argv.push("-".into());
        }
        if options.mounts.iter().any(|mount| matches!(mount, Mount::Bind { .. })) {
            // A file system of the host whose server is gone would hold up whoever looks for it there: then nobody looks.
            options.argv = vec!["/".into()];
        }
        options.env.retain(|entry| entry.as_bytes().starts_with(b"PATH="));
        options.name = None;
        self.kinds.retain(|kind| kind.key != key);
        if self.kinds.len() >= KINDS_MAX {
            let oldest = self.kinds.iter().enumerate().min_by_key(|(_, kind)| kind.used);
            oldest.map(|(index, _)| index).map(|index| self.kinds.swap_remove(index));
        }
        self.uses += 1;
        self.kinds.push(Kind { key, options, ready: None, used: self.uses });
    }

    /// The plan of the container `id` of the kind `key`, its device filter, and who prepares it.
    ///
    /// One plan for all of a kind, of which no more is changed than has to be: so all have most of its memory in common.
    ///
    /// Errors: a kind that is not known; what cannot be had on this host.
    pub(super) fn plan(&mut self, key: u64, id: &str) -> Result<(&Plan, Option<&Filter>, Preparer), Error> {
        self.uses += 1;
        let kind = self.kinds.iter_mut().find(|kind| kind.key == key);
        let kind = kind.ok_or_else(|| Error::Option("no such kind of containers is known".into()))?;
        kind.used = self.uses;
        kind.options.id.clear();
        kind.options.id.push_str(id);
        let stamp = stamp(&kind.options);
        // What is bound from the host may be another thing by now.
        let is_fresh = |ready: &Ready| ready.stamp == stamp && !names_host_paths(&kind.options);
        let ready = match kind.ready.take().filter(is_fresh) {
            Some(mut ready) => {
                ready.plan.rename(&kind.options, &ready.host)?;
                ready
            }
            None => {
                let host = Host::probe(&kind.options, &self.state_root, &self.run_root)?;
                let plan = plan(&kind.options, &host, self.open_files)?;
                Ready {
                    filter: filter(&plan),
                    plan,
                    host,
                    stamp,
                    preparer: Preparer::Parent,
                    is_for_parent: false,
                }
            }
        };
        let ready = kind.ready.insert(ready);
        Ok((&ready.plan, ready.filter.as_ref(), ready.preparer))
    }

    /// From here on `preparer` prepares the containers of the kind `key`, unless that is for their parent to do.
    pub(super) fn prepare_by(&mut self, key: u64, preparer: Preparer) {
        if let Some(ready) = self.ready(key).filter(|ready| !ready.is_for_parent) {
            ready.preparer = preparer;
        }
    }

    /// A container of the kind `key` has failed that `preparer` had prepared, and the next would alike. If that was itself, their parent prepares all that are
    /// still to come of this plan: it does without what the kernel does not give a child, which would be missing each time.
    pub(super) fn has_failed(&mut self, key: u64, preparer: Preparer) {
        if let Some(ready) = self.ready(key).filter(|_| preparer == Preparer::Child) {
            (ready.preparer, ready.is_for_parent) = (Preparer::Parent, true);
        }
    }

    fn ready(&mut self, key: u64) -> Option<&mut Ready> {
        self.kinds.iter_mut().find(|kind| kind.key == key)?.ready.as_mut()
    }

    /// The limit of open files that containers inherit.
    pub(super) const fn open_files(&self) -> (u64, u64) {
        self.open_files
    }

    /// For processes that are executed in containers.
    pub(super) fn roots(&self) -> (&Path, &Path) {
        (&self.state_root, &self.run_root)
    }
}

fn plan(options: &Options, host: &Host, (soft, hard): (u64, u64)) -> Result<Plan, Error> {
    let mut plan = Plan::build(options, host)?;
    plan.bond = Bond::None;
    let limits = &mut plan.process.rlimits;
    if !limits.iter().any(|(resource, ..)| *resource == Resource::RLIMIT_NOFILE) {
        limits.push((Resource::RLIMIT_NOFILE, soft, hard));
    }
    Ok(plan)
}

/// Where it cannot be loaded here, it is for the one container to say why.
fn filter(plan: &Plan) -> Option<Filter> {
    match &plan.cgroup.devices {
        Devices::Only(rules) => Filter::load(rules).ok(),
        Devices::All => None,
    }
}

fn names_host_paths(options: &Options) -> bool {
    !options.mounts.is_empty() || !options.devices.is_empty() || options.privileged
}

/// That of what `options` are planned by now.
fn stamp(options: &Options) -> Stamp {
    let of = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.ino(), found.ctime(), found.ctime_nsec()))
    };
    let [resolver, hosts] = CHANGING.map(|path| of(Path::new(path)));
    // A directory that the caller names may change; layers of the store never do.
    let [users, groups] = match &options.rootfs {
        Rootfs::Layers(layers) if layers.len() == 1 => ACCOUNTS.map(|file| of(&layers[0].join(file))),
        _ => [None; 2],
    };
    [resolver, hosts, users, groups]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_remembered_and_the_oldest_goes() {
        let mut plans = Plans::new(Path::new("/state"), Path::new("/run"), (1024, 4096));
        for key in 0..=KINDS_MAX as u64 {
            plans.learn(key, Options { env: vec!["A=b".into()], ..Options::default() });
            // Asked for, so not the oldest.
            plans.plan(1, "0").err();
        }
        let keys: Vec<u64> = plans.kinds.iter().map(|kind| kind.key).collect();
        assert!(keys.len() == KINDS_MAX && !keys.contains(&0) && keys.contains(&1));
        assert!(plans.plan(0, "0").is_err());
    }

    #[test]
    fn once_one_has_failed_that_prepared_itself_the_parent_prepares_them() {
        let mut plans = Plans::new(Path::new("/state"), Path::new("/run"), (1024, 4096));
        let mut by = |change: &dyn Fn(&mut Plans)| {
            change(&mut plans);
            plans.plan(7, &"a".repeat(64)).expect("plan").2
        };
        assert_eq!(by(&|plans| plans.learn(7, Options::default())), Preparer::Parent);
        assert_eq!(by(&|plans| plans.prepare_by(7, Preparer::Child)), Preparer::Child);
        // What fails however it is prepared says nothing of who can.
        assert_eq!(by(&|plans| plans.has_failed(7, Preparer::Parent)), Preparer::Child);
        assert_eq!(by(&|plans| plans.has_failed(7, Preparer::Child)), Preparer::Parent);
        assert_eq!(by(&|plans| plans.prepare_by(7, Preparer::Child)), Preparer::Parent);
        assert_eq!(by(&|plans| plans.learn(7, Options::default())), Preparer::Parent);
        assert_eq!(by(&|plans| plans.prepare_by(7, Preparer::Child)), Preparer::Child);
    }

    #[test]
    fn a_plan_is_of_the_container_that_is_asked_for() {
        let mut plans = Plans::new(Path::new("/state"), Path::new("/run"), (1024, 4096));
        plans.learn(7, Options { env: vec!["HOME=/x".into()], ..Options::default() });
        for id in ["a".repeat(64), "b".repeat(64)] {
            let (plan, ..) = plans.plan(7, &id).expect("plan");
            assert_eq!(plan.id, id);
            assert_eq!(plan.hostname.as_ref().expect("own").to_str(), Ok(&id[..12]));
            assert_eq!(plan.cgroup.path, Path::new(&format!("skiff-{id}")));
            assert!(!plan.process.env.contains(&c"HOME=/x".into()));
        }
    }
}
