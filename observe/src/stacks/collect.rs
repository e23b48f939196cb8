//! From events in order of time to counted stacks: follows processes, so that an address is understood by the mappings that its
//! process had at that instant. All tables are bounded; what finds no room is counted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use skiff_ebpf::stacks::{Event, FileId, Kind};

use super::maps::Line;

/// What a collector asks for meanwhile: processes and files that may be gone later.
pub trait Host {
    /// The name and the executable mappings of a process that has been there for longer; `None` if it has gone.
    fn look_at(&mut self, pid: u32) -> Option<(String, Vec<Line>)>;

    /// An address of the object was sampled for the first time, in the process `pid` from `start` to `end`: what it holds can
    /// be opened now. Of memory without a file each process has its own.
    fn meet(&mut self, id: ObjectId, object: &Object, pid: u32, start: u64, end: u64);
}

/// A file, or what else is mapped: by its number in the order of appearance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectId(pub u32);

/// What is mapped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its path in the mount namespace of the process, or `[vdso]`, `//anon` and the like.
    pub name: Vec<u8>,
    /// Which file, as far as the kernel says.
    pub file: FileId,
}

impl Object {
    /// Whether it is memory without a file: what just-in-time compilers make.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        !self.name.starts_with(b"/") && !self.name.starts_with(b"[vdso") || self.name.starts_with(b"//")
    }

    /// The last part of its name.
    #[must_use]
    pub fn short_name(&self) -> String {
        let last = self.name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        String::from_utf8_lossy(last).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
    }
}

/// A place in a program, wherever it was loaded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// In the kernel, at this address.
    Kernel(u64),
    /// In an object, so many bytes from its beginning.
    Object(ObjectId, u64),
    /// In memory without a file, of this process.
    Anonymous(u32, u64),
    /// Where this process has mapped nothing that is known.
    Unknown(u32, u64),
}

/// Processes that are followed, mappings of each and of all, objects, different stacks, and places in all of these: as many frames
/// are written at most.
const PROCESSES_MAX: usize = 32_768;
const MAPPINGS_MAX: usize = 16_384;
const ALL_MAPPINGS_MAX: usize = 1 << 20;
const OBJECTS_MAX: usize = 65_536;
const STACKS_MAX: usize = 262_144;
const PLACES_MAX: usize = 2 << 20;
/// Processes that have ended and are remembered, for threads that outlive the first one.
const ENDED_MAX: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    end: u64,
    offset: u64,
    object: ObjectId,
}

#[derive(Debug, Clone, Default)]
struct Process {
    name: Rc<str>,
    /// Shared with those that have forked and not mapped anything since.
    mappings: Rc<BTreeMap<u64, Mapping>>,
    /// Whether its memory without a file has been met.
    is_met: bool,
}

/// A process, its name then, and places from the innermost outwards.
pub(super) type Key = (u32, Rc<str>, Vec<Place>);

/// The stacks of a period.
#[derive(Debug, Default)]
pub struct Collector {
    processes: HashMap<u32, Process>,
    ended: VecDeque<u32>,
    /// Mappings of all processes.
    mappings: usize,
    objects: Vec<Object>,
    numbers: HashMap<Object, ObjectId>,
    met: Vec<bool>,
    pub(super) stacks: HashMap<Key, u64>,
    places: usize,
    pub(super) samples: u64,
    pub(super) lost: u64,
}

impl Collector {
    /// Takes up an event; to be called in order of time.
    pub fn take(&mut self, event: Event, host: &mut dyn Host) {
        let Event { pid, tid, .. } = event;
        match event.kind {
            Kind::Sample { kernel, user } => self.sample(pid, &kernel, &user, host),
            Kind::Mapped { start, len, offset, file, name } => {
                // Of one that was there before, all is looked at when it is sampled.
                if self.processes.contains_key(&pid)
                    && let Some(end) = start.checked_add(len)
                    && let Some(object) = self.number(Object { name, file })
                {
                    self.map(pid, start, Mapping { end, offset, object });
                }
            }
            Kind::Named { name, executes } => self.name(pid, tid, &name, executes),
            Kind::Forked { parent } if pid != parent => {
                match self.processes.get(&parent).cloned() {
                    Some(process) => self.insert(pid, Process { is_met: false, ..process }),
                    // The number may have been another's.
                    None => self.forget(pid),
                }
            }
            Kind::Ended if pid == tid => self.end(pid),
            Kind::Forked { .. } | Kind::Ended => {}
            Kind::Lost(count) => self.lost += count,
        }
    }

