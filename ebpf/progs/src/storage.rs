//! Task storage: a value that is kept with a task as long as it lives.
#![allow(dead_code, reason = "each object needs a part")]

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE;
use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_LOCAL_STORAGE_GET_F_CREATE};
use aya_ebpf::helpers::generated::bpf_task_storage_get;

use crate::kernel::Ptr;

/// A map definition as the loader reads it from BTF.
#[repr(C)]
pub struct TaskStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC as usize],
}

// SAFETY: the pointers are a description for the loader and never followed.
unsafe impl<T> Sync for TaskStorage<T> {}

impl<T> TaskStorage<T> {
    pub const fn new() -> Self {
        Self {
            r#type: ptr::null(),
            key: ptr::null(),
            value: ptr::null(),
            max_entries: ptr::null(),
            map_flags: ptr::null(),
        }
    }

    /// What is kept with `task`, if anything is.
    #[inline(always)]
    pub fn get(&'static self, task: Ptr) -> Option<&'static mut T> {
        self.find(task, ptr::null_mut(), 0)
    }

    /// What is kept with `task`; zeros at first. `None` if the kernel has no memory.
    #[inline(always)]
    pub fn make(&'static self, task: Ptr) -> Option<&'static mut T> {
        self.find(task, ptr::null_mut(), BPF_LOCAL_STORAGE_GET_F_CREATE.into())
    }

    /// As [`TaskStorage::make`], `initial` at first.
    #[inline(always)]
    pub fn make_of(&'static self, task: Ptr, mut initial: T) -> Option<&'static mut T> {
        self.find(task, &raw mut initial, BPF_LOCAL_STORAGE_GET_F_CREATE.into())
    }

    #[inline(always)]
    fn find(&'static self, task: Ptr, initial: *mut T, flags: u64) -> Option<&'static mut T> {
        let map = ptr::from_ref(self).cast_mut().cast::<c_void>();
        // SAFETY: `task` comes from the kernel, and the value lives as long as the task, which outlives the program.
        // Programs have it one after the other: those of the task itself, before its first step its parent's, while it has no
        // CPU the scheduler's. Only an iterator may come in between, once, for a task that outlives its container; it
        // changes single words.
        unsafe { bpf_task_storage_get(map, task.raw(), initial.cast(), flags).cast::<T>().as_mut() }
    }
}
