//! Stacks with names, and what stands out in them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use super::collect::{Collector, ObjectId, Place};

/// What a frame is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// The kernel.
    Kernel,
    /// A file.
    File,
    /// Memory without a file.
    Anonymous,
    /// Nothing that is known.
    Unknown,
}

/// One place in a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The function; in brackets the module, if that is all that is known.
    pub function: String,
    /// Whether `function` is one.
    pub is_named: bool,
    /// What it is of.
    pub kind: FrameKind,
    /// The path of the file, or `[kernel]`, `[vdso]` and the like; empty for what is not known.
    pub module: String,
    /// The address in the kernel or in a process, else where it is in the file.
    pub address: u64,
}

/// A stack that was found, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The process, as the host numbers it.
    pub pid: u32,
    /// Its name then.
    pub process: String,
    /// Numbers of frames, from the outermost to where it was found.
    pub frames: Vec<usize>,
    /// How often.
    pub samples: u64,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Profile {
    /// Samples per second of CPU time.
    pub hz: u32,
    /// Those that are in `stacks`.
    pub samples: u64,
    /// What found no room: samples among it, what tells where things are mapped, or names.
    pub lost: u64,
    /// In order of process and frames.
    pub stacks: Vec<Stack>,
    /// Frames, by their numbers.
    pub frames: Vec<Frame>,
    /// Identities of files by `module`, where they have one.
    pub build_ids: BTreeMap<String, String>,
}

/// A function, and how often it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Function {
    /// Its name, or its module's in brackets.
    pub function: String,
    /// The file, `[kernel]`, …
    pub module: String,
    /// Samples that found it running itself.
    pub self_samples: u64,
    /// Samples that found it or what it had called running.
    pub total_samples: u64,
}

/// A profile's figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Samples per second of CPU time.
    pub hz: u32,
    /// How many.
    pub samples: u64,
    /// Those that found the kernel running.
    pub kernel_samples: u64,
    /// Those whose innermost function has no name.
    pub unnamed_samples: u64,
    /// Records that found no room.
    pub lost: u64,
    /// Different stacks.
    pub stacks: usize,
    /// Every function, by how often it was found running itself.
    pub functions: Vec<Function>,
}

/// Names places.
pub trait Names {
    /// The function at `address` of the kernel.
    fn kernel(&self, address: u64) -> Option<String>;
    /// The function that the byte `offset` of an object belongs to.
    fn object(&self, object: ObjectId, offset: u64) -> Option<String>;
    /// What a process says it has put at `address`.
    fn anonymous(&self, pid: u32, address: u64) -> Option<String>;
    /// The identity of an object.
    fn build_id(&self, object: ObjectId) -> Option<String>;
    /// Names that found no room, of those that were looked for so far.
    fn lost(&self) -> u64 {
        0
    }
}

impl Profile {
    /// Gives names to what was collected at `hz`.
    pub fn new(collector: &Collector, names: &dyn Names, hz: u32) -> Self {
        let mut profile = Self { hz, samples: collector.samples, lost: collector.lost, ..Self::default() };
        let mut numbers: HashMap<Place, usize> = HashMap::new();
        for ((pid, process, places), samples) in &collector.stacks {
            let frames = places.iter().rev().map(|place| {
                *numbers.entry(*place).or_insert_with(|| {
                    profile.frames.push(frame(collector, names, *place, &mut profile.build_ids));
                    profile.frames.len() - 1
                })
            });
            let frames = frames.collect();
            profile.stacks.push(Stack { pid: *pid, process: process.to_string(), frames, samples: *samples });
        }
        profile.lost += names.lost();
        let ranks = ranks(&profile.frames);
        profile.stacks.sort_by(|a, b| {
            let by_process = (&a.process, a.pid).cmp(&(&b.process, b.pid));
            let rank = |frame: &usize| ranks[*frame];
            let by_names = || a.frames.iter().map(rank).cmp(b.frames.iter().map(rank));
            by_process.then_with(by_names).then(a.samples.cmp(&b.samples))
        });
        profile
    }