    /// Takes up what a process that lives has mapped before anything was seen of it.
    pub fn look_at(&mut self, pid: u32, host: &mut dyn Host) {
        let Some((name, lines)) = host.look_at(pid) else { return };
        self.insert(pid, Process { name: name.into(), ..Process::default() });
        for line in lines {
            let file = FileId { device: line.device, inode: line.inode, generation: 0 };
            // The same as the kernel's events call it.
            let name = if line.name.is_empty() { b"//anon".to_vec() } else { line.name };
            if self.processes.contains_key(&pid)
                && let Some(object) = self.number(Object { name, file })
            {
                self.map(pid, line.start, Mapping { end: line.end, offset: line.offset, object });
            }
        }
    }

    /// What is mapped, by its number.
    #[must_use]
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(id.0 as usize)
    }

    /// Samples so far.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    fn sample(&mut self, pid: u32, kernel: &[u64], user: &[u64], host: &mut dyn Host) {
        if !self.processes.contains_key(&pid) {
            self.look_at(pid, host);
        }
        let mut places: Vec<Place> = Vec::with_capacity(kernel.len() + user.len());
        places
            .extend(kernel.iter().enumerate().map(|(depth, address)| Place::Kernel(within(depth, *address))));
        for (depth, address) in user.iter().enumerate() {
            places.push(self.place(pid, within(depth, *address), host));
        }
        let name = self.processes.get(&pid).map_or_else(|| Rc::from("?"), |process| Rc::clone(&process.name));
        let key = (pid, name, places);
        if let Some(count) = self.stacks.get_mut(&key) {
            *count += 1;
        } else if self.stacks.len() < STACKS_MAX && key.2.len() <= PLACES_MAX - self.places {
            self.places += key.2.len();
            self.stacks.insert(key, 1);
        } else {
            self.lost += 1;
            return;
        }
        self.samples += 1;
    }

    fn place(&mut self, pid: u32, address: u64, host: &mut dyn Host) -> Place {
        let unknown = Place::Unknown(pid, address);
        let Some(process) = self.processes.get_mut(&pid) else { return unknown };
        let Some((start, Mapping { end, offset, object: id })) = process.find(address) else {
            return unknown;
        };
        let Some(object) = self.objects.get(id.0 as usize) else { return unknown };
        let met =
            if object.is_anonymous() { Some(&mut process.is_met) } else { self.met.get_mut(id.0 as usize) };
        if met.is_some_and(|met| !std::mem::replace(met, true)) {
            host.meet(id, object, pid, start, end);
        }
        if object.is_anonymous() {
            Place::Anonymous(pid, address)
        } else {
            Place::Object(id, address - start + offset)
        }
    }

    fn name(&mut self, pid: u32, tid: u32, name: &[u8], executes: bool) {
        let text: String =
            String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        if executes {
            self.insert(pid, Process { name: text.into(), ..Process::default() });
        } else if pid == tid
            && let Some(process) = self.processes.get_mut(&pid)
        {
            process.name = text.into();
        }
    }

    fn end(&mut self, pid: u32) {
        self.ended.push_back(pid);
        if self.ended.len() > ENDED_MAX
            && let Some(pid) = self.ended.pop_front()
        {
            self.forget(pid);
        }
    }

    fn forget(&mut self, pid: u32) {
        let process = self.processes.remove(&pid);
        self.release(process);
    }

    /// Gives back the room of what only `process` has mapped.
    fn release(&mut self, process: Option<Process>) {
        let own = process.and_then(|process| Rc::into_inner(process.mappings));
        self.mappings -= own.map_or(0, |mappings| mappings.len());
    }

    /// Maps something in a process that is followed.
    fn map(&mut self, pid: u32, start: u64, mapping: Mapping) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        // What it shares with others would be copied.
        let own = if Rc::strong_count(&process.mappings) == 1 { process.mappings.len() } else { 0 };
        let most = (ALL_MAPPINGS_MAX - (self.mappings - own)).min(MAPPINGS_MAX);
        if process.mappings.len() > most {
            // Nothing is known rather than what was there before.
            process.mappings = Rc::default();
            self.lost += 1;
            return;
        }
        self.lost += process.map(start, mapping, most);
        self.mappings = self.mappings - own + process.mappings.len();
    }

    fn insert(&mut self, pid: u32, process: Process) {
        // A number that is given again is not to be removed for the sake of the one before.
        self.ended.retain(|ended| *ended != pid);
        if self.processes.len() < PROCESSES_MAX || self.processes.contains_key(&pid) {
            let before = self.processes.insert(pid, process);
            self.release(before);
        } else {
            self.lost += 1;
            self.release(Some(process));
        }
    }

    fn number(&mut self, object: Object) -> Option<ObjectId> {
        if let Some(id) = self.numbers.get(&object) {
            return Some(*id);
        }
        let id = ObjectId(u32::try_from(self.objects.len()).ok()?);
        if self.objects.len() == OBJECTS_MAX {
            self.lost += 1;
            return None;
        }
        self.objects.push(object.clone());
        self.met.push(false);
        self.numbers.insert(object, id);
        Some(id)
    }
}

