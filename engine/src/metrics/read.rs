//! Reads what there is to be told of containers, the daemon and itself. Waits for the kernel: on a thread of its own.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use skiff_ebpf::Tier1;
use skiff_ebpf::pinned::{Owner, Pinned, Taken};
use skiff_observe::exposition::Subject;
use skiff_runtime::cgroup::Paths;
use skiff_sys::clock::monotonic_ns;

use super::look::{Look, Running};
use super::sampler::Cost;
use super::table;
use crate::Record;
use crate::documents;
use crate::figures::{self, Figures, Groups, Living, Past, Round, Tracker, cgroup_id};

/// So many containers made ahead are asked for their memory at most; that of others is taken to be the same.
const PARKED_MAX: usize = 8;

/// Room for what there is to be told of a container, if no programs are pinned.
const POINTS: usize = 64;

/// Where a cgroup's path begins, as its id for those who collect figures; of hybrid hosts first.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// A container that runs, and its figures.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) record: Arc<Record>,
    pub(super) figures: Figures,
    /// How many processes there are.
    pub(super) processes: Option<u64>,
    /// What programs count that are pinned, if they count it.
    pub(super) counted: Option<Counted>,
}

/// What programs that are pinned count of a container.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) tier1: Tier1,
    pub(super) calls: Option<Calls>,
}

/// System calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Calls {
    pub(super) all: u64,
    pub(super) failed: u64,
    lost: u64,
}

/// The daemon, and what it costs.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) look: Look,
    /// When it has started, ns since 1970.
    pub(super) since_ns: u64,
    pub(super) own: Process,
    pub(super) spawner: Process,
    pub(super) descriptors: Option<u64>,
    pub(super) descriptors_max: Option<u64>,
    pub(super) pool_memory_bytes: u64,
    pub(super) observe: Option<Observe>,
    /// How long reading took.
    pub(super) took_ns: u64,
    pub(super) cost: Cost,
}

/// A process of the engine's.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_s: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
}

/// The programs that are pinned.
#[derive(Debug)]
pub(super) struct Observe {
    pub(super) probes: Vec<&'static str>,
    pub(super) slots: u64,
    pub(super) taken: u64,
    pub(super) refused: u64,
}

/// What programs in the kernel count, those of the daemon and those that are pinned.
struct Programs {
    tracker: Tracker,
    living: Living,
    pinned: Option<Pinned>,
    taken: Vec<Taken>,
    /// This look at all of them.
    round: Round,
}

impl Counted {
    /// What could not be counted of it.
    pub(super) fn lost(&self) -> u64 {
        let lost = [
            self.calls.map(|calls| calls.lost),
            self.tier1.run_queue.as_ref().map(|queue| queue.lost),
            self.tier1.block.as_ref().map(|block| block.lost),
        ];
        lost.into_iter().flatten().fold(0, u64::saturating_add)
    }
}

/// Everything, of which `look` knows where it is. The daemon comes last.
pub(super) fn read(look: Look, since_ns: u64, cost: Cost) -> Vec<Subject> {
    let begun = monotonic_ns();
    let pinned = Pinned::open().ok().flatten();
    let cgroup = |running: &Running| cgroup_id(&running.cgroups);
    let cgroups: Vec<_> = look.running.iter().map(cgroup).collect();
    let pasts: Vec<_> = cgroups.iter().map(|cgroup| look.tracker.past(*cgroup)).collect();
    let programs = Programs {
        living: look.tracker.living(),
        tracker: look.tracker.clone(),
        taken: pinned.as_ref().and_then(|pinned| pinned.taken().ok()).unwrap_or_default(),
        pinned,
        round: Round::default(),
    };
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let mut subjects = Vec::with_capacity(look.running.len() + 1);
    for ((running, cgroup), past) in look.running.iter().zip(&cgroups).zip(&pasts) {
        let mut subject = subject(running, host.as_deref());
        table::take_container(&programs.container(running, *cgroup, past.as_ref()), &mut subject);
        subjects.push(subject);
    }
    subjects.extend(programs.others(&look, &cgroups, host.as_deref()));
    let limits = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    let daemon = Daemon {
        since_ns,
        own: process("self"),
        spawner: process(&look.spawner_pid.to_string()),
        descriptors: descriptors(),
        descriptors_max: limits.ok().map(|(soft, _)| soft),
        pool_memory_bytes: pool_memory(&look.pools.pids),
        observe: programs.observe(),
        took_ns: monotonic_ns() - begun,
        cost,
        look,
    };
    let mut own = Subject {
        resource: on_host(
            host.as_deref(),
            vec![
                ("service.name", "skiff".into()),
                ("service.version", env!("CARGO_PKG_VERSION").into()),
                ("process.pid", std::process::id().to_string()),
            ],
        ),
        since_ns,
        ..Subject::default()
    };
    table::take_daemon(&daemon, &mut own);
    subjects.push(own);
    subjects
}

