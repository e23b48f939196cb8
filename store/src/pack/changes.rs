//! What a container has changed: its upper directory, compared with the layers below.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::stack::{Changed, Folder, Node, Stack, What, join};
use crate::error::cause;
use crate::unpack::Privilege;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It was there and is another.
    Modified,
    /// It was not there.
    Added,
    /// It is gone.
    Deleted,
}

/// One line of `diff`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute, as the container sees it; not necessarily text.
    pub path: Vec<u8>,
    /// What happened.
    pub kind: ChangeKind,
}

/// A container's files.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// The directory that overlayfs writes to, if there is one.
    pub upper: Option<PathBuf>,
    /// The image's layers, top first.
    pub layers: Vec<PathBuf>,
    /// Where the container has mounts, as absolute paths. What its launch has made to mount on is no change.
    pub mounts: Vec<PathBuf>,
}

impl Tree {
    /// What is different from the image, sorted by path.
    ///
    /// Errors: one line; of the file system, or of a file whose content is in no layer.
    pub fn changes(&self) -> Result<Vec<Change>, String> {
        let mut all = Vec::new();
        let mut gather = |path: &[u8], step: Step<'_>| {
            let kind = match step {
                Step::Node(_, None) => ChangeKind::Added,
                Step::Node(_, Some(_)) => ChangeKind::Modified,
                Step::Deleted | Step::Hidden => ChangeKind::Deleted,
                Step::Opaque => return Ok(()),
            };
            all.push(Change { path: [b"/", path].concat(), kind });
            Ok(())
        };
        self.walk(&mut gather).map_err(|e| cause(&e))?;
        all.sort();
        Ok(all)
    }

    pub(super) fn stack(&self) -> io::Result<Stack> {
        let all: Vec<&Path> = self.upper.iter().chain(&self.layers).map(PathBuf::as_path).collect();
        Stack::open(&all, Privilege::of_caller())
    }

    /// Visits what the upper directory has, parents before children, sorted in each directory.
    pub(super) fn walk(&self, visit: Visit<'_>) -> io::Result<()> {
        if self.upper.is_none() {
            return Ok(());
        }
        let stack = self.stack()?;
        let root = stack.root()?;
        let mounts = Mounts(&self.mounts);
        let entries = stack.list_top(&root)?;
        let mut frames = vec![Frame { path: Vec::new(), entries, is_new: false, waiting: None }];
        while let Some(frame) = frames.last_mut() {
            let Some((name, (node, old))) = frame.entries.pop_first() else {
                frames.pop();
                continue;
            };
            let path = join(&frame.path, &name);
            let was_moved = frame.is_new;
            if matches!(node.what, What::Whiteout) {
                if old.is_some() {
                    emit(&mut frames, visit, &path, Step::Deleted)?;
                }
                continue;
            }
            let What::Folder(folder) = &node.what else {
                let is_empty = matches!(node.what, What::File(_)) && node.stat.st_size == 0;
                if !(is_empty && old.is_none() && mounts.are_at(&path)) {
                    emit(&mut frames, visit, &path, Step::Node(&node, old.as_ref()))?;
                }
                continue;
            };
            let is_new = was_moved || stack.is_redirected(&node.spot)?;
            let entries = if is_new { all_new(stack.list(folder)?) } else { stack.list_top(folder)? };
            let on_the_way = mounts.are_below(&path) || mounts.are_at(&path) && entries.is_empty();
            let waiting = if on_the_way && old.as_ref().is_none_or(|old| is_alike(old, &node)) {
                Some((node, old))
            } else {
                emit(&mut frames, visit, &path, Step::Node(&node, old.as_ref()))?;
                if let Some(Node { what: What::Folder(before), .. }) = &old
                    && (is_new || stack.is_opaque(&node.spot)?)
                {
                    emit(&mut frames, visit, &path, Step::Opaque)?;
                    for name in hidden(&stack, before, &entries)? {
                        emit(&mut frames, visit, &join(&path, &name), Step::Hidden)?;
                    }
                }
                None
            };
            frames.push(Frame { path, entries, is_new, waiting });
        }
        Ok(())
    }
}

/// Something in an upper directory.
pub(super) enum Step<'a> {
    /// It is there, and what was there before.
    Node(&'a Node, Option<&'a Node>),
    /// What was there is gone.
    Deleted,
    /// The directory last visited hides all that was in one of its name.
    Opaque,
    /// What was there is gone because of that.
    Hidden,
}

pub(super) type Visit<'a> = &'a mut dyn FnMut(&[u8], Step<'_>) -> io::Result<()>;

/// A directory on the way.
struct Frame {
    path: Vec<u8>,
    entries: Changed,
    /// All that is in it has come here with it, whatever layer it lies in.
    is_new: bool,
    /// It is to be visited only if something in it is.
    waiting: Option<(Node, Option<Node>)>,
}

fn emit(frames: &mut [Frame], visit: Visit<'_>, path: &[u8], step: Step<'_>) -> io::Result<()> {
    for frame in frames {
        if let Some((node, old)) = frame.waiting.take() {
            visit(&frame.path, Step::Node(&node, old.as_ref()))?;
        }
    }
    visit(path, step)
}

/// What a renamed directory shows counts as new at its new place.
fn all_new(nodes: BTreeMap<Vec<u8>, Node>) -> Changed {
    nodes.into_iter().map(|(name, node)| (name, (node, None))).collect()
}

/// Names that were in a directory and are not in what has taken its place.
fn hidden(stack: &Stack, before: &Folder, now: &Changed) -> io::Result<Vec<Vec<u8>>> {
    let before = stack.list(before)?;
    let is_gone = |name: &Vec<u8>| now.get(name).is_none_or(|(node, _)| matches!(node.what, What::Whiteout));
    Ok(before.into_keys().filter(is_gone).collect())
}

/// Whether a directory has been copied up as it was.
fn is_alike(old: &Node, new: &Node) -> bool {
    let key = |node: &Node| (node.stat.st_mode, node.stat.st_uid, node.stat.st_gid);
    matches!(old.what, What::Folder(_)) && key(old) == key(new)
}

struct Mounts<'a>(&'a [PathBuf]);

impl Mounts<'_> {
    fn are_at(&self, path: &[u8]) -> bool {
        self.0.iter().any(|mount| relative(mount) == path)
    }

    fn are_below(&self, path: &[u8]) -> bool {
        let below = |mount: &[u8]| mount.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"));
        self.0.iter().any(|mount| below(relative(mount)))
    }
}

fn relative(mount: &Path) -> &[u8] {
    let bytes = mount.as_os_str().as_encoded_bytes();
    let start = bytes.iter().position(|&b| b != b'/').unwrap_or(bytes.len());
    bytes[start..].strip_suffix(b"/").unwrap_or(&bytes[start..])
}