impl Process {
    /// Maps something, in place of what was there; how many pieces found no room among `most`.
    fn map(&mut self, start: u64, mapping: Mapping, most: usize) -> u64 {
        let mappings = Rc::make_mut(&mut self.mappings);
        let mut lost = 0;
        let mut keep = |mappings: &mut BTreeMap<u64, Mapping>, at, mapping| {
            if mappings.len() < most || mappings.contains_key(&at) {
                mappings.insert(at, mapping);
            } else {
                lost += 1;
            }
        };
        let covered: Vec<u64> = mappings.range(start..mapping.end).map(|(at, _)| *at).collect();
        for at in covered {
            if let Some(old) = mappings.remove(&at)
                && old.end > mapping.end
            {
                let offset = old.offset.wrapping_add(mapping.end - at);
                keep(mappings, mapping.end, Mapping { offset, ..old });
            }
        }
        if let Some((at, old)) = mappings.range(..start).next_back().map(|(at, old)| (*at, *old))
            && old.end > start
        {
            keep(mappings, at, Mapping { end: start, ..old });
            if old.end > mapping.end {
                let offset = old.offset.wrapping_add(mapping.end - at);
                keep(mappings, mapping.end, Mapping { offset, ..old });
            }
        }
        keep(mappings, start, mapping);
        lost
    }

    fn find(&self, address: u64) -> Option<(u64, Mapping)> {
        let (start, mapping) = self.mappings.range(..=address).next_back()?;
        (address < mapping.end).then_some((*start, *mapping))
    }
}

