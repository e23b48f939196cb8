//! Work that is done while the caller goes on, by a process that shares its memory and its descriptors.
//!
//! Such a process runs nothing but system calls and touches nothing of the C library's, which the caller uses at the same time.
//! To begin one takes some 30 µs, so it is for what keeps a processor in the kernel for longer.

#[cfg(not(target_arch = "x86_64"))]
use std::io;

/// What such a process does.
///
/// # Safety
///
/// [`Job::run`] makes system calls by [`call`] alone. It allocates nothing and calls nothing of the C library's, nor what
/// could panic.
pub(crate) unsafe trait Job: Sync {
    /// Does the work. The result is handed on; one that is not negative may be a descriptor.
    fn run(&self) -> i32;
}

#[cfg(target_arch = "x86_64")]
pub(crate) use shared::{Beside, call};

#[cfg(target_arch = "x86_64")]
mod shared {
    use std::fmt;
    use std::io;
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::atomic::{AtomicI32, Ordering};

    use nix::sys::wait::{Id, WaitPidFlag, waitid};

    use super::Job;
    use crate::process::{CloneArgs, clone3_onto, own};

    const CLONE_VM: u64 = 0x100;
    const CLONE_FILES: u64 = 0x400;
    const CLONE_PIDFD: u64 = 0x1000;
    /// Its functions call nothing but the kernel.
    const STACK_BYTES: usize = 16 << 10;

    /// A job under way. Dropping it waits for its process.
    pub(crate) struct Beside<J: Job> {
        /// Until it is known to have ended.
        process: Option<OwnedFd>,
        work: Box<Work<J>>,
    }

    /// What the two processes share.
    #[repr(C, align(16))]
    struct Work<J> {
        stack: MaybeUninit<[u8; STACK_BYTES]>,
        job: J,
        /// The process that has begun it.
        parent: i32,
        result: AtomicI32,
    }

    impl<J: Job> Beside<J> {
        pub(crate) fn begin(job: J) -> io::Result<Self> {
            let result = AtomicI32::new(-libc::ECHILD);
            let parent = nix::unistd::getpid().as_raw();
            let mut work = Box::new(Work { stack: MaybeUninit::uninit(), job, parent, result });
            let mut pidfd = -1;
            let args = CloneArgs {
                flags: CLONE_VM | CLONE_FILES | CLONE_PIDFD,
                pidfd: (&raw mut pidfd).expose_provenance() as u64,
                stack: work.stack.as_mut_ptr().expose_provenance() as u64,
                stack_size: STACK_BYTES as u64,
                ..CloneArgs::default()
            };
            // SAFETY: the box is not moved out of nor freed before the process has ended (`finish`, also on drop); until then
            // this process uses nothing of what is in it.
            let pid = unsafe { clone3_onto(&args, &raw mut *work, enter::<J>) };
            match i32::try_from(pid) {
                Ok(1..) => Ok(Self { process: Some(own(pidfd)), work }),
                Ok(errno) => Err(io::Error::from_raw_os_error(-errno)),
                Err(_) => Err(io::Error::from_raw_os_error(libc::EOVERFLOW)),
            }
        }

        /// Waits for the end. The job, and what it has returned, the first time; `-ECHILD` if its process was killed.
        pub(crate) fn finish(&mut self) -> (&J, i32) {
            // It tells its end to nobody, so it has to be asked for.
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::__WALL;
            if let Some(process) = self.process.take() {
                while waitid(Id::PIDFd(process.as_fd()), flags) == Err(nix::Error::EINTR) {}
            }
            (&self.work.job, self.work.result.swap(-libc::ECHILD, Ordering::Acquire))
        }
    }

    impl<J: Job> Drop for Beside<J> {
        fn drop(&mut self) {
            self.finish();
        }
    }

    impl<J: Job> fmt::Debug for Beside<J> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Beside").field("process", &self.process).finish_non_exhaustive()
        }
    }

    /// The process's only function.
    ///
    /// # Safety
    ///
    /// `work` stays as long as the process does.
    unsafe extern "C" fn enter<J: Job>(work: *mut Work<J>) -> ! {
        // SAFETY: by this function's contract; nobody writes to it meanwhile.
        let work = unsafe { &*work };
        // It must not go on when the caller has been killed: nobody would expect what it makes then.
        // SAFETY: takes integers.
        let _: i32 =
            unsafe { call(libc::SYS_prctl, [libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0]) };
        // SAFETY: takes nothing.
        let parent = unsafe { call(libc::SYS_getppid, [0; 3]) };
        // Killed before that was said, it has left this process to another. One in another PID namespace is seen as 0.
        if parent == work.parent || parent == 0 {
            work.result.store(work.job.run(), Ordering::Release);
        }
        loop {
            // SAFETY: ends this process alone, in which nothing is left to run.
            unsafe { call(libc::SYS_exit, [0; 3]) };
        }
    }

    /// A system call that leaves errno alone, which is the other process's too. Its result, or a negative errno.
    ///
    /// # Safety
    ///
    /// As the call demands.
    pub(crate) unsafe fn call(number: libc::c_long, arguments: [u64; 3]) -> i32 {
        let result: i64;
        // SAFETY: by this function's contract; the kernel changes rax, rcx and r11.
        unsafe {
            std::arch::asm!(
                "syscall",
                inlateout("rax") number => result,
                in("rdi") arguments[0],
                in("rsi") arguments[1],
                in("rdx") arguments[2],
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        i32::try_from(result).unwrap_or(-libc::EOVERFLOW)
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug)]
pub(crate) enum Beside<J: Job> {
    #[expect(dead_code, reason = "there are none on this processor")]
    None(std::convert::Infallible, J),
}

#[cfg(not(target_arch = "x86_64"))]
impl<J: Job> Beside<J> {
    pub(crate) fn begin(_job: J) -> io::Result<Self> {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    }

    pub(crate) fn finish(&mut self) -> (&J, i32) {
        match *self {
            Self::None(never, _) => match never {},
        }
    }
}

/// A system call; there is no such process here.
///
/// # Safety
///
/// Always.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) unsafe fn call(_number: libc::c_long, _arguments: [u64; 3]) -> i32 {
    -libc::ENOSYS
}
