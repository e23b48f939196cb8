//! Birth, change of phase and death of tasks.

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_probe_read_user};
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use skiff_ebpf_abi::pinned::Live;
use skiff_ebpf_abi::{ARGV, EXECS as EXECS_PER_SLOT, FILENAME, Figures, NO_SLOT, RUNNING, Slot, Task, phase};

use crate::kernel::{Ptr, TaskPtr, cgroup_id_of, figures, is_reader, now_ns, offset, pid, tgid, this};
use crate::maps::{ARMED, CLOSING, EXECS, add, count, counted, lose, slot, take};
use crate::{oom, syscalls};

/// `prev_state` of a task that has run for the last time.
const TASK_DEAD: u32 = 0x80;

/// More executions, and switches, than there will be.
const NEVER: u32 = u32::MAX;

/// A child is counted as its parent is; one that was forked into an armed cgroup is the first of its container, unless it is there to read ahead.
/// It has not run yet, and its cgroup is final.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let parent = Ptr::new(ctx.arg::<*const u8>(0));
    let child = Ptr::new(ctx.arg::<*const u8>(1));
    let born = match counted(parent) {
        Some(parent) => Task {
            slot: parent.slot,
            phase: parent.phase,
            execs_before: before_of_child(parent.execs_before),
            ..Task::default()
        },
        None => match armed(child) {
            Some(task) => task,
            None => return 0,
        },
    };
    let Some(slot) = slot(born.slot) else { return 0 };
    let is_thread = pid(child) != tgid(child);
    // SAFETY: `slot` points to a map value; the mask keeps the index inside.
    unsafe {
        let sums = &raw mut (*slot).phases[born.phase as usize & 1];
        add(if is_thread { &raw mut (*sums).threads } else { &raw mut (*sums).processes }, 1);
    }
    // The iterator may have met it already.
    if counted(child).is_none() {
        begin(child, born, Figures::default(), slot);
    }
    0
}

/// Where the program is what a container's first task executes, its children are none: hooks of the runtime, say. Where that
/// executes an init, the program is a child.
#[inline(always)]
fn before_of_child(parent: u32) -> u32 {
    if parent == 0 { NEVER } else { parent }
}

/// Counts a task that was moved into an armed cgroup, from now on.
///
/// Inlined like all the others: the symbol of a function has a hash of the place where it was compiled in it.
#[inline(always)]
pub fn joined(task: TaskPtr) {
    if counted(task).is_some() {
        return;
    }
    if let Some(joined) = armed(task)
        && let Some(slot) = slot(joined.slot)
    {
        begin(task, joined, figures(task), slot);
    }
}

/// Counts a live task of a cgroup that was armed while it ran; one that is exiting is let go.
pub fn adopt(task: TaskPtr) {
    if task.get::<u32>(offset!(task_exit_state)) == 0 {
        joined(task);
    }
}

/// A task as it begins in the armed cgroup that `task` is in.
#[inline(always)]
fn armed(task: TaskPtr) -> Option<Task> {
    let armed = ARMED.get_ptr(cgroup_id_of(task))?;
    if is_reader(task) {
        return None;
    }
    // SAFETY: the pointer is to a map value.
    let armed = unsafe { *armed };
    let phase = if armed.execs_before == RUNNING { phase::WORKLOAD } else { phase::INIT };
    Some(Task { slot: armed.slot, phase, execs_before: armed.execs_before, ..Task::default() })
}

#[inline(always)]
fn begin(task: TaskPtr, begun: Task, base: Figures, slot: *mut Slot) {
    let now_ns = now_ns();
    // One that does not run now has yet to be switched in.
    let switches = if pid(task) == pid(this()) { switches(&base) } else { NEVER.into() };
    let (switched_in_ns, switched_in_cpu_ns) = (now_ns, base.cpu_ns);
    let begun = Task { since_ns: now_ns, switched_in_ns, switched_in_cpu_ns, switches, base, ..begun };
    match count(task, begun) {
        Some(kept) => {
            // Storage left over from an earlier slot keeps its old content.
            *kept = begun;
            // SAFETY: `slot` points to a map value.
            unsafe { add(&raw mut (*slot).alive, 1) };
        }
        None => lose(begun.slot),
    }
}

/// The kernel's exec event: the new program is in place and has not run. The first one of the user's program, and of any
/// later program started by the runtime, begins the workload.
#[btf_tracepoint(function = "sched_process_exec")]
pub fn sched_process_exec(ctx: BtfTracePointContext) -> i32 {
    let this = Ptr::new(ctx.arg::<*const u8>(0));
    let Some(task) = counted(this) else { return 0 };
    let Some(slot) = slot(task.slot) else { return 0 };
    let now_ns = now_ns();
    if task.phase == phase::INIT {
        // SAFETY: `slot` points to a map value.
        let before = unsafe { take(&raw mut (*slot).init_execs) };
        if before >= u64::from(task.execs_before) {
            to_workload(this, task, slot, now_ns);
        }
    }
    // SAFETY: `slot` points to a map value.
    let nth = unsafe { take(&raw mut (*slot).execs) };
    if nth < u64::from(EXECS_PER_SLOT) {
        describe(this, task, nth as u32, Ptr::new(ctx.arg::<*const u8>(2)), now_ns);
    }
    0
}

