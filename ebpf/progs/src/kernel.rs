//! Fields of kernel structs, read at the offsets that the loader found in the kernel's BTF.
//!
//! The pointers are those the kernel passes to a tracepoint, or were read through them: the verifier knows their types and
//! makes every load safe, also through a null pointer, which reads as 0.

use core::arch::asm;
use core::ptr;

use aya_ebpf::bindings::task_struct;
use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_ktime_get_ns, bpf_probe_read_kernel};
use skiff_ebpf_abi::Figures;
use skiff_ebpf_abi::prefetch::READER;

/// The offset of one field, as the loader wrote it into the program.
macro_rules! offset {
    ($field:ident) => {
        $crate::kernel::constant!(skiff_ebpf_abi::Offsets, $field)
    };
}
pub(crate) use offset;

/// A field of a table that the loader writes into the programs themselves, where it takes no memory and no load: until then its mark stands
/// in the instruction.
macro_rules! constant {
    ($table:ty, $field:ident) => {
        $crate::kernel::marked::<{ <$table>::MARK + core::mem::offset_of!($table, $field) as u32 }>()
    };
}
pub(crate) use constant;

/// What is written for a field that the kernel does not have, as the instruction extends it.
pub const ABSENT: u64 = skiff_ebpf_abi::ABSENT as i32 as u64;

/// What the loader writes in place of `MARK`.
#[inline(always)]
pub fn marked<const MARK: u32>() -> u64 {
    let word: u64;
    // SAFETY: one move between registers.
    unsafe { asm!("{} = {}", out(reg) word, const MARK, options(pure, nomem, nostack, preserves_flags)) };
    word
}

/// A pointer to a kernel struct.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Ptr(*const u8);

pub type TaskPtr = Ptr;

impl Ptr {
    #[inline(always)]
    pub fn new<T>(raw: *const T) -> Self {
        Self(raw.cast())
    }

    #[inline(always)]
    pub fn raw(self) -> *mut task_struct {
        self.0.cast_mut().cast()
    }

    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    /// The field at `offset`, or `T::default()` if this kernel has none.
    #[inline(always)]
    pub fn get<T: Copy + Default>(self, offset: u64) -> T {
        if offset == ABSENT {
            return T::default();
        }
        // SAFETY: the verifier accepts the load only if a `T` is there.
        unsafe { ptr::read_volatile(self.0.add(offset as usize).cast()) }
    }

    /// The pointer at `offset`, or null if this kernel has none.
    #[inline(always)]
    pub fn follow(self, offset: u64) -> Self {
        if offset == ABSENT {
            return Self(ptr::null());
        }
        // SAFETY: the verifier accepts the load only if a pointer is there, and follows its type.
        unsafe { ptr::read_volatile(self.0.add(offset as usize).cast()) }
    }

    /// Copies the array at `offset`; zeros if this kernel has none.
    #[inline(always)]
    pub fn copy<const N: usize>(self, offset: u64, to: *mut [u8; N]) {
        if offset != ABSENT {
            // SAFETY: the helper checks the source, and `to` has `N` bytes.
            unsafe { bpf_probe_read_kernel(to.cast(), N as u32, self.0.add(offset as usize).cast()) };
        }
    }

    pub fn address(self) -> *const u8 {
        self.0
    }
}

/// The task that runs this program.
#[inline(always)]
pub fn this() -> TaskPtr {
    // SAFETY: the helper has no precondition.
    Ptr::new(unsafe { bpf_get_current_task_btf() })
}

#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// Whether nothing at all is stored with `task`: spares other tasks the look-up.
#[inline(always)]
pub fn has_no_storage(task: TaskPtr) -> bool {
    let offset = offset!(task_storage);
    offset != ABSENT && task.follow(offset).is_null()
}

/// Whether `task` is in a call of the 32-bit table.
#[inline(always)]
pub fn is_compat(task: TaskPtr) -> bool {
    /// `thread_info.status`: the call came through a 32-bit entry.
    const TS_COMPAT: u32 = 2;
    task.get::<u32>(offset!(task_status)) & TS_COMPAT != 0
}

#[inline(always)]
pub fn pid(task: TaskPtr) -> u32 {
    task.get(offset!(task_pid))
}

#[inline(always)]
pub fn tgid(task: TaskPtr) -> u32 {
    task.get(offset!(task_tgid))
}

/// Whether `task` reads ahead for the container in whose cgroup it is, and is none of it (`runtime/src/reader.rs`).
///
/// It is so from its birth to its end: it has executed nothing, and is in the mount namespace of its parent, which is in another cgroup. A task
/// of the container's that calls itself so has its parent in its own cgroup, or, where that is the launcher or has died, in another mount
/// namespace, as every container has its own. One that makes cgroups below its own could pass, but could leave them as well.
#[inline(always)]
pub fn is_reader(task: TaskPtr) -> bool {
    /// `task_struct.flags`: it has executed nothing since it was forked.
    const FORKNOEXEC: u32 = 0x40;
    let name = offset!(task_comm);
    if name == ABSENT || task.get::<u64>(name) != READER[0] || task.get::<u64>(name + 8) != READER[1] {
        return false;
    }
    let parent = task.follow(offset!(task_parent));
    let mounts = |task: TaskPtr| task.follow(offset!(task_nsproxy)).follow(offset!(nsproxy_mounts)).address();
    task.get::<u32>(offset!(task_flags)) & FORKNOEXEC != 0
        && cgroup_id_of(parent) != cgroup_id_of(task)
        && mounts(parent) == mounts(task)
}

/// The id of the cgroup2 that `task` is in.
#[inline(always)]
pub fn cgroup_id_of(task: TaskPtr) -> u64 {
    cgroup_id(task.follow(offset!(task_cgroups)).follow(offset!(set_default)))
}

#[inline(always)]
pub fn cgroup_id(cgroup: Ptr) -> u64 {
    cgroup.follow(offset!(cgroup_node)).get(offset!(node_id))
}

/// Whether `cgroup` is of the cgroup2 hierarchy: the ids of others are numbers of their own.
#[inline(always)]
pub fn is_cgroup2(cgroup: Ptr) -> bool {
    cgroup.follow(offset!(cgroup_root)).get::<u32>(offset!(root_hierarchy)) == 0
}

/// What `task` has used up so far.
#[inline(always)]
pub fn figures(task: TaskPtr) -> Figures {
    Figures {
        cpu_ns: task.get(offset!(task_cpu)),
        user_ns: task.get(offset!(task_user)),
        system_ns: task.get(offset!(task_system)),
        minor_faults: task.get(offset!(task_minor)),
        major_faults: task.get(offset!(task_major)),
        run_queue_ns: task.get(offset!(task_run_delay)),
        voluntary_switches: task.get(offset!(task_voluntary)),
        involuntary_switches: task.get(offset!(task_involuntary)),
    }
}
