//! One virtual machine: qemu without hardware acceleration, one serial line, a deadline.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command;

/// A running machine. Dropping it ends qemu.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Child,
    serial: Receiver<String>,
    log: File,
    deadline: Instant,
}

/// Starts a machine with this kernel, first root file system and disk, whose init gets these arguments. What it says on
/// its serial line is kept in `log`.
///
/// Emulation (TCG) is chosen even where KVM exists: the results must not depend on the host.
pub(crate) fn boot(
    kernel: &Path,
    initramfs: &Path,
    disk: Option<&Path>,
    arguments: &[String],
    log: &Path,
    limit: Duration,
) -> Result<Machine> {
    let log = File::create(log).with_context(|| format!("create {}", log.display()))?;
    // setpriv only asks the kernel to end qemu with this program, whatever ends it, and becomes qemu.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(command::need("qemu-system-x86_64")?);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.args(["-machine", "q35", "-cpu", "max", "-smp", "2", "-m", "3072"]);
    // One host thread for both processors: with a thread each, qemu 7.2 runs stale code where the kernel patches itself.
    command.args(["-accel", "tcg,thread=single"]);
    // A panic reboots at once, and -no-reboot turns that into an end of qemu.
    // The kernel gives what stands after the dashes to init.
    let line = format!("console=ttyS0 loglevel=5 panic=-1 -- {}", arguments.join(" "));
    command.arg("-append").arg(line.trim_end());
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    if let Some(disk) = disk {
        // Nothing of it outlives the machine, so nothing has to reach the host's disk.
        command.arg("-drive").arg(format!("file={},if=virtio,format=raw,cache=unsafe", disk.display()));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let deadline = Instant::now() + limit;
    let mut qemu = command.spawn().context("start qemu-system-x86_64")?;
    let stdout = BufReader::new(qemu.stdout.take().context("standard output of qemu")?);
    let (sender, serial) = mpsc::channel();
    std::thread::spawn(move || {
        // Ends with the output of qemu, or when nobody listens any more.
        for line in stdout.split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    Ok(Machine { qemu, serial, log, deadline })
}

impl Machine {
    /// The next line from the serial port; `None` after the machine has switched itself off.
    pub(crate) fn line(&mut self) -> Result<Option<String>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.serial.recv_timeout(left) {
            Ok(line) => {
                writeln!(self.log, "{line}").context("write the log of the machine")?;
                Ok(Some(line))
            }
            Err(RecvTimeoutError::Timeout) => bail!("the machine is still running at its deadline"),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.qemu.wait().context("wait for qemu")?;
                if !status.success() {
                    bail!("qemu ended with {status}");
                }
                Ok(None)
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when qemu has ended and been waited for already.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}