    /// Its figures.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut functions: HashMap<(&str, &str), (u64, u64)> = HashMap::new();
        let (mut kernel_samples, mut unnamed_samples) = (0, 0);
        for stack in &self.stacks {
            let mut frames = stack.frames.iter().filter_map(|frame| self.frames.get(*frame));
            let mut seen = HashSet::new();
            for frame in frames.clone() {
                let key = (frame.function.as_str(), frame.module.as_str());
                if seen.insert(key) {
                    functions.entry(key).or_default().1 += stack.samples;
                }
            }
            if let Some(innermost) = frames.next_back() {
                functions.entry((&innermost.function, &innermost.module)).or_default().0 += stack.samples;
                kernel_samples += if innermost.kind == FrameKind::Kernel { stack.samples } else { 0 };
                unnamed_samples += if innermost.is_named { 0 } else { stack.samples };
            } else {
                unnamed_samples += stack.samples;
            }
        }
        let mut functions: Vec<Function> = functions
            .into_iter()
            .map(|((function, module), (self_samples, total_samples))| Function {
                function: function.to_owned(),
                module: module.to_owned(),
                self_samples,
                total_samples,
            })
            .collect();
        functions.sort_by(|a, b| {
            let by_count = (b.self_samples, b.total_samples).cmp(&(a.self_samples, a.total_samples));
            by_count.then_with(|| (&a.function, &a.module).cmp(&(&b.function, &b.module)))
        });
        Summary {
            hz: self.hz,
            samples: self.samples,
            kernel_samples,
            unnamed_samples,
            lost: self.lost,
            stacks: self.stacks.len(),
            functions,
        }
    }

    /// Whether no function of the kernel has a name.
    #[must_use]
    pub fn kernel_is_unnamed(&self) -> bool {
        self.frames.iter().all(|frame| frame.kind != FrameKind::Kernel || !frame.is_named)
    }

    /// The names of the frames of `stack`, from the outermost on, the process first.
    pub(super) fn names<'a>(&'a self, stack: &'a Stack) -> impl Iterator<Item = &'a str> {
        let frames = stack.frames.iter().filter_map(|frame| self.frames.get(*frame));
        std::iter::once(stack.process.as_str()).chain(frames.map(|frame| frame.function.as_str()))
    }
}

/// Each frame's place in the order of names; frames of the same name have the same.
fn ranks(frames: &[Frame]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..frames.len()).collect();
    order.sort_by_key(|frame| frames[*frame].function.as_str());
    let mut ranks = vec![0; frames.len()];
    for pair in order.windows(2) {
        let differs = frames[pair[0]].function != frames[pair[1]].function;
        ranks[pair[1]] = ranks[pair[0]] + usize::from(differs);
    }
    ranks
}

fn frame(
    collector: &Collector,
    names: &dyn Names,
    place: Place,
    build_ids: &mut BTreeMap<String, String>,
) -> Frame {
    let (kind, module, short, function, address) = match place {
        Place::Kernel(address) => {
            let kernel = || "kernel".to_owned();
            (FrameKind::Kernel, "[kernel]".to_owned(), kernel(), names.kernel(address), address)
        }
        Place::Object(id, offset) => {
            let object = collector.object(id);
            let path =
                object.map(|object| String::from_utf8_lossy(&object.name).into_owned()).unwrap_or_default();
            let short = object.map(super::Object::short_name).unwrap_or_default();
            if let Some(build_id) = names.build_id(id) {
                build_ids.insert(path.clone(), build_id);
            }
            let short = short.trim_matches(['[', ']']).to_owned();
            (FrameKind::File, path, short, names.object(id, offset), offset)
        }
        Place::Anonymous(pid, address) => (
            FrameKind::Anonymous,
            "[anon]".to_owned(),
            "anon".to_owned(),
            names.anonymous(pid, address),
            address,
        ),
        Place::Unknown(_, address) => {
            (FrameKind::Unknown, String::new(), "unknown".to_owned(), None, address)
        }
    };
    let is_named = function.is_some();
    Frame { function: function.unwrap_or_else(|| format!("[{short}]")), is_named, kind, module, address }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::collect::tests::{Living, event, sample};
    use super::*;

    struct Named;

    impl Names for Named {
        fn kernel(&self, address: u64) -> Option<String> {
            (address == 0x10).then(|| "do_it".to_owned())
        }
        fn object(&self, _object: ObjectId, offset: u64) -> Option<String> {
            (offset == 0x210).then(|| "main".to_owned())
        }
        fn anonymous(&self, _pid: u32, _address: u64) -> Option<String> {
            None
        }
        fn build_id(&self, _object: ObjectId) -> Option<String> {
            Some("0102".to_owned())
        }
    }

    /// Three samples of `main`, two of what has no name, one of the kernel under `main`.
    pub(crate) fn example() -> Profile {
        let (mut collector, mut host) = (Collector::default(), Living::default());
        for stack in [&[0x4010][..], &[0x4010], &[0x4010], &[0x4500, 0x4011], &[0x1]] {
            collector.take(event(7, sample(&[], stack)), &mut host);
        }
        collector.take(event(7, sample(&[0x10], &[0x4010])), &mut host);
        Profile::new(&collector, &Named, 99)
    }

    #[test]
    fn stacks_are_in_the_order_of_their_names() {
        let profile = example();
        let all: Vec<Vec<&str>> = profile.stacks.iter().map(|stack| profile.names(stack).collect()).collect();
        assert!(all.is_sorted(), "{all:?}");
    }

    #[test]
    fn functions_are_summed_up() {
        let summary = example().summary();
        assert_eq!(
            (summary.samples, summary.kernel_samples, summary.unnamed_samples, summary.lost),
            (6, 1, 2, 0)
        );
        let of = |name: &str| {
            let found = summary.functions.iter().find(|function| function.function == name).expect(name);
            (found.self_samples, found.total_samples)
        };
        assert_eq!([of("main"), of("do_it"), of("[old]"), of("[unknown]")], [(3, 5), (1, 1), (1, 1), (1, 1)]);
        assert_eq!(summary.functions[0].function, "main");
    }
}