/// An address in the call that returns to `address`; that itself where a task was found.
const fn within(depth: usize, address: u64) -> u64 {
    if depth == 0 { address } else { address.saturating_sub(1) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One with a single process, 7, that has lived before.
    #[derive(Default)]
    pub(crate) struct Living {
        pub(crate) met: Vec<String>,
    }

    impl Host for Living {
        fn look_at(&mut self, pid: u32) -> Option<(String, Vec<Line>)> {
            let line = |start: u64, name: &str| Line {
                start,
                end: start + 0x1000,
                offset: 0x200,
                device: (8, 1),
                inode: 5,
                name: name.into(),
            };
            (pid == 7).then(|| ("old".to_owned(), vec![line(0x4000, "/bin/old"), line(0x9000, "")]))
        }

        fn meet(&mut self, _id: ObjectId, object: &Object, _pid: u32, _start: u64, _end: u64) {
            self.met.push(object.short_name());
        }
    }

    pub(crate) fn event(pid: u32, kind: Kind) -> Event {
        Event { time_ns: 0, pid, tid: pid, kind }
    }

    pub(crate) fn sample(kernel: &[u64], user: &[u64]) -> Kind {
        Kind::Sample { kernel: kernel.to_vec(), user: user.to_vec() }
    }

    fn mapped(start: u64, len: u64, name: &str) -> Kind {
        Kind::Mapped { start, len, offset: 0, file: FileId::default(), name: name.into() }
    }

    fn named(name: &str, executes: bool) -> Kind {
        Kind::Named { name: name.into(), executes }
    }

    fn collect(events: impl IntoIterator<Item = (u32, Kind)>) -> (Collector, Living) {
        let (mut collector, mut host) = (Collector::default(), Living::default());
        events.into_iter().for_each(|(pid, kind)| collector.take(event(pid, kind), &mut host));
        (collector, host)
    }

    /// The stacks as `name: object+offset …`.
    fn shown(collector: &Collector) -> Vec<String> {
        let mut all: Vec<String> = collector
            .stacks
            .iter()
            .map(|((_, name, places), count)| {
                let places = places.iter().map(|place| match place {
                    Place::Kernel(address) => format!(" k{address:x}"),
                    Place::Object(id, offset) => {
                        format!(" {}+{offset:x}", collector.object(*id).expect("known").short_name())
                    }
                    Place::Anonymous(_, address) => format!(" a{address:x}"),
                    Place::Unknown(_, address) => format!(" ?{address:x}"),
                });
                format!("{count} {name}:{}", places.collect::<String>())
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_process_that_was_there_is_looked_at() {
        let (collector, host) =
            collect([(7, sample(&[], &[0x4010, 0x4101, 0x9001, 0x1])), (7, sample(&[0x10], &[]))]);
        assert_eq!(shown(&collector), ["1 old: k10", "1 old: old+210 old+300 a9000 ?0"]);
        assert_eq!(
            host.met,
            ["old", "anon"].map(|name| if name == "anon" { "anon".to_owned() } else { name.to_owned() })
        );
    }

    #[test]
    fn a_process_that_has_ended_is_known_by_its_events() {
        let (collector, host) = collect([
            (20, named("child", true)),
            (20, mapped(0x1000, 0x1000, "/bin/child")),
            (21, Kind::Forked { parent: 20 }),
            (21, sample(&[], &[0x1234])),
            (21, Kind::Ended),
            (20, sample(&[], &[0x1234])),
            (20, Kind::Ended),
        ]);
        assert_eq!(shown(&collector), ["1 child: child+234", "1 child: child+234"]);
        assert_eq!(host.met, ["child"]);
    }

    #[test]
    fn another_program_has_other_mappings() {
        let (collector, _) = collect([
            (20, named("one", true)),
            (20, mapped(0x1000, 0x1000, "/bin/one")),
            (20, sample(&[], &[0x1234])),
            (20, named("two", true)),
            (20, sample(&[], &[0x1234])),
            (20, mapped(0x1000, 0x1000, "/bin/two")),
            (20, sample(&[], &[0x1234])),
            (20, named("renamed", false)),
            (20, sample(&[], &[0x1234])),
        ]);
        assert_eq!(
            shown(&collector),
            ["1 one: one+234", "1 renamed: two+234", "1 two: ?1234", "1 two: two+234"]
        );
    }

    #[test]
    fn what_is_mapped_over_something_leaves_its_ends() {
        let (collector, _) = collect([
            (20, named("p", true)),
            (20, mapped(0x1000, 0x3000, "/wide")),
            (20, mapped(0x2000, 0x1000, "/narrow")),
            (20, sample(&[], &[0x1fff])),
            (20, sample(&[], &[0x2000])),
            (20, sample(&[], &[0x3001])),
            (20, mapped(0x0, 0x3800, "/over")),
            (20, sample(&[], &[0x3800])),
        ]);
        assert_eq!(shown(&collector), ["1 p: narrow+0", "1 p: wide+2001", "1 p: wide+2800", "1 p: wide+fff"]);
    }

    #[test]
    fn memory_without_a_file_is_met_once_in_each_process_and_program() {
        let anon = || mapped(0x1000, 0x1000, "//anon");
        let (_, host) = collect([
            (20, named("p", true)),
            (20, anon()),
            (20, sample(&[], &[0x1000])),
            (20, sample(&[], &[0x1001])),
            (21, Kind::Forked { parent: 20 }),
            (21, sample(&[], &[0x1000])),
            (21, named("q", true)),
            (21, anon()),
            (21, sample(&[], &[0x1000])),
        ]);
        assert_eq!(host.met, ["anon"; 3]);
    }

    #[test]
    fn mappings_are_counted_once_for_all_that_share_them() {
        let (mut collector, mut host) = collect([
            (20, named("p", true)),
            (20, mapped(0x1000, 0x1000, "/a")),
            (20, mapped(0x3000, 0x1000, "/b")),
            (21, Kind::Forked { parent: 20 }),
            (22, Kind::Forked { parent: 20 }),
        ]);
        let mut after = |pid, kind| {
            collector.take(event(pid, kind), &mut host);
            collector.mappings
        };
        assert_eq!(after(21, mapped(0x5000, 0x1000, "/c")), 5);
        assert_eq!(after(20, named("p", true)), 5);
        assert_eq!(after(22, named("p", true)), 3);
        assert_eq!(after(21, Kind::Forked { parent: 999 }), 0);
        // Nobody asks for what others map.
        assert_eq!(after(30, mapped(0x1000, 0x1000, "/of/others")), 0);
        assert_eq!((collector.objects.len(), collector.lost), (3, 0));
    }

    #[test]
    fn what_finds_no_room_is_counted() {
        let mut process = Process::default();
        let mapping = |end| Mapping { end, offset: 0, object: ObjectId(0) };
        assert_eq!(process.map(0x1000, mapping(0x9000), 2), 0);
        // Of three pieces one is left out, and nothing is there twice.
        assert_eq!(process.map(0x3000, mapping(0x4000), 2), 1);
        assert_eq!(process.mappings.len(), 2);
        let many = (0..=MAPPINGS_MAX as u64).map(|nth| (20, mapped(nth * 0x2000, 0x1000, "/a")));
        let (collector, _) = collect(std::iter::once((20, named("p", true))).chain(many));
        assert_eq!((collector.mappings, collector.lost), (MAPPINGS_MAX, 1));
    }

    #[test]
    fn what_was_lost_is_counted() {
        let (collector, _) = collect([(0, Kind::Lost(12)), (7, sample(&[1], &[]))]);
        assert_eq!((collector.lost, collector.samples()), (12, 1));
    }
}