fn subject(running: &Running, host: Option<&str>) -> Subject {
    let record = &running.record;
    Subject {
        labels: vec![
            ("id", id(record, &running.cgroups)),
            ("image", record.spec.image.clone()),
            ("name", record.name.clone()),
        ],
        resource: on_host(
            host,
            vec![
                ("container.id", record.id.clone()),
                ("container.name", record.name.clone()),
                ("container.image.name", record.spec.image.clone()),
                ("container.image.id", record.image_id.clone().unwrap_or_default()),
                ("container.runtime.name", "skiff".into()),
            ],
        ),
        since_ns: record.started_ns,
        points: Vec::with_capacity(POINTS),
    }
}

fn on_host(host: Option<&str>, mut attributes: Vec<(&'static str, String)>) -> Vec<(&'static str, String)> {
    attributes.retain(|(_, value)| !value.is_empty());
    attributes.extend(host.map(|host| ("host.name", host.to_owned())));
    attributes
}

/// The path of its cgroup below where those are mounted, as cAdvisor has it.
fn id(record: &Record, cgroups: &Paths) -> String {
    let path = cgroups.unified.as_deref().or_else(|| cgroups.legacy.values().next().map(AsRef::as_ref));
    let below = |path: &Path| {
        let rest = MOUNTS.iter().find_map(|mount| path.strip_prefix(mount).ok())?;
        Some(format!("/{}", rest.display()))
    };
    path.and_then(below).unwrap_or_else(|| format!("/skiff-{}", record.id))
}

impl Programs {
    fn container(&self, running: &Running, cgroup: Option<u64>, past: Option<&Past>) -> Container {
        let taken = self.taken.iter().find(|taken| Some(taken.owner.cgroup) == cgroup);
        let groups = Groups::open_in(&self.round, &running.cgroups);
        let mut figures = figures::read(&groups, Some(running.pid), self.tracker.counts_block(past));
        self.tracker.complete(past, &self.living, &mut figures);
        Container {
            record: running.record.clone(),
            figures: Figures { restarts: running.record.restart_count, ..figures },
            processes: groups.processes().map(|pids| pids.len() as u64),
            counted: taken.and_then(|taken| self.counted(taken)),
        }
    }

    fn counted(&self, taken: &Taken) -> Option<Counted> {
        let pinned = self.pinned.as_ref()?;
        let calls = pinned.probes().syscalls.then(|| calls(pinned, taken.slot)).flatten();
        Some(Counted { tier1: pinned.tier1(taken.slot).ok()?, calls })
    }

    /// Those that are counted and are not the daemon's.
    fn others(&self, look: &Look, own: &[Option<u64>], host: Option<&str>) -> Vec<Subject> {
        let own: HashSet<u64> = own.iter().flatten().copied().collect();
        let others = self.taken.iter().filter(|Taken { owner, .. }| {
            !own.contains(&owner.cgroup) && is_other(owner, look.at_ns, &look.ids)
        });
        let subject = |taken: &Taken| {
            let id = String::from_utf8_lossy(taken.owner.id()).into_owned();
            let mut subject = Subject {
                labels: vec![("id", format!("/{id}")), ("name", id.clone())],
                resource: on_host(host, vec![("container.id", id)]),
                ..Subject::default()
            };
            table::take_counted(&self.counted(taken)?, &mut subject);
            Some(subject)
        };
        others.filter_map(subject).collect()
    }

    fn observe(&self) -> Option<Observe> {
        let pinned = self.pinned.as_ref()?;
        Some(Observe {
            probes: pinned.probes().names(),
            slots: pinned.slots().into(),
            taken: self.taken.len() as u64,
            refused: pinned.refused().map_or(0, |refused| refused.len() as u64),
        })
    }
}

/// Whether a slot is of a container that is not the daemon's, which had those with these `ids` at that time. Of what was launched
/// after that nobody can tell.
fn is_other(owner: &Owner, at_ns: u64, ids: &HashSet<String>) -> bool {
    let is_own = std::str::from_utf8(owner.id()).is_ok_and(|id| ids.contains(id));
    !is_own && owner.stamps[0] < at_ns
}

fn calls(pinned: &Pinned, slot: u32) -> Option<Calls> {
    let record = pinned.snapshot(slot).ok()?;
    let calls = [&record.init, &record.workload].into_iter().flat_map(|phase| &phase.syscalls);
    let failed = calls.flat_map(|call| &call.errors).map(|(_, count)| count).sum();
    Some(Calls { all: record.calls(), failed, lost: record.lost })
}

/// What those that wait have in memory. They are much alike, and asking one takes the kernel longer than reading a container.
fn pool_memory(pids: &[i32]) -> u64 {
    let asked = pids.len().min(PARKED_MAX);
    let sum: u64 = pids.iter().take(asked).map(|pid| documents::memory_bytes(*pid)).sum();
    if asked == 0 { 0 } else { sum * pids.len() as u64 / asked as u64 }
}

/// Of proc_pid_stat(5).
fn process(pid: &str) -> Process {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u64> = text
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
        .unwrap_or_default();
    // From `state`, the third.
    let field = |number: usize| fields.get(number - 3).copied();
    let constant =
        |name| nix::unistd::sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
    let ticks = constant(nix::unistd::SysconfVar::CLK_TCK).unwrap_or(100);
    let page_bytes = constant(nix::unistd::SysconfVar::PAGE_SIZE).unwrap_or(4096);
    #[expect(clippy::cast_precision_loss, reason = "hundredths of seconds")]
    let cpu_s = field(14).zip(field(15)).map(|(user, system)| (user + system) as f64 / ticks as f64);
    Process { cpu_s, resident_bytes: field(24).map(|pages| pages * page_bytes), virtual_bytes: field(23) }
}

/// How many descriptors this process has open.
fn descriptors() -> Option<u64> {
    // Since Linux 6.2 the directory's size tells.
    match fs::metadata("/proc/self/fd").ok()?.len() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as u64),
        size => Some(size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_known_by_the_path_of_its_cgroup() {
        let check = |path: &str, expected: &str| {
            let cgroups = Paths { unified: Some(path.into()), ..Paths::default() };
            let record = Record { id: "0123".into(), ..Record::default() };
            assert_eq!(id(&record, &cgroups), expected);
        };
        check("/sys/fs/cgroup/skiff-0123", "/skiff-0123");
        check("/sys/fs/cgroup/unified/skiff-0123", "/skiff-0123");
        check("/sys/fs/cgroup/user.slice/skiff-0123", "/user.slice/skiff-0123");
        check("/elsewhere/0123", "/skiff-0123");
    }

    #[test]
    fn slots_of_the_daemon_s_containers_are_no_other_s() {
        let ids = HashSet::from(["own".to_owned()]);
        let check = |id: &str, begun_ns: u64, expected: bool| {
            let mut stamps = [0; skiff_ebpf_abi::pinned::STAMPS];
            stamps[0] = begun_ns;
            assert_eq!(is_other(&Owner::new(7, id, stamps), 100, &ids), expected, "{id} {begun_ns}");
        };
        check("other", 99, true);
        check("own", 99, false);
        // It may be the daemon's by now.
        check("new", 101, false);
    }

    #[test]
    fn a_process_tells_of_itself() {
        let own = process("self");
        assert!(own.resident_bytes.is_some_and(|bytes| bytes > 4096));
        assert!(own.virtual_bytes > own.resident_bytes && own.cpu_s.is_some_and(|cpu| cpu >= 0.0));
        assert!(descriptors().is_some_and(|count| count >= 3));
        assert!(process("0").cpu_s.is_none());
    }
}
