//! Where the running kernel keeps what the programs read.

/// The offset of a field that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

macro_rules! offsets {
    ($(#[$about:meta])* $name:ident = $mark:literal { $($field:ident: $path:literal,)* } $($(#[$means:meta])* $flag:ident)?) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $(#[doc = concat!("`", $path, "`")] pub $field: u32,)*
            $($(#[$means])* pub $flag: u32,)?
        }

        impl $name {
            /// What stands in the programs for the first field, and beside it for the others: the loader writes the offset there.
            pub const MARK: u32 = $mark;

            /// The C path of each field, `struct.member.member…`, in the order of the struct.
            pub const PATHS: &[&str] = &[$($path),*];

            /// Offsets in the order of the paths.
            #[must_use]
            pub fn new(mut find: impl FnMut(&str) -> Option<u32> $(, $flag: bool)?) -> Self {
                Self {
                    $($field: find($path).unwrap_or(ABSENT),)*
                    $($flag: $flag.into(),)?
                }
            }

            /// What the object holds before the loader replaces it.
            pub const NONE: Self = Self { $($field: ABSENT,)* $($flag: 0,)? };
        }
    };
}

offsets! {
/// Byte offsets in kernel structs, found in the kernel's BTF before the programs are loaded. To the verifier they are
/// constants: a branch on an [`ABSENT`] field is not even looked at.
Offsets = 0x5eed_0000 {
    task_pid: "task_struct.pid",
    task_tgid: "task_struct.tgid",
    task_comm: "task_struct.comm",
    task_status: "task_struct.thread_info.status",
    task_cgroups: "task_struct.cgroups",
    task_storage: "task_struct.bpf_storage",
    task_cpu: "task_struct.se.sum_exec_runtime",
    task_user: "task_struct.utime",
    task_system: "task_struct.stime",
    task_minor: "task_struct.min_flt",
    task_major: "task_struct.maj_flt",
    task_run_delay: "task_struct.sched_info.run_delay",
    task_voluntary: "task_struct.nvcsw",
    task_involuntary: "task_struct.nivcsw",
    task_exit_state: "task_struct.exit_state",
    task_mm: "task_struct.mm",
    task_bio_list: "task_struct.bio_list",
    task_flags: "task_struct.flags",
    task_parent: "task_struct.real_parent",
    task_nsproxy: "task_struct.nsproxy",
    nsproxy_mounts: "nsproxy.mnt_ns",
    mm_arg_start: "mm_struct.arg_start",
    mm_arg_end: "mm_struct.arg_end",
    binprm_filename: "linux_binprm.filename",
    set_default: "css_set.dfl_cgrp",
    cgroup_node: "cgroup.kn",
    cgroup_root: "cgroup.root",
    cgroup_parent: "cgroup.self.parent",
    root_hierarchy: "cgroup_root.hierarchy_id",
    css_cgroup: "cgroup_subsys_state.cgroup",
    node_id: "kernfs_node.id",
    regs_di: "pt_regs.di",
    regs_dx: "pt_regs.dx",
    regs_bx: "pt_regs.bx",
    regs_orig_ax: "pt_regs.orig_ax",
    bio_opf: "bio.bi_opf",
    bio_size: "bio.bi_iter.bi_size",
    bio_blkg: "bio.bi_blkg",
    blkg_blkcg: "blkcg_gq.blkcg",
    blkcg_cgroup: "blkcg.css.cgroup",
    mapping_inode: "address_space.host",
    inode_number: "inode.i_ino",
    inode_mode: "inode.i_mode",
    inode_size: "inode.i_size",
    inode_superblock: "inode.i_sb",
    superblock_device: "super_block.s_dev",
    page_mapping: "folio.mapping",
    page_index: "folio.index",
    mapping_pages: "address_space.i_pages.xa_head",
    pages_shift: "xa_node.shift",
    pages_slots: "xa_node.slots",
}
/// 1 if the tracepoint `mark_victim` passes the task (Linux ≥ 6.9), 0 if its process id.
victim_is_task
}

offsets! {
/// As [`Offsets`]: where the scheduler notes what a task waits for.
QueueOffsets = 0x5eed_1000 {
    task_flags: "task_struct.flags",
    task_cpu: "task_struct.thread_info.cpu",
    task_queued: "task_struct.sched_info.last_queued",
    task_arrived: "task_struct.sched_info.last_arrival",
    task_queue: "task_struct.se.cfs_rq",
    task_group: "task_struct.sched_task_group",
    group_queues: "task_group.cfs_rq",
    queue_rq: "cfs_rq.rq",
    queue_throttled_since: "cfs_rq.throttled_clock_self",
    queue_throttled_ns: "cfs_rq.throttled_clock_self_time",
    queue_throttled_pelt_since: "cfs_rq.throttled_clock_pelt",
    queue_throttled_pelt_ns: "cfs_rq.throttled_clock_pelt_time",
    queue_throttle_count: "cfs_rq.throttle_count",
    rq_clock: "rq.clock",
    rq_clock_pelt: "rq.clock_pelt",
    rq_lost_idle: "rq.lost_idle_time",
    request_bio: "request.bio",
    bio_next: "bio.bi_next",
}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_struct_is_its_paths_and_one_flag() {
        assert_eq!(core::mem::size_of::<Offsets>(), 4 * (Offsets::PATHS.len() + 1));
        assert_eq!(core::mem::size_of::<QueueOffsets>(), 4 * QueueOffsets::PATHS.len());
    }

    #[test]
    fn a_path_that_is_not_found_is_absent() {
        let offsets = Offsets::new(|path| (path == "pt_regs.di").then_some(112), true);
        assert_eq!(offsets, Offsets { regs_di: 112, victim_is_task: 1, ..Offsets::NONE });
    }
}
