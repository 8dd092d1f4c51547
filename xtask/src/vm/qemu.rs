//! Boots a kernel with an archive and reads its serial console. Keeps: a guest ends by itself or at the deadline.
//! Called by vmtest.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use xtask::ending_with_us;

use super::kernel::Kernel;

/// A guest that runs longer than this hangs. A busy machine needs five minutes.
const DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Enough for the archive, unpacked, beside the tests.
const MEMORY_MIB: u32 = 1536;

/// Runs a guest and gives each line of its console to `line`; false: it had to be ended at the deadline.
pub(crate) fn run(kernel: &Kernel, initramfs: &Path, mut line: impl FnMut(&str)) -> Result<bool> {
    let mut child = command(kernel, initramfs).spawn().context("cannot start qemu")?;
    let stdout = child.stdout.take().expect("stdout is piped: see command");
    // The console is slow and the receiver does nothing else: the bound only keeps memory small.
    let (sender, lines) = mpsc::sync_channel::<String>(1024);
    std::thread::spawn(move || {
        let pieces = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
        for piece in pieces {
            let text = String::from_utf8_lossy(&piece);
            if sender.send(text.trim_end_matches('\r').to_owned()).is_err() {
                break;
            }
        }
    });
    let end = Instant::now() + DEADLINE;
    let in_time = loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(text) => line(&text),
            Err(mpsc::RecvTimeoutError::Disconnected) => break true,
            Err(mpsc::RecvTimeoutError::Timeout) => break false,
        }
    };
    finish(&mut child)?;
    Ok(in_time)
}

fn finish(child: &mut Child) -> Result<()> {
    if child.try_wait().context("cannot wait for qemu")?.is_none() {
        child.kill().context("cannot end qemu")?;
    }
    child.wait().context("cannot wait for qemu")?;
    Ok(())
}

/// No hardware virtualisation: it is not everywhere, and software emulation is fast enough.
fn command(kernel: &Kernel, initramfs: &Path) -> Command {
    let mut command = ending_with_us("qemu-system-x86_64");
    command.args(["-machine", "q35", "-cpu", "max", "-accel", "tcg,thread=multi"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-smp", "1"]);
    command.args(["-m", &MEMORY_MIB.to_string(), "-serial", "stdio"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    command.args([
        "-append",
        "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off no_timer_check rdinit=/init",
    ]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}
