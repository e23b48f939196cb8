//! Fields of the kernel's types that have no substitute: a program that lacks one of them is not loaded.

use skiff_ebpf_abi::{ABSENT, Offsets};

use crate::Error;

/// What tells tasks apart.
pub(crate) fn require_task(offsets: &Offsets) -> Result<(), Error> {
    require([(offsets.task_pid, "task_struct.pid"), (offsets.task_tgid, "task_struct.tgid")])
}

/// What leads from a task to its cgroup2.
pub(crate) fn require_cgroup(offsets: &Offsets) -> Result<(), Error> {
    require([
        (offsets.task_cgroups, "task_struct.cgroups"),
        (offsets.set_default, "css_set.dfl_cgrp"),
        (offsets.cgroup_node, "cgroup.kn"),
        (offsets.node_id, "kernfs_node.id"),
    ])
}

/// What tells the cgroups of one hierarchy from those of others.
pub(crate) fn require_hierarchy(offsets: &Offsets) -> Result<(), Error> {
    require([(offsets.cgroup_root, "cgroup.root"), (offsets.root_hierarchy, "cgroup_root.hierarchy_id")])
}

/// What leads from a page cache to its pages and its file.
pub(crate) fn require_pages(offsets: &Offsets) -> Result<(), Error> {
    require([
        (offsets.mapping_inode, "address_space.host"),
        (offsets.mapping_pages, "address_space.i_pages.xa_head"),
        (offsets.pages_shift, "xa_node.shift"),
        (offsets.pages_slots, "xa_node.slots"),
        (offsets.inode_number, "inode.i_ino"),
        (offsets.inode_mode, "inode.i_mode"),
        (offsets.inode_size, "inode.i_size"),
        (offsets.inode_superblock, "inode.i_sb"),
        (offsets.superblock_device, "super_block.s_dev"),
    ])
}

/// Errors: names the first that the kernel lacks.
fn require<const N: usize>(needed: [(u32, &'static str); N]) -> Result<(), Error> {
    match needed.iter().find(|(offset, _)| *offset == ABSENT) {
        Some((_, path)) => Err(Error::Field(path)),
        None => Ok(()),
    }
}