/// Settles what the task used so far and lets it start anew. Its CPU time in the kernel is as old as the last tick, so
/// the time since it was switched in is taken instead, unless that was not told.
#[inline(always)]
fn to_workload(this: TaskPtr, task: &mut Task, slot: *mut Slot, now_ns: u64) {
    let mut used = figures(this);
    if switches(&used) == task.switches {
        let measured = task.switched_in_cpu_ns + (now_ns - task.switched_in_ns);
        used.cpu_ns = used.cpu_ns.max(measured);
    }
    settle(task, &used, slot, now_ns);
    task.phase = phase::WORKLOAD;
    task.base = used;
    task.since_ns = now_ns;
    // SAFETY: `slot` points to a map value.
    unsafe {
        if (*slot).exec_ns == 0 {
            (*slot).exec_ns = now_ns;
        }
    }
}

/// How often a task has been switched out.
#[inline(always)]
fn switches(used: &Figures) -> u64 {
    used.voluntary_switches + used.involuntary_switches
}

fn describe(this: TaskPtr, task: &Task, nth: u32, binprm: Ptr, now_ns: u64) {
    let Some(event) = EXECS.get_ptr_mut(task.slot * EXECS_PER_SLOT + nth) else { return };
    let memory = this.follow(offset!(task_mm));
    let start: u64 = memory.get(offset!(mm_arg_start));
    let len = memory.get::<u64>(offset!(mm_arg_end)) - start;
    let filename = binprm.follow(offset!(binprm_filename));
    // SAFETY: `event` points to a map value of this execution alone; the helpers check their sources.
    unsafe {
        (*event).at_ns = now_ns;
        (*event).pid = tgid(this);
        (*event).phase = task.phase;
        (*event).argv_len = len;
        bpf_probe_read_kernel_str(
            (&raw mut (*event).filename).cast(),
            FILENAME as u32,
            filename.address().cast(),
        );
        let kept = if len < ARGV as u64 { len as u32 } else { ARGV as u32 };
        if bpf_probe_read_user((&raw mut (*event).argv).cast(), kept, start as *const _) != 0 {
            (*event).argv = [0; ARGV];
        }
    }
}

/// A task switched in is noted as long as its time may have to be divided; a task switched out for good is settled.
/// Nothing of it can change any more: exit has given back its memory and files.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    let next = Ptr::new(ctx.arg::<*const u8>(2));
    if let Some(task) = counted(next)
        && task.phase == phase::INIT
    {
        task.switched_in_ns = now_ns();
        task.switched_in_cpu_ns = next.get(offset!(task_cpu));
        task.switches = next.get::<u64>(offset!(task_voluntary)) + next.get::<u64>(offset!(task_involuntary));
    }
    if ctx.arg::<u32>(3) & TASK_DEAD != 0 {
        died(Ptr::new(ctx.arg::<*const u8>(1)));
    }
    0
}

fn died(this: TaskPtr) {
    let Some(task) = counted(this) else { return };
    let Some(slot) = slot(task.slot) else { return };
    oom::died(this, task, slot);
    end(this, task, slot);
}

/// Settles a live task of the slot that is being closed; one that is exiting will come by itself.
pub fn leave(this: TaskPtr) {
    let Some(task) = counted(this) else { return };
    // SAFETY: the pointer is to a map value.
    let closing = CLOSING.get_ptr(0).is_some_and(|closing| unsafe { *closing } == task.slot.wrapping_add(1));
    if closing
        && this.get::<u32>(offset!(task_exit_state)) == 0
        && let Some(slot) = slot(task.slot)
    {
        end(this, task, slot);
    }
}

/// What is kept with a live task and what it has used, for whoever reads sums that it is not settled in yet.
pub fn live(this: TaskPtr) -> Option<Live> {
    let task = counted(this)?;
    Some(Live {
        slot: task.slot,
        phase: task.phase,
        call: task.call,
        in_call: (task.entered_ns != 0).into(),
        since_ns: task.since_ns,
        now_ns: now_ns(),
        base: task.base,
        used: figures(this),
    })
}

/// Settles a task for the last time.
#[inline(always)]
fn end(this: TaskPtr, task: &mut Task, slot: *mut Slot) {
    // SAFETY: `task` is a map value.
    if unsafe { take(&raw mut task.ended) } != 0 {
        return;
    }
    syscalls::unreturned(task);
    settle(task, &figures(this), slot, now_ns());
    task.slot = NO_SLOT;
    // SAFETY: `slot` points to a map value. Last: what the loader waits for.
    unsafe { add(&raw mut (*slot).alive, u64::MAX) };
}

/// Adds what `task` used since its base to the sums of its phase.
#[inline(always)]
fn settle(task: &Task, used: &Figures, slot: *mut Slot, now_ns: u64) {
    let base = &task.base;
    let cpu_ns = used.cpu_ns.saturating_sub(base.cpu_ns);
    let run_queue_ns = used.run_queue_ns - base.run_queue_ns;
    let off_cpu_ns = (now_ns - task.since_ns).saturating_sub(cpu_ns + run_queue_ns);
    // SAFETY: `slot` points to a map value; the mask keeps the index inside.
    unsafe {
        let sums = &raw mut (*slot).phases[task.phase as usize & 1];
        let to = &raw mut (*sums).figures;
        add(&raw mut (*to).cpu_ns, cpu_ns);
        add(&raw mut (*to).user_ns, used.user_ns - base.user_ns);
        add(&raw mut (*to).system_ns, used.system_ns - base.system_ns);
        add(&raw mut (*to).minor_faults, used.minor_faults - base.minor_faults);
        add(&raw mut (*to).major_faults, used.major_faults - base.major_faults);
        add(&raw mut (*to).run_queue_ns, run_queue_ns);
        add(&raw mut (*to).voluntary_switches, used.voluntary_switches - base.voluntary_switches);
        add(&raw mut (*to).involuntary_switches, used.involuntary_switches - base.involuntary_switches);
        add(&raw mut (*sums).off_cpu_ns, off_cpu_ns);
    }
}
